"""`reasoning check-prm`: what it finds right, and what it finds wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the extra `local` is not installed")

from typer.testing import CliRunner

from reasoning import cli
from reasoning.engines.local import LocalEngine
from reasoning.engines.scripted import ScriptedEngine
from reasoning.errors import ConfigError
from reasoning.verifiers.check_prm import FORMATS, check, detect

STANDINS = ["qwen_prm", "math_shepherd", "rlhflow_prm", "skywork_prm", "value_head", "outcome"]


@pytest.mark.parametrize("name", STANDINS)
async def test_each_format_is_told_and_passes(name: str, standin_folder: Path) -> None:
    async with LocalEngine(str(standin_folder / name), threads=1) as engine:
        assert detect(engine) == name
        checks = await check(engine)
    assert [line for line in checks if line.state == "failed"] == []
    # The note of the formats that are read from the vocabulary is the only one.
    notes = [line.name for line in checks if line.state == "note"]
    assert notes == (["mass on the answers"] if name in ("math_shepherd", "rlhflow_prm") else [])


async def test_the_shipped_model_passes() -> None:
    async with LocalEngine("countdown-prm", threads=1) as engine:
        assert detect(engine) == "prm"
        checks = await check(engine)
    assert all(line.state == "ok" for line in checks)
    (growing,) = (line for line in checks if line.name == "growing path")
    assert "67 of 68 tokens cached" in growing.found


@pytest.mark.parametrize(
    ("model", "format_", "failed"),
    [
        ("value_head", "qwen_prm", "markers"),  # no such marker in its tokenizer
        ("value_head", "rlhflow_prm", "capabilities"),  # it has no vocabulary to answer from
        ("math_shepherd", "qwen_prm", "capabilities"),  # it has no reward head
    ],
)
def test_a_wrong_format_fails_and_says_where(
    model: str, format_: str, failed: str, standin_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    run = CliRunner().invoke(
        cli.app, ["check-prm", str(standin_folder / model), "--format", format_]
    )
    assert run.exit_code != 0
    assert f"failed: {failed}" in str(run.exception)


def test_a_broken_head_fails(standin_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "broken"
    shutil.copytree(standin_folder / "value_head", folder)
    weights = load_file(folder / "model.safetensors")
    weights["score.weight"] *= float("nan")
    save_file(weights, folder / "model.safetensors")
    run = CliRunner().invoke(cli.app, ["check-prm", f"local/{folder}"])
    assert run.exit_code != 0 and "range" in str(run.exception)


def test_a_head_that_says_the_same_of_everything_fails(
    standin_folder: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "constant"
    shutil.copytree(standin_folder / "value_head", folder)
    weights = load_file(folder / "model.safetensors")
    weights["score.weight"] *= 0
    save_file(weights, folder / "model.safetensors")
    run = CliRunner().invoke(cli.app, ["check-prm", str(folder)])
    assert "scores differ" in str(run.exception)


def test_the_report_of_a_good_model(standin_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.console, "_width", 200)
    run = CliRunner().invoke(cli.app, ["check-prm", str(standin_folder / "qwen_prm")])
    assert run.exit_code == 0
    for title in ("one score a step", "range", "trailing separator", "determinism"):
        assert title in run.output
    assert "failed" not in run.output


async def test_what_cannot_be_told_must_be_given() -> None:
    async with ScriptedEngine(rewards=lambda text: 0.5) as engine:
        with pytest.raises(ConfigError, match="--format"):
            detect(engine)
        with pytest.raises(ConfigError, match="qwen_prm"):
            await check(engine, "qwen")
    assert "prm" in FORMATS
