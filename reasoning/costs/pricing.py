"""What asks cost, as Usage in every unit of a budget: worst cases for leases, real costs after."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from reasoning.budget import Usage
from reasoning.costs.kinetics import CostModel
from reasoning.engines.base import EngineUsage
from reasoning.outcomes import Reading


def worst(cost: CostModel, context: int, new: int, n: int, *, one_prefill: bool = False) -> Usage:
    """The most that n chains of `new` tokens after `context` tokens can cost.

    one_prefill: the engine's capability. Each chain may read the context from a cache of its own
    all the same.
    """
    prefills = 1 if one_prefill else n
    reading = prefills * cost.flops(context, 0, context)
    return Usage(
        tokens=n * new,
        flops=reading + n * cost.flops(context, new, 0),
        eflops=reading + n * cost.eflops(context, new, 0),
        money=cost.money(0, prefills * context, 0) + n * cost.money(new, 0, context),
    )


def decoded(cost: CostModel, context: int, work: EngineUsage, *, shared: bool = False) -> Usage:
    """The cost of decoding `work.new` tokens after `context`.

    work.prefill: more than `context` where it was prefilled for other chains of the request too.
    shared: another chain of the same request read the context, so its KV is not counted again.
    """
    others = max(0, work.prefill - 1) // context if context else 0
    own = work.prefill - others * context
    reading = others * cost.flops(context, 0, context)
    return Usage(
        tokens=work.new,
        prefill=work.prefill,
        cached=work.cached,
        abandoned=work.abandoned,
        asks=0 if shared else 1,
        flops=reading + cost.flops(context, work.new, own),
        eflops=reading + cost.eflops(context, work.new, own, shared=context if shared else 0),
        money=cost.money(work.new, work.prefill, work.cached),
    )


def read(cost: CostModel, context: int, work: EngineUsage) -> Usage:
    """The cost of scoring or choosing at the end of `context` tokens."""
    usage = decoded(cost, context, work)
    return usage._replace(probe=work.new, scored=work.prefill + work.cached)


def verified(cost: CostModel, readings: Iterable[Reading]) -> Usage:
    """The cost of one verifier pass, which took these requests.

    Tokens that were written count in the dial; the one token that some servers decode to answer
    does not, but is priced like any other.
    """
    total = Usage(verifier_passes=1)
    for reading in readings:
        work, size = reading.work, reading.size
        total += Usage(
            tokens=work.new if reading.wrote else 0,
            verifier_prefill=work.prefill,
            verifier_cached=work.cached,
            verifier_tokens=work.new,
            abandoned=work.abandoned,
            flops=cost.flops(size, work.new, work.prefill),
            eflops=cost.eflops(size, work.new, work.prefill),
            money=cost.money(work.new, work.prefill, work.cached),
        )
    return total


def verifying(cost: CostModel, readings: Iterable[Reading]) -> Usage:
    """The most that a verifier pass of these requests can cost, cached or not."""
    most = list(readings)
    read = [replace(r, work=replace(r.work, prefill=0, cached=r.size)) for r in most]
    worst = verified(cost, most)
    return worst._replace(money=max(worst.money, verified(cost, read).money))


def fitting(cost: CostModel, context: int, cap: int, granted: Usage) -> int:
    """The most tokens, up to `cap`, that one chain can decode within `granted` at worst."""

    def fits(new: int) -> bool:
        most = worst(cost, context, new, 1)
        return all(
            getattr(most, unit) <= getattr(granted, unit) * (1 + 1e-12)
            for unit in ("tokens", "flops", "eflops", "money")
        )

    if fits(cap):
        return cap
    low, high = 0, cap
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
