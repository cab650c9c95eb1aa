"""First verified: chains race; the first whose answer the verifier accepts ends the race."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from reasoning.chain import Chain
from reasoning.context import Context
from reasoning.errors import RatingFailed
from reasoning.strategy import Outcome, Strategy
from reasoning.verifiers.aggregate import Aggregation
from reasoning.verifiers.scoring import Scoring


class FirstVerified(Strategy):
    """Chains race; the first whose answer the verifier accepts ends the race.

    Starts N chains, rates each as it arrives, stops at the first score of at least
    `threshold` and cancels the rest. With an exact verifier (`check`) it is an oracle strategy.

    Without an accepted chain the best-rated one is the answer; a chain whose rating failed has
    score 0, and where none of several could be rated the problem has failed.
    """

    racing: ClassVar[bool] = True

    n: int = Field(default=16, ge=1)
    threshold: float = Field(default=1.0, gt=0.0, le=1.0)
    aggregate: Aggregation = Aggregation.last
    role: str = "verifier"

    def verifier_roles(self) -> tuple[str, ...]:
        return (self.role,)

    async def solve(self, ctx: Context) -> Outcome:
        scoring = Scoring(ctx, self.aggregate, self.role)
        best: tuple[float, Chain] | None = None
        outcome = Outcome(None, "")
        async with ctx.race() as race:
            for index in range(self.n):
                race.start(str(index), _writer(index))
            async for _, chain in race:
                (score,) = await scoring.score([chain])
                if best is None or score > best[0]:
                    best = score, chain
                outcome = ctx.offer(best[1], score=best[0], **scoring.counters())
                if score >= self.threshold:
                    break
        if scoring.failed == self.n > 1:
            raise RatingFailed(
                f"verifier in role {self.role!r} could rate none of the {self.n} chains of problem "
                f"{ctx.problem.id!r}",
                [None] * self.n,
            )
        return outcome


def _writer(index: int):  # type: ignore[no-untyped-def]
    """Writes the chain that is number `index` of a best-of-N too: strategies share their luck."""

    async def write(ctx: Context) -> Chain:
        (chain,) = await ctx.write(ctx.prompt.drawn(index))
        return chain

    return write
