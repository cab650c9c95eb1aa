"""Rows that join, grow, move and leave keep their own KV, whatever bucket they are in."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the extra `local` is not installed")

from reasoning.engines.base import SampleRequest, Sampling, Stream  # noqa: E402
from reasoning.engines.local.buckets import STEP, Buckets, capacity  # noqa: E402
from reasoning.engines.local.slots import Slots  # noqa: E402
from reasoning.engines.local.work import Batch, Sequence  # noqa: E402

LAYERS, KV_HEADS, HEAD_DIM = 2, 1, 2


def buckets(device: str) -> Buckets:
    """Of a model on `device`, as to the layout: the KV itself is on the CPU."""

    def slots(rows: int, length: int) -> Slots:
        cpu = torch.device("cpu")
        return Slots(LAYERS, KV_HEADS, HEAD_DIM, rows, length, torch.float32, cpu)

    return Buckets(cast(Any, SimpleNamespace(device=torch.device(device), slots=slots)))


def sequence(length: int) -> Sequence:
    """With `length` positions filled, once it has drawn a token."""
    ask = SampleRequest((0,) * length, 10_000, Sampling(), (Stream(0),))
    ignore = cast(Any, lambda *_: None)
    batch = Batch(ask, enders=(), limit=10_000, done=ignore, failed=ignore, sink=None)
    return Sequence(batch, 0, tokens=[0])


def kv(mark: int, length: int) -> Any:
    """Of a row whose every position holds its own number."""
    values = 10_000.0 * mark + torch.arange(length)
    return values[:, None].expand(2, LAYERS, KV_HEADS, length, HEAD_DIM)


operations = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.integers(1, 700)),
        st.tuples(st.just("leave"), st.integers(0, 100)),
        st.tuples(st.just("decode"), st.integers(1, 2 * STEP)),
    ),
    max_size=12,
)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@settings(max_examples=40)
@given(operations=operations)
def test_rows_keep_their_kv(device: str, operations: list[tuple[str, int]]) -> None:
    live = buckets(device)
    marks: dict[Sequence, int] = {}
    for number, (operation, size) in enumerate(operations):
        if operation == "join":
            fresh = [sequence(size) for _ in range(1 + size % 3)]
            live.add(fresh, kv(number, size), size)
            marks |= dict.fromkeys(fresh, number)
        elif operation == "leave" and marks:
            leaving = list(marks)[size % len(marks)]
            live.remove(leaving)
            del marks[leaving]
        elif operation == "decode" and marks:
            for _ in range(size):
                decode(live, marks)
        assert set(live) == set(marks) and len(live) == len(marks)
        for each, mark in marks.items():
            assert torch.equal(live.kv(each), kv(mark, each.length))


def decode(live: Buckets, marks: dict[Sequence, int]) -> None:
    """Write the next position of every row, as a forward pass does."""
    sequences = iter(live)
    for rows in live.parts():
        own = [next(sequences) for _ in rows.starts]
        assert rows.starts == [each.length for each in own]
        numbers = rows.first + torch.arange(len(own))
        positions = torch.tensor(rows.starts)
        values = torch.tensor([10_000.0 * marks[each] + each.length for each in own])
        written = values[:, None, None].expand(len(own), KV_HEADS, HEAD_DIM)
        for layer in range(LAYERS):
            rows.slots.write(layer, numbers, positions, written, written)
        for each in own:
            each.tokens.append(0)
    assert next(sequences, None) is None


def test_rows_of_like_length_are_together_on_a_cpu_and_all_of_them_on_a_gpu() -> None:
    for device, expected in (("cpu", [2, 1, 1]), ("cuda", [4])):
        live = buckets(device)
        for length in (10, STEP + 1, 1, 5 * STEP):
            live.add([sequence(length)], kv(0, length), length)
        assert [len(rows.starts) for rows in live.parts()] == expected


def test_a_bucket_reads_a_quarter_more_than_its_rows_hold_at_most() -> None:
    for length in range(1, 40_000):
        assert length <= capacity(length) < length + max(STEP, length / 4)
    assert len({capacity(length) for length in range(1, 32_769)}) < 40


def test_a_bucket_without_rows_holds_no_memory() -> None:
    live = buckets("cpu")
    for _ in range(3):
        live.add([sequence(10)], kv(0, 10), 10)
    for each in list(live):
        live.remove(each)
    assert live.parts() == [] and not live
