"""Every rated strategy under verifiers that rate wrongly: one rule, told in the solution's meta."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from reasoning import Solution, Solver
from reasoning.chain import Chain
from reasoning.engines.base import Capabilities
from reasoning.engines.scripted import ScriptedEngine
from reasoning.errors import RatingFailed
from reasoning.naming import build
from reasoning.registry import strategies
from reasoning.strategy import Rating, Verifier
from tests.strategies.selection.scripts import SMALL, line, problem, reward

# Every strategy that asks a verifier; auto's candidates are among them.
SETTINGS = {
    name: settings
    for name, settings in SMALL.items()
    if name != "auto" and build(strategies, {"name": name, **settings}).verifier_roles()
}


class Every(Verifier):
    """The same rewards for every chain."""

    rewards: tuple[float, ...]

    async def rate(self, problem: Any, chains: Sequence[Chain], engine: Any) -> list[Rating]:
        return [Rating(self.rewards) for _ in chains]


class Failing(Verifier):
    """Cannot rate the first chain of a batch, or any."""

    some: bool

    async def rate(self, problem: Any, chains: Sequence[Chain], engine: Any) -> list[Rating]:
        others = [Rating((reward(chain.text),)) if self.some else None for chain in chains[1:]]
        raise RatingFailed("it broke", [None, *others])


def solve(name: str, verifier: Verifier) -> Solution:
    engine = ScriptedEngine(
        script=line,
        embeddings=lambda text: [reward(text), 1.0],
        capabilities=Capabilities(token_keyed=True, embed=True),
    )
    return Solver(
        {"policy": engine},
        strategy={"name": name, **SETTINGS[name]},
        verifiers={"verifier": verifier},
        max_tokens=60,
    ).solve(problem())


def test_every_rated_strategy_is_here() -> None:
    free = ("auto",)  # whose candidates are
    rated = [n for n in strategies if n not in free and build(strategies, n).verifier_roles()]
    assert sorted(SETTINGS) == rated


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("value", [7.0, -0.5, math.inf, -math.inf, math.nan])
def test_rewards_outside_0_and_1_count_as_the_nearest_bound(name: str, value: float) -> None:
    wrong = solve(name, Every(rewards=(value,)))
    right = solve(name, Every(rewards=(1.0 if value > 0 else 0.0,)))
    assert wrong.status == "ok" and wrong.meta.pop("clamped_rewards") > 0
    assert (wrong.text, wrong.meta, wrong.usage) == (right.text, right.meta, right.usage)


@pytest.mark.parametrize("name", SETTINGS)
def test_fewer_rewards_than_steps_are_used_as_they_are(name: str) -> None:
    short = solve(name, Every(rewards=(0.25, 0.5)))
    right = solve(name, Every(rewards=(0.5,)))
    assert short.status == "ok" and short.meta.pop("short_ratings") > 0
    assert (short.text, short.meta, short.usage) == (right.text, right.meta, right.usage)


# first_verified rates one chain at a time, so that here all of them would fail.
@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "first_verified"])
def test_a_rating_that_failed_costs_its_chain_and_not_the_problem(name: str) -> None:
    solution = solve(name, Failing(some=True))
    assert solution.status == "ok" and solution.meta["failed_ratings"] > 0


@pytest.mark.parametrize("name", SETTINGS)
def test_where_all_ratings_fail_the_problem_does(name: str) -> None:
    if name == "mcts":  # which rates one path at a time, and has the most visited one
        assert solve(name, Failing(some=False)).meta["failed_ratings"] > 0
        return
    with pytest.raises(RatingFailed, match=r"it broke|could rate none"):
        solve(name, Failing(some=False))


@pytest.mark.parametrize("name", ["best_of_n", "weighted", "first_verified"])
def test_of_one_chain_alone_a_failure_chooses_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SETTINGS, name, {"n": 1})
    solution = solve(name, Failing(some=False))
    assert solution.status == "ok" and solution.answer is not None
    assert solution.meta["failed_ratings"] == 1


def test_a_chain_of_revisions_that_cannot_be_rated_ends_in_a_vote(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(SETTINGS, "sequential_revision", {"parallel": 1, "sequential": 3})
    solution = solve("sequential_revision", Failing(some=False))
    assert solution.status == "ok" and solution.meta["failed_ratings"] == 3
