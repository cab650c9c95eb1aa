"""What a branch reads of the budget, while others have asks in flight, replays as it was."""

import asyncio
import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

from reasoning import Budget, Problem, Solution, Solver
from reasoning.context import Context
from reasoning.engines.scripted import Line, ScriptedEngine, VirtualTimeLoop
from reasoning.errors import ReplayDiverged
from reasoning.strategy import Outcome, Strategy

PROBLEM = Problem("p", ({"role": "user", "content": "q"},))


class Beside(Strategy):
    """Asks for a share of what is left while a sibling, started before or after, still writes."""

    first: bool = True
    read: ClassVar[str] = "tokens"

    async def solve(self, ctx: Context) -> Outcome:
        async def slow(branch: Context) -> str:
            return (await branch.sample(ctx.prompt, max_tokens=10))[0].text

        async def quick(branch: Context) -> str:
            await branch.sample(ctx.prompt.drawn(1), max_tokens=2)
            left = [branch.remaining(self.read) for _ in range(2)]
            child = branch.child("reserve", Budget(tokens=4))
            left.append(branch.remaining())
            child.ledger.close()
            await branch.sample(ctx.prompt.drawn(2), max_tokens=int(min(left)) // 4)
            return str(left)

        branches = slow(ctx.branch("a")), quick(ctx.branch("b"))
        texts = await asyncio.gather(*(branches if self.first else reversed(branches)))
        return Outcome(None, "|".join(texts if self.first else reversed(texts)))


def solve(engine: ScriptedEngine, strategy: Any, run: Path) -> Solution:
    budget = Budget(tokens=60, verifier_passes=5)
    solver = Solver({"policy": engine}, strategy=strategy, budget=budget, run=run)
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(solver.asolve(PROBLEM))


@pytest.mark.parametrize("first", [True, False])
def test_it_is_the_same_when_the_siblings_replies_are_there_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    engine = ScriptedEngine(script=[Line("0123", seconds=1.0)])
    was = solve(engine, Beside(first=first), tmp_path)
    assert was.status == "ok" and was.text.endswith("|[48.0, 48.0, 44.0]")
    asked = engine.totals.requests
    again = solve(engine, Beside(first=first), tmp_path)
    assert (again.text, again.usage) == (was.text, was.usage) and engine.totals.requests == asked
    monkeypatch.setattr(Beside, "read", "verifier_passes")
    with pytest.raises(ReplayDiverged, match="remaining"):
        solve(engine, Beside(first=first), tmp_path)


def test_a_journal_of_before_it_was_written_down_replays_on(tmp_path: Path) -> None:
    engine = ScriptedEngine(script=["answer"])
    strategy = {"name": "auto", "candidates": ["single"]}
    solve(engine, strategy, tmp_path)
    journal = tmp_path / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    old = [line for line in lines if "remaining" not in json.loads(line).get("a", {})]
    assert len(old) < len(lines)
    journal.write_bytes(b"".join(old))
    asked = engine.totals.requests
    assert solve(engine, strategy, tmp_path).text == "answer"
    assert engine.totals.requests == asked
