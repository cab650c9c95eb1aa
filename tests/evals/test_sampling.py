"""Estimators over k-subsets: worked examples, and brute force over all subsets."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning.errors import ConfigError
from reasoning.evals.sampling import (
    _sampled_vote,
    best_at_k,
    g_pass_at_k,
    maj_at_k,
    mg_pass_at_k,
    pass_at_k,
    pass_hat_k,
    weighted_at_k,
)

ANSWERS = ["A"] * 4 + ["B"] * 3 + ["C"]


def vote(answers: Sequence[str | None], weights: Sequence[float], gold: str) -> float:
    """One vote by the definition: the share of the winning answers that is right."""
    sums: Counter[str] = Counter()
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None:
            sums[answer] += weight
    if not sums:
        return 0.0
    winners = [key for key, value in sums.items() if value >= max(sums.values()) - 1e-12]
    return (gold in winners) / len(winners)


def over_subsets(
    answers: Sequence[str | None], weights: Sequence[float], gold: str, k: int
) -> float:
    subsets = list(itertools.combinations(range(len(answers)), k))
    values = [vote([answers[i] for i in s], [weights[i] for i in s], gold) for s in subsets]
    return sum(values) / len(subsets)


@pytest.mark.parametrize(
    ("k", "value"), [(1, 0.25), (2, 0.45), (4, 0.728022), (8, 0.961538), (16, 1.0)]
)
def test_pass_at_k_worked(k: int, value: float) -> None:
    assert pass_at_k(16, 4, k) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(("k", "value"), [(1, 0.25), (2, 0.05), (4, 0.00054945)])
def test_pass_hat_k_worked(k: int, value: float) -> None:
    assert pass_hat_k(16, 4, k) == pytest.approx(value, abs=1e-8)


def test_g_pass_worked() -> None:
    values = [float(g_pass_at_k(16, 8, 4, t)) for t in (0, 0.25, 0.5, 0.75, 1)]
    assert values == pytest.approx([0.961538, 0.961538, 0.715385, 0.284615, 0.038462], abs=1e-6)
    assert mg_pass_at_k(16, 8, 4) == pytest.approx(0.161538, abs=1e-6)
    assert [float(g_pass_at_k(16, 16, 4, t)) for t in (0, 0.5, 1)] == pytest.approx([1, 1, 1])


@pytest.mark.parametrize(("k", "value"), [(1, 0.5), (3, 0.571429), (5, 0.660714), (8, 1.0)])
def test_majority_worked(k: int, value: float) -> None:
    assert maj_at_k(ANSWERS, {"A": True}, k) == pytest.approx(value, abs=1e-6)


@given(n=st.integers(1, 300), data=st.data())
def test_pass_estimators_agree(n: int, data: st.DataObject) -> None:
    c = data.draw(st.integers(0, n))
    k = data.draw(st.integers(1, n))
    low, high = float(pass_hat_k(n, c, k)), float(pass_at_k(n, c, k))
    assert 0.0 <= low <= c / n + 1e-12 <= high + 2e-12 <= 1.0 + 3e-12
    assert float(g_pass_at_k(n, c, k, 0.0)) == pytest.approx(high, abs=1e-9)
    assert float(g_pass_at_k(n, c, k, 1.0)) == pytest.approx(low, abs=1e-9)
    assert float(pass_at_k(n, c, 1)) == pytest.approx(c / n)
    if n - c < k:
        assert high == 1.0


def test_pass_at_k_is_unbiased() -> None:
    # Over all outcomes of n = 6 flips the estimate averages to 1 - (1 - p)**k; plug-in does not.
    p, n, k = 0.3, 6, 3
    outcomes = [sum(flips) for flips in itertools.product((0, 1), repeat=n)]
    weights = [p**c * (1 - p) ** (n - c) for c in outcomes]
    mean = float(pass_at_k(n, outcomes, k) @ np.array(weights))
    assert mean == pytest.approx(1 - (1 - p) ** k)


def test_shapes_broadcast_and_large_n_is_finite() -> None:
    values = pass_at_k([1000, 2000], [1, 0], 500)
    assert values.shape == (2,)
    assert values.tolist() == pytest.approx([0.5, 0.0])


@pytest.mark.parametrize(("n", "c", "k"), [(4, 2, 5), (4, 2, 0), (4, 5, 2), (4, -1, 2)])
def test_impossible_counts_are_refused(n: int, c: int, k: int) -> None:
    with pytest.raises(ConfigError):
        pass_at_k(n, c, k)


answers_strategy = st.lists(st.sampled_from(["A", "B", "C", "D", None]), min_size=1, max_size=8)


@given(answers=answers_strategy, data=st.data())
def test_majority_is_the_mean_over_all_subsets(
    answers: list[str | None], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(answers)))
    expected = over_subsets(answers, [1.0] * len(answers), "A", k)
    assert maj_at_k(answers, {"A": True}, k) == pytest.approx(expected, abs=1e-9)
    # Answers with equal weights vote as a majority does.
    weighted = weighted_at_k(answers, [0.3] * len(answers), {"A": True}, k)
    assert weighted == pytest.approx(expected, abs=1e-9)


@given(answers=answers_strategy, data=st.data())
def test_weighted_is_the_mean_over_all_subsets(
    answers: list[str | None], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(answers)))
    weight = st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.7])
    weights = data.draw(st.lists(weight, min_size=len(answers), max_size=len(answers)))
    expected = over_subsets(answers, weights, "A", k)
    assert weighted_at_k(answers, weights, {"A": True}, k) == pytest.approx(expected, abs=1e-9)


@given(
    rows=st.lists(
        st.tuples(st.sampled_from([0.1, 0.2, 0.5, 0.9]), st.booleans()), min_size=1, max_size=8
    ),
    data=st.data(),
)
def test_best_of_k_is_the_mean_over_all_subsets(
    rows: list[tuple[float, bool]], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(rows)))
    total = 0.0
    subsets = list(itertools.combinations(rows, k))
    for subset in subsets:
        top = max(score for score, _ in subset)
        best = [right for score, right in subset if score == top]
        total += sum(best) / len(best)
    scores, right = zip(*rows, strict=True)
    assert best_at_k(scores, right, k) == pytest.approx(total / len(subsets), abs=1e-9)


def test_best_of_one_and_of_all() -> None:
    scores, right = [0.2, 0.9, 0.5, 0.1], [1, 0, 1, 1]
    assert best_at_k(scores, right, 1) == pytest.approx(0.75)
    assert best_at_k(scores, right, 4) == 0.0
    with pytest.raises(ConfigError, match="NaN"):
        best_at_k([0.1, float("nan")], [1, 0], 1)


def test_random_subsets_approach_the_exact_vote() -> None:
    answers = ["A"] * 12 + ["B"] * 10 + ["C"] * 8 + [None] * 2
    exact = maj_at_k(answers, {"A": True}, 9)
    drawn = _sampled_vote(answers, {"A": True}, np.ones(32), 9, seed=0)
    assert drawn == pytest.approx(exact, abs=0.015)
    assert drawn == _sampled_vote(answers, {"A": True}, np.ones(32), 9, seed=0)


def test_large_votes_are_exact_and_quick() -> None:
    answers = [f"{i % 40}" for i in range(200)] + ["0"] * 56
    assert 0.9 < maj_at_k(answers, {"0": True}, 128) <= 1.0
    assert 0.0 < maj_at_k(answers * 2, {"0": True}, 8) <= 1.0  # beyond the exact limit: drawn


def test_a_vote_nobody_casts_is_wrong() -> None:
    assert maj_at_k([None, None], {}, 2) == 0.0
    assert weighted_at_k([None, None], [1, 1], {}, 1) == 0.0


def test_bad_weights_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 0"):
        weighted_at_k(["A", "B"], [1, -1], {}, 1)
    with pytest.raises(ConfigError, match="as many"):
        weighted_at_k(["A", "B"], [1], {}, 1)
    with pytest.raises(ConfigError, match="equally long"):
        best_at_k([0.1], [1, 0], 1)
    with pytest.raises(ConfigError, match="share"):
        g_pass_at_k(4, 2, 2, 1.5)
