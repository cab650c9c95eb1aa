"""Streams are looked at by token offsets, and replay as they went."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from reasoning import Budget, Problem, Sampling, Solver
from reasoning.context import Context
from reasoning.engines.scripted import Line, ScriptedEngine, VirtualTimeLoop
from reasoning.errors import EngineReplyError, EngineUnavailable
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
        told = [list(value.top.values()) for value in stream.chain.logprobs]
        chain = stream.chain
        meta = {"seen": seen, "told": told, "finish": chain.finish}
        return Outcome(chain.text, chain.text, meta)


PROBLEM = Problem("p", ({"role": "user", "content": "q"},))


def solve(engine: ScriptedEngine, run: Path | None = None, **settings: Any) -> Any:
    return Solver({"policy": engine}, strategy=Watched(**settings), run=run).solve(PROBLEM)


TEXT = "one\ntwo\nthree\nfour"


def test_pieces_come_at_offsets_and_separators() -> None:
    by_tokens = solve(ScriptedEngine(script=[TEXT]))
    assert [o for o, _ in by_tokens.meta["seen"]] == [4, 8, 12, 16, 19]
    by_lines = solve(ScriptedEngine(script=[TEXT]), separator="\n")
    assert [t for _, t in by_lines.meta["seen"]] == ["one\n", "two\n", "three\n", "four"]
    assert by_lines.answer == by_tokens.answer == TEXT


class Retried(Strategy):
    """Streams again after an engine's error, all within one budget."""

    async def solve(self, ctx: Context) -> Outcome:
        with contextlib.suppress(EngineReplyError):
            async with ctx.stream(ctx.prompt, max_tokens=30) as stream:
                async for _ in stream:
                    pass
        async with ctx.stream(ctx.prompt, max_tokens=30) as stream:
            async for _ in stream:
                pass
        return Outcome(stream.chain.text, stream.chain.text)


def test_an_error_under_a_stream_gives_its_lease_back() -> None:
    fault = EngineReplyError("the server lied")
    lines = iter([Line(TEXT, fault=fault, fault_after=4), Line(TEXT)])
    engine = ScriptedEngine(script=lambda prompt, key: next(lines))
    solver = Solver({"policy": engine}, strategy=Retried(), budget=Budget(tokens=32))
    assert solver.solve(PROBLEM).answer == TEXT


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


TOPS = tuple((-0.1 * place, -5.0 - place) for place in range(8))


@pytest.mark.parametrize("change", [{}, {"stop_at": 8}, {"force_at": 8}])
def test_log_probabilities_come_with_the_tokens_and_replay(
    tmp_path: Path, change: dict[str, int]
) -> None:
    engine = ScriptedEngine(script=[Line(TEXT, tops=TOPS)])

    def run() -> Any:
        return Solver(
            {"policy": engine},
            strategy=Watched(**change),
            sampling=Sampling(logprobs=2),
            run=tmp_path,
        ).solve(PROBLEM)

    first = run()
    told = first.meta["told"]
    assert told[:8] == [list(top) for top in TOPS]
    # EOS is told of too; what is forced has no alternatives.
    assert told[8:10] == (
        [] if "stop_at" in change else [[]] * 2 if change else [list(TOPS[-1])] * 2
    )
    assert len(told) == (8 if "stop_at" in change else len(TEXT) + 1)
    asked = engine.totals.requests
    again = run()
    assert engine.totals.requests == asked and again.meta == first.meta


@pytest.mark.parametrize("tokens", [1, 8, len(TEXT), len(TEXT) + 1, 100])
def test_a_stream_says_whether_the_budget_cut_it_and_its_replay_too(
    tmp_path: Path, tokens: int
) -> None:
    engine = ScriptedEngine(script=[TEXT])
    solver = Solver(
        {"policy": engine}, strategy=Watched(), budget=Budget(tokens=tokens), run=tmp_path
    )
    for _ in range(2):
        solution = solver.solve(PROBLEM)
        cut = tokens <= len(TEXT)  # EOS is a token
        assert (solution.status, solution.meta["finish"]) == (
            ("budget",) * 2 if cut else ("ok", "stop")
        )
        assert solution.usage.tokens == engine.totals.new <= tokens


def test_a_stream_says_that_the_clock_cut_it_and_its_replay_too(tmp_path: Path) -> None:
    engine = ScriptedEngine(script=[Line(TEXT, seconds=1.0)])
    for _ in range(2):
        solver = Solver(
            {"policy": engine}, strategy=Watched(every=1), budget=Budget(seconds=5.5), run=tmp_path
        )
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            solution = runner.run(solver.asolve(PROBLEM))
        assert (solution.status, solution.meta["finish"]) == ("deadline", "deadline")
        assert solution.text == TEXT[:5] and engine.totals.requests == 1


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("died_after", [0, 1, 6, 9])
def test_an_engine_that_dies_under_a_stream_hands_over_each_token_once(
    every: int, died_after: int
) -> None:
    dead = EngineUnavailable("the engine died", retryable=True)
    attempts = iter([Line(TEXT, fault=dead, fault_after=died_after, tops=TOPS)])

    def script(prompt: str, key: int) -> Line:
        return next(attempts, Line(TEXT, tops=TOPS))

    engine = ScriptedEngine(script=script)
    solution = Solver(
        {"policy": engine}, strategy=Watched(every=every), sampling=Sampling(logprobs=1)
    ).solve(PROBLEM)
    assert solution.text == TEXT and engine.totals.requests == 2
    assert solution.meta["told"][: len(TOPS)] == [[top[0]] for top in TOPS]
    assert len(solution.meta["told"]) == len(TEXT) + 1


def test_another_chain_after_a_death_is_an_error() -> None:
    dead = EngineUnavailable("the engine died", retryable=True)
    attempts = iter([Line(TEXT, seconds=1.0, fault=dead, fault_after=6)])
    engine = ScriptedEngine(script=lambda *_: next(attempts, Line(TEXT.upper(), seconds=1.0)))
    solver = Solver({"policy": engine}, strategy=Watched(every=1))
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        with pytest.raises(EngineReplyError, match="another chain"):
            runner.run(solver.asolve(PROBLEM))
