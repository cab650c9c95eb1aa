"""Context: the only way a strategy or chain policy acts on the world.

Every ask goes the same way: look in the journal; lease the worst case from the ledger; look in
the reply store; ask the engine; charge what it really cost; write the reply down; hand it over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from reasoning.budget import Budget, Ledger, Usage
from reasoning.chain import Chain
from reasoning.costs import pricing
from reasoning.costs.kinetics import CostModel
from reasoning.draw import Draw
from reasoning.engines.base import Engine, EngineUsage, Sampling, TokenLogprob
from reasoning.errors import (
    CapabilityError,
    ConfigError,
    DeadlinePassed,
    EngineReplyError,
    PromptError,
    Stopped,
    UnknownName,
)
from reasoning.journal import Journal, Key, digest
from reasoning.problem import Problem
from reasoning.prompts import render
from reasoning.race import Race
from reasoning.replies import ReplyStore
from reasoning.session import Session
from reasoning.strategy import ChainPolicy, Outcome, Rating, Until, Verifier
from reasoning.streaming import TokenStream
from reasoning.trace import Trace

T = TypeVar("T")


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


class Context:
    """A branch of one problem under one configuration.

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
    ) -> None:
        self.problem = problem
        self.bindings = bindings
        self.session = session
        self.journal = journal
        self.store = store
        self.ledger = ledger
        self.replicate = replicate
        self.deadline = deadline
        self.cancellable = deadline is not None
        self.path = ""
        self.stream_path: tuple[Any, ...] = (bindings.seed, problem.id, replicate, "")
        self._progress = _Progress()
        self._ordinal = 0
        self._draws: dict[Any, int] = {}

    # What a strategy reads.

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
    def prompt(self) -> Chain:
        """The bare prompt, rendered by the policy's template."""
        engine = self.bindings.engine("policy")
        key = (self.problem.id, self.bindings.identity)
        return Chain(self.session.rendered(key, lambda: render(self.problem, engine)))

    def remaining(self, unit: str = "tokens") -> float:
        """What may still be spent here in `unit` (inf: no cap)."""
        return self.ledger.remaining(unit)

    def answer(self, chain: Chain) -> str | None:
        """The answer in a chain's text, as its task reads it."""
        return self.problem.extract(chain.text)

    def offer(self, chain: Chain, **meta: Any) -> Outcome:
        """Name the best outcome so far: it is the solution if the budget or the clock ends."""
        best = Outcome(self.answer(chain), chain.text, meta)
        self._progress.best = best
        self.trace.add("offer", self.path, answer=best.answer, **meta)
        return best

    # Asks.

    async def write(self, prefix: Chain, n: int = 1, until: Until = "answer") -> list[Chain]:
        """n continuations by the recipe's chain policy. Fewer when the budget ends."""
        return await self.bindings.policy.write(self, prefix, n, until)

    async def sample(
        self,
        prefix: Chain,
        n: int = 1,
        *,
        role: str = "policy",
        sampling: Sampling | None = None,
        max_tokens: int | None = None,
    ) -> list[Chain]:
        """n continuations of `prefix`, in draw order.

        max_tokens: cap for the new tokens of each. What does not fit the budget is shortened or
        left out before it is sent, last first. Raises BudgetExhausted when nothing fits,
        DeadlinePassed or Stopped when it is too late to ask.
        """
        if n < 1:
            raise ConfigError(f"n={n} continuations were asked for; ask for at least one")
        cap = self._cap(self.bindings.engine(role), prefix, max_tokens)
        sampling = sampling or self.bindings.sampling
        chains = await Draw(self, prefix, n, role, sampling, cap).run()
        self.trace.add("sample", self.path, role=role, n=n, prefix=prefix, chains=tuple(chains))
        return chains

    def stream(
        self,
        prefix: Chain,
        *,
        role: str = "policy",
        every: int = 1,
        separator: str | None = None,
        sampling: Sampling | None = None,
        max_tokens: int | None = None,
    ) -> TokenStream:
        """One continuation, handed over while it is decoded (`async with` it, then `async for`).

        Looked at every `every` tokens, or at the token that completes `separator`: at token
        offsets, never at chunks as they happened to arrive.
        """
        cap = self._cap(self.bindings.engine(role), prefix, max_tokens)
        sampling = sampling or self.bindings.sampling
        return TokenStream(self, prefix, role, sampling, cap, every, separator)

    async def score(
        self, prefix: Chain, continuation: Sequence[int], *, role: str = "policy", top: int = 0
    ) -> tuple[TokenLogprob, ...]:
        """Log-probabilities of `continuation` after `prefix`, without decoding."""
        engine, ids = self.bindings.engine(role), tuple(continuation)
        size = len(prefix.all_ids) + len(ids)

        async def ask() -> tuple[Any, Usage]:
            reply = await engine.score(prefix.all_ids, ids, top)
            values = [[s.logprob, list(s.top.items())] for s in reply.scores]
            return values, pricing.decoded(self.bindings.cost(role), size, reply.usage)

        what = {"prefix": digest(prefix.all_ids), "ids": list(ids), "top": top}
        values = await self._ask("score", role, what, self._one_pass(role, size), ask)
        return tuple(TokenLogprob(value, {int(t): p for t, p in top}) for value, top in values)

    async def choose(
        self, prefix: Chain, options: Sequence[int], *, role: str = "policy"
    ) -> tuple[float, ...]:
        """Probabilities of one-token options after `prefix`, renormalised, without decoding."""
        engine, size = self.bindings.engine(role), len(prefix.all_ids)

        async def ask() -> tuple[Any, Usage]:
            reply = await engine.choose(prefix.all_ids, options)
            cost = pricing.decoded(self.bindings.cost(role), size, reply.usage)
            return list(reply.probabilities), cost

        what = {"prefix": digest(prefix.all_ids), "options": list(options)}
        return tuple(await self._ask("choose", role, what, self._one_pass(role, size), ask))

    async def rate(self, chains: Sequence[Chain], *, role: str = "verifier") -> list[Rating]:
        """Step rewards of each chain by the verifier in `role`. One verifier pass a chain.

        Raises BudgetExhausted when the passes of all of them do not fit.
        """
        verifier, engine = self.bindings.verifier(role)
        cost = self.bindings.cost(role)
        if not chains:
            return []
        sizes = [len(chain.all_ids) for chain in chains]

        async def ask() -> tuple[Any, Usage]:
            ratings = await verifier.rate(self.problem, chains, engine)
            if len(ratings) != len(chains):
                raise EngineReplyError(
                    f"verifier in role {role!r} rated {len(ratings)} of {len(chains)} chains"
                )
            spent = (
                pricing.verified(cost, size, rating.usage)
                for size, rating in zip(sizes, ratings, strict=True)
            )
            return [list(rating.scores) for rating in ratings], sum(spent, Usage())

        what = {"chains": [digest(chain.all_ids) for chain in chains]}
        worst = sum((pricing.verified(cost, s, EngineUsage(prefill=s)) for s in sizes), Usage())
        values = await self._ask("rate", role, what, worst, ask, engine)
        return [Rating(tuple(scores)) for scores in values]

    async def note(self, name: str, read: Callable[[], T]) -> T:
        """A value (JSON) that depends on time or on the outside: read once and journaled."""

        async def ask() -> tuple[Any, Usage]:
            return read(), Usage()

        return await self._ask("note", "", {"note": name}, Usage(), ask)  # type: ignore[no-any-return]

    async def now(self) -> float:
        """Seconds on the run's clock (journaled, so that a replay sees the same)."""
        return await self.note("now", asyncio.get_running_loop().time)

    def together(self, workers: int, layout: str) -> Any:
        """A group of workers over one shared KV cache (`async with`)."""
        raise CapabilityError(
            f"engine {self.bindings.engine('policy').name} cannot decode {workers} workers over "
            f"one shared KV cache; use a strategy whose chains are independent"
        )

    # Branches.

    def branch(self, name: str, budget: Budget | None = None) -> Context:
        """A child with a random stream, a journal path and (optional) a budget share of its own.

        Use it as `async with`: what is left of its share goes back when it ends.
        """
        child = self._child(name, budget)
        child.stream_path = (*self.stream_path[:-1], child.path)
        return child

    def race(self, name: str = "race") -> Race:
        """Branches whose results come in the order of arrival (`async with` it)."""
        return Race(self, name)

    def rival(self, name: str) -> Context:
        """A branch of a race: it draws from this branch's random stream, and may be cancelled."""
        child = self._child(name, None)
        child.cancellable = True
        return child

    async def __aenter__(self) -> Context:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.ledger.close()

    def _child(self, name: str, budget: Budget | None) -> Context:
        if not name or "/" in name:
            raise ConfigError(f"branch name {name!r} must be non-empty and hold no slash")
        child = Context.__new__(Context)
        child.__dict__.update(self.__dict__)
        child.ledger = self.ledger.branch(name, budget)
        child.path = f"{self.path}/{name}" if self.path else name
        child._ordinal = 0
        child._draws = {}
        self.trace.add("branch", child.path, budget=str(budget) if budget else None)
        return child

    # What draws, streams and races need.

    def next_key(self, kind: str) -> Key:
        """The journal key of this branch's next ask."""
        self._ordinal += 1
        ordinal = self._ordinal - 1
        return (self.problem.id, self.bindings.identity, self.replicate, self.path, ordinal, kind)

    def next_draws(self, prefix: Chain, n: int) -> int:
        """The number of the next continuation of `prefix` in this branch; n are taken."""
        place = (prefix.fork, len(prefix.ids))
        first = self._draws.get(place, 0)
        self._draws[place] = first + n
        return first

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

    def note_cut(self, status: str) -> None:
        """Remember that something was cut short."""
        if self._progress.cut is None:
            self._progress.cut = status
            self.trace.add("cut", self.path, status=status)

    def _cap(self, engine: Engine, prefix: Chain, max_tokens: int | None) -> int:
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

    def _one_pass(self, role: str, size: int) -> Usage:
        # Servers that cannot prefill alone decode one token to answer.
        return pricing.worst(self.bindings.cost(role), size, 1, 1)

    async def _ask(
        self,
        kind: str,
        role: str,
        what: dict[str, Any],
        worst: Usage,
        ask: Callable[[], Awaitable[tuple[Any, Usage]]],
        engine: Engine | None = None,
    ) -> Any:
        """An ask with one indivisible reply (a JSON value)."""
        key = self.next_key(kind)
        what = {kind: role, **what}
        ask_digest = digest(what, self.identity(role)) if self.journal.path else ""
        recorded = self.journal.find(key, ask_digest, what)
        if recorded is not None:
            value = recorded["v"]
            self.ledger.charge(role, Usage(**recorded["u"]))
        else:
            self.refuse_if_stopped()
            lease = await self.ledger.lease(role, worst, worst)
            self.journal.intend([key])
            try:
                value, usage = await self.session.call(
                    engine or self.bindings.engines.get(role), self.deadline, ask
                )
            except BaseException:
                lease.settle(Usage())
                raise
            lease.settle(usage)
            self.journal.record(what, [(key, ask_digest, {"v": value, "u": usage.sparse()})])
        self.trace.add(kind, self.path, role=role, value=value)
        return value
