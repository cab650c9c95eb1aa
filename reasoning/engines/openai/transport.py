"""Requests to one server: connections kept alive, separate timeouts, capped sizes. Raises Fault
and nothing else.

A request holds the key. What went wrong on a connection is turned into a Fault inside its handler,
and that is raised after it: nothing that saw the request is chained to it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import astuple
from typing import TypeVar
from urllib.parse import quote, urlsplit

from reasoning.engines.openai import faults
from reasoning.engines.openai.faults import Fault, Malformed
from reasoning.engines.openai.http import Connection, Failure, Timeouts

T = TypeVar("T")

# Servers close idle connections (uvicorn after 5 s); a POST that meets the close is a reset.
KEEP_ALIVE_SECONDS = 4.0
CHECK = "is it up, and the right `base_url`?"


class Transport:
    """Sends requests to one server. `open` and `close` belong to one event loop."""

    def __init__(self, base: str, key: str | None, timeouts: Timeouts, max_bytes: int) -> None:
        self._base = base
        self._key = key
        self._timeouts = timeouts
        self._max_bytes = max_bytes
        self._opened = False
        self._ssl: ssl.SSLContext | None = None
        self._idle: deque[Connection] = deque()  # the last used at the end
        self._busy: set[Connection] = set()
        self._heads: dict[tuple[str, str], bytes] = {}

    def __repr__(self) -> str:
        return f"Transport({self._base!r})"

    async def open(self) -> None:
        """Idempotent."""
        if self._base.startswith("https:") and self._ssl is None:
            self._ssl = ssl.create_default_context()
        self._opened = True

    async def close(self) -> None:
        """Break every open request off. Idempotent."""
        self._opened = False
        for connection in (*self._idle, *self._busy):
            connection.abort()
        self._idle.clear()
        await asyncio.sleep(0)  # in which the sockets are closed

    def url(self, path: str) -> str:
        """`path` below the base; one that starts with // stands beside the base's /v1."""
        root = self._base.removesuffix("/v1") if path.startswith("//") else self._base
        return root + path.replace("//", "/")

    async def get(self, path: str, read: Callable[[bytes], T], seconds: float = 30.0) -> T:
        """What `read` makes of the body of a 200 answer; a Malformed that it raises is a Fault."""
        return await self._exchange("GET", path, b"", read, self._shorter(seconds))

    async def post(
        self, path: str, body: bytes, read: Callable[[bytes], T], seconds: float | None = None
    ) -> T:
        """As `get`. seconds: a shorter limit for the whole exchange."""
        limits = self._timeouts if seconds is None else self._shorter(seconds)
        return await self._exchange("POST", path, body, read, limits)

    async def stream(self, path: str, body: bytes, feed: Callable[[bytes], bool]) -> None:
        """Hand a 200 answer's body to `feed` as it arrives, until it ends or `feed` returns True.

        Ending early, an exception of `feed` and a cancellation all disconnect.
        """
        await self._exchange("POST", path, body, bytes, self._timeouts, feed)

    def words(self, said: bytes | str) -> str:
        """A server's words for people, without the key."""
        return faults.words(said, self._key)

    async def _exchange(
        self,
        method: str,
        path: str,
        body: bytes,
        read: Callable[[bytes], T],
        limits: Timeouts,
        feed: Callable[[bytes], bool] | None = None,
    ) -> T:
        """Errors of `read` and `feed` but Malformed are let through."""
        end = asyncio.get_running_loop().time() + limits.total
        connection = self._rested() or await self._connected(path, limits)
        request = b"%b%d\r\n\r\n%b" % (self._head(method, path), len(body), body)
        self._busy.add(connection)
        try:
            self._check_open()  # it may have been closed while this connected
            await connection.ask(request, limits, end, whole=feed is None)
            if connection.status == 200:
                while feed is not None and (piece := await connection.more()):
                    if feed(piece):
                        break
                return read(connection.take())
            fault = self._refusal(path, connection)
        except Failure as failure:
            fault = self._fault(path, limits, failure)
        except Malformed as wrong:
            fault = faults.reply_fault(self.url(path), self.words(str(wrong)))
        finally:
            self._busy.discard(connection)
            # One with something unread on it is of no more use: the server sees it close.
            if connection.reusable and self._opened:
                connection.rest()
                self._idle.append(connection)
            else:
                connection.abort()
        raise fault

    def _rested(self) -> Connection | None:
        """A connection that is kept alive still: the last one used, so that others can go."""
        oldest = asyncio.get_running_loop().time() - KEEP_ALIVE_SECONDS
        while self._idle and self._idle[0].idle_since < oldest:
            self._idle.popleft().abort()
        while self._idle:
            connection = self._idle.pop()
            if not connection.closing:
                return connection
        return None

    async def _connected(self, path: str, limits: Timeouts) -> Connection:
        self._check_open()
        parts = urlsplit(self._base)
        try:
            async with asyncio.timeout(min(limits.connect, limits.total)):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(self._max_bytes),
                    parts.hostname or "",
                    parts.port or (443 if self._ssl else 80),
                    ssl=self._ssl,
                    happy_eyeballs_delay=0.25,
                )
            return connection
        except TimeoutError:
            what = f"no connection in {limits.connect:g} s (`connect_timeout`)"
            fault = Fault("connect", f"{self.url(path)}: {what}; {CHECK}")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            fault = Fault("connect", f"{self.url(path)} cannot be reached ({reason}); {CHECK}")
        raise fault

    def _check_open(self) -> None:
        if not self._opened:
            raise Fault("connect", f"{self._base}: the engine is closed")

    def _head(self, method: str, path: str) -> bytes:
        """A request's head up to its Content-Length: the same for all of a path."""
        head = self._heads.get((method, path))
        if head is None:
            where = urlsplit(self.url(path))
            host = where.netloc.encode("idna").decode("ascii")
            lines = [
                f"{method} {quote(where.path, safe='/%:@!$&()*+,;=~')} HTTP/1.1",
                f"Host: {host}",
                "User-Agent: reasoning",
                "Accept: */*",
                "Accept-Encoding: identity",
                "Content-Type: application/json",
            ]
            if self._key:
                lines.append(f"Authorization: Bearer {self._key}")
            head = "\r\n".join([*lines, "Content-Length: "]).encode()
            self._heads[method, path] = head
        return head

    def _refusal(self, path: str, connection: Connection) -> Fault:
        """The fault of an answer that is not 200."""
        return Fault(
            "status",
            f"{self.url(path)} answered HTTP {connection.status}",
            status=connection.status,
            text=self.words(connection.take()),
            retry_after=faults.retry_after(connection.retry_after),
        )

    def _fault(self, path: str, limits: Timeouts, failure: Failure) -> Fault:
        url = self.url(path)
        match failure.trouble:
            case "silent":
                what = f"no first byte in {limits.first_byte:g} s (`first_byte_timeout`)"
            case "idle":
                what = f"it fell silent for {limits.idle:g} s (`idle_timeout`)"
            case "total":
                what = f"not done in {limits.total:g} s (`total_timeout`)"
            case "reset":
                return Fault("reset", f"{url}: the connection broke ({failure.detail})")
            case "too_long":
                return faults.reply_fault(url, f"more than {self._max_bytes} bytes")
            case "not_http":
                return faults.reply_fault(url, failure.detail or "it is not HTTP")
        return Fault("timeout", f"{url}: {what}")

    def _shorter(self, seconds: float) -> Timeouts:
        return Timeouts(*(min(limit, seconds) for limit in astuple(self._timeouts)))
