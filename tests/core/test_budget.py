"""The ledger: caps are hard, leases wait in order, shares do not depend on timing."""

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning.budget import Budget, Ledger, Usage
from reasoning.errors import BudgetBreach, BudgetExhausted, ConfigError

ONE = Usage(tokens=1)


@pytest.mark.parametrize("tokens", [0, -1, math.nan, 1.5, "4", True])
def test_budget_refuses_what_is_no_cap(tokens: object) -> None:
    with pytest.raises(ConfigError, match="tokens"):
        Budget(tokens=tokens)  # type: ignore[arg-type]


async def test_a_lease_that_fits_later_waits_and_one_that_never_fits_is_shortened() -> None:
    ledger = Ledger("p", Budget(tokens=100))
    first = await ledger.lease("policy", Usage(tokens=60), ONE)
    waiting = asyncio.ensure_future(ledger.lease("policy", Usage(tokens=60), ONE))
    await asyncio.sleep(0)
    assert not waiting.done()
    first.settle(Usage(tokens=50))
    assert (await waiting).worst.tokens == 50
    with pytest.raises(BudgetExhausted, match="tokens"):
        (await waiting).settle(Usage(tokens=50))
        await ledger.lease("policy", Usage(tokens=60), ONE)


async def test_a_waiting_lease_is_refused_when_what_it_waited_for_is_spent() -> None:
    ledger = Ledger("p", Budget(tokens=10))
    first = await ledger.lease("policy", Usage(tokens=10), ONE)
    waiting = asyncio.ensure_future(ledger.lease("policy", Usage(tokens=5), Usage(tokens=5)))
    await asyncio.sleep(0)
    first.settle(Usage(tokens=8))
    with pytest.raises(BudgetExhausted):
        await waiting


async def test_overspending_is_a_breach() -> None:
    ledger = Ledger("run", Budget(tokens=10))
    lease = await ledger.lease("policy", Usage(tokens=10), ONE)
    with pytest.raises(BudgetBreach, match="run: tokens 11 passed the cap 10"):
        lease.settle(Usage(tokens=11))


async def test_a_share_is_set_aside_at_once_and_its_rest_comes_back() -> None:
    parent = Ledger("p", Budget(tokens=100))
    child = parent.branch("c", Budget(tokens=80))
    assert parent.remaining("tokens") == 20 and child.remaining("tokens") == 80
    (await child.lease("policy", Usage(tokens=30), ONE)).settle(Usage(tokens=30))
    assert parent.remaining("tokens") == 20 and child.remaining("tokens") == 50
    grandchild = child.branch("g", Budget(tokens=50))
    assert child.remaining("tokens") == 0 and grandchild.remaining("tokens") == 50
    grandchild.close()
    child.close()
    assert parent.remaining("tokens") == 70 and parent.total.tokens == 30
    with pytest.raises(BudgetExhausted):
        parent.branch("d", Budget(tokens=71))


async def test_caps_of_the_run_hold_over_problems() -> None:
    run = Ledger("run", Budget(tokens=100))
    problems = [Ledger(f"p{i}", Budget(tokens=60), run) for i in range(2)]
    first = await problems[0].lease("policy", Usage(tokens=60), ONE)
    waiting = asyncio.ensure_future(problems[1].lease("policy", Usage(tokens=60), ONE))
    await asyncio.sleep(0)
    assert not waiting.done()  # 40 are left, and 60 may come back
    first.settle(Usage(tokens=10))
    assert (await waiting).worst.tokens == 60


@given(
    cap=st.integers(1, 500),
    asks=st.lists(st.tuples(st.integers(1, 100), st.floats(0, 1)), max_size=20),
)
def test_no_sequence_of_asks_passes_a_cap(cap: int, asks: list[tuple[int, float]]) -> None:
    async def main() -> None:
        ledger = Ledger("p", Budget(tokens=cap))

        async def ask(worst: int, share: float) -> None:
            try:
                lease = await ledger.lease("policy", Usage(tokens=worst), ONE)
            except BudgetExhausted:
                return
            await asyncio.sleep(0)
            lease.settle(Usage(tokens=math.ceil(lease.worst.tokens * share)))

        async with asyncio.timeout(5):
            await asyncio.gather(*(ask(*spec) for spec in asks))
        assert ledger.total.tokens <= cap
        assert ledger.remaining("tokens") == cap - ledger.total.tokens

    asyncio.run(main())
