"""KV slots: a row for each sequence, packed from row 0, so that attention reads plain slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class Slots:
    """keys and values [layers, rows, KV heads, length, head size]; grows in both directions."""

    def __init__(
        self,
        layers: int,
        kv_heads: int,
        head_dim: int,
        rows: int,
        length: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._made = {"dtype": dtype, "device": device}
        self.shape = (layers, rows, kv_heads, length, head_dim)
        self.keys = torch.zeros(self.shape, **self._made)  # type: ignore[call-overload]
        self.values = torch.zeros_like(self.keys)

    def reserve(self, rows: int, length: int) -> None:
        """Make room for at least so many rows of at least that length."""
        layers, old_rows, kv_heads, old_length, head_dim = self.shape
        if rows <= old_rows and length <= old_length:
            return
        while old_rows < rows:
            old_rows *= 2
        while old_length < length:
            old_length *= 2
        before = self.shape
        self.shape = (layers, old_rows, kv_heads, old_length, head_dim)
        for name in ("keys", "values"):
            grown = torch.zeros(self.shape, **self._made)  # type: ignore[call-overload]
            grown[:, : before[1], :, : before[3]] = getattr(self, name)
            setattr(self, name, grown)

    def write(self, layer: int, rows: Tensor, positions: Tensor, k: Tensor, v: Tensor) -> None:
        """Store k, v [N, KV heads, D] at positions [N] of rows [N]."""
        self.keys[layer][rows, :, positions] = k
        self.values[layer][rows, :, positions] = v

    def copy(self, target: Slots, source_row: int, row: int, length: int) -> None:
        """Copy a row's first `length` positions to a row of `target`."""
        target.keys[:, row, :, :length] = self.keys[:, source_row, :, :length]
        target.values[:, row, :, :length] = self.values[:, source_row, :, :length]

    def take(self, row: int, length: int) -> Tensor:
        """A copy [2, layers, KV heads, length, D] of a row."""
        return torch.stack(
            (self.keys[:, row, :, :length], self.values[:, row, :, :length])
        ).contiguous()

    def put(self, row: int, saved: Tensor, length: int, rows: int = 1) -> None:
        """Write the first `length` positions of what `take` gave into so many rows, from `row`."""
        for slots, kept in zip((self.keys, self.values), saved, strict=True):
            slots[:, row : row + rows, :, :length] = kept[:, None, :, :length]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of some slots that go on together, from row `first` on: `width` new tokens in each.

    starts: the position of each row's first new token; all before it are filled.
    """

    slots: Slots
    first: int
    starts: Sequence[int]
    width: int

    @property
    def length(self) -> int:
        """Positions of the longest row, with its new ones."""
        return max(self.starts) + self.width
