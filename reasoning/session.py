"""Session: the engines of a run, what is in flight on them, and the switch that stops it all."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Hashable
from typing import TypeVar

from reasoning.engines.base import Engine
from reasoning.errors import DeadlinePassed, EngineUnavailable, Stopped
from reasoning.journal import digest

T = TypeVar("T")

# How often an ask is repeated after its engine died under it and was started again.
REVIVALS = 2


class Session:
    """Shared by all problems of a run; lives in one event loop."""

    def __init__(self) -> None:
        self.halted = False
        self._calls: set[asyncio.Timeout] = set()  # asks in flight, by what can end them
        self._started: dict[Engine, None] = {}
        self._starting = asyncio.Lock()
        self._identities: dict[Engine, str] = {}
        self._rendered: dict[Hashable, tuple[int, ...]] = {}

    async def start(self, engines: list[Engine]) -> None:
        """Load engines that are not loaded yet, one after the other (they share the memory)."""
        async with self._starting:
            fresh = [engine for engine in engines if engine not in self._started]
            for engine in fresh:
                await engine.start()
                self._started[engine] = None
                self._identities[engine] = digest(engine.identity())
            if fresh:
                # Models bring a million objects that stay; looking at them again and again for
                # cycles took a third of the CPU time of a run over HTTP.
                gc.collect()
                gc.freeze()

    async def close(self) -> None:
        """Free every engine, last started first; the first error is raised at the end."""
        errors = []
        for engine in reversed(list(self._started)):
            try:
                await engine.close()
            except Exception as error:
                errors.append(error)
        self._started.clear()
        if errors:
            raise errors[0]

    def identity(self, engine: Engine) -> str:
        """Digest of what decides the engine's output (weights, dtype, versions)."""
        return self._identities[engine]

    def rendered(self, key: Hashable, render: Callable[[], tuple[int, ...]]) -> tuple[int, ...]:
        """A prompt's ids, rendered once."""
        if key not in self._rendered:
            self._rendered[key] = render()
        return self._rendered[key]

    def halt(self) -> None:
        """Cancel all that is in flight; every further ask raises Stopped. Called on Ctrl-C."""
        self.halted = True
        now = asyncio.get_running_loop().time()
        for limit in self._calls:
            if not limit.expired():
                limit.reschedule(now)

    async def call(
        self, engine: Engine | None, deadline: float | None, ask: Callable[[], Awaitable[T]]
    ) -> T:
        """Await an ask that a deadline (loop time) or a halt may cut short.

        Raises DeadlinePassed or Stopped then; a cancellation of the caller stays one. An engine
        that died is started again and asked again, a few times.
        """
        for revival in range(REVIVALS + 1):
            try:
                return await self._guarded(deadline, ask)
            except EngineUnavailable as error:
                if engine is None or not error.retryable or revival == REVIVALS:
                    raise
                await self._revive(engine)
        raise AssertionError("unreachable")

    async def _guarded(self, deadline: float | None, ask: Callable[[], Awaitable[T]]) -> T:
        limit = asyncio.timeout_at(deadline)
        try:
            async with limit:
                self._calls.add(limit)
                return await ask()
        except TimeoutError:
            if not limit.expired():
                raise
        finally:
            self._calls.discard(limit)
        if self.halted:
            raise Stopped("interrupted", "the run was interrupted; run it again to continue")
        raise DeadlinePassed("the problem's seconds have passed; raise `seconds`")

    async def _revive(self, engine: Engine) -> None:
        """Start a dead engine once, however many asks found it dead."""
        async with self._starting:
            await engine.start()
