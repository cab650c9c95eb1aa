"""What strategies and verifiers give back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from reasoning.chain import Chain
from reasoning.engines.base import EngineUsage


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a strategy decided: an answer (or None) and the solution text it came from."""

    answer: str | None
    text: str
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reading:
    """One engine request of a rating. size: tokens of its prompt. work: what it cost.

    wrote: its new tokens are text that was asked for, and count in the dial `tokens`; else they
    are the one token that some servers decode to answer, and count in `verifier_tokens`.
    """

    size: int
    work: EngineUsage
    wrote: bool = False


@dataclass(frozen=True, slots=True)
class Rating:
    """scores: one in [0, 1] for each step of a chain (or one for the whole). usage: its cost.

    readings: its engine requests; () where there was one at most, whose prompt was the chain.
    """

    scores: tuple[float, ...]
    usage: EngineUsage = field(default_factory=EngineUsage)
    readings: tuple[Reading, ...] = ()

    @classmethod
    def of(cls, scores: Sequence[float], readings: Sequence[Reading]) -> Rating:
        """A rating with the total of its readings as usage."""
        total = sum((reading.work for reading in readings), EngineUsage())
        return cls(tuple(scores), total, tuple(readings))

    def requests(self, chain: Chain) -> tuple[Reading, ...]:
        """What the rating of `chain` is charged for."""
        return self.readings or (Reading(len(chain.all_ids), self.usage),)
