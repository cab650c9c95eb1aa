"""Fixed: always the same candidate. The baseline that every allocator is compared with."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from reasoning.allocation.base import Allocator, Candidate
from reasoning.budget import Budget
from reasoning.errors import ConfigError
from reasoning.problem import Problem


class Fixed(Allocator):
    """Runs candidate number `use`."""

    use: int = Field(default=0, ge=0)

    def plan(self, problem: Problem, budget: Budget, candidates: Sequence[Candidate]) -> int:
        if self.use >= len(candidates):
            raise ConfigError(
                f"allocator fixed: use={self.use}, but there are {len(candidates)} candidates"
            )
        return self.use
