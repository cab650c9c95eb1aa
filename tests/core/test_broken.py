"""What an error, a fatal one, or a caller who leaves ends in its middle is continued, and ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from reasoning import Budget, Problem, Solution, Solver
from reasoning.context import Context
from reasoning.engines.base import Completion, EngineUsage, SampleReply, SampleRequest, Sink
from reasoning.engines.scripted import Line, ScriptedEngine, VirtualTimeLoop
from reasoning.errors import BudgetBreach, EngineError, EngineUnavailable, first_error
from reasoning.journal import Key
from reasoning.strategy import Outcome, Strategy

PROBLEMS = [Problem(name, ({"role": "user", "content": name},)) for name in "pqrs"]
TEXT = "0123456789"


class Breaking(ScriptedEngine):
    """Writes ten tokens, one a second. The `breaks`-th request fails, or writes too much."""

    def __init__(self, breaks: int = -1, fault: Exception | None = None) -> None:
        super().__init__(script=[Line(TEXT, seconds=1.0)])
        self.breaks, self.fault = breaks, fault

    async def sample(self, request: SampleRequest, sink: Sink | None = None) -> SampleReply:
        breaks = self.totals.requests == self.breaks
        if breaks:
            self.totals.requests += 1
            await asyncio.sleep(3.5)
            if self.fault is not None:
                raise self.fault
            ids = (65,) * 1000
            return SampleReply((Completion(ids, "A" * 1000, "stop"),), EngineUsage(new=1000))
        return await super().sample(request, sink)


class Grouped(Strategy):
    """Chains in branches of a task group, as chain policies write them."""

    async def solve(self, ctx: Context) -> Outcome:
        async def one(name: str) -> str:
            return (await ctx.branch(name).sample(ctx.prompt))[0].text

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(name)) for name in "abc"]
        except BaseExceptionGroup as failed:
            raise first_error(failed) from None
        return Outcome(None, " ".join(task.result() for task in tasks))


class Raced(Strategy):
    """All the chains of a race."""

    racing = True

    async def solve(self, ctx: Context) -> Outcome:
        def writer(draw: int) -> Callable[[Context], Awaitable[str]]:
            async def write(branch: Context) -> str:
                return (await branch.sample(ctx.prompt.drawn(draw)))[0].text

            return write

        async with ctx.race() as race:
            for draw, name in enumerate("abc"):
                race.start(name, writer(draw))
            return Outcome(None, " ".join([text async for _, text in race]))


class Watched(Strategy):
    """A stream with an ask in its middle."""

    async def solve(self, ctx: Context) -> Outcome:
        async with ctx.stream(ctx.prompt, every=5, max_tokens=12) as stream:
            async for _ in stream:
                await ctx.branch(f"ask{stream.chain.ids[-1]}").sample(ctx.prompt, max_tokens=2)
        return Outcome(None, stream.chain.text)


class Narrow(Strategy):
    """Chains that are leased one by one."""

    async def solve(self, ctx: Context) -> Outcome:
        chains = await ctx.sample(ctx.prompt, 3, max_tokens=15)
        return Outcome(None, " ".join(chain.text for chain in chains))


STRATEGIES = {"grouped": Grouped, "raced": Raced, "watched": Watched, "narrow": Narrow}


def solver(engine: ScriptedEngine, strategy: Strategy, run: Path) -> Solver:
    # It fits two chains of at most 15 at once, and a third when one of 11 is done.
    return Solver({"policy": engine}, strategy=strategy, budget=Budget(tokens=40), run=run)


def play(solver: Solver, until: float | None = None) -> tuple[list[Solution], list[Key]]:
    """Its solutions by problem and what was asked again. until: when the caller leaves."""

    async def main() -> tuple[list[Solution], list[Key]]:
        async with solver:
            assert solver._runner is not None
            async with asyncio.timeout(until):
                found = [s async for s in solver.asolve_many(PROBLEMS)]
            return sorted(found, key=lambda s: s.problem), solver._runner.journal.asked_again

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        # Where every task waits for ever, virtual time runs to this limit at once.
        return runner.run(asyncio.wait_for(main(), 1e6))


def texts(solutions: list[Solution]) -> list[str]:
    return [solution.text for solution in solutions]


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("breaks", [0, 1, 2, 5])
@pytest.mark.parametrize(
    "fault",
    [None, EngineError("broke"), EngineUnavailable("died")],
    ids=["breach", "error", "died"],
)
def test_a_run_that_broke_is_continued_to_its_end(
    tmp_path: Path, name: str, breaks: int, fault: Exception | None
) -> None:
    make: Callable[[], Strategy] = STRATEGIES[name]
    whole, none = play(solver(Breaking(), make(), tmp_path / "whole"))
    assert none == [] and all(solution.status == "ok" for solution in whole)
    broken = solver(Breaking(breaks, fault), make(), tmp_path / "broken")
    if fault is None:
        with pytest.raises(BudgetBreach):
            play(broken)
    else:
        assert [s.status for s in play(broken)[0]].count("failed") == 1
    again, asked = play(solver(Breaking(), make(), tmp_path / "broken"))
    assert texts(again) == texts(whole)
    assert [s.usage.tokens for s in again] == [s.usage.tokens for s in whole]
    # A fatal error ends all problems, another one its own.
    assert asked and (fault is None or len({key[0] for key in asked}) == 1)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_caller_who_leaves_comes_back(tmp_path: Path, name: str) -> None:
    make: Callable[[], Strategy] = STRATEGIES[name]
    whole, _ = play(solver(Breaking(), make(), tmp_path / "whole"))
    with pytest.raises(TimeoutError):
        play(solver(Breaking(), make(), tmp_path / "left"), until=4.5)
    again, asked = play(solver(Breaking(), make(), tmp_path / "left"))
    assert texts(again) == texts(whole)
    assert asked
