"""Adaptive self-consistency: the stopping rules, and what they have in common with majority."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betainc

from reasoning import Budget, Solver
from reasoning.engines.scripted import ScriptedEngine
from reasoning.errors import ConfigError
from reasoning.strategies.adaptive import beta_lead, dirichlet_lead
from tests.strategies.selection.scripts import numbered, problem, solve

COUNTS = st.lists(st.integers(0, 60), min_size=1, max_size=8)
ALL = [
    {"name": "adaptive_consistency"},
    {"name": "adaptive_consistency", "rule": "dirichlet"},
    {"name": "early_stopping"},
]


@given(COUNTS)
def test_beta_is_the_tail_of_a_beta_distribution(counts: list[int]) -> None:
    first, second = (*sorted(counts, reverse=True), 0)[:2]
    assert beta_lead(counts) == pytest.approx(1 - betainc(first + 1, second + 1, 0.5), abs=1e-12)


@given(st.integers(0, 400), st.integers(0, 400))
def test_of_two_answers_dirichlet_is_beta(one: int, other: int) -> None:
    assert dirichlet_lead([one, other]) == pytest.approx(beta_lead([one, other]), abs=1e-9)


@pytest.mark.parametrize("counts", [[3, 2, 2], [5, 1, 1, 1], [1, 1, 1], [12, 9, 4, 0]])
def test_dirichlet_is_the_share_of_draws_in_which_the_leader_leads(counts: list[int]) -> None:
    draws = np.random.default_rng(0).dirichlet(np.array(counts) + 1, 200_000)
    share = float(np.mean(draws.argmax(axis=1) == 0))
    assert dirichlet_lead(counts) == pytest.approx(share, abs=0.005)


@given(COUNTS)
def test_more_rivals_make_the_leader_less_sure_and_a_vote_for_it_more(counts: list[int]) -> None:
    first, *others = sorted(counts, reverse=True)
    chance = dirichlet_lead(counts)
    assert 0.0 <= chance <= 1.0
    assert dirichlet_lead([first, *others, 0, 0]) <= chance + 1e-9
    assert dirichlet_lead([first + 1, *others]) >= chance - 1e-9
    assert beta_lead([first + 1, *others]) >= beta_lead(counts)


def test_no_votes_settle_nothing() -> None:
    assert beta_lead([]) == dirichlet_lead([]) == 0.0


def drawn(script: Any, strategy: dict[str, Any], **settings: Any) -> tuple[str | None, int]:
    solution = solve(script, strategy, **settings)
    return solution.answer, solution.meta["drawn"]


@pytest.mark.parametrize("rule", ["beta", "dirichlet"])
def test_four_equal_answers_are_enough_at_95_percent(rule: str) -> None:
    """1 - 2^-(v + 1) passes 0.95 at v = 4."""
    strategy = {"name": "adaptive_consistency", "rule": rule}
    assert drawn(numbered(["answer a"]), strategy) == ("a", 4)
    assert drawn(numbered(["answer a"]), strategy | {"confidence": 0.99}) == ("a", 6)
    assert drawn(numbered(["no idea", "answer a"]), strategy) == ("a", 5)
    assert drawn(numbered(["answer b", "answer a"]), strategy) == ("a", 7)


def test_dirichlet_holds_the_leader_against_all_others() -> None:
    lines = ["answer b", "answer c", "answer d", "answer a"]
    _, beta = drawn(numbered(lines), {"name": "adaptive_consistency"})
    _, dirichlet = drawn(numbered(lines), {"name": "adaptive_consistency", "rule": "dirichlet"})
    assert dirichlet > beta


def test_a_window_of_one_answer_stops() -> None:
    mixed = [f"answer {letter}" for letter in "abbbbbbaaa"]
    # The windows are chains 0-4 and 5-9; six chains in a row are no window.
    assert drawn(numbered(mixed), {"name": "early_stopping", "n": 10}) == ("b", 10)
    assert drawn(numbered(mixed), {"name": "early_stopping", "n": 10, "window": 2}) == ("b", 4)
    assert drawn(numbered(["answer a"]), {"name": "early_stopping"}) == ("a", 5)


def test_a_window_without_answers_stops_nothing() -> None:
    assert drawn(numbered(["no idea"]), {"name": "early_stopping", "n": 12}) == (None, 12)


@pytest.mark.parametrize(
    "never",
    [
        {"name": "adaptive_consistency", "confidence": 1.0},
        {"name": "adaptive_consistency", "confidence": 1.0, "rule": "dirichlet", "batch": 5},
        {"name": "early_stopping", "window": 12},
    ],
)
def test_what_never_settles_is_self_consistency(never: dict[str, Any]) -> None:
    script, never = [f"answer {letter}" for letter in "abc"], never | {"n": 12}
    engine, other = ScriptedEngine(script=script), ScriptedEngine(script=script)
    one = solve(script, never, engine=engine)
    two = solve(script, {"name": "majority", "n": 12}, engine=other)
    assert (one.answer, one.text, one.usage.tokens) == (two.answer, two.text, two.usage.tokens)
    streams = [
        [key for request in e.totals.log for key in request.streams] for e in (engine, other)
    ]
    assert streams[0] == streams[1]


@pytest.mark.parametrize("strategy", ALL)
def test_votes_are_counted_in_canonical_form_and_worded_as_the_first(
    strategy: dict[str, Any],
) -> None:
    solution = solve(numbered(["answer Yes", "answer yes"]), strategy)
    assert solution.answer == "Yes" and solution.meta["drawn"] <= 5


@pytest.mark.parametrize(("strategy", "tokens"), list(itertools.product(ALL, [1, 9, 10, 25, 1000])))
def test_the_budget_is_hard_and_leaves_the_best_so_far(
    strategy: dict[str, Any], tokens: int
) -> None:
    lines = [f"answer {letter}" for letter in "ab"] * 20
    engine = ScriptedEngine(script=numbered(lines))
    solution = solve([], strategy, engine=engine, budget=Budget(tokens=tokens), max_tokens=20)
    assert solution.usage.tokens == engine.totals.new <= tokens
    assert solution.status == ("ok" if tokens == 1000 else "budget")
    assert (solution.answer is None) == (tokens < 9)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "early_stopping", "window": 0},
        {"name": "early_stopping", "n": 0},
        {"name": "adaptive_consistency", "confidence": 0},
        {"name": "adaptive_consistency", "confidence": float("nan")},
        {"name": "adaptive_consistency", "rule": "gamma"},
        {"name": "adaptive_consistency", "batch": 0},
    ],
)
def test_bad_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=wrong["name"]):
        Solver({"policy": ScriptedEngine()}, strategy=wrong)


def test_a_run_is_continued_with_the_same_asks(tmp_path: Any) -> None:
    engine = ScriptedEngine(script=[f"answer {letter}" for letter in "aab"])
    solver = Solver({"policy": engine}, strategy=ALL[1], run=tmp_path)
    first = solver.solve(problem())
    asked = engine.totals.requests
    assert solver.solve(problem()).meta == first.meta and engine.totals.requests == asked
