"""Servers that are down, slow, overloaded, broken, or wrong."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from email.utils import formatdate
from typing import Any

import pytest

from reasoning.engines.openai import OpenAIEngine, faults
from reasoning.errors import (
    EngineReplyError,
    EngineUnavailable,
    ModelError,
    PromptError,
)
from tests.engines import stub_server
from tests.engines.openai.asking import ask, chat
from tests.engines.openai.conftest import MakeEngine
from tests.engines.stub_server import Stub


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
async def test_a_passing_error_is_retried(stub: Stub, connect: MakeEngine, code: int) -> None:
    engine = await connect(stub)
    stub.plan = [stub_server.status(code), stub_server.status(code)]
    assert len((await engine.sample(ask(2))).completions) == 2
    assert len(stub.bodies) == 3
    assert engine._sender.retries.spent == 2


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("body", [None, b"data: {", b'{"choices": ['])
async def test_a_reset_is_retried(
    stub: Stub, connect: MakeEngine, streamed: bool, body: bytes | None
) -> None:
    engine = await connect(stub)
    stub.plan = [stub_server.resets(body)]
    sink = (lambda *_: None) if streamed else None
    assert len((await engine.sample(ask(2), sink)).completions) == 2


async def test_a_broken_stream_goes_on_where_it_broke(stub: Stub, connect: MakeEngine) -> None:
    engine = await connect(stub)
    whole = (await engine.sample(ask(logprobs=1))).completions[0]
    told: list[int] = []
    texts: list[str] = []
    values: list[object] = []

    def sink(index: int, ids: Sequence[int], text: str, logprobs: Sequence[object]) -> None:
        told.extend(ids)
        texts.append(text)
        values.extend(logprobs)

    stub.plan = [stub_server.breaks_after(stub, 3), stub_server.breaks_after(stub, 2)]
    reply = await engine.sample(ask(logprobs=1), sink)
    assert reply.completions[0] == whole
    assert tuple(told) == whole.ids and "".join(texts) == whole.text
    assert tuple(values) == whole.logprobs


async def test_a_repetition_that_differs_is_an_error(stub: Stub, connect: MakeEngine) -> None:
    engine = await connect(stub)
    stub.plan = [stub_server.breaks_after(stub, 3)]
    told: list[int] = []

    def sink(index: int, ids: Sequence[int], text: str, _: object) -> None:
        told.extend(ids)
        if len(told) == 3:
            stub.lie = lambda event: [c.update(token_ids=[65]) for c in event["choices"]]

    with pytest.raises(EngineReplyError, match="does not honour seeds"):
        await engine.sample(ask(), sink)
    assert len(told) == 3


@pytest.mark.parametrize("date", [False, True])
async def test_retry_after_is_obeyed(stub: Stub, connect: MakeEngine, date: bool) -> None:
    engine = await connect(stub)
    # A date has whole seconds: two of them are at least one from now.
    value = formatdate(time.time() + 2, usegmt=True) if date else "1"
    stub.plan = [stub_server.status(429, Retry_After=value)]
    await engine.sample(ask())
    first, second = stub.arrivals[-2:]
    assert 0.9 <= second - first < 4.0


async def test_retry_after_is_capped(stub: Stub, connect: MakeEngine) -> None:
    engine = await connect(stub, retry_after_cap=0.05)
    stub.plan = [stub_server.status(503, Retry_After="86400")]
    await asyncio.wait_for(engine.sample(ask()), 5)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("3", 3.0),
        ("1.5", 1.5),
        ("-2", 0.0),
        ("nan", None),
        ("soon", None),
    ],
)
def test_reading_retry_after(value: str | None, seconds: float | None) -> None:
    assert faults.retry_after(value) == seconds
    assert faults.retry_after(formatdate(time.time() - 60, usegmt=True)) == 0.0


async def test_the_retry_budget_ends_retrying(stub: Stub, connect: MakeEngine) -> None:
    engine = await connect(stub, retry_budget=3, attempts=100)
    stub.always = stub_server.status(429)
    with pytest.raises(EngineUnavailable, match="budget of 3 retries is spent"):
        await engine.sample(ask())
    assert len(stub.bodies) == 4
    with pytest.raises(EngineUnavailable, match="budget"):
        await engine.sample(ask())
    assert len(stub.bodies) == 5, "without budget each request is sent once"
    stub.always = None
    for _ in range(10):
        await engine.sample(ask())
    assert engine._sender.retries.left >= 1.0, "successes earn retries"


async def test_attempts_are_limited(stub: Stub, connect: MakeEngine) -> None:
    engine = await connect(stub, attempts=3)
    stub.always = stub_server.status(429, "slow down")
    with pytest.raises(EngineUnavailable, match="HTTP 429: slow down"):
        await engine.sample(ask())
    assert len(stub.bodies) == 3


async def test_refusals_are_not_retried(stub: Stub, connect: MakeEngine) -> None:
    engine = await connect(stub)
    for code, message, kind in [
        (400, "This model's maximum context length is 512 tokens", PromptError),
        (400, "top_k must be -1 or at least 1", EngineReplyError),
        (401, "bad key", EngineUnavailable),
        (403, "no", EngineUnavailable),
        (404, "The model does not exist", ModelError),
        (422, "what?", EngineReplyError),
    ]:
        stub.bodies.clear()
        stub.plan = [stub_server.status(code, message)]
        with pytest.raises(kind, match=message.replace("?", r"\?")) as caught:
            await engine.sample(ask())
        assert len(stub.bodies) == 1
        assert stub.url in str(caught.value)
    stub.plan = [stub_server.status(401)]
    with pytest.raises(EngineUnavailable, match="OPENAI_API_KEY"):
        await engine.sample(ask())
    stub.plan = [stub_server.status(404)]
    with pytest.raises(ModelError, match="it serves m"):
        await engine.sample(ask())


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>busy</html>", b"[]", b"null", b'{"choices": 3}', b"\xff\xfe", b"[" * 100_000],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_no_json_is_an_error(
    stub: Stub, connect: MakeEngine, body: bytes, streamed: bool
) -> None:
    engine = await connect(stub)
    stub.always = stub_server.raw(b"data: " + body + b"\n\n" if streamed else body, "text/html")
    with pytest.raises((EngineReplyError, EngineUnavailable), match="/v1/completions"):
        await engine.sample(ask(), (lambda *_: None) if streamed else None)


@pytest.mark.parametrize("indent", [None, 2])
async def test_a_server_that_does_not_stream_is_told_apart(
    plain: Stub, connect: MakeEngine, indent: int | None
) -> None:
    engine = await connect(plain, flavour="chat")
    whole = {"choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}]}
    plain.always = stub_server.raw(json.dumps(whole, indent=indent).encode())
    said = "/v1/chat/completions ignores `stream: true` .*; use a server that streams"
    for request, sink in ((chat(engine), lambda *_: None), (chat(engine, stop=("x",)), None)):
        plain.bodies.clear()
        with pytest.raises(EngineReplyError, match=said):
            await engine.sample(request, sink)
        assert len(plain.bodies) == 1, "another attempt would be paid for too"


async def test_a_stream_that_reports_an_error_is_retried(stub: Stub, connect: MakeEngine) -> None:
    engine = await connect(stub)
    error = json.dumps({"error": {"message": "worker died", "code": 500}}).encode()
    stub.plan = [stub_server.raw(b"data: " + error + b"\n\n", "text/event-stream")]
    assert (await engine.sample(ask(), lambda *_: None)).completions


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_endless_body_is_cut_off(stub: Stub, connect: MakeEngine, streamed: bool) -> None:
    engine = await connect(stub, max_reply_bytes=1 << 20)
    stub.always = stub_server.endless()
    with pytest.raises(EngineReplyError, match="more than 1048576 bytes"):
        await engine.sample(ask(), (lambda *_: None) if streamed else None)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_slow_first_byte_times_out(stub: Stub, connect: MakeEngine, streamed: bool) -> None:
    engine = await connect(stub, first_byte_timeout=0.2, attempts=2)
    stub.plan = [stub_server.silent(30.0)]
    begun = time.monotonic()
    assert (await engine.sample(ask(), (lambda *_: None) if streamed else None)).completions
    assert time.monotonic() - begun < 5.0
    stub.always = stub_server.silent(30.0)
    with pytest.raises(EngineUnavailable, match="first_byte_timeout"):
        await engine.sample(ask(), (lambda *_: None) if streamed else None)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_slow_idle_times_out(stub: Stub, connect: MakeEngine, streamed: bool) -> None:
    engine = await connect(stub, idle_timeout=0.2, attempts=2)
    stub.plan = [stub_server.stalls(b": working\n\n", 30.0)]
    begun = time.monotonic()
    assert (await engine.sample(ask(), (lambda *_: None) if streamed else None)).completions
    assert time.monotonic() - begun < 5.0


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_server_that_falls_silent_for_good(
    stub: Stub, connect: MakeEngine, streamed: bool
) -> None:
    engine = await connect(stub, idle_timeout=0.2, attempts=2)
    stub.always = stub_server.stalls(b": working\n\n", 30.0)
    with pytest.raises(EngineUnavailable, match=r"completions: it fell silent for 0\.2 s.*idle_"):
        await engine.sample(ask(), (lambda *_: None) if streamed else None)


async def test_a_connection_that_is_not_taken(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind a firewall that drops packets."""

    async def never(*_: Any) -> None:
        await asyncio.sleep(30)

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", never)
    engine = OpenAIEngine("m", base_url=stub.url, connect_timeout=0.1)
    with pytest.raises(EngineUnavailable, match=r"no connection in 0\.1 s.*base_url"):
        await engine.start()


