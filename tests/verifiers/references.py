"""What each reward model says of a question and its steps, by Transformers alone.

Written from the models' own descriptions: the whole conversation as text, tokenised in one piece,
one forward pass. Nothing of the package's verifiers, layouts or engines is used here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    Qwen2Model,
)

SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."


@torch.inference_mode()
def qwen_prm(folder: Path, question: str, steps: list[str]) -> list[float]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template(
        [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": question},
            {"role": "assistant", "content": "<extra_0>".join(steps) + "<extra_0>"},
        ],
        tokenize=False,
        add_generation_prompt=False,
    )
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    weights = load_file(folder / "model.safetensors")
    base = Qwen2Model(AutoConfig.from_pretrained(folder))
    base.load_state_dict(
        {n.removeprefix("model."): t for n, t in weights.items() if n.startswith("model.")}
    )
    hidden = base.eval()(ids).last_hidden_state[0]
    hidden = torch.relu(hidden @ weights["score.0.weight"].T + weights["score.0.bias"])
    logits = hidden @ weights["score.2.weight"].T + weights["score.2.bias"]
    marker = tokenizer.convert_tokens_to_ids("<extra_0>")
    values: list[float] = logits.softmax(-1)[ids[0] == marker, 1].tolist()
    return values


@torch.inference_mode()
def math_shepherd(folder: Path, question: str, steps: list[str]) -> list[float]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    candidates = tokenizer.encode("+ -")[1:]
    tag = tokenizer.encode("ки")[-1]
    text = f"{question} " + "\n".join(f"{step} ки" for step in steps)
    ids = torch.tensor([tokenizer.encode(text)])
    logits = AutoModelForCausalLM.from_pretrained(folder)(ids).logits[:, :, candidates]
    values: list[float] = logits.softmax(-1)[:, :, 0][ids == tag].tolist()
    return values


@torch.inference_mode()
def rlhflow_prm(folder: Path, question: str, steps: list[str]) -> list[float]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    candidates = [tokenizer.encode("+")[-1], tokenizer.encode("-")[-1]]
    conversation, values = [], []
    for number, step in enumerate(steps):
        text = f"{question} {step}" if number == 0 else step
        conversation += [{"role": "user", "content": text}, {"role": "assistant", "content": "+"}]
        said = tokenizer.apply_chat_template(conversation, tokenize=False)
        ids = torch.tensor([tokenizer(said, add_special_tokens=False)["input_ids"]])
        # ... + <|eot_id|>: "+" is at -2, and predicted one position before.
        assert int(ids[0, -2]) == candidates[0]
        values.append(float(model(ids).logits[0, -3, candidates].softmax(-1)[0]))
    return values


@torch.inference_mode()
def skywork_prm(folder: Path, question: str, steps: list[str]) -> list[float]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    newline = tokenizer.encode("\n")[-1]
    ids = tokenizer.encode(tokenizer.bos_token + question + "\n")
    flags = [False] * len(ids)
    for step in steps:
        own = [*tokenizer.encode(step), newline]
        ids += own
        flags += [False] * (len(own) - 1) + [True]
    config = AutoConfig.from_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    model = AutoModelForCausalLM.from_config(config).eval()
    model.load_state_dict({n: t for n, t in weights.items() if not n.startswith("v_head.")})
    hidden = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
    raw = hidden @ weights["v_head.summary.weight"].T + weights["v_head.summary.bias"]
    values: list[float] = torch.sigmoid(raw[:, 0])[torch.tensor(flags)].tolist()
    return values


@torch.inference_mode()
def value_head(folder: Path, question: str, steps: list[str]) -> list[float]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    said = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer.encode(said, add_special_tokens=False)
    ends = []
    for step in steps:
        ids += tokenizer.encode(step) + tokenizer.encode("\n")
        ends.append(len(ids) - 1)
    logits = AutoModelForTokenClassification.from_pretrained(folder)(torch.tensor([ids])).logits
    values: list[float] = logits[0, ends].softmax(-1)[:, 1].tolist()
    return values


@torch.inference_mode()
def outcome(folder: Path, question: str, solution: str) -> float:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    said = tokenizer.apply_chat_template(
        [
            {"role": "user", "content": question},
            {"role": "assistant", "content": solution},
        ],
        tokenize=False,
    )
    ids = torch.tensor([tokenizer.encode(said, add_special_tokens=False)])
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    return float(torch.sigmoid(model(ids).logits[0, 0]))


STEPWISE: dict[str, Callable[[Path, str, list[str]], list[float]]] = {
    "qwen_prm": qwen_prm,
    "math_shepherd": math_shepherd,
    "rlhflow_prm": rlhflow_prm,
    "skywork_prm": skywork_prm,
    "value_head": value_head,
}
