"""Chains of two models are written at the same time, under whichever cap (number 5.4)."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from reasoning import Budget, Problem, Solution, Solver
from reasoning.costs.kinetics import CostModel, ModelShape
from reasoning.engines.scripted import Line, ScriptedEngine, VirtualTimeLoop
from reasoning.evals.roofline import SHAPES

COST = CostModel(ModelShape.from_config(SHAPES["QwQ-32B"]), token_price=1.0, prefill_price=1.0)
POLICIES: dict[str, dict[str, Any]] = {
    "atts": {"rho": 0.5, "draft_tokens": 4, "target_tokens": 4, "turns": 5},
    "spec_reason": {"threshold": 5.0, "step_tokens": 8},
}
AMPLE = {"verifier_passes": 1000, "tokens": 10**5, "flops": 1e18, "eflops": 1e20, "money": 1e6}


def solved(
    name: str, budget: Budget | None, n: int = 8, run: Path | None = None, **settings: Any
) -> Solution:
    """Chains of 40 tokens, each of which takes a second."""
    line = Line("some words\n" * 40, seconds=1.0)
    models: dict[str, Any] = {
        "policy": ScriptedEngine("base", script=[line]),
        "draft": ScriptedEngine("draft", script=[line]),
        "prm": ScriptedEngine("prm", rewards=lambda text: 1.0),
    }
    solver = Solver(
        models,
        strategy={"name": "majority", "n": n},
        chain_policy={"name": name, **POLICIES[name], **settings},
        verifiers={"verifier": {"name": "prm", "model": "prm"}},
        costs={"policy": COST, "draft": COST, "prm": COST},
        max_tokens=40,
        budget=budget,
        run=run,
    )
    asked = Problem("p", ({"role": "user", "content": "p"},), extract=lambda text: None, step="\n")
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(solver.asolve(asked))


@pytest.mark.parametrize("unit", AMPLE)
@pytest.mark.parametrize("name", POLICIES)
def test_5_4_chains_run_at_the_same_time_under_any_cap_that_fits_them(name: str, unit: str) -> None:
    free = solved(name, None)
    capped = solved(name, Budget(**{unit: AMPLE[unit]}))
    assert capped.status == free.status == "ok"
    assert capped.seconds == free.seconds and capped.usage == free.usage


@pytest.mark.parametrize("name", POLICIES)
def test_passes_that_a_policy_does_spend_are_shared_out(name: str) -> None:
    """One chain's passes are at most its tokens; what it leaves is the next one's."""
    rating = {"rating": "prm"} if name == "spec_reason" else {}
    for passes in (1000, 30):
        solution = solved(name, Budget(verifier_passes=passes), **rating)
        assert solution.usage.verifier_passes <= passes


@pytest.mark.parametrize("share", [0.1, 0.4, 0.9])
@pytest.mark.parametrize("unit", ["tokens", "flops", "money"])
@pytest.mark.parametrize("name", POLICIES)
def test_a_cap_that_does_not_fit_them_is_kept_and_replays(
    name: str, unit: str, share: float, tmp_path: Path
) -> None:
    whole = getattr(solved(name, None).usage, unit)
    cap = int(share * whole) if unit == "tokens" else share * whole
    runs = [solved(name, Budget(**{unit: cap}), run=tmp_path) for _ in range(2)]
    assert 0 < getattr(runs[0].usage, unit) <= cap and runs[0].status == "budget"
    assert runs[0].text == runs[1].text and runs[0].usage == runs[1].usage