async def test_a_server_that_only_fails(stub: Stub, connect: MakeEngine) -> None:
    """5xx: attempts, then probes for as long as it is waited for; never a storm."""
    engine = await connect(stub, recovery_seconds=0.3)
    stub.always = stub_server.status(500, "CUDA out of memory")
    with pytest.raises(EngineUnavailable, match="HTTP 500: CUDA out of memory; see the server's"):
        await engine.sample(ask())
    assert len(stub.bodies) < 20


async def test_idle_is_longer_than_the_gaps_of_a_slow_stream(
    stub: Stub, connect: MakeEngine
) -> None:
    engine = await connect(stub, idle_timeout=0.5, first_byte_timeout=0.5, attempts=1)
    stub.token_seconds = 0.1
    reply = await engine.sample(ask(max_tokens=12, ignore_eos=True), lambda *_: None)
    assert reply.usage.new == 12


async def test_the_total_time_is_limited(stub: Stub, connect: MakeEngine) -> None:
    engine = await connect(stub, total_timeout=0.4, attempts=1)
    stub.token_seconds = 0.1
    with pytest.raises(EngineUnavailable, match="total_timeout"):
        await engine.sample(ask(ignore_eos=True), lambda *_: None)


async def test_a_server_that_is_down_at_the_start(unused_tcp_port: int) -> None:
    engine = OpenAIEngine("m", base_url=f"http://127.0.0.1:{unused_tcp_port}/v1")
    with pytest.raises(EngineUnavailable, match=f"127.0.0.1:{unused_tcp_port}.*cannot be reached"):
        await engine.start()
    await engine.close()


