"""Adaptive self-consistency: draw chains until more votes would hardly change the answer.

| strategy | stops when |
|---|---|
| adaptive_consistency | the leading answer would, with `confidence`, still lead after many more |
| early_stopping | all chains of one window give the same answer |

adaptive_consistency is Aggarwal et al. 2023 (arXiv 2305.11860), early_stopping is ESC, Li et al.
2024 (arXiv 2401.10480). Both return the majority of what was drawn. A chain without an answer has
no vote. With nothing to stop them they are self-consistency: the same N chains, the same answer.
"""

from __future__ import annotations

import abc
import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from reasoning.chain import Chain
from reasoning.context import Context
from reasoning.strategies.best_of_n import most_voted
from reasoning.strategy import Outcome, Strategy

# Points of the quadrature over one Gamma density; its error is far below any confidence asked.
POINTS = 256


class _Sequential(Strategy, abc.ABC):
    """Draws up to N chains, `at_a_time()` of them before each look at the votes."""

    n: int = Field(default=40, ge=1)

    async def solve(self, ctx: Context) -> Outcome:
        chains: list[Chain] = []
        while True:
            chains += await ctx.write(ctx.prompt, min(self.at_a_time(), self.n - len(chains)))
            best = most_voted(ctx, chains, [1.0] * len(chains))
            outcome = ctx.offer(best, drawn=len(chains))
            if len(chains) >= self.n or self.settled(votes(ctx, chains)):
                return outcome

    @abc.abstractmethod
    def at_a_time(self) -> int: ...

    @abc.abstractmethod
    def settled(self, votes: Sequence[str | None]) -> bool:
        """Whether the votes so far, in the order drawn, say that no more are needed."""


class AdaptiveConsistency(_Sequential):
    """Votes until the leading answer is unlikely to be overtaken (Beta or Dirichlet).

    rule: the chance that the leading answer would still lead after endlessly many chains.

    beta: against the runner-up alone, P(p1 > p2) under Beta(v1 + 1, v2 + 1). dirichlet: against
    all answers seen, P(p1 > max p_j) under Dirichlet(v + 1). The paper's confidence is 0.95, its
    N 40, and it draws one chain at a time; `batch` chains at a time cost fewer rounds.
    """

    rule: Literal["beta", "dirichlet"] = "beta"
    confidence: float = Field(default=0.95, gt=0.0, le=1.0)
    batch: int = Field(default=1, ge=1)

    def at_a_time(self) -> int:
        return self.batch

    def settled(self, votes: Sequence[str | None]) -> bool:
        counts = Counter(vote for vote in votes if vote is not None)
        ordered = [count for _, count in counts.most_common()]
        chance = beta_lead(ordered) if self.rule == "beta" else dirichlet_lead(ordered)
        return chance >= self.confidence


class EarlyStopping(_Sequential):
    """Votes by windows of chains; one that agrees entirely ends the vote (ESC).

    window: chains drawn together, and looked at apart from those before. The paper uses 5 for
    mathematics, and N 40."""

    window: int = Field(default=5, ge=1)

    def at_a_time(self) -> int:
        return self.window

    def settled(self, votes: Sequence[str | None]) -> bool:
        seen = votes[-self.window :]
        return seen[0] is not None and len(seen) == self.window and len(set(seen)) == 1


def votes(ctx: Context, chains: Sequence[Chain]) -> list[str | None]:
    """Each chain's answer in the form in which votes are counted; None without one."""
    answers = map(ctx.answer, chains)
    return [None if answer is None else ctx.problem.canonical(answer) for answer in answers]


def beta_lead(counts: Sequence[int]) -> float:
    """P(p1 > 1/2) under Beta(v1 + 1, v2 + 1), for the two highest counts; 0 without votes.

    For whole counts the Beta's tail is a binomial's: exact.
    """
    if not counts:
        return 0.0
    first, second = (*sorted(counts, reverse=True), 0)[:2]
    tosses = first + second + 1
    ways = sum(math.comb(tosses, heads) for heads in range(first + 1))
    return float(ways / 2**tosses)


def dirichlet_lead(counts: Sequence[int]) -> float:
    """P(p1 > max p_j) under Dirichlet(v + 1) over the answers seen; 0 without votes.

    A single answer is held against one that nobody gave. A Dirichlet is a vector of independent
    Gammas, normalised, so the chance is one integral over the leader's: of its density times the
    others' distribution functions.
    """
    if not counts:
        return 0.0
    first, *others = (
        (*sorted(counts, reverse=True), 0) if len(counts) == 1 else sorted(counts)[::-1]
    )
    shape, spread = first + 1, math.sqrt(first + 1)
    low, high = max(0.0, shape - 12 * spread), shape + 12 * spread + 40
    nodes, weights = _quadrature()
    x = low + (high - low) * nodes
    # Column i: P(a Poisson variable with mean x is i); the density of Gamma(i + 1) at x.
    poisson = _poisson(x, first)
    below = np.cumsum(poisson, axis=1)
    each = np.prod([1.0 - below[:, other] for other in others], axis=0)
    return float(min(1.0, (high - low) * np.sum(weights * poisson[:, first] * each)))


def _poisson(x: npt.NDArray[np.float64], most: int) -> npt.NDArray[np.float64]:
    places = np.arange(most + 1)
    factorials = np.array([math.lgamma(place + 1) for place in places])
    chances: npt.NDArray[np.float64] = np.exp(np.log(x)[:, None] * places - x[:, None] - factorials)
    return chances


@lru_cache(maxsize=1)
def _quadrature() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Gauss-Legendre nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(POINTS)
    return (nodes + 1) / 2, weights / 2
