"""The synchronous baseline of ATTS: in every turn the target takes over after the top-B chunks.

All chains of a call write a chunk, wait for each other, and are ranked by loss; the target writes
on behind the B worst. With B = rho * chains it hands over as large a share as ATTS does with rho,
with the same chunks, but every turn lasts as long as its slowest chain, and what is decided about
one chain depends on the others. That is what ATTS is compared with.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from reasoning.chain import Chain
from reasoning.context import Context
from reasoning.errors import BudgetExhausted, ConfigError, Stopped, first_error
from reasoning.strategies.chains.atts import Turns, Verdict
from reasoning.strategies.chains.drafting import cut, mixed
from reasoning.strategies.chains.side_by_side import cut_short, share
from reasoning.strategy import Until


class AttsSync(Turns):
    """ATTS's synchronous baseline: chains wait for each other, the worst B are taken over.

    B is rho times the chains that are still being written, rounded to the nearest, ties up.

    Under a cap every chain has an equal share from the start: chains that wait for each other
    cannot take turns.
    """

    async def write(self, ctx: Context, prefix: Chain, n: int, until: Until) -> list[Chain]:
        if until == "step":
            raise ConfigError("ATTS writes whole chains, not steps")
        if self.rho == 0:
            return await self.drafts_only(ctx, prefix, n)
        lines = self._lines(ctx, prefix, n)
        for line in lines:
            line.closed = self.full(line.ctx, line.chain)
        for turn in range(self.turns):
            live = [line for line in lines if line.closed is None]
            if not live:
                break
            losses = await _barrier(live, self._draft)
            live = [line for line in live if line.closed is None]
            worst = sorted(range(len(live)), key=lambda i: -losses[live[i]])
            chosen = set(worst[: int(self.rho * len(live) + 0.5)])
            for index, line in enumerate(live):
                verdict = Verdict(turn, losses[line], None, len(live) - 1, index in chosen)
                line.ctx.trace.add("decision", line.ctx.path, **verdict.told())
            await _barrier([live[i] for i in sorted(chosen)], self._take_over)
            for line in live:
                line.closed = line.closed or self.over(ctx, line.chain)
        for line in lines:
            line.ctx.ledger.close()
        refused = [line.refused for line in lines if line.refused is not None]
        if len(refused) == len(lines):
            raise refused[0]
        return [mixed(line.end()) for line in lines if line.refused is None]

    def _lines(self, ctx: Context, prefix: Chain, n: int) -> list[_Line]:
        first, call = ctx.next_draws(prefix, n), ctx.next_key("write")[-2]
        for parts in range(n, 0, -1):
            try:
                each = share(ctx, float("inf"), parts)
                break
            except BudgetExhausted:
                if parts == 1:
                    raise
        if parts < n:
            ctx.note_cut("budget")
        branches = (ctx.child(f"write{call}-{i}", each) for i in range(parts))
        return [_Line(branch, prefix.drawn(first + i)) for i, branch in enumerate(branches)]

    async def _draft(self, line: _Line) -> float:
        drafted = await self.chunk(line.ctx, line.chain)
        if cut(drafted) or len(drafted.ids) == len(line.chain.ids):
            line.closed = drafted
            return 0.0
        before, line.chain = line.chain, drafted
        return await self.verify(line.ctx, before, drafted)

    async def _take_over(self, line: _Line) -> float:
        line.chain = await self.take_over(line.ctx, line.chain)
        return 0.0


class _Line:
    """A chain on its way. closed: the chain when it is written; refused: why there is none."""

    def __init__(self, ctx: Context, start: Chain) -> None:
        self.ctx, self.start, self.chain = ctx, start, start
        self.closed: Chain | None = None
        self.refused: Stopped | None = None

    def end(self) -> Chain:
        return self.closed or replace(self.chain, finish="length")

    def stop(self, stopped: Stopped) -> None:
        try:
            self.closed = cut_short(self.ctx, self.start, self.chain, stopped)
        except Stopped as nothing:
            self.closed, self.refused = self.chain, nothing


async def _barrier(
    lines: Sequence[_Line], work: Callable[[_Line], Awaitable[float]]
) -> dict[_Line, float]:
    """Do the work for every line, and wait for all of them."""

    async def one(line: _Line) -> float:
        try:
            return await work(line)
        except Stopped as stopped:
            line.stop(stopped)
            return 0.0

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(line)) for line in lines]
    except BaseExceptionGroup as failed:
        raise first_error(failed) from None
    return {line: task.result() for line, task in zip(lines, tasks, strict=True)}
