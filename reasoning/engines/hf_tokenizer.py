"""Hugging Face tokenizers behind the core's Tokenizer interface."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from reasoning.errors import ModelError, PromptError


class HFTokenizer:
    """encode adds no special tokens; decode leaves out special tokens and cleans nothing up."""

    def __init__(self, folder: str | Path) -> None:
        from transformers import AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"{folder}: the tokenizer cannot be loaded: {reason}") from None
        # Its warning about long texts would go to stderr; the engine's own check is an error.
        self._tokenizer.model_max_length = 1 << 60
        # Asked directly: the wrapper's checks cost ten times what the encoding does.
        self._fast = getattr(self._tokenizer, "backend_tokenizer", None)
        self.eos_id: int | None = self._tokenizer.eos_token_id
        self.bos_id: int | None = self._tokenizer.bos_token_id
        self.vocab_size = len(self._tokenizer)

    def encode(self, text: str) -> list[int]:
        if self._fast is not None:
            return list(self._fast.encode(text, add_special_tokens=False).ids)
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def decode(self, ids: Sequence[int]) -> str:
        if self._fast is not None:
            return str(self._fast.decode(list(ids), skip_special_tokens=True))
        return str(
            self._tokenizer.decode(
                list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def render(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Through the chat template; without one, the opening and the contents, line by line.

        Raises PromptError for text that the vocabulary cannot express.
        """
        opening: tuple[int, ...] = ()  # templates write their own
        if self._tokenizer.chat_template:
            text = self._tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=True, tokenize=False
            )
        else:
            text = "".join(f"{m['content']}\n" for m in messages)
            opening = self.opening
        ids = self.encode(text)
        unknown = self._tokenizer.unk_token_id
        pad = self._tokenizer.pad_token_id
        if text and (not ids or (unknown is not None and unknown in ids) or self._lost(text, ids)):
            raise PromptError(
                f"the model's vocabulary cannot express all of {text[:60]!r}; this model reads "
                f"only the text it was trained on (pad id {pad})"
            )
        return [*opening, *ids]

    @functools.cached_property
    def opening(self) -> tuple[int, ...]:
        """The special ids that this tokenizer puts before a bare text (BOS, or nothing)."""
        plain = self.encode("a")
        whole = list(self._tokenizer("a")["input_ids"])
        for start in range(len(whole)):
            if whole[start : start + len(plain)] == plain:
                return tuple(whole[:start])
        return ()

    def transcript(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """A finished conversation through the chat template; without one, the opening, the
        contents line by line, and EOS. Raises PromptError where the template refuses it."""
        if not self._tokenizer.chat_template:
            text = "\n".join(message["content"] for message in messages)
            ids = [*self.opening, *self.encode(text)]
            return ids if self.eos_id is None else [*ids, self.eos_id]
        try:
            text = self._tokenizer.apply_chat_template(list(messages), tokenize=False)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise PromptError(f"the model's chat template refuses this: {reason}") from None
        return self.encode(text)

    def _lost(self, text: str, ids: list[int]) -> bool:
        """Whether characters fell out: a small vocabulary without an unknown token drops them."""
        return self.vocab_size < 1000 and self.decode(ids) != text


class Detokenizer:
    """Text of a growing list of ids, piece by piece; holds back an unfinished character."""

    def __init__(self, tokenizer: HFTokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._start = 0  # ids before it are settled
        self._seen = 0  # ids whose text was handed out

    def feed(self, token: int) -> str:
        """The text that this token adds ("" while a character is incomplete)."""
        self._ids.append(token)
        before = self._tokenizer.decode(self._ids[self._start : self._seen])
        now = self._tokenizer.decode(self._ids[self._start :])
        if now.endswith("�"):
            return ""
        self._start, self._seen = self._seen, len(self._ids)
        return now[len(before) :]
