"""PyTorch's threads, shared out among the embedded engines that have work at this moment.

Engines that take every core each wait for one another at the end of every operation: on two cores
a policy and a reward model of 10, 25 and 360 million parameters decoded and read 1.1 to 1.4 times
as fast with a core each.
"""

from __future__ import annotations

import threading
from typing import ClassVar

import torch

# Bytes of weights from which on one more thread is worth its synchronisation. Measured on two
# cores: models of 12 MiB decode as fast with one as with two, of 40 MiB up to 1.7 times as fast.
WORTH = 16 << 20
# Read once: PyTorch gives a new thread as many as any thread was set to last, an engine's included.
CORES = torch.get_num_threads()


class Threads:
    """The threads of one engine. PyTorch keeps their number for every thread that calls it."""

    _lock: ClassVar = threading.Lock()
    _busy: ClassVar[set[Threads]] = set()

    def __init__(self, fixed: int | None, weights: int) -> None:
        """fixed: always so many. weights: bytes of the model's."""
        self._fixed = fixed
        self._useful = max(1, weights // WORTH)

    def take(self) -> None:
        """Before a step, in the thread that computes it: have a fair share of the cores."""
        with self._lock:
            self._busy.add(self)
            share = CORES // len(self._busy)
        threads = self._fixed or max(1, min(self._useful, share))
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)

    def leave(self) -> None:
        """Until the next step the others may have them."""
        with self._lock:
            self._busy.discard(self)
