"""Chains that are rated as a whole leave of every cap what their ratings cost."""

from __future__ import annotations

from typing import Any

import pytest

from reasoning import Budget, Solution, Solver
from reasoning.costs.kinetics import CostModel, ModelShape
from reasoning.engines.scripted import ScriptedEngine
from tests.strategies.selection.scripts import IN_WORDS, PRM, line_or_verdict, problem, reward

# To read or to write a token is 2 FLOPs, and writing one costs 1 and reading one 0.5 in money.
COST = CostModel(ModelShape(parameters=1, kv_elements=0, gqa=1), token_price=1.0, prefill_price=0.5)


def solve(
    name: str, budget: Budget, verifier: dict[str, Any] = PRM, max_tokens: int | None = 60
) -> tuple[Solution, ScriptedEngine]:
    engine = ScriptedEngine(script=line_or_verdict(dots=50), rewards=reward)
    solver = Solver(
        {"policy": engine, "prm": engine},
        strategy={"name": name, "n": 8},
        verifiers={"verifier": verifier},
        budget=budget,
        costs={"policy": COST, "prm": COST},
        max_tokens=max_tokens,
    )
    return solver.solve(problem()), engine


@pytest.mark.parametrize("name", ["best_of_n", "weighted"])
@pytest.mark.parametrize("unit", ["flops", "eflops", "money"])
@pytest.mark.parametrize("max_tokens", [60, 1000, None])
def test_what_is_written_is_rated(name: str, unit: str, max_tokens: int | None) -> None:
    """As much as would be enough for some chains, all, and more; caps on a chain say little."""
    whole, _ = solve(name, Budget())
    need = getattr(whole.usage, unit)
    counts = []
    for share in (0.3, 0.6, 0.9, 1.5, 2000.0):
        solution, engine = solve(name, Budget(**{unit: share * need}), max_tokens=max_tokens)
        written = sum(request.n for request in engine.totals.log)
        counts.append(solution.usage.verifier_passes)
        assert getattr(solution.usage, unit) <= share * need
        assert written - 1 <= solution.usage.verifier_passes <= written
        assert solution.answer is not None
        assert solution.status == ("ok" if solution.usage.verifier_passes == 8 else "budget")
    assert counts == sorted(counts) and 0 < counts[0] < 8 and counts[3:] == [8, 8]
    assert (solution.text, solution.usage.tokens) == (whole.text, whole.usage.tokens)


@pytest.mark.parametrize("flops", range(10, 700, 23))
def test_a_small_cap_is_hard_and_leaves_an_answer_if_it_can(flops: int) -> None:
    solution, _ = solve("best_of_n", Budget(flops=float(flops)))
    assert solution.usage.flops <= flops and solution.status in ("ok", "budget")
    assert solution.text or flops < 2 * (len("question p\n") + 1)


def test_a_verifier_that_writes_is_left_tokens() -> None:
    solution, _ = solve("best_of_n", Budget(tokens=2500), IN_WORDS)
    assert solution.usage.verifier_passes == 3 and solution.usage.tokens <= 2500
    assert solution.status == "budget"


@pytest.mark.parametrize("budget", [Budget(), Budget(tokens=200), Budget(verifier_passes=3)])
def test_where_ratings_cost_nothing_of_a_cap_all_chains_are_one_ask(budget: Budget) -> None:
    solution, _ = solve("best_of_n", budget)
    (_,) = solution.trace.of("sample")
