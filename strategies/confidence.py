"""Confidence of a trace from its tokens' top-k log-probabilities (DeepConf, arXiv 2508.15260, 3.1).

A token's confidence is C = -(1/k) sum_j ln P(j) over the k likeliest next tokens: the more peaked
the distribution, the higher. It is never below ln k. A trace has one confidence for each token;
a group is a window of `window` tokens, stride 1, and a trace no longer than that is one group.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from enum import StrEnum

import numpy as np

from reasoning.engines.base import TokenLogprob
from reasoning.errors import CapabilityError, EngineReplyError

# The share of the windows, or of the trace, that the measures named after it look at.
TENTH = 10


class Measure(StrEnum):
    """From token confidences to one of the trace.

    mean: of all tokens. tail: of the last `window` tokens. tail_10: of the last tenth of the trace.
    bottom_10: of the tenth of the groups with the lowest means. lowest: the group with the lowest.
    """

    mean = "mean"
    tail = "tail"
    tail_10 = "tail_10"
    bottom_10 = "bottom_10"
    lowest = "lowest"


class Group:
    """The mean of the last `window` confidences, kept up to date token by token."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._last: deque[float] = deque(maxlen=window)
        self._sum = 0.0
        self._added = 0

    def add(self, confidence: float) -> float | None:
        """The group's mean with this token; None while there are fewer tokens than the window."""
        if len(self._last) == self._window:
            self._sum -= self._last[0]
        self._last.append(confidence)
        self._sum += confidence
        self._added += 1
        if self._added % self._window == 0:
            # What rounding added up to since the last time is dropped.
            self._sum = math.fsum(self._last)
        return self._sum / self._window if len(self._last) == self._window else None


def token_confidence(value: TokenLogprob, top: int) -> float:
    """-(1/k) of the sum of the k = `top` highest log-probabilities.

    Raises CapabilityError where the engine gave fewer: their mean is another measure, and of fewer
    for some tokens than for others none at all. EngineReplyError for one that is no number.
    """
    best = sorted(value.top.values(), reverse=True)[:top]
    if len(best) < top:
        raise CapabilityError(
            f"confidence needs the {top} likeliest tokens' log-probabilities, and the engine gave "
            f"{len(best) or 'none'}; use an engine that gives them, or a lower `top`"
        )
    total = math.fsum(best)
    if not math.isfinite(total):
        raise EngineReplyError(f"the engine gave log-probabilities that are no numbers: {best[:3]}")
    return -total / len(best)


def token_confidences(
    ids: Sequence[int], logprobs: Sequence[TokenLogprob], top: int
) -> list[float]:
    """One for each of the tokens `ids`, which were written with `top` log-probabilities.

    Raises CapabilityError when some have none: a chain policy or an engine does not give them.
    """
    if len(logprobs) != len(ids):
        raise CapabilityError(
            f"confidence needs the log-probabilities of all {len(ids)} tokens, and {len(logprobs)} "
            f"came with them; use an engine that gives them, and chain policy plain"
        )
    return [token_confidence(value, top) for value in logprobs]


def group_confidences(confidences: Sequence[float], window: int) -> list[float]:
    """The means of all groups, in order; the mean of all where the window is longer. [] of none."""
    if len(confidences) <= window:
        return [_mean(confidences)] if confidences else []
    group = Group(window)
    means = (group.add(confidence) for confidence in confidences)
    return [mean for mean in means if mean is not None]


def trace_confidence(confidences: Sequence[float], measure: Measure, window: int) -> float:
    """One confidence for a trace, from its tokens' in order; 0 for a trace without tokens."""
    if not confidences:
        return 0.0
    if measure is Measure.mean:
        return _mean(confidences)
    if measure is Measure.tail:
        return _mean(confidences[-window:])
    if measure is Measure.tail_10:
        return _mean(confidences[-max(1, len(confidences) // TENTH) :])
    groups = group_confidences(confidences, window)
    if measure is Measure.lowest:
        return min(groups)
    return _mean(sorted(groups)[: max(1, len(groups) // TENTH)])


def threshold(confidences: Sequence[float], keep: float) -> float:
    """The confidence that the top `keep` percent of traces reach: the (100 - keep)-th percentile,
    between two values in proportion. Never above the highest, so at least one reaches it."""
    return min(float(np.percentile(confidences, 100.0 - keep)), max(confidences))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
