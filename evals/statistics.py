"""Error bars whose unit of independence is the question.

Two samples of one question are not two questions: all intervals here resample questions, and
compared methods are resampled together, so that their common luck cancels. Source: Miller 2024
(arXiv 2411.00640) for the question-level standard error, Efron's percentile interval for the
bootstrap, Wilson 1927 for rates of a single sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from reasoning.errors import ConfigError

Floats = NDArray[np.float64]

REPLICATES = 10_000
LEVEL = 0.95
_CHUNK = 500


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval.

    reached: share of bootstrap replicates where the quantity exists (1 for all but
    cost-to-reach). replicates: its bootstrap values, shape (R,), empty for closed forms.
    """

    value: float
    low: float
    high: float
    level: float = LEVEL
    reached: float = 1.0
    replicates: Floats = field(default_factory=lambda: np.empty(0), repr=False, compare=False)

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2.0


def standard_error(scores: ArrayLike) -> float:
    """Standard error of the mean score: sd(s_i, ddof=1) / sqrt(n) over questions.

    scores: shape (questions,), or (questions, samples), where s_i is a question's mean.
    NaN for fewer than two questions, which say nothing about spread.
    """
    means = question_means(scores)
    if len(means) < 2:
        return math.nan
    return float(means.std(ddof=1) / math.sqrt(len(means)))


def within_variance(scores: ArrayLike) -> float:
    """The part of the squared standard error that more samples a question would remove.

    scores: shape (questions, samples). E[sigma_i**2] / (K n), from unbiased variances.
    """
    values = np.asarray(scores, np.float64)
    if values.ndim != 2 or values.shape[1] < 2:
        raise ConfigError("the part within questions needs at least two samples of each")
    return float(values.var(axis=1, ddof=1).mean() / values.shape[1] / values.shape[0])


def question_means(scores: ArrayLike) -> Floats:
    """Shape (questions,) from (questions,) or (questions, samples)."""
    values = np.asarray(scores, np.float64)
    if values.ndim == 2:
        values = values.mean(axis=1)
    if values.ndim != 1 or not len(values):
        raise ConfigError(f"scores need one row for each question, not shape {values.shape}")
    return values


def wilson(right: int, n: int, level: float = LEVEL) -> Estimate:
    """Wilson score interval of a rate from n questions with one sample each."""
    if n < 1 or not 0 <= right <= n:
        raise ConfigError(f"a rate needs 0 <= right <= n and n >= 1, not {right} of {n}")
    z = float(norm.ppf(0.5 + level / 2.0))
    rate, z2 = right / n, z * z
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n))
    # The bounds at 0 and n are exactly 0 and 1; rounding would leave 1e-17 beside them.
    low = 0.0 if right == 0 else max(0.0, centre - half)
    high = 1.0 if right == n else min(1.0, centre + half)
    return Estimate(rate, low, high, level)


def bootstrap_means(columns: ArrayLike, replicates: int = REPLICATES, seed: int = 0) -> Floats:
    """Means of every column in each replicate: questions drawn with replacement.

    columns: shape (questions, m), everything of one question in one row, so that all columns
    see the same draw. Returns (replicates, m). The draw depends on (questions, replicates,
    seed) alone, which is what makes intervals of separate calls comparable.
    """
    values = np.asarray(columns, np.float64)
    if values.ndim != 2 or not len(values):
        raise ConfigError(f"columns need shape (questions, m), not {values.shape}")
    n = len(values)
    random = np.random.default_rng(seed)
    means = np.empty((replicates, values.shape[1]))
    for start in range(0, replicates, _CHUNK):
        rows = min(_CHUNK, replicates - start)
        # Chunked draws continue one stream: the indices are those of a single (R, n) draw.
        drawn = random.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        means[start : start + rows] = times @ values / n
    return means


def percentile(value: float, replicates: Floats, level: float = LEVEL) -> Estimate:
    """Percentile interval of bootstrap replicates around a point value.

    Replicates that are not finite (a target that was not reached) count as +inf in the
    interval, and as missing in `reached`.
    """
    there = np.isfinite(replicates)
    filled = np.sort(np.where(there, replicates, np.inf))
    low, high = (_quantile(filled, q) for q in ((1 - level) / 2, (1 + level) / 2))
    return Estimate(value, low, high, level, float(there.mean()), replicates)


def mean_interval(
    scores: ArrayLike, *, replicates: int = REPLICATES, seed: int = 0, level: float = LEVEL
) -> Estimate:
    """The mean over questions with its bootstrap interval."""
    means = question_means(scores)
    drawn = bootstrap_means(means[:, None], replicates, seed)[:, 0]
    return percentile(float(means.mean()), drawn, level)


def paired_difference(
    ours: ArrayLike,
    theirs: ArrayLike,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
    level: float = LEVEL,
) -> Estimate:
    """Mean of ours - theirs, on the same questions in the same order."""
    return _paired(ours, theirs, lambda a, b: a - b, replicates, seed, level)


def paired_ratio(
    ours: ArrayLike,
    theirs: ArrayLike,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
    level: float = LEVEL,
) -> Estimate:
    """Ratio of the means, ours / theirs, on the same questions (for tokens, passes, seconds).

    A ratio of means, not a mean of ratios: what is paid is the sum. NaN where theirs is 0.
    """
    return _paired(ours, theirs, _divide, replicates, seed, level)


def _paired(
    ours: ArrayLike,
    theirs: ArrayLike,
    compare: Callable[[Floats, Floats], Floats],
    replicates: int,
    seed: int,
    level: float,
) -> Estimate:
    mine, other = question_means(ours), question_means(theirs)
    if mine.shape != other.shape:
        raise ConfigError(
            f"paired methods need the same questions: {len(mine)} against {len(other)}"
        )
    drawn = bootstrap_means(np.stack([mine, other], axis=1), replicates, seed)
    value = compare(mine.mean(keepdims=True), other.mean(keepdims=True))
    return percentile(float(value[0]), compare(drawn[:, 0], drawn[:, 1]), level)


def _divide(top: Floats, bottom: Floats) -> Floats:
    out = np.full(np.broadcast(top, bottom).shape, np.nan)
    return np.asarray(np.divide(top, bottom, out=out, where=bottom != 0), np.float64)


def _quantile(ordered: Floats, q: float) -> float:
    """Linear quantile that keeps infinities: numpy's would make NaN of inf - inf."""
    place = q * (len(ordered) - 1)
    low, high = math.floor(place), math.ceil(place)
    if ordered[low] == ordered[high]:
        return float(ordered[low])
    if math.isinf(ordered[high]):
        return float(ordered[high])
    return float(ordered[low] + (place - low) * (ordered[high] - ordered[low]))
