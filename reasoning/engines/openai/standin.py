"""The tokenizer that stands in where a server's token ids are not to be had.

The core speaks ids; so here an id is a byte of UTF-8, and all that is counted in the core (caps,
context, budgets in tokens) is counted in bytes, which are never fewer than tokens. Messages are
framed by ids above the bytes, so that a chat's prompt can be taken apart again exactly and the
server applies its own template.
"""

from __future__ import annotations

from collections.abc import Sequence

from reasoning.errors import PromptError

BYTES = 256
MESSAGE = 256  # the role follows
CONTENT = 257  # the content follows
END = 258  # of a message; the last one stays open: it is the assistant's


class ByteTokenizer:
    """ids are UTF-8 bytes, and three framing marks that have no text.

    chat: whether `render` frames the messages; else it writes their contents, a line break after
    each, as a base model's prompt.
    """

    eos_id: int | None = None  # the server keeps its own to itself
    vocab_size = BYTES + 3

    def __init__(self, *, chat: bool) -> None:
        self._chat = chat

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8", "surrogatepass"))

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(token for token in ids if token < BYTES).decode("utf-8", "replace")

    def render(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """The messages, with the assistant's turn open behind them (the last one, if it is his)."""
        if not self._chat:
            return self.encode("".join(f"{message['content']}\n" for message in messages))
        ids: list[int] = []
        for message in messages:
            if ids:
                ids.append(END)
            ids += [MESSAGE, *self.encode(message["role"])]
            ids += [CONTENT, *self.encode(message["content"])]
        if not messages or messages[-1]["role"] != "assistant":
            if ids:
                ids.append(END)
            ids += [MESSAGE, *self.encode("assistant"), CONTENT]
        return ids


def messages(ids: Sequence[int]) -> list[dict[str, str]]:
    """The messages that `render` framed, the last one with all that was written behind it.

    Raises PromptError for ids that are no framed messages.
    """
    found = []
    for framed in _split(ids, MESSAGE)[1:]:
        role, *content = _split(framed, CONTENT)
        if len(content) != 1:
            break
        body = content[0]
        found.append({"role": _text(role), "content": _text(body[:-1] if END in body else body)})
    if not found or ids[0] != MESSAGE:
        raise PromptError("a prompt for a chat server must be messages rendered by its tokenizer")
    return found


def _split(ids: Sequence[int], mark: int) -> list[Sequence[int]]:
    parts, start = [], 0
    for index, token in enumerate(ids):
        if token == mark:
            parts.append(ids[start:index])
            start = index + 1
    parts.append(ids[start:])
    return parts


def _text(ids: Sequence[int]) -> str:
    try:
        return bytes(ids).decode("utf-8", "replace")
    except ValueError:
        raise PromptError("a chat prompt holds framing marks inside a message") from None