async def test_a_server_that_goes_away_is_waited_for(
    unused_tcp_port: int, connect: MakeEngine
) -> None:
    async with Stub().serving(unused_tcp_port) as first:
        engine = await connect(first)
        await engine.sample(ask())
    waiting = [asyncio.ensure_future(engine.sample(ask(first=i))) for i in range(20)]
    cancelled = waiting.pop()
    await asyncio.sleep(0.4)
    assert not any(task.done() for task in waiting)
    assert engine._sender.circuit.is_open
    cancelled.cancel()
    async with Stub().serving(unused_tcp_port) as second:
        replies = await asyncio.wait_for(asyncio.gather(*waiting), 10)
        assert len(replies) == 19
        assert not engine._sender.circuit.is_open
        # All of them waited on one prober.
        assert len([body for body in second.bodies if body["max_tokens"] == 1]) == 1
        # What the probes took is not in the counters.
        assert second.totals["generation_tokens"] == 1 + sum(r.usage.new for r in replies)
    assert cancelled.cancelled()


async def test_a_server_that_stays_away(unused_tcp_port: int, connect: MakeEngine) -> None:
    async with Stub().serving(unused_tcp_port) as stub:
        engine = await connect(stub, recovery_seconds=0.3)
    begun = time.monotonic()
    results = await asyncio.gather(
        *(engine.sample(ask(first=i)) for i in range(20)), return_exceptions=True
    )
    assert all(isinstance(result, EngineUnavailable) for result in results)
    assert time.monotonic() - begun < 5.0
    with pytest.raises(EngineUnavailable):  # at once: waiting has been tried
        await asyncio.wait_for(engine.sample(ask()), 1.0)
    with pytest.raises(EngineUnavailable):
        await asyncio.wait_for(engine.start(), 1.0)
    async with Stub().serving(unused_tcp_port):
        await engine.start()
        assert (await engine.sample(ask())).completions


