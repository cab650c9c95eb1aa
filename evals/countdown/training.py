"""Training for so many minutes: what the trainers of the shipped models have in common.

AdamW; the learning rate warms up linearly and falls by a cosine over the minutes, as a machine's
speed isn't known beforehand. A checkpoint every few minutes: a training that was stopped goes on
from it when the same command is given again.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")

WARM_UP = 100  # steps
FLOOR = 0.02  # of the peak learning rate, which it never falls below
KEEP_EVERY = 180.0  # seconds
# On a CPU the backward pass of fused attention is half again slower at these lengths.
ATTENTION = {"cpu": "eager", "cuda": "sdpa"}


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def computes_in_bf16(device: str) -> bool:
    """Whether bf16 is fast here; a processor without it takes ten times longer than in fp32."""
    return device == "cuda" or bool(torch.cpu._is_avx512_bf16_supported())


class Training:
    """A model, its optimizer and how far it is. clock: seconds, for tests."""

    def __init__(
        self,
        model: torch.nn.Module,
        peak: float,
        minutes: float,
        checkpoint: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model = model
        self.steps = 0
        self._peak = peak
        self._seconds = minutes * 60
        self._checkpoint = checkpoint
        self._clock = clock
        self._epoch = 0
        self._place = 0  # batches of the epoch that are done
        self._optimizer = torch.optim.AdamW(
            model.parameters(), peak, betas=(0.9, 0.98), weight_decay=0.01
        )
        before = self._restore() if checkpoint.exists() else 0.0
        self._began = clock() - before
        self._kept = clock()

    @property
    def spent(self) -> float:
        """Seconds so far, those of earlier sittings included."""
        return self._clock() - self._began

    def batches(self, epoch: Callable[[random.Random], Sequence[T]], seed: int) -> Iterator[T]:
        """Batch after batch until the time is up, from where the checkpoint was.

        epoch: the batches of one, shuffled by the generator given.
        """
        while True:
            made = epoch(random.Random(f"{seed}/{self._epoch}"))
            for batch in made[self._place :]:
                if self.spent >= self._seconds:
                    return
                yield batch
                self._place += 1
            self._epoch, self._place = self._epoch + 1, 0

    def step(self, loss: torch.Tensor) -> None:
        """One step down the gradient of `loss`."""
        warm = min(1.0, (self.steps + 1) / WARM_UP)
        falling = 0.5 * (1 + math.cos(math.pi * min(1.0, self.spent / self._seconds)))
        for group in self._optimizer.param_groups:
            group["lr"] = self._peak * warm * (FLOOR + (1 - FLOOR) * falling)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizer.step()
        self.steps += 1
        if self._clock() - self._kept > KEEP_EVERY:
            self._keep()

    def _keep(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "steps": self.steps,
            "spent": self.spent,
            "epoch": self._epoch,
            # The batch in hand is done, though its turn in `batches` has not come round yet.
            "place": self._place + 1,
        }
        fresh = self._checkpoint.with_suffix(".new")
        torch.save(state, fresh)
        fresh.replace(self._checkpoint)
        self._kept = self._clock()

    def _restore(self) -> float:
        """Take up the checkpoint; gives the seconds spent before it."""
        state = torch.load(self._checkpoint, weights_only=True)
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.steps, self._epoch, self._place = state["steps"], state["epoch"], state["place"]
        return float(state["spent"])
