"""The best-of-N family: draw N chains, choose one answer (specs: Snell 2024; Wang 2023).

| strategy | chooses |
|---|---|
| single | the one chain |
| best_of_n | the answer of the chain with the highest score |
| majority | the answer that most chains give (self-consistency) |
| weighted | the answer whose chains' scores sum highest; by majority where all are 0 |

An N that the budget does not fit is cut before anything is sent. Ties go to the earlier chain;
of equal answers the first one's wording is returned. Where none of several chains could be rated
the problem has failed, with the majority as its best so far; what else a verifier may get wrong is
in verifiers/scoring.py.
"""

from __future__ import annotations

import abc
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from reasoning.budget import UNITS, Budget, Usage
from reasoning.chain import Chain
from reasoning.context import Context
from reasoning.errors import BudgetExhausted
from reasoning.strategy import Outcome, Strategy
from reasoning.verifiers.aggregate import Aggregation
from reasoning.verifiers.scoring import Scoring


class Single(Strategy):
    """One chain."""

    async def solve(self, ctx: Context) -> Outcome:
        (chain,) = await ctx.write(ctx.prompt)
        return ctx.offer(chain)


class _Sampled(Strategy, abc.ABC):
    """Draws N chains, offers their majority as the best so far, and lets `choose` decide."""

    n: int = Field(default=16, ge=1)

    async def solve(self, ctx: Context) -> Outcome:
        chains = await self.draw(ctx)
        offered = ctx.offer(most_voted(ctx, chains, [1.0] * len(chains)))
        return await self.choose(ctx, chains, offered)

    async def draw(self, ctx: Context) -> list[Chain]:
        """N chains; fewer when the budget ends."""
        return await ctx.write(ctx.prompt, self.n)

    @abc.abstractmethod
    async def choose(self, ctx: Context, chains: Sequence[Chain], majority: Outcome) -> Outcome: ...


class Majority(_Sampled):
    """Self-consistency: one vote a chain; chains without an answer do not vote."""

    async def choose(self, ctx: Context, chains: Sequence[Chain], majority: Outcome) -> Outcome:
        return majority


class _Rated(_Sampled):
    """Rates the chains by the verifier in `role`, one pass a chain."""

    aggregate: Aggregation = Aggregation.last
    role: str = "verifier"

    def verifier_roles(self) -> tuple[str, ...]:
        return (self.role,)

    async def draw(self, ctx: Context) -> list[Chain]:
        """N chains, or as many as can still be rated.

        Where ratings cost of a cap that chains cost of too, what rating them can cost is kept back
        while they are written: at once as many as fit whatever they come to, then, as what they
        came to leaves room, one after the other.
        """
        passes = ctx.remaining("verifier_passes")
        if passes < 1:
            raise BudgetExhausted(f"{self.__class__.__name__} needs at least one verifier pass")
        n = int(min(self.n, passes))
        longest = ctx.cap(ctx.bindings.engine("policy"), ctx.prompt, None)
        whole, least = (self._rating(ctx, ctx.prompt, size) for size in (longest, 1))
        units = [u for u in UNITS if getattr(whole, u) and math.isfinite(ctx.ledger.remaining(u))]
        if not units:
            return await ctx.write(ctx.prompt, n)
        read, written, token = (
            Usage(**{unit: getattr(ctx.most_written(ctx.prompt, k, size), unit) for unit in units})
            for k, size in ((0, longest), (1, longest), (1, 1))
        )
        chains: list[Chain] = []
        while len(chains) < n and ctx.cut is None:
            held = Usage.sum(self._rating(ctx, chain, 0) for chain in chains)
            fitting = ctx.times(written - read + whole, held + read)
            if fitting >= 1:
                wave = min(n - len(chains), int(fitting))
                kept = Usage.sum([held, *[whole] * wave])
            elif ctx.times(token + least, held) >= 1:
                # A chain that may be cut short: half of what is left is for its rating.
                wave, kept = 1, held + self._half(ctx, units, held + read, least)
            elif not chains:
                return await ctx.write(ctx.prompt)  # better than none, if it cannot be rated
            else:
                ctx.note_cut("budget")
                break
            amounts = {unit: getattr(kept, unit) for unit in units}
            reserve = ctx.child("ratings", Budget(**amounts))
            try:
                chains += await ctx.write(ctx.prompt, wave)
            except BudgetExhausted as refused:
                if not chains:
                    raise
                ctx.note_cut(refused.status)
            finally:
                reserve.ledger.close()
            ctx.offer(most_voted(ctx, chains, [1.0] * len(chains)))
        while len(chains) > 1 and not self._can_rate(ctx, chains):
            chains.pop()  # it was cut short, and its half did not do
        return chains

    def _rating(self, ctx: Context, chain: Chain, more: int) -> Usage:
        """The most that rating a chain can cost, `more` tokens longer; passes are counted apart."""
        return ctx.most_rated(chain, more, role=self.role)._replace(verifier_passes=0)

    def _can_rate(self, ctx: Context, chains: Sequence[Chain]) -> bool:
        return ctx.times(Usage.sum(self._rating(ctx, chain, 0) for chain in chains)) >= 1

    def _half(self, ctx: Context, units: Sequence[str], spoken_for: Usage, least: Usage) -> Usage:
        kept: dict[str, Any] = {}
        for unit in units:
            half = (ctx.ledger.remaining(unit) - getattr(spoken_for, unit)) / 2
            kept[unit] = max(int(half) if unit == "tokens" else half, getattr(least, unit))
        return Usage(**kept)

    def scoring(self, ctx: Context) -> Scoring:
        return Scoring(ctx, self.aggregate, self.role)


