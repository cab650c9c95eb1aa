"""Aggregation of step scores: fact 2.8.5 and edge cases."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning.errors import ConfigError
from reasoning.verifiers.aggregate import Aggregation, aggregate

scores_strategy = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(scores=scores_strategy)
def test_aggregate_2_8_5_order(scores: list[float]) -> None:
    assert aggregate(scores, "prod") <= aggregate(scores, "min")
    assert aggregate(scores, "min") <= aggregate(scores, "mean") <= max(scores)
    assert aggregate(scores, "min") <= aggregate(scores, "last")


@given(score=st.floats(0, 1), how=st.sampled_from(Aggregation))
def test_aggregate_2_8_5_all_rules_agree_on_one_step(score: float, how: Aggregation) -> None:
    assert aggregate([score], how) == score


@given(scores=scores_strategy, head=scores_strategy)
def test_aggregate_2_8_5_last_ignores_earlier_steps(scores: list[float], head: list[float]) -> None:
    assert aggregate(head + scores, "last") == aggregate(scores, Aggregation.last)


def test_no_steps() -> None:
    assert aggregate([], "prod") == 1.0
    for how in ("last", "min", "mean", "model"):
        with pytest.raises(ConfigError, match="at least one"):
            aggregate([], how)


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(ConfigError, match="score 1 of 3 is NaN"):
        aggregate([0.5, math.nan, 0.5], "prod")
    with pytest.raises(ConfigError, match="not 2 scores"):
        aggregate([0.5, 0.5], "model")
    with pytest.raises(ConfigError, match="last, min, prod, mean, model"):
        aggregate([0.5], "median")
