"""Reports and bank files of ATTS, and makespans in virtual time (the fact 3.8.11)."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest

from reasoning.engines.local import LocalEngine
from reasoning.errors import ConfigError, DataError
from reasoning.evals import atts, experiment, makespan, records
from reasoning.evals.makespan import Play, Times
from reasoning.recipe import Recipe
from reasoning.strategies.chains.banks import BankFile

RECIPE = """
name: chunks
task: {name: countdown, split: calibrate, numbers: 3, count: 24}
models:
  policy: {model: scripted/target, script: [aaaaaaaaaaaa, bbbbbbbbbbbb]}
  draft: {model: scripted/draft, script: [cccccccccccc, dddddddddddd]}
strategies: [{name: majority, n: 4}]
round_size: 6
chain_policy:
  - {label: online, name: atts, rho: 0.25, draft_tokens: 3, target_tokens: 1, turns: 3}
  - {label: barrier, name: atts_sync, rho: 0.25, draft_tokens: 3, target_tokens: 1, turns: 3}
  - plain
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    (folder / "recipe.yaml").write_text(RECIPE)
    experiment.run_sync(Recipe.load(folder / "recipe.yaml"), folder / "chunks")
    return folder / "chunks"


def test_a_report_has_a_row_for_each_turn_and_one_for_all(run: Path) -> None:
    rows = atts.report(records.read([run]))
    assert [(row.label.partition(" + ")[2], row.turn) for row in rows] == [
        (label, turn) for label in ("online", "barrier") for turn in (0, 1, 2, None)
    ]
    online, barrier = rows[3], rows[7]
    assert online.chunks == barrier.chunks == 24 * 4 * 3
    # Banks of turns 0..2 hold 24 losses a round from the second round on: enough is 16.
    assert online.coin == 6 * 4 * 3
    assert online.interval is not None and online.interval[0] <= online.nominal
    # Every loss is equal here, so that luck alone decides, with the exact probability.
    assert online.within and abs(online.rate - online.nominal) < 0.12
    assert barrier.rate == 0.25 and barrier.interval is None and barrier.within is None
    # Without the coins, and how large the banks were that decided.
    decided = [
        d
        for record in records.read([run])
        for d in record.get("decisions", ())
        if d["p"] is not None and record["chain_policy"]["name"] == "atts"
    ]
    assert online.bank_rate == sum(d["takeover"] for d in decided) / len(decided)
    assert len(decided) == online.chunks - online.coin and online.sizes == (24, 72)
    assert barrier.bank_rate is None and barrier.sizes is None


def test_a_document_has_the_rows_of_turns_too(run: Path, tmp_path: Path) -> None:
    document = tmp_path / "doc.md"
    document.write_text("<!-- table:atts -->\n<!-- /table:atts -->\n")
    atts.main(["report", str(run), "--into", str(document)])
    cells = [line.split("|")[1:3] for line in document.read_text().splitlines() if "|" in line][2:]
    assert [turn.strip() for _, turn in cells] == ["0", "1", "2", "all"] * 2
    named = [label.strip() for label, _ in cells]
    assert named[0].endswith("online") and named[4].endswith("barrier")
    assert named[1:4] == named[5:] == ["", "", ""]


def test_rows_outside_their_interval_are_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    atts.main(["report", str(run)])
    assert "all rows are within" in capsys.readouterr().out
    lines = (run / records.RESULTS).read_text().splitlines()
    found = [json.loads(line) for line in lines]
    for record in found:
        for decision in record.get("decisions", ()):
            decision["takeover"] |= decision["turn"] == 2
    (tmp_path / "drifted.jsonl").write_text("".join(json.dumps(r) + "\n" for r in found))
    atts.main(["report", str(tmp_path / "drifted.jsonl")])
    said = capsys.readouterr().out.replace("\n", " ")
    outside = said.partition("outside their interval: ")[2]
    assert "online, turn 2" in outside and "turn 0" not in outside and "barrier" not in outside