class BestOfN(_Rated):
    """The chain with the highest score; one without an answer only when none has one."""

    async def choose(self, ctx: Context, chains: Sequence[Chain], majority: Outcome) -> Outcome:
        scoring = self.scoring(ctx)
        scores = await scoring.score(chains)
        best = max(
            range(len(chains)),
            key=lambda i: (ctx.answer(chains[i]) is not None, scores[i], -i),
        )
        return ctx.offer(chains[best], score=scores[best], **scoring.counters())


class Weighted(_Rated):
    """The answer whose chains' scores sum highest; where all of them are 0, the majority's.

    scale: minmax stretches the scores of the N chains to [0, 1] first, so that the worst has no
    vote; equal ones are 1 (arXiv 2502.07191, in its code; there the winning answer is worded as
    its best chain has it).
    """

    scale: Literal["none", "minmax"] = "none"

    @model_serializer(mode="wrap")
    def _without_default(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # What ran when there was no choice keeps its identity.
        settings: dict[str, Any] = whole(self)
        if self.scale == "none":
            del settings["scale"]
        return settings

    async def choose(self, ctx: Context, chains: Sequence[Chain], majority: Outcome) -> Outcome:
        scoring = self.scoring(ctx)
        scores = await scoring.score(chains)
        if self.scale == "minmax":
            scores = stretched(scores)
        return ctx.offer(most_voted(ctx, chains, scores), **scoring.counters())


def stretched(scores: Sequence[float]) -> list[float]:
    """Scores moved and scaled to reach from 0 to 1; all 1 where they are equal."""
    low, high = min(scores), max(scores)
    return [(score - low) / (high - low) if low < high else 1.0 for score in scores]


def most_voted(ctx: Context, chains: Sequence[Chain], weights: Sequence[float]) -> Chain:
    """The first chain whose answer has the greatest total weight (ties: seen first).

    Where no answer has any weight, each chain has one vote: a verifier that gives all of them 0
    says nothing, and the answer that happens to come first is a worse guess than the majority's.
    Without any answer the first chain.
    """
    totals: dict[str, float] = {}
    votes: Counter[str] = Counter()
    first: dict[str, Chain] = {}
    for chain, weight in zip(chains, weights, strict=True):
        answer = ctx.answer(chain)
        if answer is None:
            continue
        form = ctx.problem.canonical(answer)
        totals[form] = totals.get(form, 0.0) + weight
        votes[form] += 1
        first.setdefault(form, chain)
    counted: Mapping[str, float] = totals if any(totals.values()) else votes
    return first[max(counted, key=lambda form: counted[form])] if counted else chains[0]
