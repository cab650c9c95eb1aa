"""scripted/: given replies, log-probabilities, delays and faults, under virtual time. For tests.

A script is a function of (request, stream key) to a `Line`, or a list of texts. Tokens are
characters (ids are code points), so that a test reads as the text it is about.
"""

from __future__ import annotations

import asyncio
import heapq
import selectors
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from reasoning.engines.base import (
    Capabilities,
    ChooseReply,
    Completion,
    EmbedReply,
    Engine,
    EngineUsage,
    PoolReply,
    SampleReply,
    SampleRequest,
    ScoreReply,
    Sink,
    TokenLogprob,
)
from reasoning.engines.characters import EOS, CharacterTokenizer
from reasoning.engines.stops import Stops
from reasoning.errors import ConfigError
from reasoning.randomness import uniform


@dataclass(frozen=True, slots=True)
class Line:
    """What the engine says to one stream: the whole chain's text, counted from the prompt.

    seconds: time a token takes. fault: raised after `fault_after` tokens of this request.
    ends: whether EOS follows the text. logprob: of every token. tops: of each token of the chain
    in order, log-probabilities of alternatives, likeliest first (the last one goes on for the
    rest); none is an engine that tells none.
    """

    text: str
    seconds: float = 0.0
    fault: Exception | None = None
    fault_after: int = 0
    ends: bool = True
    logprob: float = -1.0
    tops: tuple[tuple[float, ...], ...] = ()


Script = Callable[[str, int], Line]


@dataclass
class _Totals:
    new: int = 0
    prefill: int = 0
    requests: int = 0
    open: int = 0
    starts: int = 0
    log: list[Any] = field(default_factory=list)


