"""Race: branches whose results are consumed in the order in which they arrive.

Arrival order is journaled, so a replay hands results over in the same order, and a loser that was
cancelled then is cancelled again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Generic, TypeVar

from reasoning.branch import Branch
from reasoning.budget import Usage
from reasoning.errors import BudgetExhausted

B = TypeVar("B", bound=Branch)


class Race(Generic[B]):
    """`async with ctx.race() as race:` start branches, `async for name, result in race`.

    Leaving the block cancels what still runs, and waits until it has ended. A branch that the
    budget refuses drops out; any other error ends the race and is raised, and a continued run
    asks again for what it cancelled.
    """

    def __init__(self, branch: B, name: str) -> None:
        self._branch = branch
        self._name = name
        self._running: dict[str, asyncio.Task[Any]] = {}

    def start(self, name: str, work: Callable[[B], Awaitable[Any]]) -> None:
        """Run `work` in a branch of its own. Names are unique within the race."""
        rival = self._branch.rival(f"{self._name}-{name}")
        self._running[name] = asyncio.ensure_future(work(rival))

    async def __aenter__(self) -> Race[B]:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, *rest: object) -> None:
        self._branch.note_error(error)
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
        self._running.clear()

    async def __aiter__(self) -> AsyncIterator[tuple[str, Any]]:
        while self._running:
            name = await self._next_arrival()
            task = self._running.pop(name)
            try:
                result = await task
            except BudgetExhausted as refused:
                self._branch.note_cut(refused.status)
                continue
            yield name, result

    async def _next_arrival(self) -> str:
        branch = self._branch
        key = branch.next_key("arrival")
        recorded = branch.journal.find(key, "", {"arrival": self._name})
        if recorded is not None:
            name = str(recorded["v"])
            await asyncio.wait([self._running[name]])
            return name
        await asyncio.wait(self._running.values(), return_when=asyncio.FIRST_COMPLETED)
        # Of several that are there, the one that was started first.
        name = next(name for name, task in self._running.items() if task.done())
        branch.journal.record(
            {"arrival": self._name}, [(key, "", {"v": name, "u": Usage().sparse()})]
        )
        return name
