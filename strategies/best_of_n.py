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
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

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
        chains = await ctx.write(ctx.prompt, self.fitting(ctx))
        offered = ctx.offer(most_voted(ctx, chains, [1.0] * len(chains)))
        return await self.choose(ctx, chains, offered)

    def fitting(self, ctx: Context) -> int:
        """N, or as many chains as can still be rated."""
        return self.n

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

    def fitting(self, ctx: Context) -> int:
        passes = ctx.remaining("verifier_passes")
        if passes < 1:
            raise BudgetExhausted(f"{self.__class__.__name__} needs at least one verifier pass")
        return int(min(self.n, passes))

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