class ScriptedEngine(Engine):
    """Plays a script of replies, delays and faults, under virtual time: for tests.

    `script(prompt, key)` gives the chain for a prompt text and stream key;
    a list of texts is drawn from by the stream's random number, `seconds` a token."""

    def __init__(
        self,
        model: str = "",
        *,
        script: Script | Sequence[str | Line] = ("",),
        seconds: float = 0.0,
        capabilities: Capabilities | None = None,
        context_length: int = 1 << 20,
        rewards: Callable[[str], float] | None = None,
        embeddings: Callable[[str], Sequence[float]] | None = None,
    ) -> None:
        self.name = f"scripted/{model}"
        self.capabilities = capabilities or Capabilities(
            token_keyed=True,
            one_prefill=True,
            pool=rewards is not None,
            embed=embeddings is not None,
        )
        self.context_length = context_length
        self.tokenizer = CharacterTokenizer()
        self.totals = _Totals()
        self._rewards = rewards
        self._embeddings = embeddings
        self._script = script if callable(script) else _choice(list(script), seconds)

    async def start(self) -> None:
        self.totals.starts += 1

    async def close(self) -> None:
        return None

    async def sample(self, request: SampleRequest, sink: Sink | None = None) -> SampleReply:
        self.check(request.sampling)
        prompt = self.tokenizer.decode(request.prompt_ids)
        self.totals.requests += 1
        self.totals.open += 1
        self.totals.prefill += len(request.prompt_ids)
        self.totals.log.append(request)
        try:
            completions = await asyncio.gather(
                *(self._chain(request, index, prompt, sink) for index in range(request.n))
            )
        finally:
            self.totals.open -= 1
        new = sum(len(c.ids) for c in completions)
        return SampleReply(
            tuple(completions), EngineUsage(prefill=len(request.prompt_ids), new=new)
        )

    async def _chain(
        self, request: SampleRequest, index: int, prompt: str, sink: Sink | None
    ) -> Completion:
        # The script sees the prompt without what this chain has written of itself.
        line = self._script(prompt[: len(prompt) - request.position], request.streams[index].key)
        script = [*self.tokenizer.encode(line.text), *([EOS] if line.ends else [])]
        ids: list[int] = []
        sampling = request.sampling
        stops = Stops(sampling)
        for token in script[request.position :]:
            if line.fault is not None and len(ids) >= line.fault_after:
                raise line.fault
            if len(ids) == request.max_tokens:
                break
            await asyncio.sleep(line.seconds)
            ids.append(token)
            self.totals.new += 1
            piece = self.tokenizer.decode([token])
            if sink is not None:
                place = request.position + len(ids) - 1
                values = _values(line, range(place, place + 1), sampling.logprobs)
                if sink(index, [token], piece, values or ()):
                    return self._done(ids, "abort", None, line, request)
            if token == EOS or token in sampling.stop_ids:
                return self._done(ids, "stop", token, line, request)
            found = stops.feed(piece)
            if found is not None:
                return self._done(ids, "stop", found, line, request)
        if line.fault is not None and len(ids) >= line.fault_after:
            raise line.fault
        return self._done(ids, "length", None, line, request)

    def _done(
        self,
        ids: list[int],
        finish: Any,
        reason: str | int | None,
        line: Line,
        request: SampleRequest,
    ) -> Completion:
        places = range(request.position, request.position + len(ids))
        logprobs = _values(line, places, request.sampling.logprobs)
        return Completion(tuple(ids), self.tokenizer.decode(ids), finish, reason, logprobs)

    async def score(
        self, prefix_ids: Sequence[int], continuation_ids: Sequence[int], top: int = 0
    ) -> ScoreReply:
        line = self._script(self.tokenizer.decode(prefix_ids), 0)
        size = len(prefix_ids) + len(continuation_ids)
        self.totals.prefill += size
        return ScoreReply(
            tuple(TokenLogprob(line.logprob) for _ in continuation_ids), EngineUsage(prefill=size)
        )

    async def choose(self, prefix_ids: Sequence[int], option_ids: Sequence[int]) -> ChooseReply:
        self.totals.prefill += len(prefix_ids)
        share = 1.0 / len(option_ids)
        return ChooseReply((share,) * len(option_ids), 1.0, EngineUsage(prefill=len(prefix_ids)))

    async def pool(self, ids: Sequence[int], positions: Sequence[int]) -> PoolReply:
        if self._rewards is None:
            return await super().pool(ids, positions)
        self.totals.prefill += len(ids)
        values = tuple(
            self._rewards(self.tokenizer.decode(ids[: position + 1])) for position in positions
        )
        return PoolReply(values, EngineUsage(prefill=len(ids)))

    async def embed(self, ids: Sequence[int], first: int) -> EmbedReply:
        if self._embeddings is None:
            return await super().embed(ids, first)
        self.totals.prefill += len(ids)
        values = tuple(self._embeddings(self.tokenizer.decode(ids[first:])))
        return EmbedReply(values, EngineUsage(prefill=len(ids)))

    def identity(self) -> dict[str, Any]:
        return {"engine": "scripted", "model": self.name}

    async def counters(self) -> dict[str, float]:
        return {"new": self.totals.new, "prefill": self.totals.prefill, "cached": 0}


def _values(line: Line, places: range, top: int | None) -> tuple[TokenLogprob, ...] | None:
    """What a line says of the tokens at `places` of its chain; alternatives are ids from 0."""
    if top is None:
        return None
    if not line.tops:
        return (TokenLogprob(line.logprob),) * len(places)
    rows = (line.tops[min(place, len(line.tops) - 1)][:top] for place in places)
    return tuple(TokenLogprob(line.logprob, dict(enumerate(row))) for row in rows)


def _choice(lines: list[str | Line], seconds: float) -> Script:
    if not lines:
        raise ConfigError("a scripted engine needs at least one line")

    def script(prompt: str, key: int) -> Line:
        line = lines[int(uniform(key, 0) * len(lines))]
        return line if isinstance(line, Line) else Line(line, seconds)

    return script


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer instead of waiting for it.

    `asyncio.run(main(), loop_factory=VirtualTimeLoop)` on Python 3.12; before, `asyncio.Runner`.
    """

    def __init__(self) -> None:
        super().__init__(selectors.SelectSelector())
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        ready, scheduled = self._ready, self._scheduled  # type: ignore[attr-defined]
        while scheduled and scheduled[0]._cancelled:
            self._timer_cancelled_count -= 1  # type: ignore[attr-defined]
            heapq.heappop(scheduled)._scheduled = False
        if not ready and scheduled:
            self._now = max(self._now, scheduled[0]._when)
        super()._run_once()  # type: ignore[misc]
