"""Budget, Usage and the Ledger: what may be spent, what was spent, and the one place that says no.

Ledgers form a tree (run, problem, branch). A cap may stand at any node. Before an ask is sent its
worst case is leased from its node and all nodes above; when the reply is there the lease settles
at what it really cost. So a cap can never be passed by what is in flight.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace

from reasoning.errors import BudgetBreach, BudgetExhausted, ConfigError

# The units a cap may be set in, and the Usage field each is measured by.
UNITS = ("tokens", "verifier_passes", "flops", "eflops", "money")


@dataclass(frozen=True, slots=True)
class Budget:
    """Caps; None is no cap. All are hard.

    tokens: new tokens of all generating roles, discarded ones included.
    verifier_passes: sequences scored by a verifier.
    flops, eflops: by the Kinetics cost model (costs/kinetics.py).
    seconds: wall-clock for a problem (a deadline; what is in flight then is cancelled).
    money: in the currency of the recipe's prices.
    """

    tokens: int | None = None
    verifier_passes: int | None = None
    flops: float | None = None
    eflops: float | None = None
    seconds: float | None = None
    money: float | None = None

    def __post_init__(self) -> None:
        for spec in fields(self):
            value = getattr(self, spec.name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
                raise ConfigError(f"budget {spec.name}={value!r} is not a number")
            # A budget without verifier passes is a real setting; without tokens it is a slip.
            if value < 0 or (value == 0 and spec.name != "verifier_passes"):
                raise ConfigError(
                    f"budget {spec.name}={value!r} must be above 0; leave it out for no cap"
                )
            if spec.name in ("tokens", "verifier_passes") and value != math.inf and value % 1:
                raise ConfigError(f"budget {spec.name}={value!r} must be a whole number")

    def __str__(self) -> str:
        caps = [f"{name}={value:g}" for name, value in asdict(self).items() if value is not None]
        return ", ".join(caps) or "unlimited"


@dataclass(frozen=True, slots=True)
class Usage:
    """What was spent. Adds up; every field is a total.

    tokens: new tokens decoded by generating roles. prefill, cached: their prompt tokens,
    computed and read from a prefix cache. verifier_passes: sequences scored;
    verifier_prefill, verifier_cached: their prompt tokens. abandoned: tokens decoded by an engine
    after a cancellation and never received (not in `tokens`). reused: how many of `tokens` came
    from the reply store instead of an engine. asks: requests sent or reused.
    """

    tokens: int = 0
    prefill: int = 0
    cached: int = 0
    verifier_passes: int = 0
    verifier_prefill: int = 0
    verifier_cached: int = 0
    abandoned: int = 0
    reused: int = 0
    asks: int = 0
    flops: float = 0.0
    eflops: float = 0.0
    money: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(a + b for a, b in zip(self._values(), other._values(), strict=True)))

    def __sub__(self, other: Usage) -> Usage:
        return Usage(*(a - b for a, b in zip(self._values(), other._values(), strict=True)))

    def _values(self) -> Iterator[float]:
        return (getattr(self, spec.name) for spec in fields(self))


@dataclass(slots=True)
class Lease:
    """An amount set aside for an ask in flight. Settle it exactly once."""

    ledger: Ledger
    role: str
    worst: Usage
    open: bool = True

    def settle(self, real: Usage) -> None:
        """Give the lease back and charge what the ask really cost."""
        if not self.open:
            raise BudgetBreach("a lease was settled twice; this is a bug in the context")
        self.open = False
        for node in self.ledger.line():
            node.leased -= self.worst
        self.ledger.charge(self.role, real)


@dataclass(slots=True, eq=False)
class _Waiter:
    worst: Usage
    least: Usage
    future: asyncio.Future[Usage]


class Ledger:
    """One node of the account. Not thread-safe: it lives in the event loop of its run."""

    def __init__(
        self, name: str, budget: Budget | None = None, parent: Ledger | None = None
    ) -> None:
        self.name = name
        self.budget = budget or Budget()
        self.parent = parent
        self.leased = Usage()
        self.reserved = Usage()  # what child branches with a budget of their own hold
        self.spent: dict[str, Usage] = {}  # by role
        self._queue: deque[_Waiter] = deque()

    def line(self) -> Iterator[Ledger]:
        """This node and those above it, to the root."""
        node: Ledger | None = self
        while node is not None:
            yield node
            node = node.parent

    @property
    def total(self) -> Usage:
        return sum(self.spent.values(), Usage())

    def remaining(self, unit: str) -> float:
        """What may still be leased of `unit` here, by the tightest cap of the line (inf: none)."""
        return min(node._free(unit) for node in self.line())

    def branch(self, name: str, share: Budget | None = None) -> Ledger:
        """A child. A share is set aside at once, so what fits there never depends on timing.

        Raises BudgetExhausted when the share is more than what is free.
        """
        if share is not None:
            amount = Usage(**{u: getattr(share, u) or 0 for u in UNITS})
            refusal = self._refusal(amount, settled=False)
            if refusal:
                raise BudgetExhausted(f"branch {name!r} does not fit: {refusal}")
            for node in self.line():
                node.reserved += amount
        return Ledger(f"{self.name}/{name}", share, self)

    def close_branch(self, child: Ledger) -> None:
        """Give back what a branch with a share did not spend."""
        held = Usage(**{u: getattr(child.budget, u) or 0 for u in UNITS})
        unspent = replace(held - child.total, **_zero_but_units())
        for node in self.line():
            node.reserved -= unspent
        self._wake()

    async def lease(self, role: str, worst: Usage, least: Usage) -> Lease:
        """Set aside `worst`, or if that never fits, as much of it as does, at least `least`.

        What would fit once outstanding leases settle waits, first come first served; so the
        amount granted depends on what was spent before in order, never on who finished first.
        Raises BudgetExhausted when not even `least` fits.
        """
        if not self._queue:
            granted = self._grant(worst, least)
            if granted is not None:
                return self._open(role, granted)
        waiter = _Waiter(worst, least, asyncio.get_running_loop().create_future())
        self._queue.append(waiter)
        try:
            return self._open(role, await waiter.future, taken=True)
        except asyncio.CancelledError:
            if waiter in self._queue:
                self._queue.remove(waiter)
            elif waiter.future.done() and not waiter.future.exception():
                self._unlease(waiter.future.result())
            raise

    def charge(self, role: str, real: Usage) -> None:
        """Book a cost here and above. Raises BudgetBreach if a cap is passed all the same."""
        for node in self.line():
            node.spent[role] = node.spent.get(role, Usage()) + real
        for node in self.line():
            node._wake()
        for node in self.line():
            for unit in UNITS:
                cap = getattr(node.budget, unit)
                spent = getattr(node.total, unit)
                if cap is not None and spent > cap * (1 + 1e-12):
                    raise BudgetBreach(
                        f"{node.name}: {unit} {spent:g} passed the cap {cap:g}; an engine returned "
                        f"more than it was asked for, or a lease was too small: report this"
                    )

    def _open(self, role: str, granted: Usage, *, taken: bool = False) -> Lease:
        if not taken:
            for node in self.line():
                node.leased += granted
        return Lease(self, role, granted)

    def _unlease(self, amount: Usage) -> None:
        for node in self.line():
            node.leased -= amount
        for node in self.line():
            node._wake()

    def _free(self, unit: str, *, settled: bool = False) -> float:
        cap = getattr(self.budget, unit)
        if cap is None:
            return math.inf
        held = 0.0 if settled else getattr(self.leased, unit)
        return float(cap - getattr(self.total, unit) - getattr(self.reserved, unit) - held)

    def _fraction(self, worst: Usage, *, settled: bool) -> float:
        """The largest share of `worst` that fits every cap of the line (at most 1)."""
        fraction = 1.0
        for node in self.line():
            for unit in UNITS:
                need = getattr(worst, unit)
                if need > 0:
                    fraction = min(fraction, max(0.0, node._free(unit, settled=settled)) / need)
        return fraction

    def _refusal(self, amount: Usage, *, settled: bool) -> str | None:
        for node in self.line():
            for unit in UNITS:
                need, free = getattr(amount, unit), node._free(unit, settled=settled)
                if need > free:
                    return f"needs {need:g} {unit}, {node.name} has {max(0.0, free):g} left"
        return None

    def _grant(self, worst: Usage, least: Usage) -> Usage | None:
        """The amount to lease now; None to wait; raises when it can never fit."""
        if self._refusal(worst, settled=False) is None:
            return worst
        refusal = self._refusal(least, settled=True)
        if refusal:
            raise BudgetExhausted(f"{self.name}: {refusal}")
        if any(self._outstanding(node) for node in self.line()):
            return None
        fraction = self._fraction(worst, settled=False)
        return replace(
            worst,
            tokens=max(least.tokens, math.floor(worst.tokens * fraction + 1e-9)),
            verifier_passes=max(
                least.verifier_passes, math.floor(worst.verifier_passes * fraction + 1e-9)
            ),
            flops=worst.flops * fraction,
            eflops=worst.eflops * fraction,
            money=worst.money * fraction,
        )

    @staticmethod
    def _outstanding(node: Ledger) -> bool:
        """Whether a capped unit of this node is held by a lease that may still be given back."""
        return any(
            getattr(node.budget, u) is not None and getattr(node.leased, u) > 0 for u in UNITS
        )

    def _wake(self) -> None:
        while self._queue:
            waiter = self._queue[0]
            try:
                granted = self._grant(waiter.worst, waiter.least)
            except BudgetExhausted as refused:
                self._queue.popleft()
                if not waiter.future.done():
                    waiter.future.set_exception(refused)
                continue
            if granted is None:
                return
            self._queue.popleft()
            if waiter.future.done():
                continue
            for node in self.line():
                node.leased += granted
            waiter.future.set_result(granted)


def _zero_but_units() -> dict[str, int]:
    return {spec.name: 0 for spec in fields(Usage) if spec.name not in UNITS}
