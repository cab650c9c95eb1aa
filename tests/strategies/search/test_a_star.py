"""A*-decoding on known trees: the order of expansions, budgets, goals, what a verifier may do."""

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import Field

from reasoning import Budget, Problem, Solution, Solver
from reasoning.chain import Chain
from reasoning.engines.base import Engine
from reasoning.engines.scripted import VirtualTimeLoop
from reasoning.errors import ConfigError, RatingFailed
from reasoning.strategies.a_star import EdgeCost, edge_cost
from reasoning.strategy import Rating, Verifier
from tests.strategies.search.trees import (
    PROBLEM,
    SEEDS,
    WIDTH,
    Draws,
    TreeEngine,
    chance,
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

COSTS = list(EdgeCost)
HISTORY_FREE = (EdgeCost.zero, EdgeCost.drop, EdgeCost.abs)


def expanded(solution: Solution) -> list[int]:
    """Ids of the states in the order in which they were expanded."""
    names = (event.branch for event in solution.trace.of("branch"))
    return [int(name.removeprefix("node-")) for name in names if name.startswith("node-")]


def order(row: dict[str, Any]) -> tuple[float, int, float, int]:
    return row["f"], -row["depth"], -row["r"], row["id"]


def test_edge_costs_on_the_example_path() -> None:
    rewards = [0.5, 0.7, 0.6, 0.9]
    wanted = {"zero": 0.1, "signed": -0.3, "drop": 0.2, "abs": 0.7, "cum": 0.9, "const": 0.4}
    for kind in COSTS:
        steps = itertools.pairwise(rewards)
        g = sum(edge_cost(kind, before, after, 0.1) for before, after in steps)
        assert g + 1 - rewards[-1] == pytest.approx(wanted[kind])


@some
@given(SEEDS, st.sampled_from(COSTS), st.none() | st.integers(1, 30), st.integers(0, 6))
def test_a_star_1_6_1_with_k_1_it_is_plain_decoding(
    seed: int, cost: EdgeCost, tokens: int | None, passes: int
) -> None:
    budget = Budget(tokens=tokens, verifier_passes=passes)
    found = search("a_star", wild(seed), noisy(seed), k=1, edge_cost=cost, budget=budget)
    assert found.text == plain(wild(seed), budget=Budget(tokens=tokens)).text
    assert sum(row["state"] == "open" for row in tree(found)) <= 1


@some
@given(SEEDS, st.integers(2, 4))
def test_a_star_1_6_2_zero_and_signed_expand_in_the_same_order(seed: int, k: int) -> None:
    found = [
        expanded(search("a_star", wild(seed), noisy(seed, 7), k=k, edge_cost=cost, **MANY_GOALS))
        for cost in ("zero", "signed")
    ]
    assert found[0] == found[1]


# Goes on until the tree or a few dozen expansions are done, so that there is an order to see.
MANY_GOALS: dict[str, Any] = {"goal_mode": "collect_m", "m": 1000, "max_expansions": 16}


@some
@given(SEEDS, st.integers(2, 4))
def test_a_star_1_6_3_abs_popped_f_never_falls(seed: int, k: int) -> None:
    found = search("a_star", wild(seed), noisy(seed), k=k, edge_cost="abs", **MANY_GOALS)
    rows = tree(found)
    popped = [rows[number]["f"] for number in expanded(found)]
    assert popped == sorted(popped)


@some
@given(SEEDS, st.sampled_from([0.0, 0.3, 0.5, 1.0]))
@example(2674, 0.0)  # no goal within the expansions
def test_a_star_1_6_4_equal_rewards_search_depth_first(seed: int, reward: float) -> None:
    found = [
        search("a_star", wild(seed), lambda path: reward, k=3, edge_cost=cost, **MANY_GOALS)
        for cost in HISTORY_FREE
    ]
    rows = tree(found[0])
    children: dict[int, list[int]] = {}
    for row in rows[1:]:
        children.setdefault(row["parent"], []).append(row["id"])

    def preorder(number: int) -> list[int]:
        closed = [number] if rows[number]["state"] == "closed" else []
        return closed + [n for child in children.get(number, []) for n in preorder(child)]

    # Where no goal was found, the next state in order was closed by finishing it.
    assert expanded(found[0]) == preorder(0)[: found[0].meta["expansions"]]
    assert expanded(found[0]) == expanded(found[1]) == expanded(found[2])


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("gold", [(0, 0, 0, 0), (3, 1, 2, 3), (2, 2, 0, 1)])
def test_a_star_1_6_5_an_oracle_leads_straight_to_the_goal(cost: EdgeCost, gold: Draws) -> None:
    def rewards(path: Draws) -> float:
        return float(path == gold[: len(path)])

    found = search("a_star", ends_at_depth(4), rewards, edge_cost=cost)
    assert path_of(found.text) == gold
    assert found.meta["expansions"] == len(gold)
    rows = tree(found)
    assert all(rows[number]["r"] == 1 for number in expanded(found) if number)


@some
@given(
    SEEDS,
    st.sampled_from(COSTS),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(0, 3),
    st.none() | st.integers(1, 120),
    st.none() | st.integers(0, 40),
)
def test_a_star_1_6_6_and_1_6_7_counters_hold_and_caps_are_hard(
    seed: int,
    cost: EdgeCost,
    k: int,
    batch: int,
    speculate: int,
    tokens: int | None,
    passes: int | None,
) -> None:
    engine = TreeEngine(wild(seed), noisy(seed))
    budget = Budget(tokens=tokens, verifier_passes=passes)
    found = search(
        "a_star",
        engine,
        k=k,
        edge_cost=cost,
        expand_batch=batch,
        speculate=speculate,
        goal_mode="collect_m",
        max_expansions=20,
        budget=budget,
    )
    keeps_to(budget, found, engine)
    usage, rows = found.usage, tree(found)
    assert usage.verifier_passes == found.meta["scored"]
    unused = found.meta.get("unused_tokens", 0)
    assert usage.tokens == sum(row["spent"] for row in rows) + unused
    assert [row["id"] for row in rows] == list(range(len(rows)))
    names = (event.branch for event in found.trace.of("branch"))
    finished = [int(name.removeprefix("finish-")) for name in names if "finish-" in name]
    assert rows[0]["parent"] is None and rows[0]["g"] == 0
    for row in rows[1:]:
        before = rows[row["parent"]]
        scored = row["state"] != "dead" and row["parent"] not in finished
        edge = edge_cost(cost, before["r"], row["r"], 0.1) if scored else 0.0
        assert row["g"] == pytest.approx(before["g"] + edge, abs=1e-9)
        assert row["f"] == pytest.approx(row["g"] + 1 - row["r"], abs=1e-9)
        assert row["parent"] < row["id"] and 0 <= row["h"] <= 1


@pytest.mark.parametrize("tokens", [1, 2, 3, 4])
@pytest.mark.parametrize("passes", [0, 1])
def test_a_star_1_6_7_budgets_too_small_to_search_still_answer(tokens: int, passes: int) -> None:
    budget = Budget(tokens=tokens, verifier_passes=passes)
    found = search("a_star", ends_at_depth(1), budget=budget)
    assert found.usage.tokens <= tokens and found.usage.verifier_passes <= passes
    assert found.status == ("ok" if tokens >= WIDTH and passes else "budget")
    assert found.text == plain(ends_at_depth(1), budget=Budget(tokens=tokens)).text


@some
@given(SEEDS, st.integers(1, 3), st.integers(0, 2))
def test_a_star_1_6_8_a_function_of_seed_and_settings(
    seed: int, batch: int, speculate: int
) -> None:
    """Not of the order in which replies arrive."""

    def solved(hurry: int) -> Solution:
        engine = TreeEngine(
            wild(seed), noisy(seed), seconds=lambda path: chance(path, seed + hurry, "time")
        )
        solver = Solver(
            {"policy": engine, "prm": engine},
            strategy={
                "name": "a_star",
                "k": 3,
                "step_tokens": WIDTH,
                "expand_batch": batch,
                "speculate": speculate,
            },
            verifiers={"verifier": {"name": "prm", "model": "prm"}},
            budget=Budget(tokens=70),
            max_tokens=100,
        )
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            return runner.run(solver.asolve(PROBLEM))

    found, again = solved(0), solved(1)
    assert (found.text, found.usage, tree(found)) == (again.text, again.usage, tree(again))


@pytest.mark.parametrize("kept", [0, 1, 4, 9])
def test_a_search_is_continued_in_its_middle(tmp_path: Path, kept: int) -> None:
    settings: dict[str, Any] = {"k": 3, "expand_batch": 2, "speculate": 1, "run": tmp_path}
    whole = search("a_star", wild(5), noisy(5), budget=Budget(tokens=80), **settings)
    journal = tmp_path / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    replies = [line for line in lines if line.startswith(b'{"k"')]
    assert len(replies) > 9
    journal.write_bytes(b"".join(replies[:kept]))
    (tmp_path / "replies.sqlite").unlink()
    again = search("a_star", wild(5), noisy(5), budget=Budget(tokens=80), **settings)
    assert (again.text, tree(again)) == (whole.text, tree(whole))
    assert again.usage.tokens == whole.usage.tokens


@some
@given(SEEDS)
def test_a_star_1_6_9_a_text_is_the_steps_of_its_ancestors(seed: int) -> None:
    found = search("a_star", wild(seed), noisy(seed), k=3)
    rows = tree(found)

    def text(row: dict[str, Any]) -> str:
        before = "" if row["parent"] is None else text(rows[row["parent"]])
        return before + str(row["text"])

    assert found.text in [text(row) for row in rows if row["state"] in ("goal", "open")]


@some
@given(SEEDS, st.sampled_from(COSTS), st.integers(2, 4), st.integers(1, 3))
def test_a_star_1_6_10_lowest_f_first(seed: int, cost: EdgeCost, k: int, batch: int) -> None:
    """A round expands the `batch` lowest; goals with a lower f leave the open set before."""
    found = search(
        "a_star", wild(seed), noisy(seed), k=k, edge_cost=cost, expand_batch=batch, **MANY_GOALS
    )
    rows, wanted = tree(found), expanded(found)
    opened, seen = [0], list[int]()
    while len(seen) < len(wanted):
        now: list[int] = []
        while opened and len(now) < batch:
            lowest = min(opened, key=lambda number: order(rows[number]))
            if rows[lowest]["complete"] and now:
                break
            opened.remove(lowest)
            if not rows[lowest]["complete"]:
                now.append(lowest)
        seen += now
        opened += [r["id"] for r in rows if r["parent"] in now and r["state"] != "dead"]
    assert seen[: len(wanted)] == wanted


def test_equal_texts_are_scored_once() -> None:
    found = search("a_star", lambda path: "A0\n" if len(path) == 3 else "s0\n", k=4)
    assert [row["copies"] for row in tree(found)] == [1, 4, 4, 4]
    assert found.usage.verifier_passes == 3


@pytest.mark.parametrize("k", [1, 3])
def test_where_every_step_is_empty_the_first_path_is_finished(k: int) -> None:
    def says(path: Draws) -> str:
        return "  \n" if len(path) < 4 else f"A{path[-1]}\n"

    found = search("a_star", says, k=k)
    assert found.text == plain(says).text and found.answer == "0"
    assert found.usage.verifier_passes == 0


def test_an_end_without_an_answer_is_no_goal() -> None:
    def says(path: Draws) -> str:
        if path[0] == 0:
            return "E0\n"
        return f"{'A' if len(path) == 3 else 's'}{path[-1]}\n"

    found = search("a_star", says, lambda path: 1.0 if path[0] == 0 else 0.2, k=2)
    assert found.answer == "0" and path_of(found.text) == (1, 0, 0)
    nothing = search("a_star", lambda path: "E0\n", k=2)
    assert nothing.answer is None and nothing.text == "E0\n" and nothing.status == "ok"


def test_the_best_partial_path_is_finished_from_the_reserve() -> None:
    """`cum` drifts to breadth-first and reaches no goal with what the reserve leaves."""
    budget = Budget(tokens=100)
    found = search("a_star", ends_at_depth(6), noisy(1), edge_cost="cum", reserve=18, budget=budget)
    assert found.status == "budget" and found.answer is not None
    assert found.usage.tokens <= 100
    none = search("a_star", ends_at_depth(6), noisy(1), edge_cost="cum", reserve=0, budget=budget)
    assert none.answer is None


def test_the_reserve_is_spent_once_there_is_an_answer() -> None:
    settings_: dict[str, Any] = {"goal_mode": "collect_m", "m": 100, "budget": Budget(tokens=100)}
    found = search("a_star", ends_at_depth(3), noisy(1), reserve=50, **settings_)
    assert found.status == "budget" and found.usage.tokens > 90


def test_a_reserve_that_is_the_whole_budget_leaves_one_plain_chain() -> None:
    found = search("a_star", ends_at_depth(6), noisy(1), reserve=99, budget=Budget(tokens=30))
    assert found.text == plain(ends_at_depth(6)).text and found.usage.verifier_passes == 0


def test_k_shrinks_before_the_batch_does() -> None:
    from reasoning.context import Context
    from reasoning.strategies.a_star import AStar

    seen: list[tuple[int, int]] = []

    class Asks(AStar):
        async def solve(self, ctx: Context) -> Any:
            steps = self.steps(ctx)
            seen.append(steps.fit([ctx.prompt] * 3, 4))
            return ctx.offer(ctx.prompt)

    engine = TreeEngine(ends_at_depth(2), lambda path: 0.5)
    for tokens, passes in [(36, 12), (35, 12), (36, 11), (9, 3), (8, 3), (9, 2), (2, 9), (9, 0)]:
        Solver(
            {"policy": engine, "prm": engine},
            strategy=Asks(step_tokens=WIDTH),
            verifiers={"verifier": {"name": "prm", "model": "prm"}},
            budget=Budget(tokens=tokens, verifier_passes=passes),
        ).solve(PROBLEM)
    assert seen == [(3, 4), (3, 3), (3, 3), (3, 1), (2, 1), (2, 1), (0, 0), (0, 0)]


def test_goals_are_collected_and_voted_on() -> None:
    """7 has the best goal; 8 and 9, which are equal, together the higher rewards."""

    def says(path: Draws) -> str:
        return {0: "A7\n", 1: "A8\n", 2: "A9\n", 3: "s3\n"}[path[-1]]

    def rewards(path: Draws) -> float:
        return {7: 0.9, 8: 0.6, 9: 0.6}.get(path[-1], 0.1 * len(path))

    problem = replace(PROBLEM, canonical=lambda answer: "8" if answer == "9" else answer)
    found: dict[tuple[Any, int], Solution] = {
        (select, m): search(
            "a_star", says, rewards, problem=problem, select=select, goal_mode="collect_m", m=m
        )
        for select in ("best", "weighted")
        for m in (3, 4)
    }
    assert {asked: solution.answer for asked, solution in found.items()} == {
        ("best", 3): "7",
        ("weighted", 3): "8",
        ("best", 4): "7",
        ("weighted", 4): "7",  # a second goal says so
    }
    # Three goals are in the first expansion.
    assert [found["best", m].meta["expansions"] for m in (3, 4)] == [1, 2]
    assert search("a_star", says, rewards, problem=problem, select="weighted").answer == "7"


def test_the_greatest_depth() -> None:
    finished = search("a_star", ends_at_depth(6), noisy(2), k=2, max_depth=2)
    rows = tree(finished)
    assert max(row["depth"] for row in rows) == 3 and finished.answer is not None
    dead = search("a_star", ends_at_depth(6), noisy(2), k=2, max_depth=2, at_max_depth="dead")
    assert dead.answer is None and dead.text == ""
    assert sum(row["state"] == "dead" for row in tree(dead)) == 4


@pytest.mark.parametrize("most", [0, 1, 3])
def test_expansions_are_limited(most: int) -> None:
    found = search("a_star", ends_at_depth(6), noisy(2), k=2, max_expansions=most)
    assert found.meta["expansions"] == most and found.status == "ok"
    assert found.answer is not None  # the best path is finished all the same


@some
@given(SEEDS, st.integers(1, 4))
def test_speculation_changes_waiting_and_cost_only(seed: int, ahead: int) -> None:
    settings: dict[str, Any] = {"k": 3, "max_expansions": 20}
    found = search("a_star", wild(seed), noisy(seed), **settings)
    hasty = search("a_star", wild(seed), noisy(seed), speculate=ahead, **settings)
    assert (found.text, found.answer) == (hasty.text, hasty.answer)
    assert tree(found) == tree(hasty)
    assert hasty.usage.tokens == found.usage.tokens + hasty.meta.get("unused_tokens", 0)
    assert hasty.usage.verifier_passes == found.usage.verifier_passes


def test_a_deadline_leaves_the_best_so_far_and_the_tree() -> None:
    engine = TreeEngine(ends_at_depth(5), noisy(3), seconds=lambda path: 1.0)
    solver = Solver(
        {"policy": engine, "prm": engine},
        strategy={"name": "a_star", "step_tokens": WIDTH},
        verifiers={"verifier": {"name": "prm", "model": "prm"}},
        budget=Budget(seconds=10.5),
    )
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        found = runner.run(solver.asolve(PROBLEM))
    assert found.status == "deadline" and len(path_of(found.text)) >= 2
    assert len(tree(found)) > 1 + 2 * 4


def test_a_separator_that_never_comes_gives_blocks_of_tokens() -> None:
    problem = Problem("p", PROBLEM.messages, step="@@", extract=PROBLEM.extract)
    found = search("a_star", ends_at_depth(4), noisy(4), k=2, problem=problem, step_tokens=6)
    assert found.answer is not None
    assert {row["tokens"] for row in tree(found)} == {0, 6, 1}  # 12 characters and EOS


class Told(Verifier):
    """Rewards that a test says, whatever they are; None fails for that chain."""

    rewards: Any = Field(exclude=True)

    async def rate(
        self, problem: Problem, chains: Sequence[Chain], engine: Engine | None
    ) -> list[Rating]:
        found = [self.rewards(path_of(chain.text)) for chain in chains]
        ratings = [None if scores is None else Rating(scores) for scores in found]
        if None in ratings:
            raise RatingFailed("a chain could not be rated", ratings)
        return [rating for rating in ratings if rating is not None]


def test_rewards_out_of_range_are_clamped_and_counted() -> None:
    odd = {0: float("nan"), 1: 1.5, 2: -2.0, 3: float("inf")}
    verifier = Told(rewards=lambda path: (odd[path[-1]],))
    found = search("a_star", ends_at_depth(2), verifier=verifier)
    assert [row["r"] for row in tree(found)[1:5]] == [0, 1, 0, 1]
    assert found.meta["clamped_rewards"] == 8 and path_of(found.text) == (1, 1)


def test_a_path_that_could_not_be_rated_stays_so_in_a_continued_run(tmp_path: Path) -> None:
    """What the search decided without a reward it decides again, though the verifier is well."""
    asked: list[Draws] = []

    def ailing(path: Draws) -> tuple[float] | None:
        asked.append(path)
        return None if path[-1] == 1 else (0.4,)

    def well(path: Draws) -> tuple[float]:
        asked.append(path)
        return (0.9 if path[-1] == 1 else 0.4,)

    first = search("a_star", ends_at_depth(3), verifier=Told(rewards=ailing), run=tmp_path)
    assert first.meta["failed_ratings"] and asked
    asked.clear()
    again = search("a_star", ends_at_depth(3), verifier=Told(rewards=well), run=tmp_path)
    assert not asked
    assert (again.text, again.meta, again.usage.tokens) == (
        first.text,
        first.meta,
        first.usage.tokens,
    )


def test_a_verifier_that_fails_for_one_path_costs_that_path_its_reward() -> None:
    verifier = Told(rewards=lambda path: None if path[-1] == 1 else (0.5,))
    found = search("a_star", ends_at_depth(2), verifier=verifier)
    assert [row["r"] for row in tree(found)[1:5]] == [0.5, 0, 0.5, 0.5]
    assert found.meta["failed_ratings"] == 2 and found.answer == "0"
    assert found.meta["scored"] == found.usage.verifier_passes == 6
    with pytest.raises(RatingFailed):
        search("a_star", ends_at_depth(2), verifier=Told(rewards=lambda path: None))


def test_ratings_without_rewards_or_with_too_few_are_counted() -> None:
    nothing = search("a_star", ends_at_depth(1), verifier=Told(rewards=lambda path: ()))
    assert nothing.meta["failed_ratings"] == 4 and tree(nothing)[1]["r"] == 0
    few = search("a_star", ends_at_depth(3), k=1, verifier=Told(rewards=lambda path: (0.1, 0.2)))
    assert few.meta["short_ratings"] == 1 and tree(few)[-1]["r"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"k": 0}, "`k`"),
        ({"edge_cost": "dorp"}, "'drop'"),
        ({"root_reward": 1.5}, "`root_reward`"),
        ({"length_cost": 0}, "`length_cost`"),
        ({"goal_mode": "all"}, "'collect_m'"),
        ({"expand_batch": 0}, "`expand_batch`"),
        ({"step_tokens": 0}, "`step_tokens`"),
        ({"reserve": -1}, "`reserve`"),
        ({"aggregate": "median"}, "'last'"),
        ({"width": 3}, "unknown setting `width`"),
    ],
)
def test_bad_settings_are_said_when_they_are_read(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        search("a_star", ends_at_depth(2), **settings)
