"""Context: the only way a strategy or chain policy acts on the world.

Every ask goes the same way: look in the journal; lease the worst case from the ledger; look in
the reply store; ask the engine; charge what it really cost; write the reply down; hand it over.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from reasoning.branch import Branch
from reasoning.budget import Budget, Usage
from reasoning.chain import Chain
from reasoning.costs import pricing
from reasoning.draw import Draw
from reasoning.engines.base import Engine, EngineUsage, Sampling, TokenLogprob
from reasoning.engines.groups import Group, GroupRequest, Layout
from reasoning.errors import ConfigError, RatingFailed
from reasoning.journal import digest
from reasoning.outcomes import Outcome, Rating, Reading
from reasoning.problem import Message
from reasoning.prompts import render
from reasoning.race import Race
from reasoning.randomness import Keys
from reasoning.ratings import Rate
from reasoning.streaming import TokenStream

if TYPE_CHECKING:
    from reasoning.strategy import Until

T = TypeVar("T")


class Context(Branch):
    """The asks of a strategy or chain policy, on one branch of a problem."""

    # What a strategy reads.

    @property
    def prompt(self) -> Chain:
        """The bare prompt, rendered by the policy's template."""
        engine = self.bindings.engine("policy")
        key = (self.problem.id, self.bindings.identity)
        return Chain(self.session.rendered(key, lambda: render(self.problem, engine)))

    def prompted(self, messages: Sequence[Message]) -> Chain:
        """A bare prompt of other messages than the problem's, such as those of a revision.

        Raises PromptError when it does not fit the model's context.
        """
        asked = replace(self.problem, messages=tuple(messages))
        return Chain(render(asked, self.bindings.engine("policy")))

    def remaining(self, unit: str = "tokens") -> float:
        """What may still be spent here in `unit` (inf: no cap). Journaled: what other branches
        have in flight, and hold of it, is a matter of time."""
        left = self.ledger.remaining(unit)
        if math.isinf(left):
            return left
        key, what = self.next_look(), {"remaining": unit}
        recorded = self.journal.find(key, unit, what)
        if recorded is not None:
            return float(recorded["v"])
        self.journal.record(what, [(key, unit, {"v": left, "u": {}})])
        return left

    def most_written(self, prefix: Chain, n: int, max_tokens: int) -> Usage:
        """The most that n continuations of `prefix` in one ask can cost, of `max_tokens` each."""
        once = self.bindings.engine("policy").capabilities.one_prefill
        cost, size = self.bindings.cost("policy"), len(prefix.all_ids)
        return pricing.worst(cost, size, max_tokens, n, one_prefill=once)

    def most_rated(self, prefix: Chain, max_tokens: int, *, role: str = "verifier") -> Usage:
        """The most that one verifier pass over `prefix` and up to `max_tokens` more can cost.

        The verifier's own worst case for one step more, lengthened by the tokens: an estimate
        where they hold several steps or an answer, or are other tokens to the verifier's model.
        """
        verifier, engine = self.bindings.verifier(role)
        # A verifier asks nothing about no text: some stands for what is written.
        text = f"{prefix.text}{self.problem.step}?" if max_tokens else prefix.text
        readings = verifier.most(self.problem, replace(prefix, text=text), engine)
        whole = max((reading.size for reading in readings), default=0)
        most = [
            replace(
                reading,
                size=whole + max_tokens,
                work=replace(reading.work, prefill=reading.work.prefill + max_tokens),
            )
            if reading.size == whole  # others end before the last step
            else reading
            for reading in readings
        ]
        return pricing.verifying(self.bindings.cost(role), most)

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
        cap = self.cap(self.bindings.engine(role), prefix, max_tokens)
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
        cap = self.cap(self.bindings.engine(role), prefix, max_tokens)
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
            return values, pricing.read(self.bindings.cost(role), size, reply.usage)

        what = {"prefix": digest(prefix.all_ids), "ids": list(ids), "top": top}
        values = await self._ask("score", role, what, self._one_pass(role, size), ask)
        return tuple(TokenLogprob(value, {int(t): p for t, p in top}) for value, top in values)

    async def choose(
        self,
        prefix: Chain,
        options: Sequence[int],
        *,
        role: str = "policy",
        verifying: bool = False,
    ) -> tuple[float, ...]:
        """Probabilities of one-token options after `prefix`, renormalised, without decoding; all 0
        where the model gives none of them any.

        verifying: it is a verifier's pass over the prefix, and charged as one.
        """
        engine, size = self.bindings.engine(role), len(prefix.all_ids)
        model = self.bindings.cost(role)

        async def ask() -> tuple[Any, Usage]:
            reply = await engine.choose(prefix.all_ids, options)
            if verifying:
                cost = pricing.verified(model, [Reading(size, reply.usage)])
            else:
                cost = pricing.read(model, size, reply.usage)
            return [p if reply.mass > 0 else 0.0 for p in reply.probabilities], cost

        worst = self._one_pass(role, size)
        if verifying:
            worst = pricing.verifying(model, [Reading(size, EngineUsage(prefill=size, new=1))])
        what = {"prefix": digest(prefix.all_ids), "options": list(options)}
        return tuple(await self._ask("choose", role, what, worst, ask))

    async def embed(
        self, ends: Sequence[tuple[Chain, int]], *, role: str = "policy"
    ) -> list[tuple[float, ...]]:
        """For each (chain, n): the mean hidden state of the chain's last n tokens.

        The model in `role` reads the policy's tokens as they are. Its prefill is charged.
        """
        engine, cost = self.bindings.engine(role), self.bindings.cost(role)
        sizes = [len(chain.all_ids) for chain, _ in ends]

        async def ask() -> tuple[Any, Usage]:
            replies = await asyncio.gather(
                *(engine.embed(chain.all_ids, len(chain.all_ids) - n) for chain, n in ends)
            )
            spent = (
                pricing.read(cost, size, reply.usage)
                for size, reply in zip(sizes, replies, strict=True)
            )
            return [[round(x, 6) for x in reply.values] for reply in replies], Usage.sum(spent)

        what = {"ends": [[digest(chain.all_ids), n] for chain, n in ends]}
        worst = Usage.sum(pricing.worst(cost, size, 0, 1) for size in sizes)
        return [tuple(v) for v in await self._ask("embed", role, what, worst, ask)]

    async def rate(self, chains: Sequence[Chain], *, role: str = "verifier") -> list[Rating]:
        """Step rewards of each chain by the verifier in `role`. One verifier pass a chain.

        Raises BudgetExhausted when the passes of all of them do not fit, RatingFailed when some of
        the chains could not be rated; what the others cost is charged.
        """
        if not chains:
            self.bindings.verifier(role)  # an unknown role is an error all the same
            return []
        return [Rating(tuple(scores)) for scores in await self._rated(Rate(self, chains, role))]

    async def rate_some(
        self, chains: Sequence[Chain], *, role: str = "verifier"
    ) -> list[Rating | None]:
        """`rate`, with None for a chain that could not be rated. Raises RatingFailed when none of
        several could.

        Failures are journaled as ratings are: a continued run decides as it did.
        """
        if not chains:
            self.bindings.verifier(role)
            return []
        values = await self._rated(Rate(self, chains, role, some=True))
        return [None if scores is None else Rating(tuple(scores)) for scores in values]

    async def _rated(self, rate: Rate) -> list[Any]:
        what = {"chains": [digest(chain.all_ids) for chain in rate.chains]}
        values: list[Any] = await self._ask(
            "rate", rate.role, what, rate.worst(), rate.run, rate.engine
        )
        return values

    def book(self, role: str, *, discarded: int = 0, probe: int = 0) -> None:
        """Say what decoded tokens were for, which are charged already: see Usage."""
        self.ledger.charge(role, Usage(discarded=discarded, probe=probe))

    async def read(self, name: str) -> list[Any]:
        """What the problems of all earlier rounds contributed under `name` (JSON values), by round
        and id. The same for every problem of a round; journaled. Do not change it."""
        return self.shared.read(self.bindings.identity, self.replicate, self.round, name)

    def contribute(self, name: str, value: Any) -> None:
        """Give later rounds something to read: evidence as a JSON value, never the truth."""
        self.trace.add("evidence", self.path, name=name, value=value)

    async def note(self, name: str, read: Callable[[], T], *, timed: bool = True) -> T:
        """A value (JSON) that depends on time or on the outside: read once and journaled.

        timed: time may decide it, so that another run may go another way.
        """
        self._progress.raced |= timed

        async def ask() -> tuple[Any, Usage]:
            return read(), Usage()

        return await self._ask("note", "", {"note": name}, Usage(), ask)  # type: ignore[no-any-return]

    async def now(self) -> float:
        """Seconds on the run's clock (journaled, so that a replay sees the same)."""
        return await self.note("now", asyncio.get_running_loop().time)

    @contextlib.asynccontextmanager
    async def together(
        self,
        prefix: Chain,
        openings: Sequence[Sequence[int]],
        layout: Layout,
        *,
        max_tokens: int,
        sampling: Sampling | None = None,
    ) -> AsyncIterator[Group]:
        """A group over one shared KV cache (`async with`): a worker behind each of `openings`.

        max_tokens: of the whole group; fewer when the budget ends before. Its steps are not
        journaled: a continued run asks for the whole group again. Raises CapabilityError before
        anything is spent when the policy's engine has no groups.
        """
        engine, cost = self.bindings.engine("policy"), self.bindings.cost("policy")
        who = f"a group of {len(openings)} workers"
        engine.capabilities.require(("together",), engine=engine.name, who=who)
        first, key = self.next_draws(prefix, len(openings)), self.next_key("together")
        request = GroupRequest(
            prompt_ids=prefix.all_ids,
            openings=tuple(map(tuple, openings)),
            max_tokens=max_tokens,
            sampling=sampling or self.bindings.sampling,
            streams=tuple(
                self.random_stream(prefix.drawn(first + index)) for index in range(len(openings))
            ),
            layout=layout,
        )
        # It is never there; what was in flight is listed as asked again.
        self.journal.find(key, "", {})
        self.refuse_if_stopped()
        worst, least = (pricing.worst(cost, request.size, n, 1) for n in (max_tokens, 1))
        lease = await self.ledger.lease("policy", worst, least)
        granted = pricing.fitting(cost, request.size, max_tokens, lease.worst)
        self.journal.intend([key])
        spent = EngineUsage()
        try:
            async with engine.together(replace(request, max_tokens=granted)) as group:
                try:
                    yield group
                finally:
                    spent = group.usage
        finally:
            lease.settle(pricing.decoded(cost, request.size, spent))

    # Branches.

    def branch(self, name: str, budget: Budget | None = None) -> Context:
        """A child with a random stream, a journal path and (optional) a budget share of its own.

        Use it as `async with`: what is left of its share goes back when it ends.
        """
        child = self.child(name, budget)
        child._keys = Keys(*self.stream_path[:-1], child.path)
        return child

    def race(self, name: str = "race") -> Race[Context]:
        """Branches whose results come in the order of arrival (`async with` it)."""
        return Race(self, name)

    async def __aenter__(self) -> Context:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.ledger.close()

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
        with self.noting():
            key = self.next_key(kind)
            what = {kind: role, **what}
            ask_digest = digest(what, self.identity(role)) if self.journal.path else ""
            recorded = self.journal.find(key, ask_digest, what)
            if recorded is not None:
                if recorded.get("lost"):
                    # It was cancelled with its branch: as then, it does not return.
                    await asyncio.get_running_loop().create_future()
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
                except asyncio.CancelledError:
                    lease.settle(Usage())
                    if self.cancellable and not self.swept:
                        lost: dict[str, Any] = {"v": None, "u": {}, "lost": True}
                        self.journal.record(what, [(key, ask_digest, lost)])
                    raise
                except RatingFailed as failed:
                    lease.settle(failed.spent or Usage())
                    raise
                except BaseException:
                    lease.settle(Usage())
                    raise
                lease.settle(usage)
                self.journal.record(what, [(key, ask_digest, {"v": value, "u": usage.sparse()})])
        self.trace.add(kind, self.path, role=role, value=value)
        return value
