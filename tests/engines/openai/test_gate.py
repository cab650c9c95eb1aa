"""Adaptive concurrency and backoff, by themselves."""

from __future__ import annotations

import asyncio

from reasoning.engines.openai.gate import Gate
from reasoning.engines.openai.sending import Backoff


async def test_places_go_by_priority_then_order() -> None:
    gate = Gate(1)
    await gate.enter()
    order: list[str] = []

    async def wait(name: str, priority: int) -> None:
        await gate.enter(priority)
        order.append(name)
        gate.leave()

    names = [("a", 1), ("b", 0), ("c", 1), ("d", -1)]
    tasks = [asyncio.ensure_future(wait(*each)) for each in names]
    await asyncio.sleep(0)
    gate.leave()
    await asyncio.gather(*tasks)
    assert order == ["d", "b", "a", "c"]
    assert gate.open == 0


async def test_one_overload_shrinks_once() -> None:
    gate = Gate(100)
    epochs = [await gate.enter() for _ in range(40)]
    for epoch in epochs:
        gate.overloaded(epoch)
    assert gate.limit == 20.0, "half of what was open, however many were pushed back"
    for _ in range(40):
        gate.leave()
    later = await gate.enter()
    gate.overloaded(later)
    assert gate.limit >= 1.0


async def test_the_limit_rises_by_one_a_round_up_to_the_ceiling() -> None:
    gate = Gate(8)
    gate.overloaded(await gate.enter())
    gate.leave()
    low = gate.limit
    gate.succeeded()
    assert gate.limit == low + 1
    for _ in range(1000):
        gate.succeeded()
    assert gate.limit == 8


async def test_a_place_given_to_a_cancelled_waiter_is_passed_on() -> None:
    gate = Gate(1)
    await gate.enter()
    first = asyncio.ensure_future(gate.enter())
    second = asyncio.ensure_future(gate.enter())
    await asyncio.sleep(0)
    gate.leave()  # the place is first's ...
    first.cancel()  # ... who goes away before it runs
    await asyncio.wait_for(second, 1.0)
    gate.leave()
    assert gate.open == 0


def test_backoff_grows_is_capped_and_repeatable() -> None:
    one, two = Backoff(0.25, 60.0), Backoff(0.25, 60.0)
    delays = [one.seconds(number, None) for number in range(12)]
    assert delays == [two.seconds(number, None) for number in range(12)]
    assert all(0.125 * 2**n <= delay <= 0.25 * 2**n for n, delay in enumerate(delays[:6]))
    assert max(delays) <= 20.0
    assert one.seconds(0, 5.0) >= 5.0
    assert one.seconds(0, 1e9) <= 66.1
