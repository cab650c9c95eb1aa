"""The HTTP that model servers are asked with: framing, whatever the cuts, and what is no answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from reasoning.engines.openai import transport as transports
from reasoning.engines.openai.faults import Fault
from reasoning.engines.openai.http import Timeouts
from reasoning.engines.openai.transport import Transport

TIMEOUTS = Timeouts(connect=5.0, first_byte=5.0, idle=5.0, total=10.0)
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"2\r\nhe\r\n3;note=1\r\nllo\r\n0\r\nTrailer: x\r\n\r\n"
)
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\nhello"


@dataclass
class Server:
    """Answers the requests of all connections in order. cut: bytes that are written at once."""

    answers: list[bytes]
    cut: int = 1 << 20
    closes: bool = False
    requests: list[bytes] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    connections: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            self.requests.append(head + await reader.readexactly(length))
            self.arrived.set()
            answer = self.answers.pop(0)
            for start in range(0, len(answer), self.cut):
                writer.write(answer[start : start + self.cut])
                await writer.drain()
                await asyncio.sleep(0.001 if self.cut < 100 else 0)
            if self.closes:
                break


@asynccontextmanager
async def asked(server: Server, max_bytes: int = 1 << 20) -> AsyncIterator[Transport]:
    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def until_gone() -> None:
            try:
                await server.serve(reader, writer)
            except (asyncio.IncompleteReadError, OSError):
                pass
            finally:
                writer.close()

        tasks.append(asyncio.ensure_future(until_gone()))

    tasks: list[asyncio.Task[None]] = []
    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    client = Transport(f"http://127.0.0.1:{port}/v1", "secret", TIMEOUTS, max_bytes)
    await client.open()
    try:
        yield client
    finally:
        await client.close()
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def streamed(client: Transport) -> bytes:
    pieces: list[bytes] = []

    def feed(piece: bytes) -> bool:
        pieces.append(piece)
        return False

    await client.stream("/x", b"{}", feed)
    return b"".join(pieces)


@pytest.mark.parametrize("cut", [1, 7, 1 << 20])
@pytest.mark.parametrize(
    ("answer", "closes"), [(GOOD, False), (CHUNKED, False), (UNTIL_CLOSE, True)]
)
async def test_a_body_is_whole_however_it_is_cut(answer: bytes, closes: bool, cut: int) -> None:
    server = Server([answer, answer], cut, closes)
    async with asked(server) as client:
        assert await client.post("/x", b"{}", bytes) == b"hello"
        assert await streamed(client) == b"hello"
    assert server.connections == (2 if closes else 1)
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"\r\nAuthorization: Bearer secret\r\n" in head
    assert body == b"{}"


async def test_what_comes_before_an_answer_is_passed_over() -> None:
    async with asked(Server([b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + GOOD])) as client:
        assert await client.get("/x", bytes) == b"hello"


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", "it is not HTTP"),
        (b"HTTP/2 200\r\n\r\n", "it is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "it is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", "it is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "it is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", "compressed"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhello\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * (1 << 17), "it is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n", "more than 1048576 bytes"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffff\r\n", "more than 1048576"),
    ],
)
async def test_what_is_no_answer(answer: bytes, wrong: str) -> None:
    async with asked(Server([answer, GOOD])) as client:
        with pytest.raises(Fault, match=wrong) as failed:
            await client.post("/x", b"{}", bytes)
        assert failed.value.kind == "reply"
        assert failed.value.__context__ is None
        assert await client.post("/x", b"{}", bytes) == b"hello"


@pytest.mark.parametrize("answer", [GOOD[:-1], CHUNKED[:-7], b"HTTP/1.1 20", b""])
async def test_an_answer_that_ends_too_early_is_a_reset(answer: bytes) -> None:
    async with asked(Server([answer], closes=True)) as client:
        with pytest.raises(Fault) as failed:
            await client.post("/x", b"{}", bytes)
        assert failed.value.kind == "reset"


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 200000\r\n\r\nbusy" + b" " * 199_996,
        b"Content-Length: 200000\r\n\r\nbusy",
        b"\r\nbusy",
    ],
)
async def test_a_refusal_is_one_without_all_of_its_words(body: bytes) -> None:
    answer = b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\n" + body
    async with asked(Server([answer], closes=True)) as client:
        with pytest.raises(Fault) as failed:
            await client.post("/x", b"{}", bytes)
        assert (failed.value.status, failed.value.retry_after) == (503, 7.0)
        assert failed.value.text == "busy"


@pytest.mark.parametrize(
    "answers",
    [
        [GOOD + b"HTTP/1.1 200 OK\r\n", GOOD],  # the next answer must not be taken from the first
        [GOOD.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"), GOOD],
        [GOOD.replace(b"HTTP/1.1", b"HTTP/1.0"), GOOD],
    ],
)
async def test_a_connection_that_cannot_be_trusted_is_not_used_again(
    answers: Sequence[bytes],
) -> None:
    server = Server(list(answers))
    async with asked(server) as client:
        for _ in answers:
            assert await client.post("/x", b"{}", bytes) == b"hello"
    assert server.connections == 2


async def test_connections_are_kept_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server([GOOD] * 6)
    async with asked(server) as client:
        await asyncio.gather(*(client.post("/x", b"{}", bytes) for _ in range(3)))
        assert server.connections == 3
        await client.post("/x", b"{}", bytes)
        assert server.connections == 3
        monkeypatch.setattr(transports, "KEEP_ALIVE_SECONDS", 0.0)
        await asyncio.sleep(0.01)
        await client.post("/x", b"{}", bytes)
        assert server.connections == 4


async def test_a_cancelled_request_disconnects() -> None:
    server = Server([b""])
    async with asked(server) as client:
        asking = asyncio.ensure_future(client.post("/x", b"{}", bytes))
        await server.arrived.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        server.answers.append(GOOD)
        assert await client.post("/x", b"{}", bytes) == b"hello"
    assert server.connections == 2
