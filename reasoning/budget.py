"""Budget, Usage and the Ledger: what may be spent, what was spent, and the one place that says no.

Ledgers form a tree (run, problem, branch). A cap may stand at any node. Before an ask is sent its
worst case is leased from its node and all nodes above; when the reply is there the lease settles
at what it really cost. So a cap can never be passed by what is in flight.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from operator import add, sub
from typing import NamedTuple

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

    def caps(self) -> dict[str, float]:
        """The caps a ledger enforces, by unit (seconds are a deadline, enforced by the context)."""
        return {unit: getattr(self, unit) for unit in UNITS if getattr(self, unit) is not None}

    def __str__(self) -> str:
        caps = [f"{name}={value:g}" for name, value in asdict(self).items() if value is not None]
        return ", ".join(caps) or "unlimited"


_UNLIMITED = Budget()


class Usage(NamedTuple):
    """What was spent. Adds up; every field is a total.

    tokens: new tokens decoded by generating roles. prefill, cached: their prompt tokens,
    computed and read from a prefix cache. verifier_passes: sequences scored;
    verifier_prefill, verifier_cached: their prompt tokens; verifier_tokens: what verifiers
    decoded, in `tokens` only where it is text they wrote. abandoned: tokens decoded by an engine
    after a cancellation and never received (not in `tokens`). reused, verifier_reused: how many of
    `tokens` and of `verifier_passes` came from the reply store instead of an engine. asks:
    requests sent or reused.

    Parts of `tokens` that no chain keeps: discarded, of steps that were written and rejected;
    probe, of trial answers, and the one token that servers decode to score or choose. Of prefill
    and cached, scored is what was read to score or choose.
    """

    tokens: int = 0
    prefill: int = 0
    cached: int = 0
    verifier_passes: int = 0
    verifier_prefill: int = 0
    verifier_cached: int = 0
    verifier_tokens: int = 0
    verifier_reused: int = 0
    abandoned: int = 0
    reused: int = 0
    asks: int = 0
    discarded: int = 0
    probe: int = 0
    scored: int = 0
    flops: float = 0.0
    eflops: float = 0.0
    money: float = 0.0

    def __add__(self, other: Usage) -> Usage:  # type: ignore[override]
        return Usage._make(map(add, self, other))

    @staticmethod
    def sum(usages: Iterable[Usage]) -> Usage:
        """Their total."""
        return Usage(*map(sum, zip(*usages, strict=True)))

    def __sub__(self, other: Usage) -> Usage:
        return Usage._make(map(sub, self, other))

    def sparse(self) -> dict[str, float]:
        """The fields that are not zero; `Usage(**usage.sparse())` is the same usage."""
        return {name: value for name, value in zip(self._fields, self, strict=True) if value}


_NOTHING = Usage()
_EVERY_UNIT = frozenset(UNITS)
_WHOLE = frozenset({"tokens", "verifier_passes"})  # units that come in whole numbers


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
        self.ledger._release(self.worst)
        self.ledger.charge(self.role, real)


@dataclass(slots=True, eq=False)
class _Waiter:
    role: str
    worst: Usage
    least: Usage
    future: asyncio.Future[Lease]


class Ledger:
    """One node of the account. Not thread-safe: it lives in the event loop of its run.

    share: the budget is set aside in the parent already (`branch` does that); else it is a cap of
    this node's own, and what is spent here must fit the parent's caps too.
    """

    def __init__(
        self,
        name: str,
        budget: Budget | None = None,
        parent: Ledger | None = None,
        *,
        share: bool = False,
    ) -> None:
        self.name = name
        self.budget = budget or _UNLIMITED
        self.parent = parent
        self._share = share
        self.total = _NOTHING
        self.by_role: dict[str, Usage] = {}
        self.caps: dict[str, float] = self.budget.caps()
        # Each node above, to the root, with the units that it answers for: above a branch with a
        # share, the units of that share are set aside already. A node does not hold itself: it is
        # freed with its problem, not when cycles are looked for.
        self._above: tuple[tuple[Ledger, frozenset[str]], ...] = ()
        if parent is not None:
            self._above = parent._line
            if share and self.caps:
                self._above = tuple((n, units.difference(self.caps)) for n, units in parent._line)
        self._checked_above = [(n, u) for n, units in self._above for u in n.caps if u in units]
        self._leased = dict.fromkeys(self.caps, 0.0)
        self._reserved = dict.fromkeys(self.caps, 0.0)  # what child branches still hold
        self._open_leases = 0
        self._queue: deque[_Waiter] = deque()
        self._blocked: dict[Ledger, None] = {}  # ledgers whose leases wait for a cap of this node

    @property
    def _line(self) -> tuple[tuple[Ledger, frozenset[str]], ...]:
        """This node and those above."""
        return ((self, _EVERY_UNIT), *self._above)

    @property
    def _checks(self) -> list[tuple[Ledger, str]]:
        """The caps that hold here, each as a node and a unit."""
        return [*((self, unit) for unit in self.caps), *self._checked_above]

    def remaining(self, unit: str) -> float:
        """What may still be leased of `unit` here, by the tightest cap of the line (inf: none)."""
        return min((node._free(u) for node, u in self._checks if u == unit), default=math.inf)

    def branch(self, name: str, share: Budget | None = None) -> Ledger:
        """A child. A share is set aside at once, so what fits there never depends on timing.

        Raises BudgetExhausted when the share is more than what is free.
        """
        caps = share.caps() if share else {}
        refusal = self._refusal(Usage(**caps), settled=False)  # type: ignore[arg-type]
        if refusal:
            raise BudgetExhausted(f"branch {name!r} does not fit: {refusal}")
        for node, unit in self._checks:
            node._reserved[unit] += caps.get(unit, 0)
        return Ledger(f"{self.name}/{name}", share, self, share=True)

    def close(self) -> None:
        """End a branch: what its share did not spend goes back to the parent."""
        if self.parent is not None and self._share:
            for node, unit in self.parent._checks:
                if unit in self.caps:
                    node._reserved[unit] -= self.caps[unit] - getattr(self.total, unit)
            self.parent._wake()

    async def lease(self, role: str, worst: Usage, least: Usage) -> Lease:
        """Set aside `worst`, or if that never fits, as much of it as does, at least `least`.

        What would fit once outstanding leases settle waits, first come first served; so the
        amount granted depends on what was spent before in order, never on who finished first.
        Raises BudgetExhausted when not even `least` fits.
        """
        if not self._queue:
            granted = self._grant(worst, least)
            if granted is not None:
                return self._hold(role, granted)
        waiter = _Waiter(role, worst, least, asyncio.get_running_loop().create_future())
        self._queue.append(waiter)
        for node, _ in self._checks:
            node._blocked[self] = None
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled():
                waiter.future.result().settle(Usage())
            raise

    def try_lease(self, role: str, worst: Usage) -> Lease | None:
        """The whole of `worst` at once, or None (also while others wait)."""
        if self._queue or self._refusal(worst, settled=False):
            return None
        return self._hold(role, worst)

    def charge(self, role: str, real: Usage) -> None:
        """Book a cost here and above. Raises BudgetBreach if a cap is passed all the same."""
        for node, units in self._line:
            node.total += real
            node.by_role[role] = node.by_role.get(role, _NOTHING) + real
            for unit in node.caps:
                if unit not in units:  # held by a share below; now it is spent
                    node._reserved[unit] -= getattr(real, unit)
        for node, _ in self._line:
            for unit, cap in node.caps.items():
                spent = getattr(node.total, unit)
                if spent > cap * (1 + 1e-12):
                    raise BudgetBreach(
                        f"{node.name}: {unit} {spent:g} passed the cap {cap:g}; an engine returned "
                        f"more than it was asked for, or a lease was too small: report this"
                    )
        self._wake()

    def _hold(self, role: str, granted: Usage) -> Lease:
        for node, _ in self._line:
            node._open_leases += 1
        for node, unit in self._checks:
            node._leased[unit] += getattr(granted, unit)
        return Lease(self, role, granted)

    def _release(self, granted: Usage) -> None:
        for node, unit in self._checks:
            node._leased[unit] -= getattr(granted, unit)
        for node, _ in self._line:
            node._open_leases -= 1
            if not node._open_leases:  # exactly zero when nothing is out: floats must not drift
                node._leased = dict.fromkeys(node.caps, 0.0)

    def _free(self, unit: str, *, settled: bool = False) -> float:
        held = 0.0 if settled else self._leased[unit]
        return float(self.caps[unit] - getattr(self.total, unit) - self._reserved[unit] - held)

    def _refusal(self, amount: Usage, *, settled: bool) -> str | None:
        for node, unit in self._checks:
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
            raise BudgetExhausted(refusal)
        if any(node._open_leases for node, _ in self._checks):
            return None
        granted = worst
        for node, unit in self._checks:
            free = node._free(unit)
            fits = math.floor(free) if unit in _WHOLE else free
            if fits < getattr(granted, unit):
                granted = granted._replace(**{unit: max(getattr(least, unit), fits)})
        return granted

    def _wake(self) -> None:
        for node, _ in self._line:
            for blocked in list(node._blocked):
                blocked._serve()
                if not blocked._queue:
                    for above, _ in blocked._checks:
                        above._blocked.pop(blocked, None)

    def _serve(self) -> None:
        """Grant the leases waiting here, in order, as far as they go."""
        while self._queue:
            waiter = self._queue[0]
            if waiter.future.done():  # cancelled while it waited
                self._queue.popleft()
                continue
            try:
                granted = self._grant(waiter.worst, waiter.least)
            except BudgetExhausted as refused:
                self._queue.popleft()
                waiter.future.set_exception(refused)
                continue
            if granted is None:
                return
            self._queue.popleft()
            waiter.future.set_result(self._hold(waiter.role, granted))
