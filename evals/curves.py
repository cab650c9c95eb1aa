"""Accuracy against cost: envelopes, the cost that reaches a target, the area under a curve.

A method is a set of configurations, each with a score and a cost for every question. Its curve is
the envelope: the best accuracy among configurations whose mean cost is at most x, and 0 before
the first. The envelope is recomputed in every bootstrap replicate, so that an interval holds the
choice of the configuration too, and all methods share one draw of questions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reasoning.errors import ConfigError
from reasoning.evals.statistics import (
    LEVEL,
    REPLICATES,
    Estimate,
    bootstrap_means,
    percentile,
)

if TYPE_CHECKING:
    from reasoning.evals.table import Row

Floats = NDArray[np.float64]
Between = Literal["step", "log"]


@dataclass(frozen=True, slots=True)
class Curve:
    """One method's points and their replicates.

    accuracy, cost: shape (configurations,). accuracies, costs: (replicates, configurations).
    """

    accuracy: Floats
    cost: Floats
    accuracies: Floats
    costs: Floats


def curve(
    scores: ArrayLike, costs: ArrayLike, *, replicates: int = REPLICATES, seed: int = 0
) -> Curve:
    """Points of one method. scores, costs: shape (questions, configurations); costs above 0."""
    right, spent = np.asarray(scores, np.float64), np.asarray(costs, np.float64)
    if right.ndim != 2 or right.shape != spent.shape or not right.size:
        raise ConfigError(
            f"a curve needs scores and costs of one shape (questions, configurations), "
            f"not {right.shape} and {spent.shape}"
        )
    if not (spent.mean(axis=0) > 0).all():
        raise ConfigError("a curve over log cost needs costs above 0")
    m = right.shape[1]
    drawn = bootstrap_means(np.concatenate([right, spent], axis=1), replicates, seed)
    return Curve(right.mean(axis=0), spent.mean(axis=0), drawn[:, :m], drawn[:, m:])


def of_rows(
    made: Sequence[Row],
    cost: str = "tokens",
    *,
    questions: Sequence[str] | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Curve:
    """The curve of one method from its rows in a table, one row for each configuration.

    questions: ids, by default those that all rows have. To pair two methods, build both curves on
    `shared_questions` of all their rows.
    """
    ids = shared_questions(made) if questions is None else list(questions)
    try:
        scores = [[row.scores[question] for row in made] for question in ids]
        spent = [[row.costs[cost][question] for row in made] for question in ids]
    except KeyError as missing:
        raise ConfigError(f"a row has no {missing} for its curve over {cost}") from None
    if not scores:
        raise ConfigError("the rows of a curve have no question in common")
    return curve(scores, spent, replicates=replicates, seed=seed)


def shared_questions(made: Sequence[Row]) -> list[str]:
    """Ids of the questions that all rows have, in order."""
    return sorted(set.intersection(*(set(row.scores) for row in made))) if made else []


def accuracy_at(curve: Curve, cost: float, *, level: float = LEVEL) -> Estimate:
    """The envelope at one cost, with its interval; 0 where no configuration is that cheap."""

    def envelope(accuracy: Floats, costs: Floats) -> Floats:
        return np.asarray(np.where(costs <= cost, accuracy, 0.0).max(axis=1), np.float64)

    value = envelope(curve.accuracy[None], curve.cost[None])[0]
    return percentile(float(value), envelope(curve.accuracies, curve.costs), level)


def cost_to_reach(
    curve: Curve, target: float, *, between: Between = "step", level: float = LEVEL
) -> Estimate:
    """The least cost at which the envelope reaches an accuracy.

    between: "step" allows only configurations that were run; "log" draws a straight line over
    log cost from the envelope's last point below the target to the first at or above it.
    The value is NaN where the curve never reaches the target; replicates that do not reach it
    count as infinite in the interval, and `reached` is the share that does.
    """
    value = _reaching(curve.accuracy[None], curve.cost[None], target, between)[0]
    drawn = _reaching(curve.accuracies, curve.costs, target, between)
    return percentile(float(value), drawn, level)


def reach_ratio(
    ours: Curve, theirs: Curve, target: float, *, between: Between = "step", level: float = LEVEL
) -> Estimate:
    """Cost to reach the target, ours / theirs, paired. Build both with the same seed.

    Exists where both reach it. Where only ours does the ratio is 0, where only theirs does it is
    infinite: dropping such replicates would favour the method that fails.
    """
    if ours.costs.shape[0] != theirs.costs.shape[0]:
        raise ConfigError("paired curves need the same number of replicates")
    mine = cost_to_reach(ours, target, between=between, level=level)
    other = cost_to_reach(theirs, target, between=between, level=level)
    reached, basis = np.isfinite(mine.replicates), np.isfinite(other.replicates)
    ratio = np.full(len(reached), np.nan)
    ratio[reached & basis] = mine.replicates[reached & basis] / other.replicates[reached & basis]
    ratio[reached & ~basis] = 0.0
    ratio[~reached & basis] = np.inf
    known = ~np.isnan(ratio)
    if not known.any():
        return Estimate(math.nan, math.nan, math.nan, level, 0.0, ratio)
    spread = percentile(math.nan, ratio[known], level)
    both = float((reached & basis).mean())
    return Estimate(mine.value / other.value, spread.low, spread.high, level, both, ratio)


def area(curve: Curve, low: float, high: float, *, level: float = LEVEL) -> Estimate:
    """Mean of the envelope over log cost from `low` to `high`: the area, normalised to [0, 1].

    Exact for the step function; costs below `low` count from `low` on.
    """
    if not 0 < low < high:
        raise ConfigError(f"an area over log cost needs 0 < low < high, not {low} and {high}")
    value = _area(curve.accuracy[None], curve.cost[None], low, high)[0]
    return percentile(float(value), _area(curve.accuracies, curve.costs, low, high), level)


def _ordered(accuracy: Floats, cost: Floats) -> tuple[Floats, Floats]:
    """Rows sorted by cost, accuracy replaced by the best so far."""
    order = np.argsort(cost, axis=1, kind="stable")
    best = np.maximum.accumulate(np.take_along_axis(accuracy, order, axis=1), axis=1)
    return best, np.take_along_axis(cost, order, axis=1)


def _reaching(accuracy: Floats, cost: Floats, target: float, between: Between) -> Floats:
    best, ordered = _ordered(accuracy, cost)
    # Means of the same 0/1 scores summed in another order differ in the last bits.
    there = best >= target - 1e-12
    first = there.argmax(axis=1)
    rows = np.arange(len(best))
    reached = there[rows, first]
    upper = ordered[rows, first]
    if between == "log":
        before = np.maximum(first - 1, 0)
        low, high = best[rows, before], best[rows, first]
        rise = np.where((first > 0) & (high > low), high - low, 1.0)
        share = np.where(first > 0, np.clip((target - low) / rise, 0.0, 1.0), 1.0)
        start = np.log(ordered[rows, before])
        upper = np.exp(start + share * (np.log(upper) - start))
    return np.asarray(np.where(reached, upper, np.nan), np.float64)


def _area(accuracy: Floats, cost: Floats, low: float, high: float) -> Floats:
    best, ordered = _ordered(accuracy, cost)
    starts = np.log(np.clip(ordered, low, high))
    ends = np.concatenate([starts[:, 1:], np.full((len(starts), 1), math.log(high))], axis=1)
    return np.asarray((best * (ends - starts)).sum(axis=1) / math.log(high / low), np.float64)
