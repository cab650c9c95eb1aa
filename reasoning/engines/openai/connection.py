"""One keep-alive HTTP/1.1 connection: requests and replies as bytes, one exchange at a time.

Made for one kind of traffic, at hundreds of requests a second: a body is posted, JSON or
server-sent events come back. What a general client does besides (redirects, cookies, compression,
proxies, a task switch for every chunk) costs 0.2 ms of CPU a request, as much as all the rest.
A reply's bytes are handed on from where the event loop delivers them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from reasoning.engines.openai.faults import Fault, Malformed

HEAD_BYTES = 1 << 16  # of a status line and headers
LINE_BYTES = 1 << 12  # of a chunk's size line, and of a trailer
ERROR_BYTES = 1 << 16  # of an error's body that are read

_STATUS = re.compile(r"HTTP/1\.[01] ([1-5][0-9][0-9])(?: |$)")
_SIZE = re.compile(rb"[0-9a-fA-F]{1,15}(?=[ \t;]|$)")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to connect, to the status line, between reads, for all of it."""

    connect: float
    first_byte: float
    idle: float
    total: float

    def within(self, seconds: float) -> Timeouts:
        """These, and nothing longer than `seconds`."""
        limits = (self.connect, self.first_byte, self.idle, self.total)
        return Timeouts(*(min(limit, seconds) for limit in limits))


@dataclass(slots=True)
class Answer:
    """A reply. headers: names in lower case. body: empty where it was handed on in pieces."""

    status: int
    headers: dict[str, str]
    body: bytes = b""


@dataclass(slots=True)
class _Exchange:
    """A request on its way. take: gets a 200's body in pieces, and returns True to break off."""

    limits: Timeouts
    end: float  # loop time: when all of it must be done
    most: int  # bytes that the body may have
    left: int  # of them
    take: Callable[[bytes], bool] | None
    done: asyncio.Future[Answer]
    answer: Answer | None = None
    body: _Body | None = None
    parts: list[bytes] = field(default_factory=list)


class Connection(asyncio.Protocol):
    """Made by `loop.create_connection`. `ask` again only while it is `reusable`.

    deadline: loop time after which `expire` is due (whoever holds the connection calls it).
    """

    def __init__(self) -> None:
        self.reusable = False
        self.deadline = float("inf")
        self.used = 0.0  # loop time of the last reply's end
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._exchange: _Exchange | None = None
        self._rest = b""  # of a head that is incomplete

    async def ask(
        self,
        request: bytes,
        limits: Timeouts,
        most: int,
        take: Callable[[bytes], bool] | None = None,
    ) -> Answer:
        """Send a whole request, await the whole reply.

        Raises Fault (its message without the address), Malformed, and whatever `take` raises.
        Unless the reply was read to its end, the connection is broken off.
        """
        now = self._loop.time()
        done = self._loop.create_future()
        exchange = _Exchange(limits, now + limits.total, most, most, take, done)
        self._exchange = exchange
        self.reusable = False
        self.deadline = now + min(limits.first_byte, limits.total)
        try:
            if self._transport is None or self._transport.is_closing():
                raise Fault("reset", "the connection broke")
            self._transport.write(request)
            return await exchange.done
        finally:
            self._exchange = None
            if not self.reusable:
                self.abort()

    def expire(self) -> None:
        """The deadline has passed: end the exchange with the limit that it ran into."""
        exchange = self._exchange
        if exchange is None or exchange.done.done():
            return
        limits = exchange.limits
        if self.deadline >= exchange.end:
            what = f"it was not done in {limits.total:g} s (`total_timeout`)"
        elif exchange.answer is None:
            what = f"no first byte came in {limits.first_byte:g} s (`first_byte_timeout`)"
        else:
            what = f"it fell silent for {limits.idle:g} s (`idle_timeout`)"
        exchange.done.set_exception(Fault("timeout", what))

    def abort(self) -> None:
        """Disconnect at once; an exchange on its way ends with a Fault. Idempotent."""
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.reusable = False
        self._transport = None
        exchange = self._exchange
        if exchange is None or exchange.done.done():
            return
        if error is None and isinstance(exchange.body, _UntilClosed):
            self._finish(exchange)
            return
        why = type(error).__name__ if error is not None else "the server closed it"
        exchange.done.set_exception(Fault("reset", f"the connection broke ({why})"))

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None or exchange.done.done():
            self.abort()  # nobody asked, or whoever did has gone
            return
        try:
            if exchange.body is None:
                data = self._head(exchange, self._rest + data)
            if exchange.body is not None:
                self._read(exchange, exchange.body, data)
        except Exception as error:
            exchange.done.set_exception(error)
            self.abort()
        else:
            self.deadline = min(exchange.end, self._loop.time() + exchange.limits.idle)

    # Reading.

    def _head(self, exchange: _Exchange, data: bytes) -> bytes:
        """Read status and headers, if they are all there; returns what stands behind them."""
        while True:
            raw, blank, data = data.partition(b"\r\n\r\n")
            if not blank:
                if len(raw) > HEAD_BYTES or (raw and not b"HTTP/1.".startswith(raw[:7])):
                    raise Malformed("it is not HTTP")
                self._rest = raw
                return b""
            self._rest = b""
            answer = _head(raw)
            if answer.status >= 200:
                break
        exchange.answer = answer
        exchange.body = _body(answer)
        if answer.status != 200:
            exchange.left, exchange.take = ERROR_BYTES, None
        elif isinstance(exchange.body, _Sized) and exchange.body.left > exchange.most:
            raise Malformed(f"more than {exchange.most} bytes")
        return data

    def _read(self, exchange: _Exchange, body: _Body, data: bytes) -> None:
        assert exchange.answer is not None
        piece = body.feed(data)
        exchange.left -= len(piece)
        if exchange.left < 0 and exchange.answer.status == 200:
            raise Malformed(f"more than {exchange.most} bytes")
        if exchange.take is None:
            exchange.parts.append(piece)
        elif piece and exchange.take(piece):
            self._finish(exchange)
            return
        if body.ended:
            self.reusable = body.clean and _keeps(exchange.answer)
            self._finish(exchange)
        elif exchange.left < 0:
            self._finish(exchange)  # enough of an error

    def _finish(self, exchange: _Exchange) -> None:
        assert exchange.answer is not None
        parts = exchange.parts
        exchange.answer.body = parts[0] if len(parts) == 1 else b"".join(parts)
        self.used = self._loop.time()
        exchange.done.set_result(exchange.answer)


