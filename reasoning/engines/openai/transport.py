"""Requests to one server over a pool of connections. Raises Fault, and nothing else of its own.

The key stands in the request's head and nowhere else: no error is made from a request.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import quote, urlsplit

from reasoning.engines.openai import faults
from reasoning.engines.openai.connection import Answer, Connection, Timeouts
from reasoning.engines.openai.faults import Fault, Malformed, reply_fault

T = TypeVar("T")

# Servers close idle connections (uvicorn after 5 s); a POST that meets the close is a reset.
KEEP_ALIVE_SECONDS = 4.0
NAME_SECONDS = 30.0  # for which a host name's addresses are believed
TICKS = 8  # looks at the clock within the shortest limit


class Transport:
    """Sends requests to one server. `open` and `close` belong to one event loop.

    base: URL, up to and including /v1. max_bytes: the longest body that is read.
    """

    def __init__(self, base: str, key: str | None, timeouts: Timeouts, max_bytes: int) -> None:
        self._base = base
        self._key = key
        self._timeouts = timeouts
        self._max_bytes = max_bytes
        self._address = Address(base)
        self._heads: dict[tuple[str, str], bytes] = {}
        self._idle: list[Connection] = []  # the one used last at the end
        self._busy: set[Connection] = set()
        self._clock: asyncio.TimerHandle | None = None
        self._open = False

    def __repr__(self) -> str:
        return f"Transport({self._base!r})"

    async def open(self) -> None:
        """Idempotent."""
        self._open = True

    async def close(self) -> None:
        """Break every open request off. Idempotent."""
        self._open = False
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None
        for connection in [*self._idle, *self._busy]:
            connection.abort()
        self._idle.clear()
        await asyncio.sleep(0)  # in which the sockets are closed

    def url(self, path: str) -> str:
        """`path` below the base; one that starts with // stands beside the base's /v1."""
        if path.startswith("//"):
            return self._base.removesuffix("/v1") + path[1:]
        return self._base + path

    async def get(self, path: str, read: Callable[[bytes], T], seconds: float = 30.0) -> T:
        """What `read` makes of the body of a 200 answer; a Malformed that it raises is a Fault."""
        return await self._exchange("GET", path, b"", self._timeouts.within(seconds), read)

    async def post(
        self, path: str, body: bytes, read: Callable[[bytes], T], seconds: float | None = None
    ) -> T:
        """As `get`. seconds: a shorter limit for the whole exchange."""
        limits = self._timeouts if seconds is None else self._timeouts.within(seconds)
        return await self._exchange("POST", path, body, limits, read)

    async def stream(self, path: str, body: bytes, feed: Callable[[bytes], bool]) -> None:
        """Hand a 200 answer's body to `feed` as it arrives, until it ends or `feed` returns True.

        Ending early, an exception of `feed` and a cancellation all disconnect.
        """
        await self._exchange("POST", path, body, self._timeouts, bytes, feed)

    def words(self, text: bytes | str) -> str:
        """A server's words for people, without the key."""
        return faults.words(text, self._key)

    async def _exchange(
        self,
        method: str,
        path: str,
        body: bytes,
        limits: Timeouts,
        read: Callable[[bytes], T],
        feed: Callable[[bytes], bool] | None = None,
    ) -> T:
        if not self._open:
            raise Fault("connect", f"{self._base}: the engine is closed")
        connection = self._kept() or await self._connected(limits)
        self._busy.add(connection)
        if self._clock is None:
            self._look(min(limits.first_byte, limits.idle, limits.total))
        request = b"%s%d\r\n\r\n%s" % (self._head(method, path), len(body), body)
        fault: Fault
        try:
            answer = await connection.ask(request, limits, self._max_bytes, feed)
            if answer.status == 200:
                return read(answer.body)
            fault = self._refusal(path, answer)
        except Malformed as wrong:
            fault = reply_fault(self.url(path), self.words(str(wrong)))
        except Fault as broken:
            broken.message = f"{self.url(path)}: {broken.message}"
            raise
        finally:
            self._busy.discard(connection)
            if connection.reusable and self._open:
                self._idle.append(connection)
        raise fault

    # Connections.

    def _kept(self) -> Connection | None:
        """The connection that was used last, if it is fit for use still."""
        oldest = asyncio.get_running_loop().time() - KEEP_ALIVE_SECONDS
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable and connection.used > oldest:
                return connection
            connection.abort()
        return None

    async def _connected(self, limits: Timeouts) -> Connection:
        """A new connection. Raises Fault."""
        try:
            async with asyncio.timeout(limits.connect):
                return await self._address.connection()
        except TimeoutError:
            what = f"no connection in {limits.connect:g} s (`connect_timeout`)"
        except ssl.SSLError as error:
            reason = getattr(error, "verify_message", None) or error.reason
            what = f"no secure connection ({reason})"
        except OSError as error:
            what = f"cannot be reached ({error.strerror or type(error).__name__})"
        raise Fault("connect", f"{self._base} {what}; is it the right `base_url`, and up?")

    def _look(self, shortest: float) -> None:
        """Look at the clock from time to time: cheaper than a timer for every request."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in list(self._busy):
            if connection.deadline <= now:
                connection.expire()
        self._clock = None
        if self._busy:
            self._clock = loop.call_later(min(1.0, shortest / TICKS), self._look, shortest)

    def _head(self, method: str, path: str) -> bytes:
        """All of a request before the length of its body."""
        head = self._heads.get((method, path))
        if head is None:
            lines = [
                f"{method} {quote(urlsplit(self.url(path)).path, safe='/%:@!$&()*+,;=~')} HTTP/1.1",
                f"Host: {self._address.host_header}",
                "User-Agent: reasoning",
                "Accept: */*",
                "Accept-Encoding: identity",
                "Content-Type: application/json",
                *([f"Authorization: Bearer {self._key}"] if self._key else []),
                "Content-Length: ",
            ]
            head = self._heads[method, path] = "\r\n".join(lines).encode("ascii")
        return head

    def _refusal(self, path: str, answer: Answer) -> Fault:
        """The fault of an answer that is not 200."""
        return Fault(
            "status",
            f"{self.url(path)} answered HTTP {answer.status}",
            status=answer.status,
            text=self.words(answer.body),
            retry_after=faults.retry_after(answer.headers.get("retry-after")),
        )


class Address:
    """Where a URL's server is: resolves its name now and then, connects to what it finds."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.host = parts.hostname or ""
        self.secure = parts.scheme == "https"
        self.port = parts.port or (443 if self.secure else 80)
        self.host_header = parts.netloc.encode("idna").decode("ascii")
        self._ssl: ssl.SSLContext | None = None
        self._found: list[str] = []
        self._until = 0.0

    async def connection(self) -> Connection:
        """A new connection. Raises OSError, ssl.SSLError."""
        loop = asyncio.get_running_loop()
        if self.secure and self._ssl is None:
            self._ssl = ssl.create_default_context()
        last: OSError | None = None
        for address in await self._addresses():
            try:
                _, connection = await loop.create_connection(
                    Connection,
                    address,
                    self.port,
                    ssl=self._ssl,
                    server_hostname=self.host if self.secure else None,
                )
            except OSError as error:
                last = error
                continue
            if self._found[:1] != [address]:  # the others need not try what failed
                self._found = [address, *(other for other in self._found if other != address)]
            return connection
        self._found = []
        raise last or OSError("no address found")

    async def _addresses(self) -> list[str]:
        loop = asyncio.get_running_loop()
        if not self._found or loop.time() > self._until:
            infos = await loop.getaddrinfo(self.host, self.port, type=1)  # SOCK_STREAM
            self._found = list(dict.fromkeys(str(info[4][0]) for info in infos))
            self._until = loop.time() + NAME_SECONDS
        return list(self._found)
