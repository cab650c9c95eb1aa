"""Continuations put together from a stream of deltas, and what a sink was told of them.

An attempt that broke after tokens were handed over is repeated from the start. The repetition must
begin as the broken attempt did (a seeded vLLM does); what the sink has seen is not told again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from reasoning.engines.base import Completion, Finish, SampleRequest, Sink, TokenLogprob
from reasoning.engines.openai.faults import QUOTED, Malformed

EVENT_BYTES = 16 << 20  # of one event; a longer one never ends


class EventReader:
    """Server-sent events from chunks cut anywhere: `feed` gives the data of whole events."""

    def __init__(self) -> None:
        self._rest = b""
        self.head = b""  # how the body begins
        self.finished = False  # [DONE] has come

    def feed(self, chunk: bytes) -> list[Any]:
        """Parsed events that this chunk completes. Raises Malformed."""
        events = []
        self.head = self.head or chunk.lstrip()[:QUOTED]
        # Lines are split as bytes: a character's bytes may be cut, a newline is one byte.
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > EVENT_BYTES:
            raise Malformed(f"an event of more than {EVENT_BYTES} bytes")
        for line in lines:
            if not line.startswith(b"data:"):
                continue  # comments (keep-alives), event names, ids, blank lines
            data = line[5:].strip()
            if data == b"[DONE]":
                self.finished = True
            elif data:
                events.append(parsed(data))
        return events


def parsed(body: bytes) -> Any:
    """A JSON object. Raises Malformed."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise Malformed(f"no JSON: {body[:60]!r}") from None
    if type(value) is not dict:
        raise Malformed(f"no JSON object: {body[:60]!r}")
    return value


def miscounted(found: int, n: int) -> Malformed:
    return Malformed(
        f"{found} choices where {n} were asked for; if the server ignores `n`, set "
        f"`seeding: stream` (one request for each)"
    )


@dataclass(slots=True)
class Delta:
    """News of one continuation."""

    index: int
    ids: Sequence[int]
    text: str
    logprobs: Sequence[TokenLogprob] | None = None
    finish: Finish | None = None
    stop_reason: str | int | None = None
    early: bool = False  # ended here, while the server goes on


@dataclass(slots=True)
class _Part:
    ids: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[TokenLogprob] | None = None
    finish: Finish | None = None
    stop_reason: str | int | None = None
    seen: int = 0  # ids of this attempt
    heard: int = 0  # characters of this attempt
    dropped: int = 0  # ids that came after the end
    early: bool = False


class Assembly:
    """The continuations of one request."""

    def __init__(self, request: SampleRequest, sink: Sink | None) -> None:
        self._request = request
        self._sink = sink
        self._parts = [_Part() for _ in range(request.n)]
        self.pieces = 0  # deltas with something new: each is a token at least

    def restart(self) -> None:
        """A new attempt begins; what no sink has seen is forgotten."""
        if self._sink is None:
            self._parts = [_Part() for _ in self._parts]
        for part in self._parts:
            part.seen = part.heard = 0
            if part.finish != "abort":
                part.finish, part.stop_reason = None, None

    def add(self, delta: Delta) -> None:
        """Raises Malformed for an index not asked for, and for a repetition that differs."""
        if not 0 <= delta.index < len(self._parts):
            raise Malformed(f"choice {delta.index} of {len(self._parts)}")
        part = self._parts[delta.index]
        if part.finish is not None:
            part.dropped += len(delta.ids)
            return
        ids, text, logprobs = self._news(part, delta)
        self.pieces += bool(ids or text)
        part.ids.extend(ids)
        part.text += text
        if logprobs is not None:
            part.logprobs = part.logprobs or []
            part.logprobs.extend(logprobs)
        if len(part.ids) > self._request.max_tokens:
            raise Malformed(f"{len(part.ids)} tokens of at most {self._request.max_tokens}")
        if delta.finish is not None:
            part.finish, part.stop_reason = delta.finish, delta.stop_reason
            part.early = delta.early
        if self._sink is None or not (ids or text):
            return
        # A continuation that ended by itself with these tokens stays ended by itself.
        if self._sink(delta.index, ids, text, logprobs or ()) and delta.finish is None:
            part.finish, part.early = "abort", True

    def _news(
        self, part: _Part, delta: Delta
    ) -> tuple[Sequence[int], str, Sequence[TokenLogprob] | None]:
        """What of a delta was not there in an earlier attempt."""
        known, heard = len(part.ids) - part.seen, len(part.text) - part.heard
        if known <= 0 and heard <= 0:
            part.seen += len(delta.ids)
            part.heard += len(delta.text)
            return delta.ids, delta.text, delta.logprobs
        again = list(part.ids[part.seen : part.seen + len(delta.ids)])
        if again != list(delta.ids[: len(again)]):
            raise Malformed(
                f"after a broken connection the first {part.seen + len(again)} tokens are not the "
                f"ones that had been received; the server does not honour seeds"
            )
        part.seen += len(delta.ids)
        part.heard += len(delta.text)
        known, heard = max(known, 0), max(heard, 0)
        return (
            delta.ids[known:],
            delta.text[heard:],
            None if delta.logprobs is None else delta.logprobs[known:],
        )

    @property
    def ended(self) -> bool:
        """Whether nothing more is wanted."""
        return all(part.finish is not None for part in self._parts)

    @property
    def cut(self) -> bool:
        """Whether the server may still be decoding what is not wanted any more."""
        return any(part.early for part in self._parts)

    @property
    def dropped(self) -> int:
        """Tokens received and not kept, because their continuation had been stopped."""
        return sum(part.dropped for part in self._parts)

    def completions(self) -> tuple[Completion, ...]:
        """Those that have ended: all, once `ended`."""
        return tuple(
            Completion(
                tuple(part.ids),
                part.text,
                part.finish,
                part.stop_reason,
                None if part.logprobs is None else tuple(part.logprobs),
            )
            for part in self._parts
            if part.finish is not None
        )
