"""KV slots: one row a live sequence, packed from row 0, so that decoding reads plain slices."""

from __future__ import annotations

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

    def write(
        self, layer: int, first: int, positions: Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Store k, v [G, T, KV heads, D] at positions [G, T] of rows first..first+G; gives these
        rows' keys and values [G, KV heads, length, D]."""
        group, width = positions.shape
        part = slice(first, first + group)
        keys, values = self.keys[layer, part], self.values[layer, part]
        rows = torch.arange(group, device=k.device)
        if width == 1:
            keys[rows, :, positions[:, 0]] = k[:, 0]
            values[rows, :, positions[:, 0]] = v[:, 0]
        else:
            keys[rows[:, None], :, positions] = k
            values[rows[:, None], :, positions] = v
        return keys, values

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy a row's first `length` positions to another row."""
        if length and source != target:
            self.keys[:, target, :, :length] = self.keys[:, source, :, :length]
            self.values[:, target, :, :length] = self.values[:, source, :, :length]

    def take(self, row: int, length: int) -> Tensor:
        """A copy [2, layers, KV heads, length, D] of a row."""
        return torch.stack(
            (self.keys[:, row, :, :length], self.values[:, row, :, :length])
        ).contiguous()

    def put(self, row: int, saved: Tensor, length: int) -> None:
        """Write the first `length` positions of what `take` gave into a row."""
        self.keys[:, row, :, :length] = saved[0, :, :, :length]
        self.values[:, row, :, :length] = saved[1, :, :, :length]
