"""A tokenizer of characters, for engines that hold text and no model."""

from __future__ import annotations

from collections.abc import Sequence

EOS = 0x03  # end of text


class CharacterTokenizer:
    """One id a character (its code point); EOS is U+0003 and has no text."""

    eos_id: int | None = EOS
    vocab_size = 0x110000

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(token) for token in ids if token != EOS)

    def render(self, messages: Sequence[dict[str, str]]) -> list[int]:
        return self.encode("".join(f"{m['content']}\n" for m in messages))
