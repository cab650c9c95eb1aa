"""Envelopes, cost to reach a target and area over log cost."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning.errors import ConfigError
from reasoning.evals.curves import Curve, accuracy_at, area, cost_to_reach, curve, reach_ratio


def fixed(accuracy: list[float], cost: list[float]) -> Curve:
    """A curve without spread: every replicate is the point itself."""
    a, c = np.array(accuracy), np.array(cost)
    return Curve(a, c, np.tile(a, (20, 1)), np.tile(c, (20, 1)))


def test_step_and_log_costs() -> None:
    points = fixed([0.2, 0.6, 0.5], [10.0, 1000.0, 100.0])
    assert cost_to_reach(points, 0.2).value == 10.0
    assert cost_to_reach(points, 0.35).value == 100.0
    assert cost_to_reach(points, 0.35, between="log").value == pytest.approx(10 * 10**0.5)
    assert cost_to_reach(points, 0.1, between="log").value == pytest.approx(10.0)
    assert cost_to_reach(points, 0.6, between="log").value == pytest.approx(1000.0)


def test_a_target_out_of_reach() -> None:
    estimate = cost_to_reach(fixed([0.2, 0.6], [10.0, 100.0]), 0.7)
    assert math.isnan(estimate.value)
    assert estimate.reached == 0.0
    assert math.isinf(estimate.low)


def test_envelope_is_a_step_and_zero_before_the_first() -> None:
    points = fixed([0.2, 0.6, 0.5], [10.0, 100.0, 1000.0])
    values = [accuracy_at(points, x).value for x in (9.0, 10.0, 99.0, 100.0, 5000.0)]
    assert values == [0.0, 0.2, 0.2, 0.6, 0.6]


def test_area_of_a_known_step() -> None:
    points = fixed([0.2, 0.6], [10.0, 100.0])
    assert area(points, 1.0, 1000.0).value == pytest.approx((0 + 0.2 + 0.6) / 3)
    assert area(points, 100.0, 1000.0).value == pytest.approx(0.6)
    assert area(points, 1.0, 5.0).value == 0.0


def test_configurations_are_chosen_again_in_every_replicate() -> None:
    # Two configurations at one cost that are right on different questions: their envelope is
    # above both on average, which a fixed choice would not show.
    right = np.array([[1.0, 0.0], [0.0, 1.0]] * 10)
    points = curve(right, np.full((20, 2), 50.0), replicates=2000)
    estimate = accuracy_at(points, 50.0)
    assert estimate.value == 0.5
    assert estimate.replicates.mean() > 0.55
    assert (estimate.replicates >= 0.5).all()


def test_reach_rate_of_a_marginal_target() -> None:
    right = np.random.default_rng(0).random((60, 1)) < 0.5
    points = curve(right, np.full((60, 1), 10.0), replicates=1000)
    estimate = cost_to_reach(points, float(right.mean()))
    assert estimate.value == 10.0
    assert 0.4 < estimate.reached < 0.7
    assert math.isinf(estimate.high)


def test_ratio_of_paired_costs() -> None:
    random = np.random.default_rng(0)
    right = random.random((80, 4)) < np.array([0.2, 0.5, 0.8, 0.95])
    cost = random.uniform(0.5, 1.5, (80, 4)) * np.array([10.0, 20.0, 40.0, 80.0])
    ours, theirs = curve(right, cost, replicates=500), curve(right, 3 * cost, replicates=500)
    estimate = reach_ratio(ours, theirs, 0.7)
    assert estimate.value == pytest.approx(1 / 3)
    assert (estimate.low, estimate.high) == pytest.approx((1 / 3, 1 / 3))
    assert estimate.reached == 1.0


def test_ratio_where_one_side_fails() -> None:
    good, bad = fixed([0.9], [10.0]), fixed([0.5], [10.0])
    lost = reach_ratio(bad, good, 0.8)
    assert math.isnan(lost.value)
    assert (lost.low, lost.high, lost.reached) == (math.inf, math.inf, 0.0)
    won = reach_ratio(good, bad, 0.8)
    assert (won.low, won.high) == (0.0, 0.0)
    neither = reach_ratio(bad, bad, 0.8)
    assert math.isnan(neither.low)


@given(
    rows=st.lists(st.tuples(st.floats(0, 1), st.floats(1, 1e6)), min_size=1, max_size=8),
    target=st.floats(0.01, 1),
)
def test_more_configurations_never_cost_more(
    rows: list[tuple[float, float]], target: float
) -> None:
    accuracy, cost = map(list, zip(*rows, strict=True))
    whole, part = fixed(accuracy, cost), fixed(accuracy[:1], cost[:1])
    ours, fewer = cost_to_reach(whole, target), cost_to_reach(part, target)
    if not math.isnan(fewer.value):
        assert ours.value <= fewer.value
    assert area(whole, 1.0, 1e6).value >= area(part, 1.0, 1e6).value - 1e-12
    log = cost_to_reach(whole, target, between="log").value
    assert math.isnan(log) == math.isnan(ours.value)
    if not math.isnan(log):
        assert log <= ours.value * (1 + 1e-9)


def test_what_is_no_curve_is_refused() -> None:
    with pytest.raises(ConfigError):
        curve(np.ones((3, 2)), np.ones((3, 1)))
    with pytest.raises(ConfigError):
        curve(np.ones((3, 2)), np.zeros((3, 2)))
    with pytest.raises(ConfigError):
        area(fixed([0.5], [1.0]), 10.0, 1.0)
    with pytest.raises(ConfigError):
        reach_ratio(curve([[1.0]], [[1.0]], replicates=5), fixed([1.0], [1.0]), 0.5)
