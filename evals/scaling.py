"""How well a method obeys its budget and profits from it (s1, arXiv 2501.19393, section 3.2)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from reasoning.errors import ConfigError


def control(lengths: Sequence[float], least: float, most: float) -> float:
    """The share of runs whose length lies in [least, most]."""
    if not lengths:
        raise ConfigError("control needs the length of at least one run")
    return sum(least <= length <= most for length in lengths) / len(lengths)


def scaling(runs: Sequence[tuple[float, float]]) -> float:
    """The mean slope of accuracy over length, of all pairs of runs (length, accuracy) that differ
    in length."""
    ordered = sorted(runs)
    slopes = [(f - e) / (b - a) for (a, e), (b, f) in itertools.combinations(ordered, 2) if b > a]
    if not slopes:
        raise ConfigError("scaling needs two runs of different lengths")
    return sum(slopes) / len(slopes)


def performance(runs: Sequence[tuple[float, float]]) -> float:
    """The best accuracy of any run (length, accuracy)."""
    if not runs:
        raise ConfigError("performance needs at least one run")
    return max(accuracy for _, accuracy in runs)
