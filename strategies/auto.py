"""Auto: asks an allocator which of its candidates a problem is worth, and runs that one."""

from __future__ import annotations

from typing import Any

from pydantic import Field, PrivateAttr

from reasoning.allocation.base import Allocator, Candidate
from reasoning.budget import UNITS, Budget
from reasoning.context import Context
from reasoning.naming import Spec, build
from reasoning.registry import allocators, strategies
from reasoning.strategy import Outcome, Strategy


class Auto(Strategy):
    """Asks an allocator which of its candidates a problem is worth, and runs that one.

    allocator and candidates are specs: a name, or a mapping with `name` and settings.
    """

    allocator: Spec = "fixed"
    candidates: list[Spec] = Field(min_length=1)

    _allocator: Allocator = PrivateAttr()
    _candidates: list[Candidate] = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        self._allocator = build(allocators, self.allocator)
        self._candidates = [Candidate(build(strategies, spec)) for spec in self.candidates]

    def alternatives(self) -> tuple[Strategy, ...]:
        return tuple(found for c in self._candidates for found in c.strategy.alternatives())

    def verifier_roles(self) -> tuple[str, ...]:
        roles = (role for c in self._candidates for role in c.strategy.verifier_roles())
        return tuple(dict.fromkeys(roles))

    async def solve(self, ctx: Context) -> Outcome:
        caps = {unit: ctx.remaining(unit) for unit in UNITS}
        finite: dict[str, Any] = {u: cap for u, cap in caps.items() if 0 < cap < float("inf")}
        left = Budget(**finite)
        chosen = await ctx.note(
            "plan",
            lambda: self._allocator.plan(ctx.problem, left, self._candidates),
            timed=False,
        )
        return await self._candidates[chosen].strategy.solve(ctx)