def _head(raw: bytes) -> Answer:
    """Raises Malformed."""
    first, *lines = raw.decode("latin-1").split("\r\n")
    found = _STATUS.match(first)
    if found is None:
        raise Malformed("it is not HTTP")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return Answer(int(found[1]), headers)


def _keeps(answer: Answer) -> bool:
    return "close" not in answer.headers.get("connection", "").lower()


# How the end of a body is found. `feed` gives the content in what arrived; `clean` says that
# nothing stood behind the end.


class _Body(Protocol):
    ended: bool
    clean: bool

    def feed(self, data: bytes) -> bytes: ...


class _Sized:
    """By Content-Length."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.ended = False
        self.clean = True

    def feed(self, data: bytes) -> bytes:
        if len(data) > self.left:
            self.clean = False
            data = data[: self.left]
        self.left -= len(data)
        self.ended = not self.left
        return data


class _UntilClosed:
    """By the end of the connection."""

    ended = False
    clean = False

    def feed(self, data: bytes) -> bytes:
        return data


class _Chunked:
    """By chunks (RFC 9112, section 7.1). Raises Malformed."""

    def __init__(self) -> None:
        self.ended = False
        self.clean = True
        self._left = 0  # of the chunk that is being read
        self._line: Callable[[bytes], None] = self._size  # what the next line is
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        if self._rest:
            data, self._rest = self._rest + data, b""
        parts = []
        at = 0
        while not self.ended:
            if self._left:
                part = data[at : at + self._left]
                at += len(part)
                self._left -= len(part)
                parts.append(part)
                if self._left:
                    break
            end = data.find(b"\r\n", at)
            if end < 0:
                self._rest = data[at:]
                if len(self._rest) > LINE_BYTES:
                    raise Malformed("a chunk without an end")
                break
            line = data[at:end]
            at = end + 2
            self._line(line)
        if self.ended:
            self.clean = at == len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _size(self, line: bytes) -> None:
        found = _SIZE.match(line)
        if found is None:
            raise Malformed("a chunk without a size")
        self._left = int(found[0], 16)
        self._line = self._gap if self._left else self._trailer

    def _gap(self, line: bytes) -> None:
        if line:
            raise Malformed("a chunk longer than its size")
        self._line = self._size

    def _trailer(self, line: bytes) -> None:
        self.ended = not line


def _body(answer: Answer) -> _Body:
    """Raises Malformed."""
    headers = answer.headers
    if headers.get("content-encoding", "identity").lower() not in ("", "identity"):
        raise Malformed("it is compressed, which was not asked for")
    coding = headers.get("transfer-encoding", "").lower()
    if coding == "chunked":
        return _Chunked()
    if coding:
        raise Malformed(f"it is in transfer coding {coding!r}")
    if answer.status in (204, 304):
        return _Sized(0)
    size = headers.get("content-length")
    if size is None:
        return _UntilClosed()
    if not (size.isascii() and size.isdecimal() and len(size) < 16):
        raise Malformed("its Content-Length is no number")
    return _Sized(int(size))
