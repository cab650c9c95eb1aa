"""A run of any strategy, killed anywhere and continued, ends in the table of a whole run."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from reasoning import Budget, Solver
from reasoning.budget import Usage
from reasoning.engines.base import Capabilities
from reasoning.engines.scripted import ScriptedEngine
from reasoning.journal import Journal
from reasoning.registry import strategies
from tests.strategies.selection.scripts import SMALL, line, problem, reward

# As much at once as these can have.
SETTINGS = SMALL | {
    "first_verified": SMALL["first_verified"] | {"threshold": 0.7},
    "a_star": SMALL["a_star"] | {"expand_batch": 2, "speculate": 2},
}
PROBLEMS = [problem("p"), problem("q")]


def table(name: str, run: Path) -> bytes:
    """A line for each problem: what it came to and what it cost; of a race, that it ended."""
    engine = ScriptedEngine(
        script=line,
        rewards=reward,
        embeddings=lambda text: [reward(text), 1.0],
        capabilities=Capabilities(token_keyed=True, pool=True, embed=True),
    )
    solver = Solver(
        {"policy": engine, "prm": engine},
        strategy={"name": name, **SETTINGS.get(name, {})},
        verifiers={"verifier": {"name": "prm", "model": "prm"}},
        budget=Budget(tokens=300, verifier_passes=40),
        max_tokens=60,
        run=run,
    )
    rows = [
        [s.problem, s.status, s.answer, s.text, s.error, s.meta, *_costs(s.usage)]
        for s in solver.solve_many(PROBLEMS)
    ]
    if strategies.get(name).racing:
        rows = [row[:2] for row in rows]
    return "\n".join(json.dumps(row, sort_keys=True) for row in rows).encode()


def _costs(usage: Usage) -> tuple[int, int, int]:
    return usage.tokens, usage.verifier_passes, usage.asks


@pytest.mark.parametrize("name", list(strategies))
def test_a_killed_run_ends_in_the_table_of_a_whole_one(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, ends, write = tmp_path / "journal.jsonl", [0], Journal._write

    def noted(self: Journal, records: list[dict[str, Any]]) -> None:
        write(self, records)
        ends.append(journal.stat().st_size)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_write", noted)
        whole = table(name, tmp_path)
    assert b"failed" not in whole
    written = journal.read_bytes()
    for end in random.Random(name).sample(ends, 3):
        # A kill leaves the writes up to one that is torn, and no reply beyond them.
        journal.write_bytes(written[:end] + b'{"k":["torn')
        (tmp_path / "replies.sqlite").unlink()
        assert table(name, tmp_path) == whole, f"killed after {end} bytes"
