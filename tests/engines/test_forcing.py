"""Forced tokens on engines that have no model: asked again, with the longer prefix.

Engines with a model are in test_conformance.py.
"""

import asyncio
from typing import Any

import pytest

from reasoning import Problem, Solver
from reasoning.context import Context
from reasoning.engines.base import Engine
from reasoning.engines.openai import OpenAIEngine
from reasoning.engines.scripted import ScriptedEngine
from reasoning.strategy import Outcome, Strategy
from tests.engines.stub_server import ByteIds, Stub

PROBLEM = Problem("p", ({"role": "user", "content": "q"},))
FORCED = tuple(b"!!")


class Forcing(Strategy):
    """Forces two tokens behind the fourth."""

    async def solve(self, ctx: Context) -> Outcome:
        async with ctx.stream(ctx.prompt, every=4, max_tokens=12) as stream:
            async for piece in stream:
                if piece.offset == 4:
                    await stream.force(FORCED)
        meta = {"ids": stream.chain.ids, "prompt": stream.chain.prompt_ids}
        return Outcome(stream.chain.text, stream.chain.text, meta)


async def forced(engine: Engine) -> tuple[tuple[int, ...], tuple[int, ...]]:
    solution = await Solver({"policy": engine}, strategy=Forcing()).asolve(PROBLEM)
    assert solution.meta["ids"][4:6] == FORCED
    return solution.meta["prompt"], solution.meta["ids"]


def test_a_script_goes_on_behind_what_was_forced() -> None:
    engine = ScriptedEngine(script=["abcdefghijklmnop"])
    prompt, ids = asyncio.run(forced(engine))
    assert bytes(ids) == b"abcd!!ghijkl"
    first, second = engine.totals.log
    assert (first.position, second.position) == (0, 6)
    assert second.prompt_ids == prompt + ids[:6] and second.max_tokens == 6
    assert second.streams == first.streams


@pytest.mark.parametrize("seeding", ["group", "stream"])
async def test_a_server_is_sent_the_longer_prefix(seeding: Any) -> None:
    async with Stub().serving() as stub:
        engine = OpenAIEngine("m", base_url=stub.url, tokenizer=ByteIds(), seeding=seeding)
        prompt, ids = await forced(engine)
        first, second = stub.generations[-2:]
    assert first["prompt"] == list(prompt)
    assert second["prompt"] == [*prompt, *ids[:6]] and second["max_tokens"] == 6
    assert second["seed"] != first["seed"]  # not the luck of its first tokens again
