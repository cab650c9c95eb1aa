"""How many requests may be open at once: additive increase, multiplicative decrease.

It starts at its ceiling: vLLM queues what it cannot run yet, and queues better than a client.
"""

from __future__ import annotations

import asyncio
import heapq
from dataclasses import dataclass, field

SHRINK = 0.5


@dataclass(order=True, slots=True)
class _Waiter:
    priority: int
    order: int
    future: asyncio.Future[None] = field(compare=False)


class Gate:
    """Open requests, at most `limit`. Waiters enter by priority (lower first), then by order."""

    def __init__(self, ceiling: int) -> None:
        self.ceiling = ceiling
        self.limit = float(ceiling)
        self.open = 0
        self.decreases = 0
        self._waiting: list[_Waiter] = []
        self._order = 0

    async def enter(self, priority: int = 0) -> int:
        """Wait for a place. Returns the epoch to hand to `overloaded`; call `leave` after."""
        if self.open < int(self.limit) and not self._waiting:
            self.open += 1
            return self.decreases
        waiter = _Waiter(priority, self._order, asyncio.get_running_loop().create_future())
        self._order += 1
        heapq.heappush(self._waiting, waiter)
        self._admit()
        try:
            await waiter.future
        except asyncio.CancelledError:
            # Cancelled after the place was given: pass it on.
            if waiter.future.done() and not waiter.future.cancelled():
                self.leave()
            raise
        return self.decreases

    def leave(self) -> None:
        self.open -= 1
        self._admit()

    def succeeded(self) -> None:
        """One more request was served: allow one more after `limit` of them."""
        if self.limit < self.ceiling:
            self.limit = min(self.ceiling, self.limit + 1.0 / self.limit)
            self._admit()

    def overloaded(self, epoch: int) -> None:
        """The server pushed a request back that entered at `epoch`.

        Requests that entered before the last decrease say nothing about the limit since then.
        """
        if epoch == self.decreases:
            self.decreases += 1
            self.limit = max(1.0, min(self.limit, self.open) * SHRINK)

    def _admit(self) -> None:
        while self._waiting and self.open < int(self.limit):
            waiter = heapq.heappop(self._waiting)
            if not waiter.future.done():
                self.open += 1
                waiter.future.set_result(None)
