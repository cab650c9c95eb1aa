"""The allocator interface: candidates with predictions in, a plan out."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass

from reasoning.budget import Budget, Usage
from reasoning.problem import Problem
from reasoning.strategy import Settings, Strategy


@dataclass(frozen=True, slots=True)
class Candidate:
    """A strategy that could be run, with what a calibration profile predicts for it, if any."""

    strategy: Strategy
    accuracy: float | None = None
    cost: Usage | None = None


class Allocator(Settings, abc.ABC):
    """Chooses a candidate for a problem. Reads the problem, never its reference answer."""

    @abc.abstractmethod
    def plan(self, problem: Problem, budget: Budget, candidates: Sequence[Candidate]) -> int:
        """Index of the candidate to run within `budget` (what remains of it)."""
