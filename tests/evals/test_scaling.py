"""Control, scaling and performance of s1 (fact 4.4.3)."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning.errors import ConfigError, DataError
from reasoning.evals import experiment, records
from reasoning.evals.scaling import control, lengths, main, performance, scaling
from reasoning.recipe import Recipe

RUNS = [(512.0, 0.2), (1024.0, 0.3), (2048.0, 0.5)]


def test_budget_forcing_4_4_3_by_hand() -> None:
    assert control([1, 2, 3, 4], 2, 3) == 0.5
    assert performance(RUNS) == 0.5
    slopes = [0.1 / 512, 0.2 / 1024, 0.3 / 1536]
    assert scaling(RUNS) == pytest.approx(sum(slopes) / 3)


@given(st.floats(-5, 5), st.floats(-1, 1), st.permutations([1.0, 2.0, 4.0, 9.0]))
def test_budget_forcing_4_4_3_the_scaling_of_a_line_is_its_slope(
    slope: float, start: float, lengths: list[float]
) -> None:
    runs = [(length, start + slope * length) for length in lengths]
    assert scaling(runs) == pytest.approx(slope, abs=1e-9)


def test_nothing_measured_is_an_error() -> None:
    for ask in (lambda: control([], 0, 1), lambda: performance([]), lambda: scaling(RUNS[:1])):
        with pytest.raises(ConfigError):
            ask()


RECIPE = """
name: forcing
task: {name: countdown, split: calibrate, numbers: 3, count: 3}
models: {policy: {model: scripted/policy, script: ["1+2=3 : 3\\nanswer 1+2\\n"]}}
sampling: {max_tokens: 60}
strategies: [{name: majority, n: 2}]
chain_policy:
  - plain
  - {label: max 6, name: budget_forcing, max_thinking: 6}
  - {label: max 30, name: budget_forcing, max_thinking: 30}
  - {label: ignore 1, name: budget_forcing, n_ignore: 1, wait: "wait "}
"""


def test_budget_forcing_4_4_3_a_run_s_thinking_is_counted_in_its_journal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    run = tmp_path / "forcing"
    experiment.run_sync(Recipe.load(tmp_path / "recipe.yaml"), run)
    labels = {r["configuration"]: r["label"].partition(" + ")[2] for r in records.read([run])}
    found = {labels[configuration]: sizes for configuration, sizes in lengths(run).items()}
    # The script thinks 10 characters; a script is counted from the prompt's end, so that behind
    # `wait ` it goes on where it was, and never ends its thinking again.
    assert found[""] == found["max 30"] == [10] * 6 and found["max 6"] == [6] * 6
    assert all(size > 10 for size in found["ignore 1"])
    document = tmp_path / "doc.md"
    document.write_text("<!-- table:scaling -->\n<!-- /table:scaling -->\n")
    main([str(run), "--into", str(document)])
    said = " ".join(capsys.readouterr().out.split())
    assert "control 100.0 %" in said and "points in 1,000 tokens" in said
    assert "| 6 | 6 | 6 | 100.0 |" in document.read_text()


def test_a_run_without_budget_forcing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE.partition("chain_policy")[0])
    experiment.run_sync(Recipe.load(tmp_path / "recipe.yaml"), tmp_path / "plain")
    with pytest.raises(DataError, match="no budget forcing"):
        main([str(tmp_path / "plain")])
