"""DeepConf: votes weighted, filtered and stopped by confidence (Fu et al. 2025, arXiv 2508.15260).

| strategy | does |
|---|---|
| deep_conf | offline: N whole traces; the most confident vote, weighted by confidence |
| deep_conf_online | a warm-up sets a threshold; later traces stop where a group falls below it |

Confidence comes from the log-probabilities of the `top` likeliest tokens, which the engine gives
with each token, also while it streams: an unmodified server is enough. There they are read for
every token, which on a long trace is some hundred bytes a token.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from pydantic import Field, model_validator

from reasoning.chain import Chain
from reasoning.context import Context
from reasoning.errors import BudgetExhausted
from reasoning.strategies.adaptive import votes
from reasoning.strategies.best_of_n import most_voted
from reasoning.strategies.confidence import (
    Group,
    Measure,
    threshold,
    token_confidences,
    trace_confidence,
)
from reasoning.strategy import Outcome, Strategy, Unit
from reasoning.streaming import TokenStream


@dataclass(frozen=True, slots=True)
class _Voter:
    chain: Chain
    confidence: float


class _Confident(Strategy):
    """n: traces. top: k of the token confidence, or all of a smaller vocabulary; 20 is the paper's,
    and the most that vLLM gives unless it is started with more. window: tokens of a group. keep:
    percent of traces that count, 10 (the paper's low: few, confident) to 90 (high)."""

    needs: ClassVar[tuple[str, ...]] = ("sample", "logprobs")

    n: int = Field(default=64, ge=1)
    top: int = Field(default=20, ge=1, le=20)
    window: int = Field(default=2048, ge=1)
    keep: float = Field(default=10.0, gt=0.0, le=100.0)

    def told(self, ctx: Context) -> Context:
        """The context with log-probabilities asked for; the traces are those of majority voting."""
        branch = ctx.child("traces", None)
        sampling = replace(branch.bindings.sampling, logprobs=self.top)
        branch.bindings = replace(branch.bindings, sampling=sampling)
        return branch

    def k(self, ctx: Context) -> int:
        return min(self.top, ctx.bindings.engine("policy").tokenizer.vocab_size)

    def voter(self, ctx: Context, trace: Chain, measure: Measure) -> _Voter:
        confidences = token_confidences(trace.ids, trace.logprobs, self.k(ctx))
        return _Voter(trace, trace_confidence(confidences, measure, self.window))


class DeepConf(_Confident):
    """Votes, weighted by confidence, of the most confident traces (offline, section 3.2).

    Traces with an answer whose confidence reaches the (100 - keep)-th percentile vote, each with
    its confidence as weight. keep 100 is the weighted vote of all.
    """

    measure: Measure = Measure.bottom_10

    async def solve(self, ctx: Context) -> Outcome:
        traces = await self.told(ctx).write(ctx.prompt, self.n)
        answered = [trace for trace in traces if ctx.answer(trace) is not None]
        if not answered:
            return ctx.offer(traces[0])
        voters = [self.voter(ctx, trace, self.measure) for trace in answered]
        least = threshold([voter.confidence for voter in voters], self.keep)
        kept = [voter for voter in voters if voter.confidence >= least]
        return _elect(ctx, kept, threshold=least, kept=len(kept))


class DeepConfOnline(_Confident):
    """Online (section 3.3). A trace is measured by its lowest group.

    warmup: whole traces that set the threshold, of the n; those that reach it vote. A later trace
    is stopped where a full group falls below it, and never votes. consensus: no more traces are
    drawn once the leading answer has this share of the votes' weight (the paper's tau; 1 is
    unanimity, None never stops). at_once: traces between two looks at the consensus. The paper
    draws one after the other; its repository all at once, with no consensus stop.
    """

    unit: ClassVar[Unit] = "token"
    needs: ClassVar[tuple[str, ...]] = ("sample", "stream", "logprobs")

    warmup: int = Field(default=16, ge=1)
    consensus: float | None = Field(default=0.95, gt=0.0, le=1.0)
    at_once: int = Field(default=16, ge=1)

    @model_validator(mode="after")
    def _warmup_within(self) -> Self:
        if self.warmup > self.n:
            raise ValueError(
                f"warmup={self.warmup} is more than the n={self.n} traces it is part of"
            )
        return self

    async def solve(self, ctx: Context) -> Outcome:
        told = self.told(ctx)
        traces = await told.write(ctx.prompt, self.warmup)
        measured = [self.voter(ctx, trace, Measure.lowest) for trace in traces]
        least = threshold([voter.confidence for voter in measured], self.keep)
        voters = [voter for voter in measured if voter.confidence >= least]
        drawn, stopped = len(traces), 0
        outcome = _elect(ctx, voters, traces=drawn, stopped=stopped, threshold=least)
        while drawn < self.n and ctx.cut is None and not self._agreed(ctx, voters):
            streams = [told.stream(ctx.prompt) for _ in range(min(self.at_once, self.n - drawn))]
            ended = await asyncio.gather(
                *(self._trace(told, stream, least) for stream in streams), return_exceptions=True
            )
            for voter in ended:
                # All are awaited even when one fails: what was decoded is recorded and charged.
                if isinstance(voter, BaseException):
                    raise voter
                if voter is not None and voter.confidence >= least:
                    voters.append(voter)
            drawn += sum(stream.chain.finish is not None for stream in streams)
            stopped += sum(stream.chain.finish == "abort" for stream in streams)
            outcome = _elect(ctx, voters, traces=drawn, stopped=stopped, threshold=least)
        return outcome

    async def _trace(self, ctx: Context, stream: TokenStream, least: float) -> _Voter | None:
        """A trace that ended by itself, with its lowest group; None for any other."""
        group = Group(self.window)
        confidences: list[float] = []
        try:
            async with stream:
                async for piece in stream:
                    confidences += token_confidences(piece.ids, piece.logprobs, self.k(ctx))
                    mean = group.add(confidences[-1])
                    if mean is not None and mean < least:
                        await stream.stop()
                        ctx.book("policy", discarded=piece.offset)
                        return None
        except BudgetExhausted as refused:
            ctx.note_cut(refused.status)
        if stream.chain.finish not in ("stop", "length"):
            return None
        return _Voter(stream.chain, trace_confidence(confidences, Measure.lowest, self.window))

    def _agreed(self, ctx: Context, voters: Sequence[_Voter]) -> bool:
        return self.consensus is not None and agreement(ctx, voters) >= self.consensus


def agreement(ctx: Context, voters: Sequence[_Voter]) -> float:
    """The leading answer's share of the weight of all votes (the paper's beta); 0 without any."""
    weights: dict[str, list[float]] = {}
    for form, voter in zip(votes(ctx, [v.chain for v in voters]), voters, strict=True):
        if form is not None:
            weights.setdefault(form, []).append(voter.confidence)
    total = math.fsum(weight for each in weights.values() for weight in each)
    return max(map(math.fsum, weights.values())) / total if total else 0.0


def _elect(ctx: Context, voters: Sequence[_Voter], **meta: float) -> Outcome:
    """The answer with the most confidence behind it."""
    weights = [voter.confidence for voter in voters]
    return ctx.offer(most_voted(ctx, [voter.chain for voter in voters], weights), **meta)
