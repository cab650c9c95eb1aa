"""Training data: problems of one split with search traces, in worker processes."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Iterator
from dataclasses import dataclass

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
MIXTURE = {3: 12, 4: 82, 5: 6}
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


@dataclass(frozen=True)
class Manner:
    """How traces search: insight and patience vary from trace to trace within these bounds.

    slips and claims: chances of the flaws that `write` explains.
    """

    insight: tuple[float, float] = (0.6, 0.95)
    patience: tuple[int, int] = (2, 6)
    slips: float = 0.0
    claims: float = 0.0


def traces(
    which: Split, count: int, seed: str, mixture: dict[int, int], manner: Manner = Manner()
) -> list[tuple[str, str]]:
    """(prompt, trace) pairs."""
    rng = random.Random(f"{which}/{seed}")
    found: list[tuple[str, str]] = []
    for problem in sampled(which, rng, mixture):
        insight, patience = rng.uniform(*manner.insight), rng.randint(*manner.patience)
        trace = write(
            problem,
            rng,
            insight=insight,
            patience=patience,
            slips=manner.slips,
            claims=manner.claims,
        )
        if len(trace) <= MAX_TRACE:
            found.append((prompt(problem.numbers, problem.target) + "\n", trace))
        if len(found) == count:
            return found
    raise AssertionError("sampled() is endless")


def parallel(
    which: Split, count: int, seed: int, processes: int, manner: Manner = Manner()
) -> list[tuple[str, str]]:
    """`traces` over several processes; the result depends on the arguments only."""
    share = -(-count // processes)
    jobs = [(which, share, f"{seed}/{part}", MIXTURE, manner) for part in range(processes)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return [pair for part in pool.starmap(traces, jobs) for pair in part][:count]
