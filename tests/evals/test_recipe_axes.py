"""Recipes sweep sampling parameters and kinds of prompt, and records say what was used."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from reasoning import Problem
from reasoning.errors import ConfigError
from reasoning.evals import experiment, records
from reasoning.journal import digest
from reasoning.prompts import KINDS, instructed
from reasoning.recipe import Recipe, SamplingSpec

BASE: dict[str, Any] = {
    "name": "axes",
    "task": {"name": "countdown", "split": "dev", "numbers": 3, "count": 2},
    "models": {"policy": {"model": "scripted/texts", "script": ["answer 1+2", "answer 3"]}},
    "strategies": ["single"],
}


def labels(**settings: Any) -> list[str]:
    return [made.label for made in Recipe(**{**BASE, **settings}).configurations()]


def test_a_list_of_values_is_an_axis_and_labels_say_what_varies() -> None:
    assert labels(sampling={"temperature": [0.6, 1.0], "top_p": 0.9, "max_tokens": 20}) == [
        "single, temperature=0.6",
        "single, temperature=1.0",
    ]
    assert len(labels(sampling={"temperature": [0.6, 0.8, 1.0], "top_p": [0.8, 0.9]})) == 6
    assert (
        labels(sampling={"temperature": 0.7})
        == labels(sampling={"temperature": [0.7]})
        == ["single"]
    )


def test_mappings_stand_side_by_side_and_what_they_share_is_run_once() -> None:
    side_by_side = [
        {"temperature": [0.6, 0.8, 1.0], "top_p": 0.9},
        {"temperature": 0.8, "top_p": [0.8, 0.9, 1.0]},
    ]
    made = labels(sampling=side_by_side)
    assert len(made) == len(set(made)) == 5


def test_stop_strings_are_no_axis() -> None:
    (made,) = Recipe(**{**BASE, "sampling": {"stop": ["x", "y"]}}).configurations()
    assert made.sampling.stop == ("x", "y")


def test_a_configuration_is_named_as_it_was_before_there_were_axes() -> None:
    """Finished work is kept: what does not vary leaves the content hash as it was."""
    (one,) = Recipe(**{**BASE, "sampling": {"temperature": 0.7}}).configurations()
    axes = {"temperature": [0.5, 0.7], "top_p": [1.0]}
    made = Recipe(**{**BASE, "sampling": axes, "prompt": ["cot", "standard"]}).configurations()
    same = [c for c in made if digest(c.describe()) == digest(one.describe())]
    assert len(same) == 1 and same[0].label == "single, temperature=0.7"
    assert "prompt" not in one.describe()


def test_kinds_of_prompt_are_an_axis() -> None:
    assert labels(prompt=["standard", "cot"]) == ["single", "single, prompt=cot"]
    assert labels(prompt="reflect_cot") == ["single, prompt=reflect_cot"]


@pytest.mark.parametrize("system", [True, False])
def test_a_kind_of_prompt_is_an_instruction_in_the_system_message(system: bool) -> None:
    asked = ({"role": "user", "content": "q"},)
    messages = ({"role": "system", "content": "Be brief."}, *asked) if system else asked
    problem = Problem("p", messages)
    assert instructed(problem, "standard") is problem
    said = instructed(problem, "cot").messages
    before = "Be brief.\n" if system else ""
    assert said == ({"role": "system", "content": before + KINDS["cot"]}, *asked)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"prompt": "cod"}, "unknown prompt kind 'cod'; known are standard, cot"),
        ({"prompt": []}, "`prompt` is an empty list"),
        ({"sampling": []}, "sampling"),
        ({"sampling": {"temperature": []}}, "temperature is an empty list"),
        ({"sampling": {"temperature": [0.5, "hot"]}}, "temperature"),
        ({"sampling": {"temperature": [0.5, -1]}}, "temperature=-1"),
        ({"sampling": {"temprature": [0.5]}}, "temprature"),
        ({"sampling": ["hot"]}, "sampling"),
    ],
)
def test_what_is_wrong_is_said_when_the_recipe_is_read(
    tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    import yaml

    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**BASE, **settings}))
    with pytest.raises(ConfigError, match=words) as caught:
        Recipe.load(path)
    assert "\n" not in str(caught.value)


LOCAL = {"policy": "local/countdown-draft", "prm": "local/countdown-prm"}
PRM = {"verifier": {"name": "prm", "model": "prm"}}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"models": LOCAL, "verifiers": {"verifier": {"name": "prm", "model": "policy"}}},
            "needs pool, which engine local/countdown-draft",
        ),
        ({"models": {**LOCAL, "policy": LOCAL["prm"]}, "verifiers": PRM}, "single needs sample"),
        (
            {"models": {"policy": "recorded/recorded.jsonl"}, "sampling": {"logprobs": 1}},
            "a recipe with `logprobs` needs logprobs, which engine recorded/",
        ),
        (
            {"models": {**LOCAL, "drat": LOCAL["policy"]}, "verifiers": PRM},
            "nothing uses the model in role 'drat'; the roles in use are policy, prm",
        ),
        ({"models": LOCAL}, "nothing uses the model in role 'prm'; the roles in use are policy"),
        (
            {
                "models": {**LOCAL, "draft": LOCAL["policy"]},
                "strategies": [{"name": "auto", "candidates": ["single", "deep_conf"]}],
                "chain_policy": {"name": "atts", "rho": 0.5},
            },
            "strategy deep_conf reads the log-probabilities of every token, which chain policy "
            "atts does",
        ),
        (
            {
                "models": {"policy": "recorded/recorded.jsonl"},
                "strategies": [{"name": "auto", "candidates": ["single", "deep_conf_online"]}],
            },
            "strategy deep_conf_online needs .*logprobs",
        ),
    ],
)
def test_what_no_engine_can_do_and_nothing_uses_is_said_when_the_recipe_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recorded.jsonl").touch()
    Path("recipe.json").write_text(json.dumps({**BASE, **settings}))
    with pytest.raises(ConfigError, match=words) as caught:
        Recipe.load("recipe.json")
    assert "\n" not in str(caught.value)


def test_a_server_is_asked_what_it_can_do_when_it_is_met() -> None:
    server = {"model": "openai/m", "base_url": "http://localhost:1/v1"}
    assert labels(models={"policy": server, "prm": server}, verifiers=PRM) == ["single"]


def test_a_role_that_a_strategys_setting_names_is_in_use() -> None:
    strategy = {"name": "dora", "embedder": "draft"}
    models = {**LOCAL, "draft": LOCAL["policy"]}
    assert labels(models=models, verifiers=PRM, strategies=[strategy])


def test_tricks_5_4_8_records_say_temperature_top_p_and_prompt(tmp_path: Path) -> None:
    recipe = Recipe(
        **{**BASE, "sampling": {"temperature": [0.6, 1.0], "top_p": 0.9}},
        prompt=["standard", "cot"],
    )
    asyncio.run(experiment.run(recipe, tmp_path / "run"))
    found = list(records.read([tmp_path / "run"]))
    assert len(found) == 2 * 4 and len({record["configuration"] for record in found}) == 4
    told = {(r["prompt"], r["sampling"]["temperature"], r["sampling"]["top_p"]) for r in found}
    assert told == {(p, t, 0.9) for p in ("standard", "cot") for t in (0.6, 1.0)}


def test_a_recipe_made_in_python_takes_specs() -> None:
    (made,) = Recipe(**{**BASE, "sampling": [SamplingSpec(temperature=0.3)]}).configurations()
    assert made.sampling.temperature == 0.3
