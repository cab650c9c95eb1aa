"""Live sequences in buckets of like length, each with KV slots of its own.

On a CPU decoding is bound by reading keys, and rows that attend together are all read as far as the
longest of them; a search has rows of every length at once. All rows grow by a token a step, so one
is seldom copied: into the next bucket when it has outgrown its own, and into the hole of one that
has ended. On a GPU a launch costs more than keys that are read for nothing: there is one bucket.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor

from reasoning.engines.local.decoder import Decoder
from reasoning.engines.local.slots import Rows, Slots
from reasoning.engines.local.work import Sequence

# Positions by which buckets differ on a CPU; from eight times as many on, a quarter of an octave.
STEP = 64


@dataclass(slots=True, eq=False)
class Bucket:
    """Row i of `slots` is of `sequences[i]`. limit: positions that a row may have here."""

    limit: float
    slots: Slots
    sequences: list[Sequence] = field(default_factory=list)


class Buckets:
    """All live sequences, in the order in which `parts` has their rows."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._buckets: dict[float, Bucket] = {}
        self._places: dict[Sequence, tuple[Bucket, int]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Sequence]:
        for bucket in self._buckets.values():
            yield from bucket.sequences

    def add(self, sequences: list[Sequence], kv: Tensor, filled: int) -> None:
        """Take in sequences whose rows all begin with the first `filled` positions of `kv`."""
        bucket = self._room(len(sequences), filled + 1)
        bucket.slots.put(len(bucket.sequences), kv, filled, rows=len(sequences))
        for sequence in sequences:
            self._place(sequence, bucket)

    def kv(self, sequence: Sequence) -> Tensor:
        """A copy [2, layers, KV heads, length, D] of a sequence's row."""
        bucket, row = self._places[sequence]
        return bucket.slots.take(row, sequence.length)

    def remove(self, sequence: Sequence) -> None:
        """Let go of a sequence; the last row of its bucket fills the hole."""
        bucket, row = self._places.pop(sequence)
        last = bucket.sequences.pop()
        if last is not sequence:
            bucket.slots.copy(bucket.slots, len(bucket.sequences), row, last.length)
            bucket.sequences[row] = last
            self._places[last] = bucket, row
        if not bucket.sequences:
            del self._buckets[bucket.limit]

    def parts(self) -> list[Rows]:
        """The rows of each bucket, once every one has room for its next position."""
        for bucket in list(self._buckets.values()):
            grown = [s for s in bucket.sequences if s.length >= bucket.limit]
            if grown:
                self._move(grown, bucket)
        parts = []
        for bucket in self._buckets.values():
            rows = Rows(bucket.slots, 0, [sequence.length for sequence in bucket.sequences], 1)
            bucket.slots.reserve(len(rows.starts), rows.length)
            parts.append(rows)
        return parts

    def _move(self, sequences: list[Sequence], source: Bucket) -> None:
        """Into the next bucket. All of them are as long as `source` allows."""
        target = self._room(len(sequences), sequences[0].length + 1)
        for sequence in reversed(sequences):  # where all move, none fills another's hole
            _, row = self._places[sequence]
            source.slots.copy(target.slots, row, len(target.sequences), sequence.length)
            self.remove(sequence)
            self._place(sequence, target)

    def _place(self, sequence: Sequence, bucket: Bucket) -> None:
        self._places[sequence] = bucket, len(bucket.sequences)
        bucket.sequences.append(sequence)

    def _room(self, rows: int, length: int) -> Bucket:
        """The bucket for rows of `length`, with room for so many more of them."""
        on_cpu = self._decoder.device.type == "cpu"
        limit = capacity(length) if on_cpu else math.inf
        bucket = self._buckets.get(limit)
        if bucket is None:
            slots = self._decoder.slots(rows, capacity(length))
            bucket = self._buckets[limit] = Bucket(limit, slots)
        else:
            bucket.slots.reserve(len(bucket.sequences) + rows, length)
        return bucket


def capacity(length: int) -> int:
    """The least limit of a bucket that holds `length` positions."""
    step = max(STEP, (1 << length.bit_length()) // 8)
    return -(-length // step) * step
