"""Sequential revision (Snell et al. 2024, arXiv 2408.03314, section 6).

P chains of S attempts each: the first attempts are independent, every later one is written with
the chain's last attempts in its prompt. All layouts of P times S cost as many attempts; P = N is
parallel sampling, S = N one chain of revisions. As many right answers are revised into wrong ones
(the paper counts 38 %), the answer is selected over all attempts, not taken from the last.

A policy that was not trained to revise, or to follow instructions, makes nothing of the prompt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from reasoning.chain import Chain
from reasoning.context import Context
from reasoning.errors import BudgetExhausted, PromptError
from reasoning.problem import Message
from reasoning.strategies.best_of_n import most_voted
from reasoning.strategy import Outcome, Strategy
from reasoning.verifiers.aggregate import Aggregation
from reasoning.verifiers.scoring import Scoring

INSTRUCTION = (
    "Your solution above may be wrong. Look for a mistake in it, then solve the problem again "
    "from the start, and give the answer in the same form."
)


@dataclass(frozen=True, slots=True)
class Attempt:
    chain: Chain
    score: float = 1.0


class SequentialRevision(Strategy):
    """Chains of revisions in parallel: any ratio of sequential to parallel.

    parallel: P. sequential: S. history: how many of a chain's last attempts its next one sees
    (the paper's 4; fewer where the model's context does not hold them). instruction: the user
    turn that follows each of them.

    select: `verifier` is hierarchical: in each chain the answer whose attempts' scores sum
    highest, then of the chains' answers the same way, each with the best score it had (what the
    paper weighs it with there is unverified). `majority` is one vote for each of the P S attempts.
    """

    parallel: int = Field(default=4, ge=1)
    sequential: int = Field(default=4, ge=1)
    history: int = Field(default=4, ge=1)
    instruction: str = Field(default=INSTRUCTION, min_length=1)
    select: Literal["verifier", "majority"] = "verifier"
    aggregate: Aggregation = Aggregation.last
    role: str = "verifier"

    def verifier_roles(self) -> tuple[str, ...]:
        return (self.role,) if self.select == "verifier" else ()

    async def solve(self, ctx: Context) -> Outcome:
        scoring = Scoring(ctx, self.aggregate, self.role)
        first = await ctx.write(ctx.prompt, self._fitting(ctx, self.parallel))
        ctx.offer(most_voted(ctx, first, [1.0] * len(first)))
        chains = [[attempt] for attempt in await self._rated(scoring, first)]
        outcome = self._offer(ctx, chains, scoring)
        for number in range(1, self.sequential):
            # A chain whose last attempt the budget refused goes no further.
            going = [chain for chain in chains if len(chain) == number]
            going = going[: self._fitting(ctx, len(going))]
            written = await asyncio.gather(
                *(self._revised(ctx, chain, chains.index(chain)) for chain in going),
                return_exceptions=True,
            )
            found = []
            for revision in written:
                # All are awaited even when one fails: what was decoded is recorded and charged.
                if isinstance(revision, BaseException):
                    raise revision
                found.append(revision)
            fresh = [revision for revision in found if revision is not None]
            if not fresh:
                break
            rated = iter(await self._rated(scoring, fresh))
            for chain, revision in zip(going, found, strict=True):
                if revision is not None:
                    chain.append(next(rated))
            outcome = self._offer(ctx, chains, scoring)
        return outcome

    def messages(self, ctx: Context, attempts: Sequence[Chain]) -> list[Message]:
        """The problem's messages, each attempt as the assistant's turn, and what is asked then."""
        shown = list(ctx.problem.messages)
        for attempt in attempts:
            shown.append({"role": "assistant", "content": attempt.text})
            shown.append({"role": "user", "content": self.instruction})
        return shown

    async def _revised(self, ctx: Context, chain: Sequence[Attempt], place: int) -> Chain | None:
        """The chain's next attempt; None where the budget refused it."""
        number = len(chain)
        prompt = self._prompt(ctx, [attempt.chain for attempt in chain[-self.history :]])
        branch = ctx.child(f"revision-{number}-{place}", None)
        try:
            # Attempts have random streams of their own, whatever their prompts are.
            drawn = prompt.drawn(number * self.parallel + place)
            (written,) = await branch.write(drawn)
        except BudgetExhausted as refused:
            ctx.note_cut(refused.status)
            return None
        return written

    def _prompt(self, ctx: Context, attempts: list[Chain]) -> Chain:
        """A prompt with as many of the last attempts as the model's context holds."""
        while attempts:
            try:
                return ctx.prompted(self.messages(ctx, attempts))
            except PromptError:
                attempts = attempts[1:]
        return ctx.prompt

    def _fitting(self, ctx: Context, attempts: int) -> int:
        """How many of `attempts` can still be rated."""
        if self.select == "majority":
            return attempts
        passes = ctx.remaining("verifier_passes")
        if passes < attempts:
            ctx.note_cut("budget")
        if passes < 1 and ctx.best is None:
            raise BudgetExhausted("revisions selected by a verifier need at least one pass")
        return int(min(attempts, passes))

    async def _rated(self, scoring: Scoring, chains: Sequence[Chain]) -> list[Attempt]:
        if self.select == "majority":
            return [Attempt(chain) for chain in chains]
        scores = await scoring.score(chains)
        return [Attempt(chain, score) for chain, score in zip(chains, scores, strict=True)]

    def _offer(
        self, ctx: Context, chains: Sequence[Sequence[Attempt]], scoring: Scoring
    ) -> Outcome:
        attempts = sum(map(len, chains))
        if self.select == "majority":
            # By age, over all chains: of answers that tie, the one that was there first.
            flat = [chain[n] for n in range(self.sequential) for chain in chains if n < len(chain)]
            return ctx.offer(_weighted(ctx, flat).chain, attempts=attempts)
        best = _weighted(ctx, [_weighted(ctx, chain) for chain in chains])
        return ctx.offer(best.chain, score=best.score, attempts=attempts, **scoring.counters())


def _weighted(ctx: Context, attempts: Sequence[Attempt]) -> Attempt:
    """The first attempt with the answer whose scores sum highest, with the best of those scores."""
    chosen = most_voted(
        ctx, [attempt.chain for attempt in attempts], [attempt.score for attempt in attempts]
    )
    form = _form(ctx, chosen)
    alike = [attempt.score for attempt in attempts if _form(ctx, attempt.chain) == form]
    return Attempt(chosen, max(alike))


def _form(ctx: Context, chain: Chain) -> str | None:
    answer = ctx.answer(chain)
    return None if answer is None else ctx.problem.canonical(answer)
