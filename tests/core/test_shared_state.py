"""State shared across problems: rounds, order, resume. A policy that counts what it was told."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from reasoning import Problem, Solver
from reasoning.chain import Chain
from reasoning.engines.scripted import Line, ScriptedEngine, VirtualTimeLoop
from reasoning.evals import experiment, records
from reasoning.recipe import Recipe
from reasoning.registry import chain_policies
from reasoning.strategies.chains.plain import Plain


class Learner(Plain):
    """Plain decoding that notes what it read, and tells its problem's id."""

    def learns(self) -> bool:
        return True

    async def write(self, ctx: Any, prefix: Chain, n: int, until: Any) -> list[Chain]:
        ctx.trace.add("decision", ctx.path, heard=list(await ctx.read("names")))
        chains = await super().write(ctx, prefix, n, until)
        ctx.contribute("names", ctx.problem.id)
        return chains


def problem(name: str) -> Problem:
    return Problem(name, ({"role": "user", "content": name},))


def heard(solution: Any) -> list[str]:
    (event,) = solution.trace.of("decision")
    return list(event.data["heard"])


def test_round_r_sees_all_results_of_the_rounds_before_in_id_order() -> None:
    """However long each problem takes: what is read depends on rounds and ids only."""

    def script(prompt: str, key: int) -> Line:
        return Line("x" * (ord(prompt[0]) % 7 + 1), seconds=1.0)

    names = list("hgfedcba")
    solver = Solver({"policy": ScriptedEngine(script=script)}, chain_policy=Learner(), round_size=3)

    async def main() -> dict[str, list[str]]:
        return {s.problem: heard(s) async for s in solver.asolve_many(map(problem, names))}

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        found = runner.run(main())
    assert [found[name] for name in "hgf"] == [[], [], []]
    assert [found[name] for name in "edc"] == [list("fgh")] * 3
    assert [found[name] for name in "ba"] == [[*"fgh", *"cde"]] * 2


def test_a_failed_problem_contributes_nothing() -> None:
    from reasoning.errors import EngineError

    def script(prompt: str, key: int) -> Line:
        return Line("x", fault=EngineError("broke") if prompt.startswith("a") else None)

    solver = Solver({"policy": ScriptedEngine(script=script)}, chain_policy=Learner(), round_size=2)
    solutions = solver.solve_many(map(problem, "abc"))
    assert [s.status for s in solutions] == ["failed", "ok", "ok"]
    assert heard(solutions[2]) == ["b"]


def test_a_round_size_of_none_is_refused() -> None:
    from reasoning.errors import ConfigError

    with pytest.raises(ConfigError, match="round"):
        Solver({"policy": ScriptedEngine()}, round_size=0)


RECIPE = """
name: learning
task: {name: countdown, split: dev, numbers: 3, count: 7}
models: {policy: {model: scripted/x, script: ["answer 1+2", "no"]}}
chain_policy: learner
strategies: [single]
seeds: [0, 1]
round_size: 2
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.setitem(chain_policies._entries, "learner", Learner)
    path = tmp_path / "learning.yaml"
    path.write_text(RECIPE)
    return Recipe.load(path)


def listened(folder: Path) -> dict[tuple[int, str], Any]:
    return {(r["replicate"], r["problem"]): r["decisions"] for r in records.read([folder])}


@pytest.mark.parametrize("kept", [0, 1, 4, 9])
def test_what_was_learned_survives_an_interruption(
    recipe: Recipe, tmp_path: Path, kept: int
) -> None:
    """Whatever part of the results is lost, the continued run reads the same in every round, with
    the journal and without it."""
    whole = tmp_path / "whole"
    experiment.run_sync(recipe, whole)
    want = listened(whole)
    places = {p.id: i for i, p in enumerate(recipe.build_task().problems(7))}
    for (_, name), decisions in want.items():
        assert len(decisions[0]["heard"]) == places[name] // 2 * 2
    for journal in (True, False):
        folder = tmp_path / f"cut-{journal}"
        folder.mkdir()
        (folder / "recipe.json").write_text((whole / "recipe.json").read_text())
        (folder / "run.json").write_text((whole / "run.json").read_text())
        lines = (whole / records.RESULTS).read_bytes().splitlines(keepends=True)
        (folder / records.RESULTS).write_bytes(b"".join(lines[:kept]) + b'{"torn')
        if journal:
            (folder / "journal.jsonl").write_bytes((whole / "journal.jsonl").read_bytes())
        experiment.run_sync(recipe, folder)
        assert listened(folder) == want
