"""Monte Carlo tree search: PUCT, the three rewards, moves, budgets."""

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning import Budget, Solver
from reasoning.errors import ConfigError, UnknownName
from reasoning.strategies.mcts import puct
from tests.strategies.search.trees import (
    PROBLEM,
    SEEDS,
    WIDTH,
    Draws,
    TreeEngine,
    ends_at_depth,
    keeps_to,
    noisy,
    path_of,
    plain,
    search,
    some,
    tree,
    wild,
)

REWARDS = ["process", "rollout", "self_consistent"]


def many(**settings_: Any) -> TreeEngine:
    """A tree with draws enough for the children and the rollouts of a state."""
    return TreeEngine(**{"says": ends_at_depth(3), "most": 8, "depth": 3} | settings_)


def test_mcts_5_4_5_puct() -> None:
    assert puct(0.0, 1, 4) == pytest.approx(1.2503, abs=1e-4)
    assert puct(0.0, 1, 4) == pytest.approx(1.25 + math.log((4 + 19652 + 1) / 19652))
    assert puct(1.5, 3, 9) == pytest.approx(
        0.5 + (1.25 + math.log(19662 / 19652)) * 3 / 4, abs=1e-5
    )


@some
@given(st.integers(0, 50), st.integers(1, 50), st.floats(0, 1))
def test_puct_grows_with_value_and_with_neglect(visits: int, more: int, value: float) -> None:
    assert puct(value * visits, visits, 100) >= puct(value * visits, visits, 10)
    assert puct(0.0, visits, 50) > puct(0.0, visits + more, 50)


@some
@given(SEEDS, st.sampled_from(REWARDS))
def test_visits_and_values_are_those_of_the_subtree(seed: int, reward: str) -> None:
    found = search("mcts", many(rewards=noisy(seed)), reward=reward, n=3, simulations=6)
    rows = tree(found)
    for row in rows:
        below = [r for r in rows if r["parent"] == row["id"]]
        assert row["visits"] >= sum(r["visits"] for r in below)
        assert row["value"] is None or 0 <= row["value"] <= 1
    # The children of one state were all visited before any of them was expanded: a prior of 1.
    assert rows[0]["visits"] >= found.meta["simulations"]


@some
@given(SEEDS, st.integers(2, 4), st.integers(1, 9))
def test_a_search_goes_down_by_puct_and_moves_to_the_most_visited(
    seed: int, n: int, simulations: int
) -> None:
    """Its expansions are those of an account kept here, from the process rewards in its tree."""
    found = search("mcts", many(rewards=noisy(seed)), n=n, simulations=simulations)
    rows, visits, totals = tree(found), Counter[int](), Counter[int]()
    order, root = list[int](), 0

    def children(number: int) -> list[int]:
        return [row["id"] for row in rows if row["parent"] == number]

    def promise(number: int) -> float:
        return puct(totals[number], visits[number], visits[rows[number]["parent"]])

    def back_up(number: int | None, value: float) -> None:
        while number is not None:
            visits[number] += 1
            totals[number] += value
            number = rows[number]["parent"]

    while not rows[root]["complete"]:
        for _ in range(simulations):
            node = root
            while node in order:
                node = max(children(node), key=promise)
            if not rows[node]["complete"]:
                order.append(node)
            for valued in [node] if rows[node]["complete"] else children(node):
                back_up(valued, rows[valued]["score"])
        root = max(children(root), key=lambda child: (visits[child], totals[child]))
    names = [event.branch for event in found.trace.of("branch")]
    assert [name for name in names if name != "reserve"] == [f"node-{node}" for node in order]
    assert [row["visits"] for row in rows] == [visits[row["id"]] for row in rows]
    once = search("mcts", many(rewards=noisy(seed)), n=n, simulations=simulations, commit=False)
    assert once.meta["simulations"] == simulations


def test_process_rewards_lead_to_the_best_path() -> None:
    gold = (2, 1, 3)

    def rewards(path: Draws) -> float:
        return 0.9 if path == gold[: len(path)] else 0.1

    found = search("mcts", ends_at_depth(3), rewards, n=4, simulations=5)
    assert path_of(found.text) == gold


def test_rollouts_lead_to_where_solutions_are_good() -> None:
    """Only complete paths are told apart; those below draw 1 are good."""

    def rewards(path: Draws) -> float:
        return 0.9 if path[0] == 1 and len(path) == 3 else 0.1

    engine = many(rewards=rewards)
    found = search("mcts", engine, reward="rollout", n=3, simulations=20)
    rows = tree(found)
    first = [row for row in rows if row["parent"] == 0]
    assert max(first, key=lambda row: row["visits"])["text"] == "s1\n"
    assert path_of(found.text)[0] == 1


