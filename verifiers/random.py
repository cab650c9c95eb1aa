"""Random: a verifier that knows nothing, the floor that every other one is measured against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

from reasoning.chain import Chain
from reasoning.engines.base import Engine
from reasoning.problem import Problem
from reasoning.randomness import key, uniform
from reasoning.strategy import Rating, Verifier


class Random(Verifier):
    """Uniform random scores, the same in a replay: the baseline of verifiers.

    Uniform in [0, 1), from the problem's id and the chain's content, so that a replay sees the
    same. Best-of-N by it is as accurate as one chain, in expectation (arXiv 2502.07191).

    Equal chains rated together get numbers of their own: with one number a content, an answer that
    was drawn fifteen times would win no more often than one that was drawn once.
    """

    alone: ClassVar[bool] = False

    seed: int = 0

    async def rate(
        self, problem: Problem, chains: Sequence[Chain], engine: Engine | None
    ) -> list[Rating]:
        seen: Counter[tuple[int, ...]] = Counter()
        ratings = []
        for chain in chains:
            drawn = key("random", self.seed, problem.id, chain.fork, chain.ids, chain.text)
            ratings.append(Rating((float(uniform(drawn, seen[chain.ids])),)))
            seen[chain.ids] += 1
        return ratings
