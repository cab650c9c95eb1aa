"""A search is made narrower by a cap in any unit, as it is by one of tokens."""

from __future__ import annotations

from typing import Any

import pytest

from reasoning import Budget, Solution, Solver
from reasoning.costs.kinetics import CostModel, ModelShape
from reasoning.engines.scripted import ScriptedEngine
from tests.strategies.selection.scripts import IN_WORDS, PRM, line_or_verdict, problem, reward

SEARCHES: dict[str, dict[str, Any]] = {
    "a_star": {"k": 4, "expand_batch": 2},
    "beam": {"n": 8, "beam_width": 2},
    "lookahead": {"n": 4, "beam_width": 2},
    "dvts": {"n": 8, "beam_width": 4},
    "step_best_of_n": {"n": 6},
    "mcts": {"n": 4},
    "rebase": {"n": 8},
    "dora": {"n": 8},
    "particle_filtering": {"n": 8},
}
# A token costs 1 in money; to read or to write one is 2 FLOPs.
COSTS = {
    "policy": CostModel(ModelShape(parameters=1, kv_elements=0, gqa=1), token_price=1.0),
    "prm": CostModel(ModelShape(parameters=0, kv_elements=0, gqa=1)),  # counted as free
}


def search(
    name: str, budget: Budget, verifier: dict[str, Any] = PRM
) -> tuple[Solution, ScriptedEngine]:
    engine = ScriptedEngine(
        script=line_or_verdict(dots=150),
        rewards=reward,
        embeddings=lambda text: [reward(text), 1.0],
    )
    solver = Solver(
        {"policy": engine, "prm": engine},
        strategy={"name": name, "step_tokens": 9, **SEARCHES[name]},
        verifiers={"verifier": verifier},
        budget=budget,
        costs=COSTS,
        max_tokens=60,
    )
    return solver.solve(problem()), engine


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("most", [32, 60, 112, 200])
def test_money_for_so_many_tokens_is_a_budget_of_so_many_tokens(name: str, most: int) -> None:
    by_tokens, tokens = search(name, Budget(tokens=most))
    by_money, money = search(name, Budget(money=float(most)))
    assert money.totals.log == tokens.totals.log
    assert (by_money.text, by_money.status) == (by_tokens.text, by_tokens.status)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_cap_on_flops_narrows_the_first_round_and_leaves_an_answer(name: str) -> None:
    """The prompt has 11 tokens, and a step at most 9: three steps are 76 FLOPs, four are 94, of the
    90 that the reserve leaves. Fewer where a step is scored ahead, or every tree has as many."""
    _, free = search(name, Budget())
    tight, engine = search(name, Budget(flops=120.0))
    assert 1 <= engine.totals.log[0].n <= 3 < free.totals.log[0].n
    assert 0 < tight.usage.flops <= 120 and tight.status == "budget"
    found, _ = search(name, Budget(flops=500.0))
    assert found.usage.flops <= 500 and found.answer is not None


@pytest.mark.parametrize("name", ["rebase", "dora"])
@pytest.mark.parametrize("most", [260, 400, 560])
def test_telling_paths_apart_leaves_an_answer(name: str, most: int) -> None:
    """DORA reads all paths again before it draws; where that does not fit, the best is finished."""
    found, _ = search(name, Budget(flops=float(most)))
    assert found.usage.flops <= most and found.answer is not None


@pytest.mark.parametrize("name", SEARCHES)
def test_a_verifier_that_writes_narrows_a_search(name: str) -> None:
    """A pass may take 768 tokens, and a step 9: of the 5,940 tokens that the reserve leaves, 7."""
    free, _ = search(name, Budget(), IN_WORDS)
    found, engine = search(name, Budget(tokens=6000), IN_WORDS)
    assert found.answer is not None and found.usage.tokens <= 6000
    assert found.usage.tokens - found.usage.reused == engine.totals.new
    assert 7 <= found.usage.verifier_passes < free.usage.verifier_passes
    assert engine.totals.log[0].n <= 7


@pytest.mark.parametrize("name", SEARCHES)
def test_a_pass_that_costs_more_than_was_foreseen_leaves_an_answer(name: str) -> None:
    """What a verifier of answers costs is known once there are some: 768 tokens each."""
    found, engine = search(name, Budget(tokens=400), IN_WORDS | {"kind": "result"})
    assert found.status == "budget" and found.answer is not None
    assert found.usage.tokens <= 400
    assert found.usage.tokens - found.usage.reused == engine.totals.new
