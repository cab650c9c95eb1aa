"""Where an engine's time goes, by PyTorch's profiler: what bounds it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from bench.pairs import Measure

GROUPS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm"),
    "attention": ("aten::scaled_dot_product_attention", "aten::_scaled_dot_product"),
}
OTHER, OUTSIDE = "other operations", "Python and waiting"

# An operation: its name, thread, start and end.
Operation = tuple[str, int, int, int]


async def profiled(measure: Measure) -> dict[str, float]:
    """Shares of one measurement's wall time, of this process's threads. Not for timing: looking
    at every operation slows it down."""
    from torch._C._profiler import _ExperimentalConfig
    from torch.profiler import ProfilerActivity, profile

    watcher = profile(
        activities=[ProfilerActivity.CPU],
        experimental_config=_ExperimentalConfig(profile_all_threads=True),
    )
    with watcher:
        sample = await measure()
    return shares(_operations(watcher), sample.seconds * 1e9)


def shares(operations: Iterable[Operation], wall: float) -> dict[str, float]:
    """Of `wall`, by group. An operation called by another counts as part of that one, except that
    a group's operations are its own wherever they are called."""
    spent = dict.fromkeys([*GROUPS, OTHER], 0.0)
    counted: dict[tuple[str, int], int] = {}  # end of what has been counted, by group and thread
    for name, thread, start, end in sorted(operations, key=lambda o: (o[1], o[2], -o[3])):
        group = next((g for g, names in GROUPS.items() if name.startswith(names)), OTHER)
        for kind in {group, OTHER}:
            owned = [counted.get((g, thread), 0) for g in GROUPS] if kind != OTHER else []
            begin = max(start, counted.get((kind, thread), 0), *owned)
            if end > begin:
                spent[kind] += end - begin
                counted[kind, thread] = end
    found = {group: spent[group] / wall for group in GROUPS}
    found[OTHER] = spent[OTHER] / wall - sum(found.values())
    found[OUTSIDE] = max(0.0, 1.0 - spent[OTHER] / wall)
    return found


def described(found: dict[str, float]) -> str:
    """The largest first."""
    ordered = sorted(found.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{name} {value:.0%}" for name, value in ordered)


def _operations(watcher: Any) -> Sequence[Operation]:
    # The raw events: sorting them into a tree takes the profiler a minute.
    events = watcher.profiler.kineto_results.events()
    return [
        (e.name(), e.start_thread_id(), e.start_ns(), e.start_ns() + e.duration_ns())
        for e in events
        if e.name().startswith("aten::")
    ]
