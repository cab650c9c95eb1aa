"""Alternating measurement: every contender once a round, in an order that turns round."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from reasoning.evals.statistics import Estimate, mean_interval, paired_ratio


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement: what was done, in how many seconds, for how many CPU seconds of ours."""

    tokens: int
    requests: int
    seconds: float
    cpu: float

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds of this process for a request."""
        return 1000 * self.cpu / self.requests


Measure = Callable[[], Awaitable[Sample]]
S = TypeVar("S", bound=Sample)


async def alternate(
    contenders: Mapping[str, Callable[[], Awaitable[S]]], rounds: int, *, warm_ups: int = 1
) -> dict[str, list[S]]:
    """`rounds` samples of each. Odd rounds go backwards (A B, B A, ...), so that a machine that
    warms up or slows down favours nobody. `warm_ups` rounds before them are thrown away. Each
    measurement is said on stderr: some take minutes.

    Ctrl-C, or a contender that fails, ends it with the rounds that are whole, if they are two or
    more: what was measured is not lost."""
    names = list(contenders)
    found: dict[str, list[S]] = {name: [] for name in names}
    try:
        for number in range(-warm_ups, rounds):
            for name in names if number % 2 else reversed(names):
                gc.collect()  # nobody pays for another's garbage
                sample = await contenders[name]()
                await asyncio.sleep(0.05)
                place = f"round {number + 1} of {rounds}" if number >= 0 else "warm-up"
                print(f"{place}: {name}, {sample.seconds:.1f} s", file=sys.stderr, flush=True)
                if number >= 0:
                    found[name].append(sample)
    except (asyncio.CancelledError, Exception) as ended:
        whole, task = min(map(len, found.values())), asyncio.current_task()
        if whole < 2 or task is None:
            raise
        if isinstance(ended, asyncio.CancelledError):
            task.uncancel()
        else:
            print(f"ended after {whole} of {rounds} rounds: {ended!r}", file=sys.stderr)
        return {name: samples[:whole] for name, samples in found.items()}
    return found


def share(ours: Sequence[Sample], theirs: Sequence[Sample]) -> Estimate:
    """Ratio of tokens a second, paired by round, with its 95 % interval."""
    return paired_ratio([s.rate for s in ours], [s.rate for s in theirs])


def longer(ours: Sequence[Sample], theirs: Sequence[Sample]) -> Estimate:
    """Ratio of seconds, paired by round, with its 95 % interval."""
    return paired_ratio([s.seconds for s in ours], [s.seconds for s in theirs])


def cpu_ms(samples: Sequence[Sample]) -> Estimate:
    """CPU milliseconds for a request, with the 95 % interval."""
    return mean_interval([s.cpu_ms for s in samples])


def mean_rate(samples: Sequence[Sample]) -> float:
    return sum(s.rate for s in samples) / len(samples)
