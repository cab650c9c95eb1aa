"""Sending with retries that cannot make an outage worse.

Retries are paid from a budget that successes refill. When several attempts in a row find the
server broken, the circuit opens: everything waits while one request of one token, sent again and
again, finds out whether the server is back.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from reasoning.engines.openai.faults import Fault
from reasoning.engines.openai.gate import Gate

T = TypeVar("T")

BACKOFF_CAP = 20.0  # seconds
EARNED = 0.125  # retries that one success pays for
BROKEN_IN_A_ROW = 4  # open the circuit


class Down(Fault):
    """The server stayed down for as long as it is waited for. Final."""


class Retries:
    """A token bucket: a retry takes one, a success gives an eighth back."""

    def __init__(self, capacity: float) -> None:
        self.capacity = capacity
        self.left = capacity
        self.spent = 0

    def earn(self) -> None:
        self.left = min(self.capacity, self.left + EARNED)

    def take(self) -> bool:
        if self.left < 1.0:
            return False
        self.left -= 1.0
        self.spent += 1
        return True


class Circuit:
    """Open after several broken attempts in a row, until `probe` succeeds.

    probe: sends a minimal request; raises Fault while the server is broken.
    patience: seconds to keep probing; after them every caller gets the fault, and the next ones
        each cost one probe only.
    """

    def __init__(
        self, probe: Callable[[], Awaitable[None]], patience: float, backoff: Backoff
    ) -> None:
        self.probes = 0
        self._probe = probe
        self._patience = patience
        self._backoff = backoff
        self._failures = 0
        self._gave_up = False
        self._probing: asyncio.Task[Fault | None] | None = None

    @property
    def is_open(self) -> bool:
        return self._failures >= BROKEN_IN_A_ROW

    def succeeded(self) -> None:
        self._failures = 0
        self._gave_up = False

    def failed(self) -> None:
        self._failures += 1

    async def wait(self) -> None:
        """Return when the server is up. Raises Down when it stays down."""
        while self.is_open:
            if self._probing is None or self._probing.done():
                self._probing = asyncio.create_task(self._until_up())
            # wait() leaves the task alone when this caller is cancelled.
            await asyncio.wait({self._probing})
            if self._probing.cancelled():
                raise Down("connect", "the engine was closed while its server was down")
            fault = self._probing.result()
            if fault is not None:
                raise Down(fault.kind, fault.message, status=fault.status, text=fault.text)

    async def _until_up(self) -> Fault | None:
        loop = asyncio.get_running_loop()
        end = loop.time() + (0.0 if self._gave_up else self._patience)
        number = 0
        while True:
            self.probes += 1
            try:
                await self._probe()
            except Fault as fault:
                delay = self._backoff.seconds(number, fault.retry_after)
                if not fault.retryable or loop.time() + delay > end:
                    self._gave_up = True
                    return fault
                number += 1
                await asyncio.sleep(delay)
            else:
                self.succeeded()
                return None

    async def close(self) -> None:
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait({self._probing})


class Backoff:
    """Seconds before retry `number` (from 0): exponential, jittered by a seeded generator."""

    def __init__(self, first: float, retry_after_cap: float, seed: int = 0) -> None:
        self._first = first
        self._cap = retry_after_cap
        self._random = random.Random(seed)

    def seconds(self, number: int, retry_after: float | None) -> float:
        jitter = 0.5 + 0.5 * self._random.random()
        delay = min(BACKOFF_CAP, self._first * 2.0**number) * jitter
        # A little more than asked for, so that the waiting do not all come back at once.
        asked = min(retry_after or 0.0, self._cap)
        return max(delay, asked + (0.1 * asked * jitter))


class Sender:
    """Runs attempts under the gate, the circuit and the retry budget."""

    def __init__(
        self, gate: Gate, retries: Retries, circuit: Circuit, backoff: Backoff, attempts: int
    ) -> None:
        self.gate = gate
        self.retries = retries
        self.circuit = circuit
        self._backoff = backoff
        self._attempts = attempts

    async def send(self, attempt: Callable[[], Awaitable[T]], priority: int = 0) -> T:
        """The first attempt that works. Raises the last Fault when none does."""
        number = 0
        malformed = 0
        while True:
            epoch = await self.gate.enter(priority)
            try:
                if self.circuit.is_open:
                    await self.circuit.wait()
                result = await attempt()
            except Down:
                raise
            except Fault as caught:
                fault = caught
                if fault.overload:
                    self.gate.overloaded(epoch)
            else:
                self.circuit.succeeded()
                self.retries.earn()
                self.gate.succeeded()
                return result
            finally:
                self.gate.leave()
            if fault.broken:
                self.circuit.failed()
            number += 1
            malformed += fault.kind == "reply"
            if not fault.retryable or number >= self._attempts or malformed > 1:
                raise fault
            # Behind an open circuit a retry is sent only once the server is known to be up.
            if not self.circuit.is_open and not self.retries.take():
                raise Fault(
                    fault.kind,
                    f"{fault.message} (the budget of {self.retries.capacity:g} retries is spent)",
                    status=fault.status,
                    text=fault.text,
                )
            await asyncio.sleep(self._backoff.seconds(number - 1, fault.retry_after))
