"""The demo and the README's example, as a newcomer runs them."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from reasoning.recipe import Recipe

README = Path(__file__).parents[1] / "README.md"
RECIPES = README.parent / "recipes"


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, capture_output=True, text=True, timeout=500
    )


def test_the_demo_keeps_its_budget_and_goes_on_where_it_was(tmp_path: Path) -> None:
    first = run("-m", "reasoning.demo", "--count", "6", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "expected 30 = " in first.stdout and "0 failed + 0 skipped" in first.stdout
    folder = tmp_path / "runs" / "demo"
    assert (folder / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    results = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert len(results) == 30
    for result in results:
        assert result["usage"]["tokens"] <= 6000
    header = json.loads((folder / "run.json").read_text())
    assert header["sittings"][0]["hardware"]["cores"]
    again = run("-m", "reasoning.demo", "--count", "6", cwd=tmp_path)
    assert again.returncode == 0 and len((folder / "results.jsonl").read_text().splitlines()) == 30


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "interrupted; run it again"),
        (OSError(28, "No space left on device"), 1, "error: [Errno 28] No space left on device"),
        (ZeroDivisionError("x"), 1, "error: a bug, ZeroDivisionError: x; --debug shows where"),
    ],
)
def test_what_ends_the_demo_is_one_line(
    raised: BaseException,
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*arguments: object) -> None:
        raise raised

    monkeypatch.setattr("reasoning.evals.experiment.run_sync", fail)
    monkeypatch.delitem(sys.modules, "reasoning.demo", raising=False)
    monkeypatch.setattr(sys, "argv", ["demo"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("reasoning.demo", run_name="__main__")
    assert (ended.value.code, capsys.readouterr().err) == (code, f"{words}\n")
    monkeypatch.setattr(sys, "argv", ["demo", "--debug"])
    with pytest.raises(SystemExit if code == 130 else type(raised)):
        runpy.run_module("reasoning.demo", run_name="__main__")


def test_the_readmes_example_runs(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(import reasoning\n.*?)```", README.read_text(), re.DOTALL)
    done = run("-c", example, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r" (ok|budget) \d+$", done.stdout.strip()), done.stdout


def test_the_readmes_recipe_is_right(tmp_path: Path) -> None:
    (recipe,) = re.findall(r"```yaml\n(name:.*?)```", README.read_text(), re.DOTALL)
    (tmp_path / "recipe.yaml").write_text(recipe)
    done = run("-m", "reasoning.cli", "validate", "recipe.yaml", cwd=tmp_path)
    assert done.returncode == 0 and "the recipe is right" in done.stdout, done.stderr


@pytest.mark.parametrize("recipe", sorted(path.name for path in RECIPES.glob("*.yaml")))
def test_every_recipe_is_right(
    recipe: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("transcripts_math100x16.jsonl.gz", "math500.jsonl"):
        (tmp_path / name).touch()
    monkeypatch.setenv("REASONING_DATA", str(tmp_path))
    monkeypatch.chdir(README.parent)
    assert Recipe.load(RECIPES / recipe).configurations()


def test_the_shipped_model_says_what_it_solves(tmp_path: Path) -> None:
    done = run("-m", "reasoning.cli", "solve", "What is the capital of France?", cwd=tmp_path)
    assert done.returncode == 1 and "solves Countdown only" in done.stderr
    assert done.stderr.count("\n") == 1
    debug = run("-m", "reasoning.cli", "--debug", "solve", "What is 2+2?", cwd=tmp_path)
    assert debug.returncode != 0 and "Traceback" in debug.stderr
