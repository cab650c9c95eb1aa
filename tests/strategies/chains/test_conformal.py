"""Conformal p-values, banks and laws: the facts 3.8.1, 2, 3, 6, 7 and 8 of ATTS.

3.8.12 (the achieved rate of a public log under its public bank) cannot be a test: neither has
come with the project's data, whose transcripts hold no log-probabilities.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from reasoning.strategies.chains.conformal import (
    Bank,
    Group,
    enough,
    interval,
    law_of_count,
    law_of_deviation,
    law_of_rate,
    rejects,
)

LOSSES = st.lists(st.floats(0, 1e6, allow_nan=False), max_size=40)


def rejected(bank: Bank, losses: np.ndarray, rho: float, luck: np.ndarray) -> np.ndarray:
    return np.array(
        [rejects(bank.rank(x, u), len(bank), rho) for x, u in zip(losses, luck, strict=True)]
    )


@pytest.mark.parametrize("tau", [0.5, 0.6, 0.75, 0.9])
@pytest.mark.parametrize("n", [16, 64, 1600])
def test_3_8_1_rate_and_deviation_follow_the_laws(tau: float, n: int) -> None:
    rng, rho, m = np.random.default_rng(int(tau * 100) + n), 1 - tau, 60
    repeats = 40 if n == 1600 else 300
    rates = []
    for _ in range(repeats):
        bank = Bank(rng.exponential(size=n).tolist())
        rates.append(rejected(bank, rng.exponential(size=m), rho, rng.random(m)).mean())
    q, sd = law_of_rate(rho, n), law_of_deviation(rho, n, m)
    # Twelve cases of three checks: 4 SD, so that one in 500 such files would fail by chance.
    assert abs(rates[0] - q) <= 4 * sd
    assert abs(np.mean(rates) - q) <= 4 * sd / math.sqrt(repeats)
    # A sample SD of k values is within 1 +- 3 / sqrt(2k) of the law's.
    assert np.std(rates) == pytest.approx(sd, rel=3 / math.sqrt(2 * repeats))


@given(st.floats(0, 1), st.integers(0, 2000))
def test_3_8_1_the_expected_rate_is_at_least_rho_and_next_to_it(rho: float, n: int) -> None:
    q = law_of_rate(rho, n)
    assert rho - 1e-8 <= q < rho + 1 / (n + 1) + 1e-8
    ranks = [rejects(rank, n, rho) for rank in range(1, n + 2)]
    assert np.mean(ranks) == pytest.approx(q)


@pytest.mark.parametrize("ties", [False, True])
def test_3_8_2_p_is_uniform_on_its_values(ties: bool) -> None:
    """Also where most losses are equal."""
    rng, n = np.random.default_rng(3), 9
    found: Counter[int] = Counter()
    for _ in range(5000):
        losses = rng.integers(0, 3, n + 1) if ties else rng.random(n + 1)
        bank = Bank(losses[:n].tolist())
        p = bank.p_value(float(losses[n]), rng.random())
        rank = round(p * (n + 1))
        assert p == rank / (n + 1) and 1 <= rank <= n + 1
        found[rank] += 1
    assert set(found) == set(range(1, n + 2))
    assert stats.chisquare(list(found.values())).pvalue > 0.001


@given(LOSSES, st.floats(0, 700), st.floats(0, 0.999), st.randoms())
def test_3_8_3_decisions_know_ranks_only(losses: list[float], loss: float, luck: float, r) -> None:  # type: ignore[no-untyped-def]
    losses = [min(x, 700.0) for x in losses]
    rank = Bank(losses).rank(loss, luck)
    shuffled = list(losses)
    r.shuffle(shuffled)
    assert Bank(shuffled).rank(loss, luck) == rank
    # Any strictly increasing transform that floats can follow: a scale, and a sign's shift.
    assert Bank([2 * x for x in losses]).rank(2 * loss, luck) == rank


def test_3_8_3_perplexity_and_nll_decide_alike() -> None:
    rng = np.random.default_rng(0)
    nll = rng.gamma(2.0, 0.3, 200)
    bank, perplexities = Bank(nll.tolist()), Bank(np.exp(nll).tolist())
    for loss in rng.gamma(2.0, 0.3, 100):
        assert bank.rank(loss, 0.5) == perplexities.rank(math.exp(loss), 0.5)


def test_rho_0_never_rejects_and_rho_1_always() -> None:
    for n, rank in itertools.product(range(5), range(1, 6)):
        if rank <= n + 1:
            assert not rejects(rank, n, 0.0)
            assert rejects(rank, n, 1.0)


@given(LOSSES, st.floats(0, 0.999))
def test_a_loss_that_is_missing_is_the_worst(losses: list[float], luck: float) -> None:
    assert Bank(losses).rank(math.inf, luck) == len(losses) + 1
    assert Bank([math.inf] * 3).rank(1.0, luck) == 1
    assert 1 <= Bank([math.inf] * 3).rank(math.inf, luck) <= 4


def test_enough_leaves_four_losses_in_the_tail() -> None:
    assert [enough(rho) for rho in (1.0, 0.5, 0.4, 0.25, 0.1)] == [4, 8, 12, 16, 40]


def test_3_8_6_a_budget_of_b_of_m_chains() -> None:
    """rho = B / m with B = 4, m = 16 and N = 1600: the target takes over after 4 of 16 chunks."""
    rng, m, groups = np.random.default_rng(1), 16, 300
    bank = Bank(rng.exponential(size=1600).tolist())
    counts = [
        rejected(bank, rng.exponential(size=m), 4 / 16, rng.random(m)).sum() for _ in range(groups)
    ]
    q = law_of_rate(4 / 16, 1600)
    assert m * q == pytest.approx(4.0, abs=0.01)
    assert np.mean(counts) == pytest.approx(m * q, abs=3 * m * law_of_deviation(0.25, 1600, 4800))


def test_3_8_7_conditional_banks_even_out_questions_that_marginal_ones_do_not() -> None:
    rng, m, rho, questions = np.random.default_rng(2), 16, 0.4, 400
    hardness = rng.normal(size=questions)  # a question's losses lie around its own level

    def sampled(level: float) -> np.ndarray:
        return level + rng.normal(size=m) * 0.5

    pooled = Bank(np.concatenate([sampled(level) for level in hardness]).tolist())
    marginal, conditional = [], []
    for level in hardness:
        test, luck = sampled(level), rng.random(m)
        marginal.append(rejected(pooled, test, rho, luck).sum())
        conditional.append(rejected(Bank(sampled(level).tolist()), test, rho, luck).sum())
    q = law_of_rate(rho, m)
    sd = math.sqrt(m * q * (1 - q) * (m + m + 1) / (m + 2))
    assert np.mean(conditional) == pytest.approx(m * q, abs=3 * sd / math.sqrt(questions))
    assert np.std(conditional) == pytest.approx(sd, rel=3 / math.sqrt(2 * questions))
    assert np.std(marginal) > 1.5 * np.std(conditional)


def test_3_8_8_a_shift_is_seen_with_a_frozen_bank_and_followed_with_an_online_one() -> None:
    rng, rho, m = np.random.default_rng(4), 0.4, 1600
    calibration = rng.gamma(4.0, 0.1, 1600)
    shifted = rng.gamma(4.0, 0.1, 8000) * 1.1
    luck = rng.random(8000)
    frozen = Bank(calibration.tolist())
    rate = rejected(frozen, shifted[:m], rho, luck[:m]).mean()
    low, high = interval(rho, [Group(m, 1600)])
    assert rate > high > low  # outside its interval: a report has to name it
    known, last = calibration.tolist(), []
    for start in range(0, 8000, 400):  # rounds
        chunk = shifted[start : start + 400]
        last.append(rejected(Bank(known), chunk, rho, luck[start : start + 400]).mean())
        known += chunk.tolist()
    assert np.mean(last[-8:]) < rate - 0.02
    assert np.mean(last[-8:]) == pytest.approx(rho, abs=0.03)


def test_online_banks_decide_as_if_independently() -> None:
    """Score, decide, insert: the SD of the rate is about binomial (3.3)."""
    rng, rho, steps = np.random.default_rng(5), 0.4, 400
    rates = []
    for _ in range(60):
        losses = rng.random(steps + 60)
        known = sorted(losses[:60])
        taken = 0
        for loss in losses[60:]:
            bank = Bank(known)
            taken += rejects(bank.rank(loss, 0.0), len(bank), rho)
            known.append(loss)
        rates.append(taken / steps)
    binomial = math.sqrt(rho * (1 - rho) / steps)
    assert np.std(rates) == pytest.approx(binomial, rel=0.3)


# Intervals.


@pytest.mark.parametrize(("rho", "n", "m"), [(0.4, 16, 16), (0.25, 64, 500), (0.1, 1600, 1600)])
def test_the_law_of_a_group_is_the_beta_binomial(rho: float, n: int, m: int) -> None:
    k = math.floor((1 - rho) * (n + 1) + 1e-9)
    law = stats.betabinom(m, n + 1 - k, k)
    assert Group(m, n).law(rho) == pytest.approx(law.pmf(np.arange(m + 1)), abs=1e-9)
    assert Group(m, n).expected(rho) == pytest.approx(law.mean())
    assert law.std() / m == pytest.approx(law_of_deviation(rho, n, m))
    low, high = interval(rho, [Group(m, n)])
    assert (low, high) == (law.ppf(0.025) / m, law.ppf(0.975) / m)


def test_groups_add_up_and_a_coin_is_binomial() -> None:
    law = law_of_count(0.3, [Group(10, None), Group(5, 20), Group(3, 0)])
    assert len(law) == 19 and law.sum() == pytest.approx(1)
    assert Group(10, None).law(0.3) == pytest.approx(stats.binom(10, 0.3).pmf(np.arange(11)))
    expected = [Group(*group).expected(0.3) for group in ((10, None), (5, 20), (3, 0))]
    assert (law * np.arange(19)).sum() == pytest.approx(sum(expected))


@pytest.mark.parametrize(("rho", "rate"), [(0.0, 0.0), (1.0, 1.0)])
def test_the_ends_are_certain(rho: float, rate: float) -> None:
    assert interval(rho, [Group(7, 20), Group(2, None)]) == (rate, rate)


def test_growing_banks_stay_close_to_the_law_of_independent_groups() -> None:
    """What the report assumes of online banks: rounds of 80 decisions, each added to the bank."""
    rng, rho, rounds, m = np.random.default_rng(6), 0.25, 6, 80
    counts = []
    for _ in range(250):
        known = rng.random(80).tolist()
        count = 0
        for _ in range(rounds):
            losses = rng.random(m)
            count += rejected(Bank(known), losses, rho, np.zeros(m)).sum()
            known += losses.tolist()
        counts.append(count)
    law = law_of_count(rho, [Group(m, 80 * (r + 1)) for r in range(rounds)])
    values = np.arange(len(law))
    mean = float((law * values).sum())
    sd = math.sqrt(float((law * (values - mean) ** 2).sum()))
    assert np.mean(counts) == pytest.approx(mean, abs=3 * sd / math.sqrt(250))
    assert np.std(counts) == pytest.approx(sd, rel=0.2)
