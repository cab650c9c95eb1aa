"""Recipes that compose a chain policy and a strategy, on the shipped models."""

import json
from pathlib import Path

import pytest
import yaml

from reasoning.evals import experiment, records
from reasoning.recipe import Recipe

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize(
    "name, policies",
    [
        ("countdown_composed", {"plain", "trimr", "budget_forcing"}),
        ("countdown_composed_search", {"plain", "spec_reason"}),
    ],
)
def test_policies_and_strategies_compose(tmp_path: Path, name: str, policies: set[str]) -> None:
    given = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    assert given["task"]["split"] == "dev" and given["task"]["count"] == 100
    given["task"]["count"] = 2
    (tmp_path / "recipe.yaml").write_text(json.dumps(given))
    experiment.run_sync(Recipe.load(tmp_path / "recipe.yaml"), tmp_path / "run")
    found = list(records.read([tmp_path / "run"]))
    assert {record["chain_policy"]["name"] for record in found} == policies
    for record in found:
        assert record["grade"] in ("correct", "wrong")
        assert record["roles"]["verifier"]["verifier_passes"] > 0
        if record["chain_policy"]["name"] == "spec_reason":
            assert record["roles"]["draft"]["tokens"] > 0
    if name == "countdown_composed":
        whole, trimmed, forced = (
            sum(r["usage"]["tokens"] for r in found if r["chain_policy"]["name"] == policy)
            for policy in ("plain", "trimr", "budget_forcing")
        )
        assert forced <= trimmed <= whole
