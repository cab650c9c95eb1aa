"""Streams are looked at by token offsets, and replay as they went."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from reasoning import Problem, Solver
from reasoning.context import Context
from reasoning.engines.scripted import Line, ScriptedEngine
from reasoning.strategy import Outcome, Strategy


class Watched(Strategy):
    """Stops a stream, or forces text into it, at an offset."""

    every: int = 4
    separator: str | None = None
    stop_at: int | None = None
    force_at: int | None = None

    async def solve(self, ctx: Context) -> Outcome:
        seen = []
        forced = False
        async with ctx.stream(ctx.prompt, every=self.every, separator=self.separator) as stream:
            async for piece in stream:
                seen.append((piece.offset, piece.text))
                if piece.offset == self.stop_at:
                    await stream.stop()
                if piece.offset == self.force_at and not forced:
                    forced = True
                    await stream.force(ctx.bindings.engine("policy").tokenizer.encode("!!"))
        return Outcome(stream.chain.text, stream.chain.text, {"seen": seen})


def solve(engine: ScriptedEngine, run: Path | None = None, **settings: Any) -> Any:
    problem = Problem("p", ({"role": "user", "content": "q"},))
    return Solver({"policy": engine}, strategy=Watched(**settings), run=run).solve(problem)


TEXT = "one\ntwo\nthree\nfour"


def test_pieces_come_at_offsets_and_separators() -> None:
    by_tokens = solve(ScriptedEngine(script=[TEXT]))
    assert [o for o, _ in by_tokens.meta["seen"]] == [4, 8, 12, 16, 19]
    by_lines = solve(ScriptedEngine(script=[TEXT]), separator="\n")
    assert [t for _, t in by_lines.meta["seen"]] == ["one\n", "two\n", "three\n", "four"]
    assert by_lines.answer == by_tokens.answer == TEXT


@pytest.mark.parametrize("change", [{"stop_at": 8}, {"force_at": 8}])
def test_a_stop_or_force_replays_where_it_took_effect(
    tmp_path: Path, change: dict[str, int]
) -> None:
    engine = ScriptedEngine(script=[Line(TEXT)])
    first = solve(engine, tmp_path, **change)
    assert first.answer.startswith(TEXT[:8])
    if "force_at" in change:
        assert first.answer[8:10] == "!!"
    assert first.usage.tokens == engine.totals.new
    asked = engine.totals.requests
    again = solve(engine, tmp_path, **change)
    assert engine.totals.requests == asked
    assert (again.answer, again.meta, again.usage) == (first.answer, first.meta, first.usage)


def test_branches_have_their_own_luck_and_budget() -> None:
    keys: list[int] = []

    class Branching(Strategy):
        async def solve(self, ctx: Context) -> Outcome:
            async def one(name: str) -> None:
                async with ctx.branch(name) as branch:
                    await branch.write(branch.prompt)

            await asyncio.gather(one("a"), one("b"))
            return Outcome(None, "")

    def script(prompt: str, key: int) -> Line:
        keys.append(key)
        return Line("x")

    problem = Problem("p", ({"role": "user", "content": "q"},))
    Solver({"policy": ScriptedEngine(script=script)}, strategy=Branching()).solve(problem)
    assert len(set(keys)) == 2
