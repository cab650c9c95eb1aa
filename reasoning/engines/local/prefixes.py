"""Prefix cache: KV of sequences that have ended, found again by their first tokens."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

# Prefixes are indexed at every BLOCK tokens; shorter ones are cheaper to compute than to find.
BLOCK = 8


@dataclass(slots=True, eq=False)
class Prefix:
    """A sequence's ids, its KV [2, layers, KV heads, length, D], and a reward model's values."""

    ids: tuple[int, ...]
    kv: Tensor
    values: Tensor | None = None

    @property
    def bytes(self) -> int:
        return self.kv.numel() * self.kv.element_size()


class PrefixCache:
    """Least recently used prefixes within `capacity` bytes."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._used = 0
        self._entries: OrderedDict[tuple[int, ...], Prefix] = OrderedDict()
        self._blocks: dict[tuple[int, int], Prefix] = {}

    @property
    def enabled(self) -> bool:
        return self._capacity > 0

    def find(self, ids: Sequence[int], most: int) -> tuple[Prefix | None, int]:
        """The prefix that shares most first tokens with `ids`, and how many (at most `most`)."""
        best: Prefix | None = None
        mark = 0
        for end in range(BLOCK, most + 1, BLOCK):
            mark = hash((mark, *ids[end - BLOCK : end]))
            found = self._blocks.get((end, mark))
            if found is None:
                break
            best = found
        if best is None:
            return None, 0
        shared = 0
        for a, b in zip(best.ids, ids[:most], strict=False):  # the hash may lie, ids do not
            if a != b:
                break
            shared += 1
        if shared:
            self._entries.move_to_end(best.ids)
        return (best, shared) if shared else (None, 0)

    def add(self, prefix: Prefix) -> None:
        """Keep a prefix; the least recently used ones make room."""
        if prefix.bytes > self._capacity or len(prefix.ids) < BLOCK:
            return
        if prefix.ids in self._entries:
            self._entries.move_to_end(prefix.ids)
            return
        self._entries[prefix.ids] = prefix
        self._used += prefix.bytes
        for key in _keys(prefix.ids):
            self._blocks[key] = prefix
        while self._used > self._capacity:
            _, old = self._entries.popitem(last=False)
            self._used -= old.bytes
            for key in _keys(old.ids):
                if self._blocks.get(key) is old:
                    del self._blocks[key]


def _keys(ids: tuple[int, ...]) -> list[tuple[int, int]]:
    keys, mark = [], 0
    for end in range(BLOCK, len(ids) + 1, BLOCK):
        mark = hash((mark, *ids[end - BLOCK : end]))
        keys.append((end, mark))
    return keys
