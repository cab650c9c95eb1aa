"""One HTTP session: keep-alive, separate timeouts, capped sizes. Raises Fault and nothing else.

The library's exceptions can carry the request's headers, and so the key. None of them is chained
to a Fault: each is turned into one inside its handler and raised after it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import astuple, dataclass
from typing import TypeVar

import aiohttp
from yarl import URL

from reasoning.engines.openai import faults
from reasoning.engines.openai.faults import Fault, Malformed

T = TypeVar("T")

# Servers close idle connections (uvicorn after 5 s); a POST that meets the close is a reset.
KEEP_ALIVE_SECONDS = 4.0
ERROR_BYTES = 1 << 16  # of an error's body


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to connect, to the status line, between reads, for all of it."""

    connect: float
    first_byte: float
    idle: float
    total: float


class Transport:
    """Sends requests to one server. `open` and `close` belong to one event loop."""

    def __init__(self, base: str, key: str | None, timeouts: Timeouts, max_bytes: int) -> None:
        self._base = base
        self._key = key
        self._timeouts = timeouts
        self._max_bytes = max_bytes
        self._urls: dict[str, URL] = {}
        self._session: aiohttp.ClientSession | None = None
        self._timeout = _library_timeout(timeouts)

    def __repr__(self) -> str:
        return f"Transport({self._base!r})"

    async def open(self) -> None:
        """Idempotent."""
        if self._session is not None:
            return
        headers = {"Content-Type": "application/json", "User-Agent": "reasoning"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS),
            headers=headers,
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        """Break every open request off. Idempotent."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def url(self, path: str) -> URL:
        """`path` below the base; one that starts with // stands beside the base's /v1."""
        if path not in self._urls:
            root = self._base.removesuffix("/v1") if path.startswith("//") else self._base
            self._urls[path] = URL(root + path.replace("//", "/"))
        return self._urls[path]

    async def get(self, path: str, read: Callable[[bytes], T], seconds: float = 30.0) -> T:
        """What `read` makes of the body of a 200 answer; a Malformed that it raises is a Fault."""
        return await self._exchange("GET", path, None, read, self._shorter(seconds))

    async def post(
        self, path: str, body: bytes, read: Callable[[bytes], T], seconds: float | None = None
    ) -> T:
        """As `get`. seconds: a shorter limit for the whole exchange."""
        limits = self._timeout if seconds is None else self._shorter(seconds)
        return await self._exchange("POST", path, body, read, limits)

    async def stream(self, path: str, body: bytes, feed: Callable[[bytes], bool]) -> None:
        """Hand a 200 answer's body to `feed` as it arrives, until it ends or `feed` returns True.

        Ending early, an exception of `feed` and a cancellation all disconnect.
        """
        await self._exchange("POST", path, body, bytes, self._timeout, feed)

    def words(self, said: bytes | str) -> str:
        """A server's words for people, without the key."""
        return faults.words(said, self._key)

    async def _exchange(
        self,
        method: str,
        path: str,
        body: bytes | None,
        read: Callable[[bytes], T],
        limits: aiohttp.ClientTimeout,
        feed: Callable[[bytes], bool] | None = None,
    ) -> T:
        """Errors of the library become Faults; those of `read` and `feed` are let through."""
        ask = self._live().request(
            method, self.url(path), data=body, allow_redirects=False, timeout=limits
        )
        reply = await self._faultless(path, limits, ask)
        fault: Fault
        try:
            if reply.status == 200:
                return read(await self._body(path, reply, limits, feed))
            fault = await self._refusal(reply)
        except Malformed as wrong:
            fault = faults.reply_fault(str(self.url(path)), self.words(str(wrong)))
        finally:
            # A connection with something unread on it is of no more use: the server sees it close.
            reply.release() if reply.content.at_eof() else reply.close()
        raise fault

    async def _body(
        self,
        path: str,
        reply: aiohttp.ClientResponse,
        limits: aiohttp.ClientTimeout,
        feed: Callable[[bytes], bool] | None,
    ) -> bytes:
        """The body; empty where `feed` was given it. Raises Malformed when it is too long."""
        self._until_idle(reply)
        too_long = Malformed(f"more than {self._max_bytes} bytes")
        if (reply.content_length or 0) > self._max_bytes:
            raise too_long
        left = self._max_bytes
        parts = []
        # Chunk by chunk: an endless body must not be kept.
        while chunk := await self._faultless(path, limits, reply.content.readany(), begun=True):
            left -= len(chunk)
            if left < 0:
                raise too_long
            if feed is None:
                parts.append(chunk)
            elif feed(chunk):
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _faultless(
        self, path: str, limits: aiohttp.ClientTimeout, step: Awaitable[T], *, begun: bool = False
    ) -> T:
        """What the library gives; its errors as Faults. begun: the status line is here."""
        try:
            return await step
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            fault = self._fault(path, limits, error, begun=begun)
        raise fault

    async def _refusal(self, reply: aiohttp.ClientResponse) -> Fault:
        """The fault of an answer that is not 200."""
        text = b""
        try:
            while len(text) < ERROR_BYTES and (chunk := await reply.content.readany()):
                text += chunk
        except (aiohttp.ClientError, TimeoutError, OSError):
            pass
        return Fault(
            "status",
            f"{reply.url} answered HTTP {reply.status}",
            status=reply.status,
            text=self.words(text),
            retry_after=faults.retry_after(reply.headers.get("Retry-After")),
        )

    def _fault(
        self, path: str, limits: aiohttp.ClientTimeout, error: BaseException, *, begun: bool
    ) -> Fault:
        """A library error as a Fault. Only its type's name is kept, and an OS error's number."""
        url = str(self.url(path))
        check = "is it up, and the right `base_url`?"
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            what = f"no connection in {limits.sock_connect:g} s (`connect_timeout`); {check}"
            return Fault("connect", f"{url}: {what}")
        if isinstance(error, aiohttp.SocketTimeoutError):
            what = f"no first byte in {limits.sock_read:g} s (`first_byte_timeout`)"
            if begun:
                what = f"it fell silent for {self._timeouts.idle:g} s (`idle_timeout`)"
            return Fault("timeout", f"{url}: {what}")
        if isinstance(error, TimeoutError):
            return Fault("timeout", f"{url}: not done in {limits.total:g} s (`total_timeout`)")
        if isinstance(error, aiohttp.ClientConnectorError):
            reason = error.os_error.strerror or type(error).__name__
            return Fault("connect", f"{url} cannot be reached ({reason}); {check}")
        if isinstance(error, aiohttp.ClientResponseError):
            return faults.reply_fault(url, "it is not HTTP")
        return Fault("reset", f"{url}: the connection broke ({type(error).__name__})")

    def _until_idle(self, reply: aiohttp.ClientResponse) -> None:
        """The first byte is here: from now on the time between reads is limited."""
        if reply.connection is not None and reply.connection.protocol is not None:
            protocol = reply.connection.protocol
            protocol.read_timeout = self._timeouts.idle
            # The clock that runs is the first byte's still.
            protocol.start_timeout()

    def _live(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise Fault("connect", f"{self._base}: the engine is closed")
        return self._session

    def _shorter(self, seconds: float) -> aiohttp.ClientTimeout:
        shorter = (min(limit, seconds) for limit in astuple(self._timeouts))
        return _library_timeout(Timeouts(*shorter))


def _library_timeout(timeouts: Timeouts) -> aiohttp.ClientTimeout:
    # sock_read holds until the status line; then the reader lowers it to the idle timeout.
    return aiohttp.ClientTimeout(
        total=timeouts.total, sock_connect=timeouts.connect, sock_read=timeouts.first_byte
    )
