"""Every strategy of this folder is continued after a kill, and leaves its best when time is up."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reasoning import Budget, Solution, Solver
from reasoning.engines.scripted import Line, ScriptedEngine, VirtualTimeLoop
from tests.strategies.selection.scripts import line, problem, reward

DEEP_CONF = {"n": 6, "top": 1, "window": 4}
STRATEGIES: dict[str, dict[str, Any]] = {
    "adaptive_consistency": {"n": 8},
    "early_stopping": {"n": 9, "window": 3},
    "deep_conf": DEEP_CONF,
    "deep_conf_online": DEEP_CONF | {"warmup": 2, "at_once": 2, "consensus": None},
    "particle_filtering": {"n": 4, "step_tokens": 20},
    "entropic_particle_filtering": {"n": 4, "step_tokens": 20},
    "particle_gibbs": {"n": 4, "step_tokens": 20, "iterations": 2},
    "sequential_revision": {"parallel": 2, "sequential": 3},
    "self_refine": {"rounds": 2},
}


def solver(name: str, engine: ScriptedEngine, **settings: Any) -> Solver:
    return Solver(
        {"policy": engine, "prm": engine},
        strategy={"name": name, **STRATEGIES[name]},
        verifiers={"verifier": {"name": "prm", "model": "prm"}},
        max_tokens=60,
        **settings,
    )


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("kept", [0, 1, 4, 9])
def test_a_problem_is_continued_in_its_middle(tmp_path: Path, name: str, kept: int) -> None:
    """What a kill left in the journal is replayed; the rest is asked; the result is the same."""
    settings = {"budget": Budget(tokens=400), "run": tmp_path}
    engine = ScriptedEngine(script=line, rewards=reward)
    whole = solver(name, engine, **settings).solve(problem())
    journal = tmp_path / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    replies = [row for row in lines if row.startswith(b'{"k"')][:kept]
    journal.write_bytes(b"".join(replies) + b'{"k":["torn')
    (tmp_path / "replies.sqlite").unlink()
    again = solver(name, ScriptedEngine(script=line, rewards=reward), **settings).solve(problem())
    assert (again.answer, again.text, again.status, again.meta) == (
        whole.answer,
        whole.text,
        whole.status,
        whole.meta,
    )
    assert again.usage.tokens == whole.usage.tokens
    assert again.usage.verifier_passes == whole.usage.verifier_passes


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("seconds", [0.5, 12.5, 30.5, 47.5])
def test_a_deadline_leaves_the_best_so_far(name: str, seconds: float) -> None:
    def slow(prompt: str, stream: int) -> Line:
        return replace(line(prompt, stream), seconds=1.0)

    engine = ScriptedEngine(script=slow, rewards=reward)
    solution: Solution
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        timed = solver(name, engine, budget=Budget(seconds=seconds))
        solution = runner.run(timed.asolve(problem()))
    assert solution.seconds <= seconds and engine.totals.open == 0
    assert solution.status == ("deadline" if solution.seconds == seconds else "ok")
    assert solution.usage.tokens == engine.totals.new
    if seconds > 40:
        assert solution.answer is not None


@pytest.mark.parametrize(("name", "tokens"), list(itertools.product(STRATEGIES, [1, 2, 50, 111])))
def test_every_budget_is_hard(name: str, tokens: int) -> None:
    engine = ScriptedEngine(script=line, rewards=reward)
    solution = solver(name, engine, budget=Budget(tokens=tokens, verifier_passes=1)).solve(
        problem()
    )
    assert solution.usage.tokens == engine.totals.new <= tokens
    assert solution.usage.verifier_passes <= 1
    assert solution.text or tokens < 2


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_same_seed_asks_the_same(name: str) -> None:
    engines = [ScriptedEngine(script=line, rewards=reward) for _ in range(2)]
    for engine in engines:
        solver(name, engine, seed=5).solve(problem())
    assert engines[0].totals.log == engines[1].totals.log
