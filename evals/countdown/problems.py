"""Countdown problems: generator, splits by hash, and the reading of free text.

Numbers are drawn from 1..99 and the target from 10..100 until the problem has a solution
(arXiv 2504.15466, data generation). A problem's split depends on nothing but the sorted numbers
and the target, so no split can leak into another however data is made.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from reasoning.errors import ConfigError
from reasoning.evals.countdown.solver import reachable

Split = Literal["train", "calibrate", "dev", "test"]
# Of 1000 parts: where each split ends.
_SPLITS: tuple[tuple[Split, int], ...] = (
    ("train", 880),
    ("calibrate", 910),
    ("dev", 950),
    ("test", 1000),
)
MAX_NUMBER, MIN_TARGET, MAX_TARGET = 99, 10, 100


@dataclass(frozen=True, slots=True)
class CountdownProblem:
    """Make `target` of all `numbers`."""

    numbers: tuple[int, ...]
    target: int

    @property
    def id(self) -> str:
        return "-".join(map(str, sorted(self.numbers))) + f"={self.target}"

    @property
    def question(self) -> str:
        return f"Use {', '.join(map(str, self.numbers))} to make {self.target}"


def split(numbers: tuple[int, ...], target: int) -> Split:
    """The split of a problem: a hash of (sorted numbers, target)."""
    text = CountdownProblem(numbers, target).id
    place = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 1000
    return next(name for name, end in _SPLITS if place < end)


def generate(rng: random.Random, numbers: int = 4) -> CountdownProblem:
    """A random solvable problem, of any split."""
    target = rng.randint(MIN_TARGET, MAX_TARGET)
    while True:
        drawn = tuple(rng.randint(1, MAX_NUMBER) for _ in range(numbers))
        if reachable(drawn, target):
            return CountdownProblem(drawn, target)


def problems(
    which: Split, count: int | None = None, numbers: int = 4, seed: int = 0
) -> Iterator[CountdownProblem]:
    """Distinct problems of a split, always the same for the same seed. Endless without a count."""
    if not 3 <= numbers <= 6:
        raise ConfigError(f"countdown has 3 to 6 numbers, not {numbers}")
    if which not in dict(_SPLITS):
        raise ConfigError(f"unknown split {which!r}; known are {', '.join(dict(_SPLITS))}")
    rng = random.Random(f"{which}/{numbers}/{seed}")
    seen: set[str] = set()
    while count is None or len(seen) < count:
        target = rng.randint(MIN_TARGET, MAX_TARGET)
        drawn = tuple(rng.randint(1, MAX_NUMBER) for _ in range(numbers))
        problem = CountdownProblem(drawn, target)
        # The hash first: it is cheap, and most draws belong to another split.
        if split(drawn, target) != which or problem.id in seen or not reachable(drawn, target):
            continue
        seen.add(problem.id)
        yield problem


_NUMBER = r"\d{1,6}"
_LIST = rf"{_NUMBER}(?:\s*(?:,|;|\band\b|\s)\s*(?:and\s+)?{_NUMBER}){{1,7}}"
_QUESTION = re.compile(
    rf"\b(?:use|using|with|from|numbers?)\b[^\d]{{0,40}}[\[(]?\s*({_LIST})\s*[\])]?[^\d]{{0,60}}?"
    rf"\b(?:make|makes|reach|get|gives?|equals?|obtain|target)\b[^\d]{{0,20}}({_NUMBER})\b",
    re.IGNORECASE | re.ASCII,
)
_SHORT = re.compile(rf"^\s*({_NUMBER}(?:[\s,]+{_NUMBER}){{2,5}})\s*=\s*({_NUMBER})\s*$", re.ASCII)


def parse_question(text: str) -> CountdownProblem | None:
    """The problem in a text such as "Use 3, 7, 25, 50 to make 79"; None when it is not one."""
    if len(text) > 2000:  # a question is short; a long text is something else
        return None
    found = _SHORT.match(text) or _QUESTION.search(text)
    if found is None:
        return None
    numbers = tuple(int(number) for number in re.findall(_NUMBER, found[1]))
    if not 3 <= len(numbers) <= 6:
        return None
    return CountdownProblem(numbers, int(found[2]))
