"""Scoring: from the ratings of chains to their scores. One rule for every rated strategy.

| a rating | counts as | counted in |
|---|---|---|
| a reward outside [0, 1], infinite too | the nearest bound | `clamped_rewards` |
| a reward that is NaN | 0 | `clamped_rewards` |
| failed, or without rewards | score 0 | `failed_ratings` |
| more than one reward, fewer than steps | what it says: aggregated as it is | `short_ratings` |

One reward alone is that of the whole, or of its last step. Where every one of several chains of a
batch failed, the verifier is broken and RatingFailed is raised; of one chain alone that cannot be
told. Scores that are all 0 choose nothing: a vote is then one of each chain, and of the best the
first. The verifiers of this package never get as far as clamping: to them such a reward is an
error of the model, and that rating has failed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from reasoning.chain import Chain
from reasoning.outcomes import Rating
from reasoning.verifiers.aggregate import Aggregation, aggregate
from reasoning.verifiers.steps import steps_of

if TYPE_CHECKING:
    from reasoning.context import Context


class Scoring:
    """Rates the chains of one problem by the verifier in `role`, and counts what was wrong.

    failed: ratings that failed so far.
    """

    def __init__(self, ctx: Context, how: Aggregation, role: str) -> None:
        self._ctx = ctx
        self._how = how
        self._role = role
        self._clamped = 0
        self.failed = 0
        self._short = 0

    async def score(self, chains: Sequence[Chain]) -> list[float]:
        """One score in [0, 1] for each chain, from one verifier pass each, asked as one batch.

        Raises BudgetExhausted when the passes do not fit, RatingFailed as the module says.
        """
        ratings = await self._ctx.rate_some(chains, role=self._role)
        return [self._score(chain, rated) for chain, rated in zip(chains, ratings, strict=True)]

    def counters(self) -> dict[str, int]:
        """What was wrong so far, for a solution's meta; zeros are left out."""
        counted = {
            "clamped_rewards": self._clamped,
            "failed_ratings": self.failed,
            "short_ratings": self._short,
        }
        return {name: value for name, value in counted.items() if value}

    def _score(self, chain: Chain, rating: Rating | None) -> float:
        if rating is None or not rating.scores:
            self.failed += 1
            return 0.0
        given = rating.scores
        self._short += 1 < len(given) < len(steps_of(chain.text, self._ctx.problem.step))
        within = [0.0 if math.isnan(s) else min(1.0, max(0.0, s)) for s in given]
        self._clamped += sum(w != s for w, s in zip(within, given, strict=True))
        return aggregate(within, self._how)
