"""Groups over one shared KV cache: the seam, on an engine that counts."""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from reasoning import Budget, Problem, Solution, Solver
from reasoning.context import Context
from reasoning.engines.base import Capabilities, Completion, EngineUsage
from reasoning.engines.groups import Group, GroupRequest, Layout
from reasoning.engines.scripted import ScriptedEngine
from reasoning.errors import CapabilityError
from reasoning.strategy import Outcome, Strategy

PROBLEM = Problem("p", ({"role": "user", "content": "q"},))


class Counting:
    """Writes each worker's number, until it is stopped or the tokens are used up."""

    def __init__(self, request: GroupRequest) -> None:
        self.left = request.max_tokens
        self.writing = set(range(len(request.openings)))
        self.usage = EngineUsage(prefill=request.size)

    async def __aiter__(self) -> AsyncIterator[Mapping[int, int]]:
        while self.writing and self.left >= len(self.writing):
            self.left -= len(self.writing)
            self.usage += EngineUsage(new=len(self.writing))
            yield {worker: ord(str(worker)) for worker in sorted(self.writing)}

    async def force(self, worker: int, ids: Sequence[int]) -> None: ...

    async def stop(self, worker: int) -> None:
        self.writing.discard(worker)

    async def commit(self, worker: int) -> None: ...

    async def ask(self, worker: int, ids: Sequence[int], max_tokens: int) -> Completion:
        return Completion((), "", "stop")

    async def join(self, layout: Layout, openings: Sequence[Sequence[int]]) -> None: ...


class Sharing(ScriptedEngine):
    def __init__(self) -> None:
        super().__init__(capabilities=Capabilities(together=True))
        self.asked: list[GroupRequest] = []

    @contextlib.asynccontextmanager
    async def together(self, request: GroupRequest) -> AsyncIterator[Group]:
        self.asked.append(request)
        yield Counting(request)


class Two(Strategy):
    """Two workers; the second is stopped after two steps."""

    async def solve(self, ctx: Context) -> Outcome:
        text, steps = "", 0
        async with ctx.together(ctx.prompt, [(65,), (66,)], "contiguous", max_tokens=20) as group:
            async for step in group:
                steps += 1
                text += "".join(map(chr, step.values()))
                if steps == 2:
                    await group.stop(1)
        return Outcome(text, text)


class Needing(Two):
    needs = ("together",)


def solve(engine: ScriptedEngine, strategy: Strategy, **settings: Any) -> Solution:
    return Solver({"policy": engine}, strategy=strategy, **settings).solve(PROBLEM)


@pytest.mark.parametrize("strategy", [Two(), Needing()])
def test_an_engine_without_groups_is_refused_before_anything_is_spent(strategy: Strategy) -> None:
    engine = ScriptedEngine()
    with pytest.raises(CapabilityError, match="together, which engine scripted/ does not have"):
        solve(engine, strategy)
    assert engine.totals.prefill == 0
    with pytest.raises(CapabilityError, match="shared KV cache"):
        engine.together(GroupRequest((1,), (), 1, Solver()._configuration.sampling, (), "paths"))


@pytest.mark.parametrize(("cap", "text"), [(None, "0101" + 16 * "0"), (7, "0101000")])
def test_a_group_is_leased_shortened_and_charged(cap: int | None, text: str) -> None:
    engine = Sharing()
    solution = solve(engine, Two(), budget=Budget(tokens=cap))
    (asked,) = engine.asked
    assert solution.text == text and asked.max_tokens == (cap or 20)
    assert solution.usage.tokens == len(text) and solution.usage.prefill == asked.size
    assert len({stream.key for stream in asked.streams}) == 2


def test_a_continued_run_asks_for_the_whole_group_again(tmp_path: Path) -> None:
    engine = Sharing()
    first, second = (solve(engine, Two(), run=tmp_path) for _ in range(2))
    assert (first.text, first.usage) == (second.text, second.usage)
    assert engine.asked[0] == engine.asked[1]
