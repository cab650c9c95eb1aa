"""DeepConf online against a server: doubtful traces are stopped where they are decoded."""

from __future__ import annotations

import asyncio
from typing import Any

from reasoning import Solver
from reasoning.engines.openai import OpenAIEngine
from tests.engines.stub_server import EOS, ByteIds, Stub
from tests.strategies.selection.scripts import problem

SAID = [*b"answer a", EOS]
LONG = [*b"answer b", *b" " * 300, EOS]
WINDOW, FALLS = 4, 10


class Doubting(Stub):
    """Whole traces and every third of the streamed ones are sure of themselves, the others until
    token `FALLS`: from there the log-probabilities of the likeliest fall from token to token."""

    def __init__(self) -> None:
        super().__init__()
        self.streamed = 0

    def chain(self, body: dict[str, Any], index: int) -> tuple[list[Any], str]:
        if body["max_tokens"] == 1:
            return super().chain(body, index)  # asked to find out what the server can do
        body |= {"told": 0, "doubts": False}
        if body.get("stream"):
            self.streamed += 1
            body["doubts"] = self.streamed % 3 > 0
        return (LONG if body["doubts"] else SAID), "stop"

    def choice(
        self, body: dict[str, Any], index: int, pieces: list[Any], finish: str | None, message: str
    ) -> dict[str, Any]:
        choice = super().choice(body, index, pieces, finish, message)
        if "told" not in body:
            return choice
        rows = []
        for _ in pieces:
            late = body["told"] - FALLS + 1 if body["doubts"] else 0
            # What is left of certainty is shared by the alternatives, so theirs rise.
            rows.append({f"token_id:{t}": -4.0 + 0.5 * min(6, max(0, late)) for t in (97, 98)})
            body["told"] += 1
        choice["logprobs"]["top_logprobs"] = rows
        return choice


async def test_doubtful_traces_are_stopped_disconnected_and_charged_to_where_they_were() -> None:
    stub = Doubting()
    strategy = {
        "name": "deep_conf_online",
        **{"n": 8, "warmup": 2, "at_once": 3, "consensus": None},
        **{"top": 2, "window": WINDOW, "keep": 50},
    }
    async with stub.serving():
        engine = OpenAIEngine("m", base_url=stub.url, tokenizer=ByteIds())
        async with Solver({"policy": engine}, strategy=strategy, max_tokens=400) as solver:
            stub.token_seconds = 0.005
            # Of many problems no ask streams but those that are watched: the warm-up's do not.
            (solution,) = [s async for s in solver.asolve_many([problem()])]
        for _ in range(100):
            if not stub.open:
                break
            await asyncio.sleep(0.02)
    assert (stub.streamed, stub.disconnects, stub.open) == (6, 4, 0)
    assert (solution.answer, solution.status) == ("a", "ok")
    assert (solution.meta["stopped"], solution.meta["traces"]) == (4, 8)
    # The first group with a token below the rest is below the threshold: that token is the last.
    until = FALLS + 1
    assert solution.usage.discarded == 4 * until
    assert solution.usage.tokens == 4 * len(SAID) + 4 * until
    decoded = [body["told"] for body in stub.bodies if body.get("doubts")]
    assert len(decoded) == 4 and all(until <= told < len(LONG) for told in decoded)
