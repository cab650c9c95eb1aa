"""HTTP/1.1 as far as asking a model needs it: a connection that carries one request at a time.

A general client spends 0.2 ms of CPU time on a request, more than all the rest of its way through
this package. What it is general for has no use here: no redirects, cookies, proxies, compression,
or bodies sent in pieces. Answers end by their length, by chunks, or with the connection.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Literal

HEAD_BYTES = 1 << 16  # of a status line with its headers
CHUNK_HEAD_BYTES = 1 << 12
ERROR_BYTES = 1 << 16  # kept of the body of an answer that is not 200

_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5]\d\d)(?: |$)")
_LENGTH = re.compile(rb"\d{1,18}")
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;|$)")

# silent: no status line in time. idle: it stopped in the middle. total: too long in all.
# reset: the connection ended too early. not_http, too_long: the answer cannot be used.
Trouble = Literal["silent", "idle", "total", "reset", "not_http", "too_long"]


class Failure(Exception):
    """An exchange that came to no answer. Holds nothing of the request."""

    def __init__(self, trouble: Trouble, detail: str = "") -> None:
        super().__init__(trouble, detail)
        self.trouble = trouble
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to connect, to the status line, between reads, for all of it."""

    connect: float
    first_byte: float
    idle: float
    total: float


class Connection(asyncio.Protocol):
    """`ask`, then `take`, or `more` until it gives nothing. `reusable` says whether to ask again.

    max_bytes: a longer body is cut off and a Failure.
    """

    _timeouts: Timeouts  # of the request at hand

    def __init__(self, max_bytes: int) -> None:
        self.status = 0
        self.retry_after: str | None = None
        self.idle_since = 0.0
        self._max_bytes = max_bytes
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = self._end = 0.0
        self._asked = False
        self._clear()

    def _clear(self) -> None:
        self._rest = bytearray()  # received, and not understood yet
        self._parts: list[bytes] = []
        self._size = 0  # of the body so far
        self._left: int | None = None  # of a body of known length
        self._chunked = self._trailing = False
        self._keep = False  # the server keeps the connection
        self._whole = True
        self._done = False
        self._failure: Failure | None = None

    # Asking.

    async def ask(self, request: bytes, timeouts: Timeouts, end: float, *, whole: bool) -> None:
        """Send a request; return when its answer is here, with all of its body if `whole`; else a
        200 returns with its head. end: loop time. Raises Failure. Cancelled, it must be aborted."""
        if self._transport is None or self._transport.is_closing():
            raise Failure("reset", "closed")
        self._clear()
        self.status, self.retry_after = 0, None
        self._timeouts, self._end, self._whole, self._asked = timeouts, end, whole, True
        self._expect(timeouts.first_byte)
        self._transport.write(request)
        while not (self._done or self._failure or (self.status and not self._whole)):
            await self._news()
        self._check()

    def take(self) -> bytes:
        """What has been received of the body since."""
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        return data

    async def more(self) -> bytes:
        """The next bytes of the body, nothing at its end. Raises Failure."""
        while not (self._parts or self._done or self._failure):
            await self._news()
        if not self._parts:
            self._check()
        return self.take()

    @property
    def reusable(self) -> bool:
        """Whether the answer was read to its end, and another request may follow."""
        sent = self._transport is not None and not self._transport.get_write_buffer_size()
        return self._done and self._keep and not self._rest and sent and not self.closing

    @property
    def closing(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def rest(self) -> None:
        """Nothing is expected until the next request."""
        self._asked = False
        self.idle_since = self._loop.time()

    def abort(self) -> None:
        """Disconnect. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()

    async def _news(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _fail(self, failure: Failure) -> None:
        if self._done or self._failure is not None:
            return
        if self.status not in (0, 200):
            self._done = True  # a refusal is one without all of its words, too
        else:
            self._failure = failure
        self._keep = False
        self._wake()

    # Time. One timer serves all requests of a connection: most of them only move its deadline.

    def _expect(self, seconds: float) -> None:
        self._deadline = min(self._loop.time() + seconds, self._end)
        if self._timer is not None and self._timer.when() > self._deadline:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(self._deadline, self._late)

    def _late(self) -> None:
        self._timer = None
        if not self._asked or self._done:
            return
        now = self._loop.time()
        if now < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._late)
        elif now >= self._end:
            self._fail(Failure("total"))
        else:
            self._fail(Failure("idle" if self.status else "silent"))

    # Receiving.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        ends_it = self.status and self._left is None and not self._chunked and error is None
        if ends_it and not self._failure:
            self._done = True
            self._wake()
        else:
            self._fail(Failure("reset", type(error).__name__ if error else "closed"))

    def data_received(self, data: bytes) -> None:
        if not self._asked or self._failure is not None:
            self.abort()  # nobody asked
            return
        try:
            if self._done:
                self._keep = False
            elif self.status:
                self._receive(data)
            else:
                self._rest += data
                self._receive_head()
        except Failure as failure:
            self._fail(failure)
        if self._done:
            self._wake()
        elif self.status and self._failure is None:
            self._expect(self._timeouts.idle)
            if not self._whole:
                self._wake()

    def _receive_head(self) -> None:
        while True:
            if not self._rest.startswith(b"HTTP/"[: len(self._rest)]):
                raise Failure("not_http")
            end = self._rest.find(b"\r\n\r\n")
            if end < 0:
                if len(self._rest) > HEAD_BYTES:
                    raise Failure("not_http")
                return
            head, body = bytes(self._rest[:end]), bytes(self._rest[end + 4 :])
            self._rest.clear()
            status = self._read_head(head)
            if status >= 200:
                break
            self._rest += body  # a 1xx comes before the answer
        self.status = status
        self._whole = self._whole or status != 200
        if status in (204, 304):
            self._left = 0
        if status == 200 and (self._left or 0) > self._max_bytes:
            raise Failure("too_long")
        self._receive(body)

    def _read_head(self, head: bytes) -> int:
        line, *fields = head.split(b"\r\n")
        found = _STATUS.match(line)
        if found is None:
            raise Failure("not_http")
        self._keep = found[1] == b"1"
        self._left, self._chunked = None, False
        for field in fields:
            name, colon, value = field.partition(b":")
            if not colon or not name or name[-1:].isspace() or name[:1].isspace():
                raise Failure("not_http")
            match name.lower():
                case b"content-length":
                    value = value.strip()
                    if not _LENGTH.fullmatch(value) or self._left not in (None, int(value)):
                        raise Failure("not_http")
                    self._left = int(value)
                case b"transfer-encoding":
                    if value.strip().lower() != b"chunked":
                        raise Failure("not_http")
                    self._chunked = True
                case b"connection":
                    self._keep = self._keep and b"close" not in value.lower()
                case b"content-encoding":
                    if value.strip().lower() != b"identity":
                        raise Failure("not_http", "its body is compressed, unasked")
                case b"retry-after":
                    self.retry_after = value.strip().decode("latin-1")
        if self._chunked:
            self._left = None  # chunks count, where both are said
        elif self._left is None:
            self._keep = False
        return int(found[2])

    def _receive(self, data: bytes) -> None:
        if self._chunked:
            self._rest += data
            self._receive_chunks()
            return
        if self._left is None:
            self._body(data)
            return
        if len(data) > self._left:
            data = data[: self._left]
            self._keep = False  # more than was announced
        self._left -= len(data)
        self._body(data)
        self._done = not self._left

    def _receive_chunks(self) -> None:
        data, at = self._rest, 0
        while not self._done:
            end = data.find(b"\r\n", at)
            if end < 0:
                if len(data) - at > CHUNK_HEAD_BYTES:
                    raise Failure("not_http")
                break
            if self._trailing:
                self._done = end == at
                at = end + 2
                continue
            found = _CHUNK.match(data[at:end])
            if found is None:
                raise Failure("not_http")
            size, start = int(found[1], 16), end + 2
            if not size:
                self._trailing, at = True, start
                continue
            if self._size + size > self._most:
                raise Failure("too_long")
            if len(data) < start + size + 2:
                break
            if data[start + size : start + size + 2] != b"\r\n":
                raise Failure("not_http")
            self._body(bytes(data[start : start + size]))
            at = start + size + 2
        del data[:at]

    @property
    def _most(self) -> int:
        """Bytes that a body may have; of a refusal's the first are enough."""
        return self._max_bytes if self.status == 200 else ERROR_BYTES

    def _body(self, data: bytes) -> None:
        if data:
            self._size += len(data)
            self._parts.append(data)
            if self._size > self._most:
                raise Failure("too_long")  # of a refusal it is the end, see _fail
