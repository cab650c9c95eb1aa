"""Training data: problems of one split with search traces, in worker processes."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Iterator

from reasoning.evals.countdown.problems import (
    MAX_NUMBER,
    MAX_TARGET,
    MIN_TARGET,
    CountdownProblem,
    Split,
    split,
)
from reasoning.evals.countdown.solver import values
from reasoning.evals.countdown.traces import prompt, write

# How often each count of numbers appears, of 100.
MIXTURE = {3: 15, 4: 75, 5: 10}
TARGETS_A_DRAW = 4  # problems made of one draw of numbers: the solver's walk is shared
MAX_TRACE = 900  # characters; longer traces are dropped


def sampled(
    which: Split, rng: random.Random, mixture: dict[int, int]
) -> Iterator[CountdownProblem]:
    """Endless solvable problems of a split; targets uniform over what the numbers can make."""
    while True:
        (count,) = rng.choices(list(mixture), list(mixture.values()))
        numbers = tuple(rng.randint(1, MAX_NUMBER) for _ in range(count))
        targets = sorted(t for t in values(numbers) if MIN_TARGET <= t <= MAX_TARGET)
        for target in rng.sample(targets, min(TARGETS_A_DRAW, len(targets))):
            if split(numbers, target) == which:
                yield CountdownProblem(numbers, target)


def traces(which: Split, count: int, seed: str, mixture: dict[int, int]) -> list[tuple[str, str]]:
    """(prompt, trace) pairs; insight and patience vary from trace to trace."""
    rng = random.Random(f"{which}/{seed}")
    found: list[tuple[str, str]] = []
    for problem in sampled(which, rng, mixture):
        trace = write(problem, rng, insight=rng.uniform(0.5, 0.95), patience=rng.randint(1, 4))
        if len(trace) <= MAX_TRACE:
            found.append((prompt(problem.numbers, problem.target) + "\n", trace))
        if len(found) == count:
            return found
    raise AssertionError("sampled() is endless")


def parallel(
    which: Split, count: int, seed: int, processes: int, mixture: dict[int, int] | None = None
) -> list[tuple[str, str]]:
    """`traces` over several processes; the result depends on seed and processes only."""
    mixture = mixture or MIXTURE
    share = -(-count // processes)
    jobs = [(which, share, f"{seed}/{part}", mixture) for part in range(processes)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return [pair for part in pool.starmap(traces, jobs) for pair in part][:count]
