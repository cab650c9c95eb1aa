"""The interfaces that strategies, chain policies and verifiers implement.

All three are pydantic models: their fields are their settings, checked when a recipe is read
(unknown keys are errors) and part of a configuration's content hash. The core knows them by their
types only: pydantic is loaded with the first extension, not by `import reasoning`.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from reasoning.chain import Chain
from reasoning.engines.base import Engine, EngineUsage, Sampling
from reasoning.outcomes import Outcome, Rating, Reading
from reasoning.problem import Problem

if TYPE_CHECKING:
    from reasoning.context import Context

__all__ = [
    "ChainPolicy",
    "Outcome",
    "Rating",
    "Reading",
    "Settings",
    "Strategy",
    "Unit",
    "Until",
    "Verifier",
]

Unit = Literal["token", "step", "chain", "group"]
Until = Literal["step", "answer"]


class Settings(BaseModel):
    """Fields are settings; unknown keys are errors; instances do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=False)


class Strategy(Settings, abc.ABC):
    """How chains of thought are organised.

    unit: what it asks its chain policy for; token: it streams chains itself, which only a policy
    that leaves them as the model writes them allows. needs: capabilities of the policy's engine.
    racing: its asks depend on which reply comes first, so two runs may differ. Solutions say so,
    also where a chain policy raced.
    """

    unit: ClassVar[Unit] = "chain"
    needs: ClassVar[tuple[str, ...]] = ("sample",)
    racing: ClassVar[bool] = False

    def alternatives(self) -> tuple[Strategy, ...]:
        """The strategies one of which solves a problem: itself, where it does not choose."""
        return (self,)

    def verifier_roles(self) -> tuple[str, ...]:
        """Roles in which this strategy, as set, asks a verifier."""
        return ()

    def check(self, engines: Mapping[str, Engine], sampling: Sampling, *, started: bool) -> None:
        """Raise ConfigError for what would go wrong later, as a chain policy does."""

    @abc.abstractmethod
    async def solve(self, ctx: Context) -> Outcome:
        """Turn the context's problem and budget into an outcome, by asking the context only."""


class ChainPolicy(Settings, abc.ABC):
    """How one chain is written.

    units: what it can write. logprobs: what becomes of the tokens' log-probabilities, where they
    are asked for. mixed: tokens that it puts into a chain have none of the model's.
    one_ask: it writes a chain in one ask, with the sampling that is bound.
    """

    units: ClassVar[frozenset[str]] = frozenset({"step", "chain"})
    logprobs: ClassVar[Literal["kept", "mixed", "dropped"]] = "kept"
    one_ask: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("sample",)

    def roles(self) -> tuple[str, ...]:
        """Model roles it uses besides `policy`."""
        return ()

    def verifier_roles(self) -> tuple[str, ...]:
        """Roles in which it, as set, asks a verifier."""
        return ()

    def learns(self) -> bool:
        """Whether it, as set, reads what problems of earlier rounds contributed."""
        return False

    def check(self, engines: Mapping[str, Engine], sampling: Sampling, *, started: bool) -> None:
        """Raise ConfigError for what would go wrong later with these engines, by role.

        Called when a recipe is read, and again with `started` once the engines are: what they can
        do, and their tokenizers, are certain only then.
        """

    def check_task(self, problem: Problem, engines: Mapping[str, Engine]) -> None:
        """Raise ConfigError for what would go wrong with every problem of a task, of which this is
        one. The engines are started."""

    @abc.abstractmethod
    async def write(self, ctx: Context, prefix: Chain, n: int, until: Until) -> list[Chain]:
        """n continuations of `prefix`, each up to the end of a step or to the answer.

        Fewer than n when the budget ends; raises Stopped when there is none at all.
        """


class Verifier(Settings, abc.ABC):
    """What scores chains. oracle: it checks against the truth, so results count as coverage.

    needs: capabilities of the engine in its role; () for none.
    alone: a chain's rating depends on that chain, its problem, the settings and the model only,
    so that it is kept by content and used again by other configurations.
    """

    oracle: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ()
    alone: ClassVar[bool] = True

    @abc.abstractmethod
    async def rate(
        self, problem: Problem, chains: Sequence[Chain], engine: Engine | None
    ) -> list[Rating]:
        """A rating for each chain, in order. All are asked at once, so that an engine batches them
        with those of other problems.

        Raises RatingFailed, with the ratings of the others, when some chains cannot be rated.
        """

    @property
    def single(self) -> bool:
        """Whether a chain has one score, however many steps: what aggregation `model` takes."""
        return True

    def most(self, problem: Problem, chain: Chain, engine: Engine | None) -> tuple[Reading, ...]:
        """The most that rating `chain` can cost; leased before anything is asked."""
        size = len(chain.all_ids)
        return (Reading(size, EngineUsage(prefill=size)),)
