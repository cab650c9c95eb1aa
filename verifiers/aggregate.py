"""From the scores of a chain's steps to one score.

Names as in the process-reward literature; `mean` is in none of the reference implementations,
and `model` (the whole solution scored as one step) is the default of Puri et al. 2025
(arXiv 2502.01618), section 4.5, where it scales best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum

from reasoning.errors import ConfigError


class Aggregation(StrEnum):
    """last: s_T. min: the weakest step. prod: all steps right, if scores were independent chances.
    mean: the average step. model: the single score of the whole."""

    last = "last"
    min = "min"
    prod = "prod"
    mean = "mean"
    model = "model"


def aggregate(scores: Sequence[float], how: Aggregation | str) -> float:
    """One score from a chain's step scores (in [0, 1], in step order).

    A chain without steps has product 1, the empty product; the other rules have nothing to say
    about it and raise ConfigError. So does `model` for any number of scores but one, an unknown
    rule, and a score that is NaN (naming which).
    """
    try:
        rule = Aggregation(how)
    except ValueError:
        known = ", ".join(Aggregation)
        raise ConfigError(f"unknown aggregation {how!r}; known are {known}") from None
    for index, score in enumerate(scores):
        if math.isnan(score):
            raise ConfigError(f"step score {index} of {len(scores)} is NaN; the verifier is broken")
    if rule is Aggregation.prod:
        return math.prod(scores)
    if not scores:
        raise ConfigError(f"aggregation {rule} needs at least one step score")
    if rule is Aggregation.model and len(scores) != 1:
        raise ConfigError(
            f"aggregation model takes the one score of a whole solution, not {len(scores)} scores"
        )
    if rule is Aggregation.min:
        return min(scores)
    if rule is Aggregation.mean:
        # fsum, bounded: the mean of equal scores must be that score, and lie above their min.
        return min(max(math.fsum(scores) / len(scores), min(scores)), max(scores))
    return scores[-1]