async def test_closing_while_the_server_is_down(unused_tcp_port: int, connect: MakeEngine) -> None:
    async with Stub().serving(unused_tcp_port) as stub:
        engine = await connect(stub, recovery_seconds=60.0)
    waiting = asyncio.ensure_future(engine.sample(ask()))
    await asyncio.sleep(0.3)
    await engine.close()
    with pytest.raises(EngineUnavailable):
        await asyncio.wait_for(waiting, 2.0)


async def test_concurrency_falls_where_the_server_pushes_back_and_rises_again(
    stub: Stub, connect: MakeEngine
) -> None:
    engine = await connect(stub, max_concurrency=64, attempts=50, retry_budget=1000)
    stub.capacity, stub.token_seconds = 8, 0.001
    replies = await asyncio.gather(*(engine.sample(ask(first=i)) for i in range(200)))
    assert len(replies) == 200
    gate = engine._sender.gate
    assert gate.limit < 20
    pushed_back = len(stub.bodies) - 200
    stub.bodies.clear()
    await asyncio.gather(*(engine.sample(ask(first=i)) for i in range(200)))
    assert len(stub.bodies) - 200 < pushed_back, "it has learned"
    stub.capacity = 1 << 30
    low = gate.limit
    await asyncio.gather(*(engine.sample(ask(first=i)) for i in range(200)))
    assert gate.limit > low


async def test_no_more_are_open_than_allowed(stub: Stub, connect: MakeEngine) -> None:
    engine = await connect(stub, max_concurrency=5)
    stub.token_seconds = 0.001
    await asyncio.gather(*(engine.sample(ask(first=i)) for i in range(40)))
    assert stub.most_open == 5


async def test_a_wait_for_a_place_can_be_cancelled(stub: Stub, connect: MakeEngine) -> None:
    engine = await connect(stub, max_concurrency=1)
    stub.token_seconds = 0.01
    tasks: list[asyncio.Task[Any]] = [
        asyncio.ensure_future(engine.sample(ask(first=i))) for i in range(6)
    ]
    await asyncio.sleep(0.05)
    for task in tasks[1:4]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(r, asyncio.CancelledError) for r in results] == [False] + [True] * 3 + [
        False
    ] * 2
    assert engine._sender.gate.open == 0
