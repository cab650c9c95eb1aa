"""Branch: where the asks of one branch of a problem stand.

Its place in the journal, its random stream, its node of the ledger, its clock. Draws, streams and
races work on a branch; the Context puts the asks of strategies and chain policies on top.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from reasoning.budget import UNITS, Budget, Ledger, Usage
from reasoning.chain import Chain
from reasoning.costs.kinetics import CostModel
from reasoning.engines.base import Engine, Sampling, Stream
from reasoning.errors import ConfigError, DeadlinePassed, PromptError, Stopped, UnknownName
from reasoning.journal import Journal, Key
from reasoning.problem import Problem
from reasoning.randomness import Keys
from reasoning.replies import ReplyStore
from reasoning.session import Session
from reasoning.shared_state import SharedState
from reasoning.trace import Trace

if TYPE_CHECKING:
    from reasoning.strategy import ChainPolicy, Outcome, Verifier


@dataclass(frozen=True)
class Bindings:
    """What a configuration binds: models and verifiers by role, and how chains are written.

    max_tokens: cap for a whole chain (its new tokens); None is the model's context.
    identity: content hash of the configuration; part of journal keys.
    """

    engines: dict[str, Engine]
    verifiers: dict[str, tuple[Verifier, Engine | None]]
    policy: ChainPolicy
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    costs: dict[str, CostModel] = field(default_factory=dict)
    seed: int = 0
    identity: str = ""

    def engine(self, role: str) -> Engine:
        if role not in self.engines:
            raise UnknownName(
                f"no model in role {role!r}: bound are {', '.join(self.engines) or 'none'}; "
                f"add `{role}` under `models`"
            )
        return self.engines[role]

    def verifier(self, role: str) -> tuple[Verifier, Engine | None]:
        if role not in self.verifiers:
            raise UnknownName(
                f"no verifier in role {role!r}: bound are {', '.join(self.verifiers) or 'none'}; "
                f"add `{role}` under `verifiers`"
            )
        return self.verifiers[role]

    def cost(self, role: str) -> CostModel:
        return self.costs.get(role) or CostModel()


class _Progress:
    """What the branches of one problem have in common."""

    def __init__(self) -> None:
        self.trace = Trace()
        self.best: Outcome | None = None
        self.cut: str | None = None
        self.raced = False
        self.broken: set[asyncio.Task[Any] | None] = set()  # tasks that are ending
        # Who solves the problem. Where a problem's tasks cancel each other it is never that one.
        self._caller = asyncio.current_task()
        self._cancels = self._caller.cancelling() if self._caller else 0

    @property
    def left(self) -> bool:
        """Whether the caller is being cancelled: known before anything that it waits for is."""
        return self._caller is not None and self._caller.cancelling() > self._cancels


class Branch:
    """A branch of one problem under one configuration.

    shared: what problems of earlier rounds contributed; round: that of this problem.
    deadline: loop time after which asks in flight are cut and further ones refused.
    cancellable: asks stream, so that what a cancelled one received is known.
    """

    def __init__(
        self,
        problem: Problem,
        bindings: Bindings,
        *,
        session: Session,
        journal: Journal,
        store: ReplyStore,
        ledger: Ledger,
        replicate: int = 0,
        deadline: float | None = None,
        shared: SharedState | None = None,
        round_: int = 0,
        streaming: bool = False,
    ) -> None:
        self.problem = problem
        self.bindings = bindings
        self.session = session
        self.journal = journal
        self.store = store
        self.ledger = ledger
        self.replicate = replicate
        self.deadline = deadline
        self.shared = SharedState(journal) if shared is None else shared
        self.round = round_
        self.cancellable = streaming or deadline is not None
        self.path = ""
        self._keys = Keys(bindings.seed, problem.id, replicate, "")
        self._progress = _Progress()
        self._ordinal = 0
        self._looks = 0
        self._draws: dict[Any, int] = {}

    @property
    def stream_path(self) -> tuple[Any, ...]:
        """What the random streams of this branch are keyed by, besides their chains' forks."""
        return self._keys.parts

    @property
    def trace(self) -> Trace:
        return self._progress.trace

    @property
    def best(self) -> Outcome | None:
        """The best outcome offered so far."""
        return self._progress.best

    @property
    def cut(self) -> str | None:
        """Status of the first ask that the budget or the clock cut short or left out, if any."""
        return self._progress.cut

    @property
    def raced(self) -> bool:
        """Whether something was decided by which reply came first."""
        return self._progress.raced

    def child(self, name: str, budget: Budget | None) -> Self:
        """A branch below this one, with a journal path and (optional) a budget share of its own."""
        if not name or "/" in name:
            raise ConfigError(f"branch name {name!r} must be non-empty and hold no slash")
        child = type(self).__new__(type(self))
        child.__dict__.update(self.__dict__)
        child.ledger = self.ledger.branch(name, budget)
        child.path = f"{self.path}/{name}" if self.path else name
        child._ordinal = 0
        child._looks = 0
        child._draws = {}
        self.trace.add("branch", child.path, budget=str(budget) if budget else None)
        return child

    def rival(self, name: str) -> Self:
        """A branch of a race: it draws from this branch's random stream, and may be cancelled."""
        child = self.child(name, None)
        child.cancellable = True
        self._progress.raced = True
        return child

    def next_key(self, kind: str) -> Key:
        """The journal key of this branch's next ask."""
        if self._progress.broken:  # a task that asks again has survived its error
            self._progress.broken.discard(asyncio.current_task())
        self._ordinal += 1
        ordinal = self._ordinal - 1
        return (self.problem.id, self.bindings.identity, self.replicate, self.path, ordinal, kind)

    def next_look(self) -> Key:
        """The journal key of this branch's next look at the budget. Not one of the asks' ordinals:
        a journal that lacks the looks has its asks where they were."""
        self._looks += 1
        place = (self.problem.id, self.bindings.identity, self.replicate, self.path)
        return (*place, "remaining", self._looks - 1)

    def next_draws(self, prefix: Chain, n: int) -> int:
        """The number of the next continuation of `prefix` in this branch; n are taken."""
        place = (prefix.fork, len(prefix.ids))
        first = self._draws.get(place, 0)
        self._draws[place] = first + n
        return first

    def random_stream(self, chain: Chain) -> Stream:
        """The random stream of a chain that was drawn in this branch.

        Its number is the replicate plus the draw from the prompt: replicates that are n apart
        have none of n chains in common.
        """
        draw = sum(draw for index, draw in chain.fork if index == 0)
        return Stream(self._keys(chain.fork), self.replicate + draw)

    def times(self, each: Usage, first: Usage | None = None) -> float:
        """How often `each` may still be spent here, after `first`, by the tightest cap.

        inf: no cap is in the way; below 1: it may not.
        """
        often = math.inf
        for unit in UNITS:
            left = self.ledger.remaining(unit) - (getattr(first, unit) if first else 0)
            if left < 0:
                return 0.0
            if one := getattr(each, unit):
                often = min(often, left / one)
        return often

    def identity(self, role: str) -> str:
        """Digest of the model in `role` ("" where there is none)."""
        engine = self.bindings.engines.get(role)
        return self.session.identity(engine) if engine is not None else ""

    def stopped(self) -> str | None:
        """`interrupted` or `deadline` when it is too late to ask."""
        if self.session.halted:
            return "interrupted"
        if self.deadline is not None and asyncio.get_running_loop().time() >= self.deadline:
            return "deadline"
        return None

    def refuse_if_stopped(self) -> None:
        status = self.stopped()
        if status == "deadline":
            raise DeadlinePassed("the problem's seconds have passed; raise `seconds`")
        if status:
            raise Stopped(status, "the run was interrupted; run it again to continue")

    def note_error(self, error: BaseException | None) -> None:
        """Remember that an error is ending this task; what it cancels is `swept` away."""
        if error is not None and not isinstance(error, Stopped | asyncio.CancelledError):
            self.sweep(asyncio.current_task())

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """Note an error that leaves the block."""
        try:
            yield
        except BaseException as error:
            self.note_error(error)
            raise

    def sweep(self, task: asyncio.Task[Any] | None) -> None:
        """Say that asks which are cancelled from now on are `swept` away, until `task` asks."""
        self._progress.broken.add(task)

    @property
    def swept(self) -> bool:
        """Whether an ask that is cancelled now is cancelled by an error, a halt or the caller.

        A continued run asks it again. One that its strategy cancelled is lost for good: a replay
        that waits for it must cancel it again, and would wait forever where an error did.
        """
        return self.session.halted or bool(self._progress.broken) or self._progress.left

    def note_cut(self, status: str) -> None:
        """Remember that something was cut short."""
        if self._progress.cut is None:
            self._progress.cut = status
            self.trace.add("cut", self.path, status=status)

    def cap(self, engine: Engine, prefix: Chain, max_tokens: int | None) -> int:
        """The most new tokens that a continuation of `prefix` may have, budgets aside."""
        size = len(prefix.all_ids)
        room = engine.context_length - size
        if room < 1:
            raise PromptError(
                f"problem {self.problem.id!r}: {size} tokens leave no room in the context of "
                f"{engine.context_length} of {engine.name}"
            )
        if self.bindings.max_tokens is not None:
            room = min(room, max(1, self.bindings.max_tokens - len(prefix.ids)))
        return room if max_tokens is None else min(room, max_tokens)
