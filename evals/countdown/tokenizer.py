"""The models' tokenizer: one token a character, in standard Hugging Face format."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, EOS = "<pad>", "<eos>"
CHARACTERS = "\n 0123456789+-*/()=:abcdefghijklmnopqrstuvwxyz,.?"
# One user message, then its newline: the assistant's text follows at once.
TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"


def build() -> PreTrainedTokenizerFast:
    """Ids: pad 0, eos 1, then the characters. Anything else has no token and is an error."""
    vocabulary = {token: i for i, token in enumerate([PAD, EOS, *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )
    fast.chat_template = TEMPLATE
    return fast


def save(folder: Path) -> None:
    build().save_pretrained(str(folder))
