"""One HTTP session: keep-alive, separate timeouts, capped sizes. Raises Fault and nothing else.

The library's exceptions can carry the request's headers, and so the key. None of them is chained
to a Fault: each is turned into one inside its handler and raised after it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
from yarl import URL

from reasoning.engines.openai import faults
from reasoning.engines.openai.faults import Fault

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

    async def get(self, path: str, seconds: float = 30.0) -> bytes:
        """The body of a 200 answer."""
        return await self._exchange("GET", path, None, self._shorter(seconds))

    async def post(self, path: str, body: bytes, seconds: float | None = None) -> bytes:
        """The body of a 200 answer. seconds: a shorter limit for the whole exchange."""
        limits = None if seconds is None else self._shorter(seconds)
        return await self._exchange("POST", path, body, limits)

    async def stream(self, path: str, body: bytes, feed: Callable[[bytes], bool]) -> None:
        """Hand a 200 answer's body to `feed` as it arrives, until it ends or `feed` returns True.

        Ending early, an exception of `feed` and a cancellation all disconnect.
        """
        reply = await self._opened(path, body)
        left = self._max_bytes
        try:
            while chunk := await self._chunk(path, reply):
                left -= len(chunk)
                if left < 0:
                    raise self._too_long(path)
                if feed(chunk):
                    return
        finally:
            reply.close() if not reply.content.at_eof() else reply.release()

    async def _opened(self, path: str, body: bytes) -> aiohttp.ClientResponse:
        fault: Fault | None = None
        try:
            reply = await self._live().post(self.url(path), data=body, allow_redirects=False)
            if reply.status == 200:
                self._until_idle(reply)
                return reply
            async with reply:
                fault = await self._refusal(reply)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            fault = self._fault(path, error)
        raise fault

    async def _chunk(self, path: str, reply: aiohttp.ClientResponse) -> bytes:
        try:
            return await reply.content.readany()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            fault = self._fault(path, error)
        raise fault

    async def _exchange(
        self, method: str, path: str, body: bytes | None, limits: aiohttp.ClientTimeout | None
    ) -> bytes:
        fault: Fault | None = None
        try:
            async with self._live().request(
                method,
                self.url(path),
                data=body,
                allow_redirects=False,
                timeout=limits or self._timeout,
            ) as reply:
                if reply.status != 200:
                    raise await self._refusal(reply)
                if (reply.content_length or 0) > self._max_bytes:
                    raise self._too_long(path)
                self._until_idle(reply)
                parts = []
                left = self._max_bytes
                # Chunk by chunk: an endless body must not be kept.
                while chunk := await reply.content.readany():
                    parts.append(chunk)
                    left -= len(chunk)
                    if left < 0:
                        raise self._too_long(path)
                return parts[0] if len(parts) == 1 else b"".join(parts)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            fault = self._fault(path, error)
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

    def _fault(self, path: str, error: BaseException) -> Fault:
        """A library error as a Fault. Only its type's name is kept, and an OS error's number."""
        url = str(self.url(path))
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return Fault("connect", f"{url}: no connection in {self._timeouts.connect:g} s")
        if isinstance(error, TimeoutError):
            return Fault("timeout", f"{url} did not answer in time ({_limits(self._timeouts)})")
        if isinstance(error, aiohttp.ClientConnectorError):
            return Fault("connect", f"{url} cannot be reached ({error.os_error.strerror})")
        if isinstance(error, aiohttp.ClientResponseError):
            return faults.reply_fault(url, "it is not HTTP")
        return Fault("reset", f"{url}: the connection broke ({type(error).__name__})")

    def words(self, body: bytes) -> str:
        """A server's error text for people, without the key."""
        return faults.words(body, self._key)

    def _until_idle(self, reply: aiohttp.ClientResponse) -> None:
        """The first byte is here: from now on the time between reads is limited."""
        if reply.connection is not None and reply.connection.protocol is not None:
            protocol = reply.connection.protocol
            protocol.read_timeout = self._timeouts.idle
            # The clock that runs is the first byte's still.
            protocol.start_timeout()

    def _too_long(self, path: str) -> Fault:
        return faults.reply_fault(str(self.url(path)), f"more than {self._max_bytes} bytes")

    def _live(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise Fault("connect", f"{self._base}: the engine is closed")
        return self._session

    def _shorter(self, seconds: float) -> aiohttp.ClientTimeout:
        limits = self._timeouts
        return _library_timeout(
            Timeouts(
                min(limits.connect, seconds),
                min(limits.first_byte, seconds),
                min(limits.idle, seconds),
                min(limits.total, seconds),
            )
        )


def _library_timeout(timeouts: Timeouts) -> aiohttp.ClientTimeout:
    # sock_read holds until the status line; then the reader lowers it to the idle timeout.
    return aiohttp.ClientTimeout(
        total=timeouts.total, sock_connect=timeouts.connect, sock_read=timeouts.first_byte
    )


def _limits(timeouts: Timeouts) -> str:
    return (
        f"first byte {timeouts.first_byte:g} s, idle {timeouts.idle:g} s, "
        f"total {timeouts.total:g} s"
    )