def test_a_bank_file_of_a_run_can_be_frozen(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "bank.json"
    atts.main(["bank", str(run), "--out", str(path)])
    made = BankFile.load(path)
    assert len(made.turns[0]) == 24 * 4
    # Later turns count only behind decisions of a bank: not those of the first round.
    assert [len(turn) for turn in made.turns[1:]] == [18 * 4, 18 * 4]
    assert made.models == {"policy": "scripted/target", "draft": "scripted/draft"}
    assert made.split == "calibrate" and made.rho == 0.25 and made.draft_tokens == 3
    frozen = {"name": "atts", "rho": 0.25, "draft_tokens": 3, "target_tokens": 1, "turns": 3}
    frozen |= {"calibration": "frozen", "file": str(path)}
    text = RECIPE.partition("chain_policy:")[0] + f"chain_policy: {json.dumps(frozen)}\n"
    (tmp_path / "frozen.yaml").write_text(text.replace("name: chunks", "name: frozen"))
    recipe = Recipe.load(tmp_path / "frozen.yaml")
    experiment.run_sync(recipe, tmp_path / "frozen")
    rows = atts.report(records.read([tmp_path / "frozen"]))
    assert [row.coin for row in rows] == [0] * 4
    banks = {d["bank"] for r in records.read([tmp_path / "frozen"]) for d in r["decisions"]}
    assert banks == {96, 72}
    assert [row.sizes for row in rows] == [(96, 96), (72, 72), (72, 72), (72, 96)]
    with pytest.raises(ConfigError, match="draft_tokens"):
        (tmp_path / "other.yaml").write_text(text.replace('"draft_tokens": 3', '"draft_tokens": 4'))
        Recipe.load(tmp_path / "other.yaml")


def test_the_calibrated_recipe_is_right_once_there_is_a_bank(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(__file__).parents[2] / "recipes"
    monkeypatch.chdir(tmp_path)
    recipe = folder / "calibrated" / "countdown_atts.yaml"
    with pytest.raises(DataError, match="bank` writes one"):
        Recipe.load(recipe).configurations()
    made = atts.bank(run).model_dump()
    made |= {"models": {"policy": "local/countdown-policy", "draft": "local/countdown-draft"}}
    made |= {"draft_tokens": 32, "weights": {}}
    calibration = Recipe.load(folder / "countdown_atts_calibrate.yaml").configurations()[0]
    made["sampling"] = {name: getattr(calibration.sampling, name) for name in atts.SAMPLING}
    (tmp_path / "runs").mkdir()
    BankFile(**made).save(tmp_path / "runs" / "atts-bank.json")
    online = {c.label for c in Recipe.load(folder / "countdown_atts.yaml").configurations()}
    frozen = {c.label for c in Recipe.load(recipe).configurations()}
    assert {f"{label}, frozen" for label in online} >= frozen and len(frozen) == 2


def test_turns_that_share_a_frozen_bank_are_one_group() -> None:
    def record(problem: int, calibration: str) -> dict[str, Any]:
        told = {"loss": 1.0, "p": 0.5, "bank": 40, "takeover": problem % 2 == 0}
        return {
            "label": "l",
            "problem": f"p{problem}",
            "replicate": 0,
            "chain_policy": {
                "name": "atts", "rho": 0.4, "bank": "per_turn", "calibration": calibration
            },
            "decisions": [{**told, "turn": turn} for turn in range(8)],
        }  # fmt: skip

    widths = []
    for calibration in ("frozen", "online"):
        row = atts.report([record(problem, calibration) for problem in range(20)])[-1]
        assert row.interval is not None
        widths.append(row.interval[1] - row.interval[0])
    assert widths[1] < 0.7 * widths[0]


def test_runs_without_atts_are_refused(run: Path, tmp_path: Path) -> None:
    plain = [r for r in records.read([run]) if r["chain_policy"]["name"] == "plain"]
    (tmp_path / records.RESULTS).write_text("".join(json.dumps(r) + "\n" for r in plain))
    with pytest.raises(DataError, match="no record"):
        atts.main(["report", str(tmp_path)])
    with pytest.raises(DataError, match="no configurations"):
        atts.bank(tmp_path)
    with pytest.raises(DataError, match="there are: majority"):
        atts.bank(run, "another")
    broken = [{**plain[0], "chain_policy": {"name": "atts", "rho": 0.5}, "decisions": [{"a": 1}]}]
    with pytest.raises(DataError, match="holds no ATTS decision"):
        atts.report(broken)


def test_a_question_s_own_banks_are_told_apart() -> None:
    """Ten questions with a bank of 16 each vary less than 160 chunks that share one."""

    def record(problem: int, kind: str) -> dict[str, Any]:
        told = {"turn": 0, "loss": 1.0, "p": 0.5, "bank": 16, "takeover": problem % 2 == 0}
        return {
            "label": "l",
            "problem": f"p{problem}",
            "replicate": 0,
            "chain_policy": {"name": "atts", "rho": 0.4, "bank": kind},
            "decisions": [told] * 16,
        }

    widths = []
    for kind in ("marginal", "per_question"):
        row = atts.report([record(problem, kind) for problem in range(10)])[-1]
        assert row.interval is not None
        widths.append(row.interval[1] - row.interval[0])
    assert widths[1] < 0.6 * widths[0]


# 3.8.11: makespans.


def spread(variance: float) -> Times:
    """Chunk times of mean 1 s, uniform in 1 +- variance."""
    rng = random.Random(7)

    def some() -> list[float]:
        return [1 + variance * rng.uniform(-1, 1) for _ in range(500)]

    return Times(draft=some(), verify=[0.1], target=some())


def gap(chains: int, turns: int, variance: float) -> float:
    """Mean of sync - async seconds; with rho 1 both have the same chunks, of the same times."""
    played, times = Play(chains, turns, rho=1.0), spread(variance)
    pairs = [
        (played.makespan("atts", times, seed), played.makespan("atts_sync", times, seed))
        for seed in range(3)
    ]
    assert all(async_ <= sync + 1e-9 for async_, sync in pairs)
    return sum(sync - async_ for async_, sync in pairs) / len(pairs)


def test_3_8_11_async_is_never_slower_for_identical_service_times() -> None:
    assert gap(1, 6, 0.9) == pytest.approx(0, abs=1e-9)
    assert gap(6, 6, 0.0) == pytest.approx(0, abs=1e-9)
    assert 0 < gap(6, 6, 0.3) < gap(6, 6, 0.9)
    assert gap(6, 2, 0.9) < gap(6, 6, 0.9) < gap(6, 10, 0.9)


def test_3_8_11_slots_bound_what_is_worked_on_at_once() -> None:
    times = spread(0.5)
    free = Play(8, 3, rho=1.0).makespan("atts", times)
    bound = Play(8, 3, rho=1.0, draft_slots=2, target_slots=2).makespan("atts", times)
    # 8 chains of 3 turns: 24 chunks of each model in two slots.
    assert bound > 11 > free


def test_a_bank_decides_in_a_played_run(tmp_path: Path) -> None:
    """Losses that are those of the bank: the rate is rho, as by coins, but by ranks."""
    losses: list[list[float | None]] = [[0.01 * i for i in range(1, 100)], [1.5, None]]
    bank = BankFile(
        models={"policy": "local/a"}, draft_tokens=32, sampling={}, rho=0.25, task="t", split="s",
        turns=losses,
    )  # fmt: skip
    bank.save(tmp_path / "bank.json")
    times = spread(0.5)
    banked = [Play(8, 10, bank=tmp_path / "bank.json").played("atts", times, s) for s in range(5)]
    coins = [Play(8, 10).played("atts", times, seed) for seed in range(5)]
    assert banked != coins
    for made in (banked, coins):
        # 400 decisions: 0.25 within 4 standard deviations.
        assert sum(one.takeovers for one in made) / 400 == pytest.approx(0.25, abs=0.09)
    barrier = Play(8, 10, bank=tmp_path / "bank.json").played("atts_sync", times)
    assert barrier.takeovers == 20


def test_chunk_times_are_measured_and_played(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def measured() -> Times:
        async with LocalEngine("countdown-policy") as model:
            return await makespan.measure(model, model, chunks=6, draft_tokens=4, target_tokens=4)

    times = asyncio.run(measured())
    assert len(times.draft) >= 6 and min(times.draft + times.verify + times.target) > 0
    path = tmp_path / "times.json"
    path.write_text(times.model_dump_json())
    makespan.main(["play", str(path), "--chains", "2", "--turns", "3", "--repeats", "2"])
    said = " ".join(capsys.readouterr().out.split())
    assert "takeovers" in said and "rho 0.25, 3 turns" in said and "coins decide" in said
    one = {"--policy": "local/countdown-policy", "--draft": "local/countdown-policy"}
    chosen = [part for pair in one.items() for part in pair]
    makespan.main(["real", *chosen, "--chains", "2", "--turns", "2", "--repeats", "1"])
    assert "wall-clock seconds" in capsys.readouterr().out
    made = {"models": {"policy": one["--policy"], "draft": one["--draft"]}, "draft_tokens": 32}
    sampling = {"temperature": 0.6, "top_p": 1.0, "top_k": 0, "min_p": 0.0}
    losses = [[0.1 * i for i in range(20)]]
    bank = BankFile(**made, sampling=sampling, rho=0.5, task="t", split="s", turns=losses)
    bank.save(tmp_path / "bank.json")
    small = ["--chains", "2", "--turns", "2", "--repeats", "1", "--rho", "0.5"]
    makespan.main(["real", *chosen, *small, "--bank", str(tmp_path / "bank.json")])
    assert "frozen bank" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(DataError, match="measure"):
        Times.load(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="chains"):
        Play(0).makespan("atts", times)
