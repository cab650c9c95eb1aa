"""Step-level best-of-N: what is dropped and drawn again, and where it ends."""

from typing import Any

import pytest
from hypothesis import given

from reasoning import Budget
from reasoning.errors import ConfigError
from tests.strategies.search.trees import (
    SEEDS,
    Draws,
    TreeEngine,
    chance,
    ends_at_depth,
    path_of,
    plain,
    search,
    some,
    wild,
)


@some
@given(SEEDS)
def test_step_best_of_n_5_4_6_one_candidate_is_step_sampling(seed: int) -> None:
    """And so is a beam of one path and one continuation."""
    one = search("step_best_of_n", wild(seed), lambda path: chance(path, seed), n=1, retries=0)
    assert one.text == plain(wild(seed)).text
    beam = search("beam", ends_at_depth(4), lambda path: chance(path, seed), n=1, beam_width=1)
    assert beam.text == plain(ends_at_depth(4)).text


def test_candidates_with_too_many_of_a_phrase_are_dropped() -> None:
    def rewards(path: Draws) -> float:
        return path[-1] / 10

    best = search("step_best_of_n", ends_at_depth(2), rewards, n=4)
    assert path_of(best.text) == (3, 3)
    less = search("step_best_of_n", ends_at_depth(2), rewards, n=4, at_most={"3": 0, "s": 1})
    assert path_of(less.text) == (2, 2) and less.usage.verifier_passes == 6


def test_when_all_are_dropped_others_are_drawn() -> None:
    engine = TreeEngine(ends_at_depth(1), lambda path: 0.5, most=12, depth=1)
    found = search("step_best_of_n", engine, n=4, at_most={str(draw): 0 for draw in range(6)})
    assert path_of(found.text) == (6,)  # of draws 4 to 7, those above 5
    assert engine.steps_asked() == 8 and found.usage.verifier_passes == 2
    engine = TreeEngine(ends_at_depth(1), lambda path: 0.5, most=12, depth=1)
    none = search("step_best_of_n", engine, n=4, at_most={"A": 0})
    assert path_of(none.text) == (0,) and engine.steps_asked() == 12


@pytest.mark.parametrize("most", [1, 3])
def test_after_the_last_step_the_path_is_finished(most: int) -> None:
    engine = TreeEngine(ends_at_depth(5), lambda path: 0.5)
    found = search("step_best_of_n", engine, n=3, max_steps=most)
    assert len(path_of(found.text)) == 5 and engine.steps_asked() == 3 * most + 1
    assert found.usage.verifier_passes == 3 * most and found.status == "ok"


@pytest.mark.parametrize("passes", [0, 1, 5])
def test_a_budget_makes_steps_narrower_and_leaves_a_finished_path(passes: int) -> None:
    budget = Budget(verifier_passes=passes)
    found = search("step_best_of_n", ends_at_depth(3), n=4, budget=budget)
    assert found.usage.verifier_passes == passes and found.answer is not None
    assert found.status == "budget"


@pytest.mark.parametrize(
    ("settings_", "words"),
    [({"n": 0}, "`n`"), ({"max_steps": 0}, "`max_steps`"), ({"at_most": {"A": "x"}}, "at_most")],
)
def test_bad_settings_are_said_when_they_are_read(settings_: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        search("step_best_of_n", ends_at_depth(2), **settings_)