def test_rollouts_are_no_copies_of_children() -> None:
    engine = many(rewards=lambda path: 0.5)
    search("mcts", engine, reward="rollout", n=2, rollouts=2, simulations=3, commit=False)
    ends = [r for r in engine.totals.log if not r.sampling.stop]
    streams = [stream.key for request in ends for stream in request.streams]
    assert len(streams) == len(set(streams)) == 2 * 3
    stepped = [s.key for r in engine.totals.log if r.sampling.stop for s in r.streams]
    assert not set(streams) & set(stepped)


def test_mcts_self_consistent_values_are_shares_of_the_vote_and_need_no_verifier() -> None:
    """Every path below draw 0 says 0, the others all say something else."""

    def says(path: Draws) -> str:
        said = 0 if path[0] == 0 else path[-1]
        return f"{'A' if len(path) == 2 else 's'}{said}\n"

    solver = Solver(
        {"policy": TreeEngine(says, most=8, depth=2)},
        strategy={
            "name": "mcts",
            "reward": "self_consistent",
            "n": 2,
            "rollouts": 2,
            "simulations": 1,
            "commit": False,
            "step_tokens": WIDTH,
        },
    )
    found = solver.solve(PROBLEM)
    (child,) = [row for row in tree(found) if row["visits"] and row["parent"] == 0]
    assert (child["text"], child["value"]) == ("s0\n", 1.0)  # 2 of 2 votes for 0
    assert found.usage.verifier_passes == 0 and found.answer == "0"
    with pytest.raises(UnknownName, match="verifier"):
        Solver({"policy": TreeEngine(says)}, strategy={"name": "mcts"})


def test_mcts_majority_decides_for_the_self_consistent_reward() -> None:
    """Three rollouts of the first child say 0, 5 and 5."""

    def says(path: Draws) -> str:
        said = 0 if path[1:2] == (3,) else 5
        return f"{'A' if len(path) == 3 else 's'}{said}\n"

    def answer(**settings_: Any) -> str | None:
        engine = many(says=says, rewards=lambda path: 0.0)
        shape: dict[str, Any] = {"n": 3, "rollouts": 3, "simulations": 1, "commit": False}
        return search("mcts", engine, reward="self_consistent", **shape, **settings_).answer

    assert answer() == "5" and answer(select="best") == "0"


@some
@given(
    SEEDS,
    st.sampled_from(REWARDS),
    st.none() | st.integers(1, 150),
    st.none() | st.integers(0, 30),
    st.integers(1, 3),
)
def test_caps_are_hard_and_what_was_decoded_is_charged(
    seed: int, reward: str, tokens: int | None, passes: int | None, rollouts: int
) -> None:
    deep = {"most": 6, "depth": 4}
    engine = TreeEngine(wild(seed), noisy(seed), **deep)
    budget = Budget(tokens=tokens, verifier_passes=passes)
    shape = {"n": 3, "rollouts": rollouts, "max_depth": 3}
    found = search("mcts", engine, reward=reward, budget=budget, **shape)
    keeps_to(budget, found, engine)
    if reward == "process" and passes == 0:
        alone = TreeEngine(wild(seed), **deep)
        assert found.text == plain(alone, budget=Budget(tokens=tokens)).text


@pytest.mark.parametrize("reward", REWARDS)
def test_the_greatest_depth_is_finished_in_one_ask(reward: str) -> None:
    engine = many(says=ends_at_depth(5), rewards=noisy(1), depth=5, most=5)
    found = search("mcts", engine, reward=reward, n=3, max_depth=1, simulations=9)
    assert max(row["depth"] for row in tree(found)) <= 2 and len(path_of(found.text)) == 5


def test_equal_children_are_one_state() -> None:
    found = search("mcts", lambda path: "A0\n" if len(path) == 2 else "s0\n", n=4, simulations=2)
    assert [row["depth"] for row in tree(found)] == [0, 1, 2]
    assert found.usage.verifier_passes == 2


@pytest.mark.parametrize("reward", REWARDS)
def test_where_every_step_is_empty_the_path_is_finished(reward: str) -> None:
    def says(path: Draws) -> str:
        return "  \n" if len(path) < 3 else f"A{path[-1]}\n"

    found = search("mcts", says, reward=reward, n=2)
    assert found.text == plain(says).text


@pytest.mark.parametrize(
    ("settings_", "words"),
    [
        ({"n": 0}, "`n`"),
        ({"simulations": 0}, "`simulations`"),
        ({"rollouts": 0}, "`rollouts`"),
        ({"reward": "outcome"}, "'self_consistent'"),
        ({"c_base": 0}, "`c_base`"),
    ],
)
def test_bad_settings_are_said_when_they_are_read(settings_: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        search("mcts", ends_at_depth(2), **settings_)
