"""Question-level intervals: the worked examples of the literature, and their properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning.errors import ConfigError
from reasoning.evals.statistics import (
    bootstrap_means,
    mean_interval,
    paired_difference,
    paired_ratio,
    percentile,
    question_means,
    standard_error,
    wilson,
    within_variance,
)

ROWS = np.array([[int(x) for x in r] for r in ["1101", "0010", "1111", "0101", "0000", "1110"]])


def test_worked_standard_errors() -> None:
    assert question_means(ROWS).mean() == pytest.approx(0.541667, abs=1e-6)
    assert standard_error(ROWS) == pytest.approx(0.150231, abs=1e-6)
    assert standard_error(ROWS.ravel()) == pytest.approx(0.103895, abs=1e-6)
    assert within_variance(ROWS) == pytest.approx(0.00752315, abs=1e-8)


def test_worked_bootstrap() -> None:
    estimate = mean_interval(ROWS)
    assert estimate.replicates.mean() == pytest.approx(0.542458, abs=1e-6)
    assert estimate.replicates.std() == pytest.approx(0.137563, abs=1e-5)
    assert (estimate.low, estimate.high) == pytest.approx((0.25, 0.791667), abs=1e-6)


def test_bootstrap_draws_are_those_of_one_call() -> None:
    column = np.arange(7.0)
    drawn = np.random.default_rng(3).integers(0, 7, (1200, 7))
    means = bootstrap_means(column[:, None], 1200, seed=3)[:, 0]
    assert means == pytest.approx(column[drawn].mean(axis=1))


def test_wilson_worked() -> None:
    estimate = wilson(18, 30)
    assert (estimate.low, estimate.high) == pytest.approx((0.423204, 0.754094), abs=1e-6)


@given(n=st.integers(1, 500), data=st.data())
def test_wilson_holds_the_rate_and_mirrors(n: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, n))
    one, other = wilson(right, n), wilson(n - right, n)
    assert 0.0 <= one.low <= one.value <= one.high <= 1.0
    assert one.low == pytest.approx(1.0 - other.high)


scores_strategy = st.lists(st.integers(0, 1), min_size=2, max_size=20)


@given(scores=scores_strategy)
def test_identical_methods_have_no_difference(scores: list[int]) -> None:
    estimate = paired_difference(scores, scores, replicates=200)
    assert (estimate.value, estimate.low, estimate.high) == (0.0, 0.0, 0.0)
    tokens = [score + 1 for score in scores]
    ratio = paired_ratio(tokens, tokens, replicates=200)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((1.0, 1.0, 1.0))


@given(scores=scores_strategy, shift=st.integers(-3, 3), factor=st.integers(1, 5))
def test_constant_shifts_and_factors_have_no_spread(
    scores: list[int], shift: int, factor: int
) -> None:
    ours = [score + shift for score in scores]
    estimate = paired_difference(ours, scores, replicates=200)
    assert (estimate.low, estimate.high) == pytest.approx((shift, shift))
    tokens = [10 + score for score in scores]
    ratio = paired_ratio([factor * t for t in tokens], tokens, replicates=200)
    assert (ratio.low, ratio.high) == pytest.approx((factor, factor))


def test_pairing_is_narrower_than_two_independent_intervals() -> None:
    random = np.random.default_rng(0)
    hard = random.random(200)
    ours = (random.random((200, 8)) < hard[:, None]).mean(axis=1)
    theirs = (random.random((200, 8)) < 0.9 * hard[:, None]).mean(axis=1)
    paired = paired_difference(ours, theirs, replicates=2000)
    alone = mean_interval(ours, replicates=2000).half_width
    assert paired.half_width < 0.7 * math.hypot(
        alone, mean_interval(theirs, replicates=2000).half_width
    )


def test_many_samples_leave_the_spread_of_questions() -> None:
    truth = np.array([0.1, 0.5, 0.9, 0.3])
    many = np.random.default_rng(0).random((4, 200_000)) < truth[:, None]
    assert standard_error(many) == pytest.approx(truth.std(ddof=1) / 2, rel=0.01)
    assert standard_error(many.ravel()) < standard_error(many)


def test_bootstrap_spread_matches_theory() -> None:
    scores = np.random.default_rng(1).random(100)
    spread = mean_interval(scores).replicates.std()
    assert spread == pytest.approx(standard_error(scores) * math.sqrt(99 / 100), rel=0.03)


def test_percentile_of_what_is_not_always_reached() -> None:
    estimate = percentile(3.0, np.array([1.0, 2.0, 3.0, np.nan]))
    assert estimate.reached == 0.75
    assert math.isinf(estimate.high)
    assert 1.0 <= estimate.low < 1.2
    never = percentile(math.nan, np.full(10, np.nan))
    assert (never.low, never.high, never.reached) == (math.inf, math.inf, 0.0)


def test_percentile_agrees_with_numpy() -> None:
    values = np.random.default_rng(0).random(999)
    estimate = percentile(0.5, values)
    assert (estimate.low, estimate.high) == pytest.approx(np.percentile(values, [2.5, 97.5]))


def test_ratio_to_nothing_is_nan() -> None:
    assert math.isnan(paired_ratio([1.0, 1.0], [0.0, 0.0], replicates=10).value)


def test_what_cannot_be_estimated_is_refused() -> None:
    assert math.isnan(standard_error([1.0]))
    for bad in (lambda: wilson(3, 2), lambda: paired_difference([1], [1, 0])):
        with pytest.raises(ConfigError):
            bad()
    with pytest.raises(ConfigError):
        within_variance([1, 0])
    with pytest.raises(ConfigError):
        question_means([])
    with pytest.raises(ConfigError):
        bootstrap_means([1.0, 2.0])
