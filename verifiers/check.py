"""Check: the task's own check of the final answer. Exact, so an oracle."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar

from reasoning.chain import Chain
from reasoning.engines.base import Engine
from reasoning.errors import ConfigError
from reasoning.problem import Problem
from reasoning.strategy import Rating, Verifier


class Check(Verifier):
    """1 for a chain whose answer passes the task's check, else 0.

    Results of a strategy that uses it are coverage, not accuracy, where the check knows the
    reference answer.
    """

    oracle: ClassVar[bool] = True

    async def rate(
        self, problem: Problem, chains: Sequence[Chain], engine: Engine | None
    ) -> list[Rating]:
        if problem.check is None:
            raise ConfigError(
                f"problem {problem.id!r} of task {problem.task!r} has no check; "
                f"use another verifier"
            )
        ratings = []
        for chain in chains:
            answer = problem.extract(chain.text)
            passed = answer is not None and await _passes(problem.check, answer)
            ratings.append(Rating((1.0 if passed else 0.0,)))
        return ratings


async def _passes(check: Any, answer: str) -> bool:
    # A check that can run in another process may take long there: it must not hold up the loop.
    if hasattr(check, "isolated"):
        decided = check.decided(answer)
        return bool(await asyncio.to_thread(check, answer) if decided is None else decided)
    return bool(check(answer))
