"""All chains of a batch at once, and what happens when one of them fails.

A failing item does not take the others down: all are waited for, and RatingFailed names the first
that failed and holds the ratings of the rest, which the context charges and keeps. What concerns
them all (an engine that died, a wrong setting, a deadline, a cancellation) ends the whole batch.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence

from reasoning.chain import Chain
from reasoning.engines.base import Engine
from reasoning.errors import ConfigError, EngineReplyError, PromptError, RatingFailed
from reasoning.problem import Problem
from reasoning.strategy import Rating


async def each(
    rate: Callable[[Problem, Chain, Engine], Awaitable[Rating]],
    problem: Problem,
    chains: Sequence[Chain],
    engine: Engine | None,
    who: str,
) -> list[Rating]:
    """`rate` of every chain, concurrently. Raises RatingFailed when some fail on their own."""
    if engine is None:
        raise ConfigError(f"verifier {who} needs a model; set `model` to one of the roles")
    results = await asyncio.gather(
        *(rate(problem, chain, engine) for chain in chains), return_exceptions=True
    )
    failures = [(i, r) for i, r in enumerate(results) if isinstance(r, BaseException)]
    for _, failure in failures:
        if not isinstance(failure, EngineReplyError | PromptError):
            raise failure
    if failures:
        index, first = failures[0]
        ratings = [None if isinstance(r, BaseException) else r for r in results]
        raise RatingFailed(
            f"verifier {who} could not rate chain {index} of {len(chains)} of problem "
            f"{problem.id!r}: {first} ({len(failures)} failed, {len(chains) - len(failures)} "
            f"were rated)",
            ratings,
        ) from first
    return [result for result in results if isinstance(result, Rating)]


def checked(values: Sequence[float], expected: int, engine: Engine) -> tuple[float, ...]:
    """A reward model's values. Raises EngineReplyError when one is missing, NaN or outside [0, 1],
    naming the step."""
    if len(values) != expected:
        raise EngineReplyError(
            f"reward model {engine.name} gave {len(values)} rewards for {expected} steps"
        )
    for index, value in enumerate(values):
        if math.isnan(value) or not 0.0 <= value <= 1.0:
            raise EngineReplyError(
                f"reward model {engine.name} gave {value} for step {index} of {expected}; "
                f"rewards lie in [0, 1]"
            )
    return tuple(values)
