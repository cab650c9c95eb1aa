"""Ratings are kept by content: asked once, charged in full each time, never across what matters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from reasoning import Budget, Problem, Solution, Solver
from reasoning.engines.base import PoolReply
from reasoning.engines.scripted import Line, ScriptedEngine
from tests.strategies.selection.scripts import numbered

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


def distinct(prompt: str, stream: int) -> Line:
    """Chains that are all different."""
    return Line(f"{['a', 'cc', 'eee'][stream % 3]}\n{stream}")


def solve(
    run: Path, prm: ScriptedEngine, n: int, problem: Problem = PROBLEM, **settings: Any
) -> Any:
    verifier = {"name": "prm", "model": "prm"} | settings.pop("verifier", {})
    return Solver(
        {"policy": ScriptedEngine(script=distinct), "prm": prm},
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


def with_copies(prm: ScriptedEngine, **settings: Any) -> Solution:
    """Eight chains, of which four say the same."""
    lines = numbered([f"{name}\nb" for name in ("a", "c", "a", "d", "a", "e", "a", "f")], "p")
    return Solver(
        {"policy": ScriptedEngine(script=lines), "prm": prm},
        strategy={"name": "weighted", "n": 8},
        verifiers={"verifier": {"name": "prm", "model": "prm"}},
        **settings,
    ).solve(PROBLEM)


def test_equal_chains_of_an_ask_are_rated_once_and_charged_each(tmp_path: Path) -> None:
    prm, stored = Counting(), Counting()
    bare, kept = with_copies(prm), with_copies(stored, run=tmp_path)
    assert len(prm.asked) == len(stored.asked) == 5
    assert bare.usage.verifier_passes == 8 and bare.usage.verifier_reused == 3
    assert bare.usage.verifier_prefill == 8 * len("q\na\nb")
    assert (bare.text, bare.usage) == (kept.text, kept.usage)


def test_copies_of_a_chain_that_could_not_be_rated_have_failed_with_it() -> None:
    solution = with_copies(Counting(poison="a"))
    assert solution.meta["failed_ratings"] == 4 and solution.usage.verifier_passes == 4
    assert solution.usage.verifier_reused == 0


def test_a_journal_from_when_copies_were_asked_for_is_replayed(tmp_path: Path) -> None:
    """Then nothing was reused; what the journal says is charged."""
    first = with_copies(Counting(), run=tmp_path)
    journal = tmp_path / "journal.jsonl"
    journal.write_text(journal.read_text().replace(',"verifier_reused":3', ""))
    prm = Counting()
    again = with_copies(prm, run=tmp_path)
    assert not prm.asked and again.text == first.text
    assert again.usage == first.usage._replace(verifier_reused=0)
