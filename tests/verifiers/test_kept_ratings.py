"""Ratings are kept by content: asked once, charged in full each time, never across what matters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from reasoning import Budget, Problem, Solver
from reasoning.engines.base import PoolReply
from reasoning.engines.scripted import ScriptedEngine

PROBLEM = Problem("p", ({"role": "user", "content": "q"},), step="\n")


class Counting(ScriptedEngine):
    """Rewards by length; counts what it was asked, and fails for what it is told to."""

    def __init__(self, model: str = "prm", poison: str | None = None) -> None:
        super().__init__(model, rewards=lambda text: len(text) / 100)
        self.asked: list[str] = []
        self.poison = poison

    async def pool(self, ids: Sequence[int], positions: Sequence[int]) -> PoolReply:
        text = self.tokenizer.decode(ids)
        self.asked.append(text)
        reply = await super().pool(ids, positions)
        bad = self.poison is not None and self.poison in text
        return PoolReply((float("nan"),) * len(positions), reply.usage) if bad else reply


def solve(
    run: Path, prm: ScriptedEngine, n: int, problem: Problem = PROBLEM, **settings: Any
) -> Any:
    verifier = {"name": "prm", "model": "prm"} | settings.pop("verifier", {})
    return Solver(
        {"policy": ScriptedEngine(script=["a\nb", "cc\ndd", "eee"]), "prm": prm},
        strategy={"name": "best_of_n", "n": n},
        verifiers={"verifier": verifier},
        run=run,
        **settings,
    ).solve(problem)


def test_a_sweep_rates_a_chain_once_and_charges_it_each_time(tmp_path: Path) -> None:
    prm = Counting()
    small = solve(tmp_path, prm, 4)
    assert len(prm.asked) == small.usage.verifier_passes == 4
    large = solve(tmp_path, prm, 8)
    alone = solve(tmp_path / "alone", Counting(), 8)
    assert large.usage.verifier_passes == alone.usage.verifier_passes == 8
    assert large.usage.verifier_prefill == alone.usage.verifier_prefill
    assert large.usage.verifier_reused >= 4 and small.usage.verifier_reused == 0
    assert len(prm.asked) == 4 + 8 - large.usage.verifier_reused
    assert large.answer == alone.answer and large.text == alone.text


def test_a_reused_rating_counts_against_its_cap(tmp_path: Path) -> None:
    solve(tmp_path, Counting(), 4)
    again = solve(tmp_path, Counting(), 8, budget=Budget(verifier_passes=4))
    assert again.usage.verifier_passes <= 4


@pytest.mark.parametrize(
    "change",
    ["model", "setting", "problem", "question", "separator", "verifier"],
)
def test_what_decides_a_rating_decides_where_it_is_kept(tmp_path: Path, change: str) -> None:
    solve(tmp_path, Counting(), 4)
    prm = Counting("other" if change == "model" else "prm")
    messages = ({"role": "user", "content": "other" if change == "question" else "q"},)
    other = Problem(
        "p2" if change == "problem" else "p",
        messages,
        step="\n\n" if change == "separator" else "\n",
    )
    settings: dict[str, Any] = {}
    if change == "setting":
        settings["verifier"] = {"read": "last"}
    if change == "verifier":
        settings["verifier"] = {"name": "value_head"}
    again = solve(tmp_path, prm, 4, other, budget=Budget(tokens=10_000), **settings)
    assert again.usage.verifier_reused == 0 and len(prm.asked) == 4


@pytest.mark.parametrize("name", ["check", "random", "agreement"])
def test_what_costs_nothing_or_knows_the_truth_is_not_kept(tmp_path: Path, name: str) -> None:
    checked = Problem("p", PROBLEM.messages, check=lambda answer: True)
    for n in (4, 8):
        solution = Solver(
            {"policy": ScriptedEngine(script=["a", "b"])},
            strategy={"name": "best_of_n", "n": n},
            verifiers={"verifier": name},
            run=tmp_path,
        ).solve(checked)
        assert solution.usage.verifier_reused == 0
        assert solution.usage.verifier_passes == n


def test_ratings_beside_a_failed_one_are_kept(tmp_path: Path) -> None:
    assert solve(tmp_path, Counting(poison="eee"), 8).meta["failed_ratings"]
    (tmp_path / "journal.jsonl").unlink()  # where failures stand: there they are replayed
    mended = Counting()
    again = solve(tmp_path, mended, 8)
    assert again.usage.verifier_passes == 8
    assert all("eee" in text for text in mended.asked)
    assert again.usage.verifier_reused == 8 - len(mended.asked) > 0


def test_a_replay_asks_no_verifier(tmp_path: Path) -> None:
    first = solve(tmp_path, Counting(), 4)
    (tmp_path / "replies.sqlite").unlink()
    prm = Counting()
    again = solve(tmp_path, prm, 4)
    assert not prm.asked and again.usage == first.usage
