"""Stand-ins for reward models: the layout of the real ones, two layers of random weights.

`python tests/verifiers/standins.py FOLDER` writes them all, to be looked at or served by hand.
Weights are drawn wide, so that scores differ from token to token.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2Model,
    Qwen3Config,
)

CORPUS = [
    "Step one: add the numbers + and - then multiply. The answer is 42.",
    "How many apples are left? Yes No + - ки",
    "Step 1: 3 + 4 = 7 ки",
    "Step 2: 7 - 2 = 5 ки",
]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,  # of 32 each: vLLM's CPU build has no smaller ones
    "num_key_value_heads": 1,
    "max_position_embeddings": 2048,
    "initializer_range": 0.4,
    "tie_word_embeddings": False,
}


def qwen_prm(folder: Path) -> None:
    """Qwen2.5-Math-PRM: two labels behind a two-layer head, `<extra_0>` a token."""
    tokenizer = _byte_level(folder, CHATML, "<|im_end|>", "<|im_start|>", "<extra_0>")
    config = Qwen2Config(vocab_size=len(tokenizer), **SHAPE)
    torch.manual_seed(1)
    base = Qwen2Model(config)
    head = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2))
    weights = {f"model.{name}": t for name, t in base.state_dict().items()}
    weights |= {f"score.{name}": 2 * t for name, t in head.state_dict().items()}
    _write(folder, config, weights, "Qwen2ForProcessRewardModel")


def skywork_prm(folder: Path) -> None:
    """Skywork-o1-Open-PRM: a value head beside the vocabulary, BOS."""
    tokenizer = _byte_level(folder, CHATML, "<|im_end|>", "<|im_start|>", bos="<|im_start|>")
    config = Qwen2Config(vocab_size=len(tokenizer), **SHAPE)
    torch.manual_seed(2)
    weights = dict(AutoModelForCausalLM.from_config(config).state_dict())
    head = torch.nn.Linear(64, 1)
    weights |= {f"v_head.summary.{name}": 2 * t for name, t in head.state_dict().items()}
    _write(folder, config, weights, "Qwen2ForPrmModel")


def rlhflow_prm(folder: Path) -> None:
    """RLHFlow's PRMs: a Llama that answers each user turn with + or -."""
    marks = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>")
    tokenizer = _byte_level(folder, LLAMA, "<|eot_id|>", *marks, bos=marks[0])
    _causal(folder, LlamaConfig(vocab_size=len(tokenizer), **SHAPE), 3)


def math_shepherd(folder: Path) -> None:
    """Math-Shepherd: words behind spaces as in SentencePiece, BOS before a text, no template."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Metaspace(prepend_scheme="first"),
        ]
    )
    made.decoder = decoders.Metaspace(prepend_scheme="first")
    alphabet = [chr(c) for c in range(32, 127)] + ["\n", "▁", "к", "и"]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=alphabet
    )
    made.train_from_iterator([text + "\n" for text in CORPUS] * 50, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", made.token_to_id("<s>"))]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    wrapped.save_pretrained(folder)
    _causal(folder, LlamaConfig(vocab_size=len(wrapped), **SHAPE), 4)


def value_head(folder: Path) -> None:
    """A token classifier with two labels on Qwen3."""
    tokenizer = _byte_level(folder, CHATML, "<|im_end|>", "<|im_start|>")
    torch.manual_seed(5)
    config = Qwen3Config(vocab_size=len(tokenizer), head_dim=32, num_labels=2, **SHAPE)
    AutoModelForTokenClassification.from_config(config).save_pretrained(folder)


def outcome(folder: Path) -> None:
    """A sequence classifier with one label: a preference reward."""
    tokenizer = _byte_level(folder, CHATML, "<|im_end|>", "<|im_start|>")
    torch.manual_seed(6)
    config = Qwen2Config(vocab_size=len(tokenizer), num_labels=1, pad_token_id=0, **SHAPE)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)


ALL: dict[str, Callable[[Path], None]] = {
    "qwen_prm": qwen_prm,
    "skywork_prm": skywork_prm,
    "rlhflow_prm": rlhflow_prm,
    "math_shepherd": math_shepherd,
    "value_head": value_head,
    "outcome": outcome,
}


def _byte_level(
    folder: Path, template: str, eos: str, *special: str, bos: str | None = None
) -> PreTrainedTokenizerFast:
    folder.mkdir(parents=True, exist_ok=True)
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    made.train_from_iterator(CORPUS * 20, trainer)
    # As many as a real vocabulary has at least: small ones are held to express all of a prompt.
    made.add_tokens([f"<spare {number}>" for number in range(1000 - made.get_vocab_size())])
    made.add_special_tokens([AddedToken(text, normalized=False) for text in (eos, *special)])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token=eos, bos_token=bos, chat_template=template
    )
    wrapped.save_pretrained(folder)
    return wrapped


def _causal(folder: Path, config: Any, seed: int) -> None:
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def _write(folder: Path, config: Any, weights: dict[str, torch.Tensor], architecture: str) -> None:
    save_file({n: t.contiguous().float() for n, t in weights.items()}, folder / "model.safetensors")
    said = config.to_dict() | {"architectures": [architecture]}
    (folder / "config.json").write_text(json.dumps(said))


if __name__ == "__main__":
    for name, write in ALL.items():
        write(Path(sys.argv[1]) / name)
