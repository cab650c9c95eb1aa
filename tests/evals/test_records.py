"""Records: what of a solution a run keeps."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from reasoning.budget import Usage
from reasoning.cli import app
from reasoning.engines.scripted import VirtualTimeLoop
from reasoning.evals import experiment, records, table
from reasoning.evals.grading import Grade, Outcome
from reasoning.problem import Problem, Solution
from reasoning.recipe import Recipe
from reasoning.trace import Trace

RECIPE = """
name: told
task: {name: countdown, split: dev, numbers: 3, count: 2}
models: {policy: {model: scripted/texts, script: ["answer 1+2"]}}
sampling: {max_tokens: 15}
strategies: [single, {name: early_stopping, n: 9, window: 3}]
"""


def recipe(folder: Path) -> Recipe:
    (folder / "recipe.yaml").write_text(RECIPE)
    return Recipe.load(folder / "recipe.yaml")


def record(folder: Path, meta: dict[str, Any]) -> dict[str, Any]:
    solution = Solution("p", "3", "answer 3", "ok", Usage(tokens=9), Trace(), meta=meta)
    (configuration, _) = recipe(folder).configurations()
    problem = Problem("p", ({"role": "user", "content": "q"},))
    return records.record("r", "id", configuration, problem, 0, solution, Grade(Outcome.correct))


def test_a_record_holds_what_the_strategy_says(tmp_path: Path) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(experiment.run(recipe(tmp_path), tmp_path / "run"))
    told = {r["strategy"]: r.get("meta") for r in records.read([tmp_path / "run"])}
    assert told == {"single": None, "early_stopping": {"drawn": 3}}


def test_what_is_no_json_is_left_out(tmp_path: Path) -> None:
    meta = {"score": 0.5, "tree": [1, {"a": None}], "chain": object(), "nan": math.nan}
    kept = record(tmp_path, meta)
    assert kept["meta"] == {"score": 0.5, "tree": [1, {"a": None}]}
    assert json.dumps(kept, allow_nan=False)
    assert "meta" not in record(tmp_path, {"chain": object()})


@pytest.mark.parametrize("meta", [{}, {"clamped_rewards": 2}])
def test_records_with_and_without_it_are_read(tmp_path: Path, meta: dict[str, Any]) -> None:
    kept = record(tmp_path, meta)
    (tmp_path / records.RESULTS).write_text(json.dumps(kept) + "\n")
    (found,) = records.read([tmp_path])
    assert found.get("meta", {}) == meta and table.Record(**found).grade == "correct"


def test_tables_hold_what_the_recipe_asked_for_last(tmp_path: Path) -> None:
    path, run = tmp_path / "recipe.yaml", tmp_path / "run"
    for text in (RECIPE, RECIPE.replace("n: 9", "n: 8")):
        path.write_text(text)
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(experiment.run(Recipe.load(path), run))
    kept = [r["settings"].get("n") for r in records.read([run]) if r["settings"].get("n")]
    assert sorted(kept) == [8, 8, 9, 9]
    asked = [(r["strategy"], r["settings"].get("n")) for r in records.current([run])]
    assert sorted(asked) == [("early_stopping", 8)] * 2 + [("single", None)] * 2

    def said(*given: str) -> str:
        return CliRunner().invoke(app, ["table", str(run), *given]).stdout

    assert "2 records of what the recipe no longer asks for" in said() and "n=9" not in said()
    assert "n=9" in said("--former") and "no longer" not in said("--former")


@pytest.mark.parametrize("header", [None, "", "[]", '{"sittings": []}', '{"sittings": [{}]}'])
def test_where_no_header_says_what_was_asked_tables_hold_all(
    tmp_path: Path, header: str | None
) -> None:
    (tmp_path / records.RESULTS).write_text(json.dumps(record(tmp_path, {})) + "\n")
    if header is not None:
        (tmp_path / "run.json").write_text(header)
    assert len(list(records.current([tmp_path]))) == 1
