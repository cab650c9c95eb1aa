"""Roofline seconds: the least time that a forward pass can take on given hardware.

A pass is bound by its arithmetic, or by the bytes it reads: the weights once, and the KV of each
chain's context (Williams 2009, doi 10.1145/1498765.1498785; counts as in `kinetics`). Real engines
take longer; ratios of two such times say what a pair of models can gain, not what it does.
"""

from __future__ import annotations

from dataclasses import dataclass

from reasoning.costs.kinetics import HARDWARE, ModelShape

BYTES = 2  # of a weight and of a KV element: 16 bit


@dataclass(frozen=True, slots=True)
class Roofline:
    """A model on devices of one kind, between which its weights and KV are split evenly.

    hardware: a key of `HARDWARE`. Communication between devices takes no time here.
    """

    shape: ModelShape
    hardware: str
    devices: int = 1

    def seconds(self, new: float, context: float, chains: int = 1) -> float:
        """A pass over `new` tokens of each of `chains` chains, each after `context` tokens."""
        peak, bandwidth = HARDWARE[self.hardware]
        end = context + new
        flops = self.shape.flops(context, end)
        read = BYTES * (self.shape.parameters + chains * self.shape.kv_elements * end)
        return max(chains * flops / peak, read / bandwidth) / self.devices
