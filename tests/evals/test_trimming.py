"""The table of trimmed recordings: halves, kinds of chains, and what is saved."""

import asyncio
import gzip
import json
import os
from pathlib import Path

import pytest

from reasoning.errors import ConfigError, DataError
from reasoning.evals import trimming
from reasoning.evals.statistics import Estimate
from reasoning.evals.transcripts import Transcripts
from reasoning.evals.trimming import Row, Written
from reasoning.recipe import Recipe

AGREE = "We add. So the answer is 7.\n\nWait, again. So the answer is 7.\n\nBut then 7. "
LONG = " ".join(f"Then comes case {number}, which is {number**3} long." for number in range(20))
RECIPE = Path(__file__).parents[2] / "recipes" / "transcripts_trimming.yaml"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four problems, two samples each: one comes to its answer, one goes on without."""
    monkeypatch.setenv("REASONING_DATA", str(tmp_path))
    with (tmp_path / "math500.jsonl").open("w") as file:
        for index in range(6):
            row = {"unique_id": f"test/{index}", "problem": f"What is {index}?", "answer": "7"}
            file.write(json.dumps(row) + "\n")
    texts = {0: f"{AGREE}{LONG}</think>\\boxed{{7}}", 1: f"No idea. {LONG}"}
    with gzip.open(tmp_path / "samples.jsonl.gz", "wt") as file:
        for index in range(4):
            for sample, text in texts.items():
                answer = "7" if sample == 0 else "invalid"
                turns = [{"text": text[:50]}, {"text": text[50:]}]
                line = {"unique_id": f"test/{index}", "sample": sample, "turns": turns}
                file.write(json.dumps(line | {"recorded_answer": answer}) + "\n")
    return tmp_path


def test_the_halves_are_disjoint_and_all(data: Path) -> None:
    halves = [
        {p.id for p in Transcripts(half=half, recording="samples.jsonl.gz").problems()}
        for half in ("tune", "report")
    ]
    assert len(halves[0]) == len(halves[1]) == 2 and not halves[0] & halves[1]
    with pytest.raises(DataError, match="No such file"):
        Transcripts(recording="other.jsonl.gz").problems()


def test_a_recipe_is_run_and_every_chain_compared_with_itself(data: Path) -> None:
    text = RECIPE.read_text().replace("transcripts_math100x16.jsonl.gz", "samples.jsonl.gz")
    text = text.replace("half: report}", "half: report, recording: samples.jsonl.gz}")
    text = text.replace("m: 2, n_send: 200, min_thought: 32", "m: 1, n_send: 10, min_thought: 0")
    text = text.replace("majority: 5", "majority: 3")
    text = text.replace(", 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15", "")
    (data / "recipe.yaml").write_text(text)
    recipe = Recipe.load(data / "recipe.yaml")
    task = recipe.build_task()
    chains = asyncio.run(trimming.written(recipe, task, lambda text: len(text.split())))
    made = {(row.label, row.kind): row for row in trimming.rows(chains)}
    plain = made["single", "all"]
    assert plain.chains == 4 and plain.acted == 0 and plain.characters.value == 1.0
    assert plain.accuracy.value == 0.5 and plain.difference.value == 0.0
    # The chain that agrees with itself is cut behind its second thought, and stays right.
    ours = made["single + TrimR M=2", "with answer"]
    assert ours.acted == 1.0 and ours.difference.value == 0.0
    assert ours.characters.value < 0.3 and ours.tokens.value < 0.3
    assert made["single + TrimR M=2", "without answer"].acted == 0.0
    assert "TrimR M=2" in str(list(trimming.table(list(made.values()), "t").columns[0].cells))


def test_questions_are_resampled_and_kinds_told_apart() -> None:
    def chain(label: str, problem: int, right: bool, size: float, answered: bool) -> Written:
        return Written(f"p{problem}", label, right, size, size / 4, label == "ours", answered)

    chains = []
    for problem in range(8):
        for answered in (True, False):
            chains.append(chain("plain", problem, answered, 100.0, answered))
            chains.append(chain("ours", problem, answered, 40.0 + problem, answered))
    made = {(row.label, row.kind): row for row in trimming.rows(chains)}
    ours = made["ours", "all"]
    assert ours.characters.value == pytest.approx(0.435)
    assert ours.characters.low < 0.435 < ours.characters.high
    assert made["ours", "with answer"].accuracy.value == 1.0
    assert made["ours", "without answer"].accuracy.value == 0.0


def test_the_policy_that_saves_most_within_the_loss_is_chosen() -> None:
    def row(label: str, loss: float, share: float, kind: str = "all") -> Row:
        gone, kept = Estimate(-loss, -loss, -loss), Estimate(share, share, share)
        return Row(label, kind, 9, 0.5, gone, gone, kept, kept)

    made = [row("plain", 0, 1), row("a", 0.02, 0.5), row("b", 0.017, 0.7), row("c", 0.001, 0.8)]
    made.append(row("d", 0, 0.1, "without answer"))
    assert [trimming.chosen(made, points).label for points in (0, 0.1, 1.7, 2, 5)] == [
        "plain", "c", "b", "a", "a"
    ]  # fmt: skip


def test_another_task_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text("name: x\ntask: countdown\nmodels: {policy: scripted/}\nstrategies: [single]\n")
    with pytest.raises(ConfigError, match="transcripts"):
        trimming.main([str(path)])


def test_real_transcripts_are_trimmed() -> None:
    if not os.environ.get("REASONING_DATA"):
        pytest.skip("REASONING_DATA is not set: no recorded transcripts")
    recipe = Recipe.load(RECIPE).model_copy(
        update={"seeds": [0, 1], "task": {"name": "transcripts", "half": "tune", "count": 3}}
    )
    task = recipe.build_task()
    chains = asyncio.run(trimming.written(recipe, task, lambda text: 0))
    made = {(row.label, row.kind): row for row in trimming.rows(chains)}
    assert made["single", "all"].chains == 6
    cut = made["single + budget forcing 8000", "all"]
    assert cut.characters.value <= 1.0
