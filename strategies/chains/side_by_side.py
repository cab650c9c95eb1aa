"""Chains written side by side: n continuations of one prefix, each in a branch of its own.

Chain i has the random stream of chain i of plain decoding, and journal keys of its own: what it
asks depends on no other chain, whichever is slow or fails to come. Under a cap each chain has a
fixed share, which is known before the first one begins. One that does not fit waits until earlier
ones have ended and given back what they did not spend; so what fits depends on the order of the
chains, never on timing.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from reasoning.budget import UNITS, Budget
from reasoning.chain import Chain, ChainFinish
from reasoning.context import Context
from reasoning.errors import BudgetExhausted, Stopped, first_error

Write = Callable[[Context, Chain], Awaitable[Chain]]


async def side_by_side(
    ctx: Context, prefix: Chain, n: int, write: Write, *, most: float
) -> list[Chain]:
    """What `write` makes of n continuations of `prefix`, in order; fewer when the budget ends.

    most: tokens that one chain may cost: its share under a token cap, and where the policy asks a
    verifier, of passes. Of FLOPs, eFLOPs and money an n-th of what is left, or where that is less,
    what one ask for so many tokens can cost: how often a chain is read again is not known, so that
    a tight cap may cut one.
    Raises Stopped when there is no chain at all.
    """
    each = _shares(ctx, prefix, n, most)
    first, call = ctx.next_draws(prefix, n), ctx.next_key("write")[-2]
    written: dict[int, Chain] = {}
    refused: list[Stopped] = []
    running: set[asyncio.Task[None]] = set()

    async def one(index: int, branch: Context) -> None:
        async with branch:
            try:
                written[index] = await write(branch, prefix.drawn(first + index))
            except Stopped as stopped:
                refused.append(stopped)

    try:
        async with asyncio.TaskGroup() as group:
            for index in range(n):
                while running and not _fits(ctx, each):
                    _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                try:
                    branch = ctx.child(f"write{call}-{index}", _part(ctx, each))
                except BudgetExhausted as exhausted:
                    refused.append(exhausted)
                    break
                running.add(group.create_task(one(index, branch)))
    except BaseExceptionGroup as failed:
        raise first_error(failed) from None
    if refused:
        if not written:
            raise refused[0]
        ctx.note_cut(refused[0].status)
    return [written[index] for index in sorted(written)]


def share(ctx: Context, tokens: float, parts: int = 1) -> Budget | None:
    """A branch's share: of `tokens`, or of what is left, one of so many equal parts; of every
    other capped unit that part. None where nothing is capped.

    Raises BudgetExhausted when there is nothing left to share.
    """
    left = {unit: left / parts for unit in UNITS if math.isfinite(left := ctx.remaining(unit))}
    if "tokens" in left:
        left["tokens"] = min(left["tokens"], tokens)
    return _set_aside(left)


def only(chains: list[Chain]) -> Chain:
    """The one chain that was asked for. Raises BudgetExhausted when the budget left it out."""
    if not chains:
        raise BudgetExhausted("the budget does not fit one more token")
    return chains[0]


def cut_short(ctx: Context, start: Chain, chain: Chain, stopped: Stopped) -> Chain:
    """The chain as far as it came, when it may ask no more. Raises `stopped` if it got nothing."""
    if len(chain.ids) == len(start.ids):
        raise stopped
    ctx.note_cut(stopped.status)
    finishes: dict[str, ChainFinish] = {"budget": "budget", "deadline": "deadline"}
    return replace(chain, finish=finishes.get(stopped.status, "abort"))


def _shares(ctx: Context, prefix: Chain, n: int, most: float) -> dict[str, float]:
    """The share of each of n chains, of the capped units that its policy can spend."""
    policy, one = ctx.bindings.policy, ctx.most_written(prefix, 1, math.ceil(most))
    shares: dict[str, float] = {}
    for unit in UNITS:
        if math.isinf(left := ctx.remaining(unit)):
            continue
        if unit == "tokens":
            shares[unit] = most
        elif unit != "verifier_passes":
            shares[unit] = max(left / n, getattr(one, unit))
        elif policy.verifier_roles():
            shares[unit] = most  # a step that is rated has a token
    return shares


def _fits(ctx: Context, each: Mapping[str, float]) -> bool:
    """Whether there is a whole share left (n n-ths may round to more than one). How often that is
    looked at depends on timing, so that the look is not journaled; the share that is taken then is.
    """
    return all(ctx.ledger.remaining(u) >= part * (1 - 1e-9) for u, part in each.items())


def _part(ctx: Context, each: Mapping[str, float]) -> Budget | None:
    return _set_aside({unit: min(ctx.remaining(unit), part) for unit, part in each.items()})


def _set_aside(caps: Mapping[str, float]) -> Budget | None:
    whole = {
        unit: math.floor(part + 1e-9) if unit in ("tokens", "verifier_passes") else part
        for unit, part in caps.items()
    }
    for unit, part in whole.items():
        if part <= 0 and unit != "verifier_passes":
            raise BudgetExhausted(f"the budget has {max(caps[unit], 0):g} {unit} left")
    return Budget(**whole) if whole else None  # type: ignore[arg-type]
