"""ATTS: asynchronous test-time scaling by conformal prediction (arXiv 2509.15148).

The draft writes a chain in chunks. After each chunk the target (role `policy`) scores it in one
prefill: its loss is the mean negative log-likelihood of the chunk's tokens, and nothing of the
draft's. The rank of that loss among losses of the past (conformal.py) decides at once, without
waiting for any other chain, whether the target takes over for a while. So a known share rho of the
chunks is handed over, and no chain stops at a barrier.

One turn of a chain: draft, verify, and in a share rho of the turns target.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from pydantic import Field, PrivateAttr, computed_field, field_validator, model_validator

from reasoning.chain import Chain
from reasoning.context import Context
from reasoning.engines.base import Engine, Sampling
from reasoning.errors import BudgetExhausted, ConfigError, Stopped
from reasoning.randomness import key, uniform
from reasoning.strategies.chains.banks import BankFile, Banks, Kind, deepest
from reasoning.strategies.chains.conformal import LEAST, enough, rejects
from reasoning.strategies.chains.drafting import (
    DRAFT,
    TARGET,
    Drafting,
    answered,
    cut,
    mixed,
    require,
)
from reasoning.strategies.chains.side_by_side import cut_short, only, share, side_by_side
from reasoning.strategy import Until

LOSSES = "atts"  # under this name problems of later rounds read the losses of earlier ones


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided about a chunk. p: its p-value; None where a coin decided. bank: losses it
    was compared with. loss: in nats a token; +inf where it was not scored."""

    turn: int
    loss: float
    p: float | None
    bank: int
    takeover: bool

    def told(self) -> dict[str, Any]:
        """As JSON values."""
        loss = self.loss if math.isfinite(self.loss) else None
        return {
            "turn": self.turn,
            "loss": loss,
            "p": self.p,
            "bank": self.bank,
            "takeover": self.takeover,
        }


class Turns(Drafting):
    """What ATTS and its synchronous baseline have in common: the stages of a turn.

    rho: share of the draft's chunks that the target takes over after, in [0, 1]. At 0 nothing is
    verified and the chain is what `plain` writes on the draft, token for token, up to turns *
    draft_tokens. At 1 the target writes after every chunk.
    turns: the most turns of a chain. draft_tokens, target_tokens: caps of one chunk.

    A chain ends where a model ends it, where it gives a whole answer in the task's own form, when
    the draft says nothing, after `turns`, or at the recipe's cap. Its log-probabilities are not
    kept.
    """

    units: ClassVar[frozenset[str]] = frozenset({"chain"})

    rho: float = Field(default=0.25, ge=0.0, le=1.0, allow_inf_nan=False)
    turns: int = Field(default=15, ge=1)
    draft_tokens: int = Field(default=500, ge=1)
    target_tokens: int = Field(default=500, ge=1)

    @field_validator("rho")
    @classmethod
    def _not_next_to_never(cls, rho: float) -> float:
        if 0 < rho < LEAST:
            raise ValueError(f"use 0 for never, or at least {LEAST:g}")
        return rho

    def check(self, engines: Mapping[str, Engine], sampling: Sampling, *, started: bool) -> None:
        super().check(engines, sampling, started=started)
        if self.rho > 0:
            who = "ATTS, whose verification is the target's log-probabilities,"
            require(engines[TARGET], "score", who, started)

    async def drafts_only(self, ctx: Context, prefix: Chain, n: int) -> list[Chain]:
        """Chains of the draft alone."""
        most = min(max(1, self.room(ctx, prefix)), self.turns * self.draft_tokens)
        if self.exchange == "ids":
            return await ctx.sample(prefix, n, role=DRAFT, max_tokens=most)

        async def one(branch: Context, chain: Chain) -> Chain:
            return (await self.draft(branch, chain, most)).chain

        return await side_by_side(ctx, prefix, n, one, most=most)

    async def chunk(self, ctx: Context, chain: Chain) -> Chain:
        """Stage 1: the chain with a chunk by the draft."""
        most = min(self.draft_tokens, self.room(ctx, chain))
        return (await self.draft(ctx, chain, most)).chain

    async def verify(self, ctx: Context, before: Chain, drafted: Chain) -> float:
        """Stage 2: the target's mean NLL of the chunk's tokens, given all that stands before.

        Missing or NaN log-probabilities count as an infinite loss, and are counted in the trace.
        """
        ids = drafted.ids[len(before.ids) :]
        scores = await ctx.score(before, ids, role=TARGET)
        values = [score.logprob for score in scores]
        loss = -sum(values) / len(values) if len(values) == len(ids) else math.nan
        if math.isnan(loss):
            ctx.trace.add("unscored", ctx.path, offset=len(drafted.ids))
            return math.inf
        return loss

    async def take_over(self, ctx: Context, drafted: Chain) -> Chain:
        """Stage 3: the target goes on behind the chunk, which stays. Where the draft had ended the
        chain, its EOS does not."""
        eos, opened = ctx.bindings.engine(TARGET).tokenizer.eos_id, drafted
        if drafted.done and drafted.ids[-1] == eos:
            opened = replace(drafted, ids=drafted.ids[:-1], done=False)
        if (most := min(self.target_tokens, self.room(ctx, opened))) < 1:
            return drafted
        if opened is not drafted:
            ctx.book(DRAFT, discarded=1)
            drafted = opened
        return only(await ctx.sample(drafted, role=TARGET, max_tokens=most))

    def over(self, ctx: Context, chain: Chain) -> Chain | None:
        """The chain, closed, where there is no further turn."""
        if chain.done or cut(chain):
            return mixed(chain)
        if answered(ctx.problem, chain.text):
            return mixed(replace(chain, finish="stop", done=True))
        return self.full(ctx, chain)

    def full(self, ctx: Context, chain: Chain) -> Chain | None:
        """The chain, closed, where it has no room for another token."""
        return mixed(replace(chain, finish="length")) if self.room(ctx, chain) < 1 else None


class Atts(Turns):
    """The draft writes chunks; the target goes on where a conformal test rejects one.

    bank: what a chunk's loss is compared with. `marginal`: all known losses. `per_turn`: those
    of the same turn, because later turns are harder. `per_question`: those of `samples` first
    chunks that are drawn of the question itself before its chains are written (probe tokens).

    calibration: `frozen` is the bank in `file`, as it is. `online` adds the losses of all problems
    of earlier rounds (and begins with `file`, where one is given). A bank of fewer than 4 ceil(1 /
    rho) losses does not decide: a coin of the chain's own random stream does, with probability rho.

    variant: `continue`, as in the paper, keeps a rejected chunk and lets the target write on behind
    it. `resample` draws a rejected chunk anew, up to `attempts` times in all, and keeps the best
    when all are rejected; there the target only verifies. [Unverified: known from a later version
    of the public code only.]
    """

    bank: Kind = "per_turn"
    calibration: Literal["frozen", "online"] = "online"
    file: str | None = None
    samples: int = Field(default=16, ge=1)
    variant: Literal["continue", "resample"] = "continue"
    attempts: int = Field(default=3, ge=1)

    _file: BankFile | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _fits_together(self) -> Atts:
        if self.bank == "per_question":
            if self.file is not None:
                raise ValueError("a per_question bank is drawn of the question; leave out `file`")
            if self.calibration == "online" and "calibration" in self.model_fields_set:
                raise ValueError(
                    "a per_question bank is frozen when its chains begin, or one chain's decisions "
                    "would depend on another; use `calibration: frozen`"
                )
        elif self.calibration == "frozen" and self.file is None and self.rho > 0:
            raise ValueError(
                "a frozen bank needs a `file`, which `python -m reasoning.evals.atts bank` writes"
            )
        if self.calibration == "frozen" and self._file is not None and self.rho > 0:
            first = self._file.turns if self.bank == "marginal" else self._file.turns[:1]
            known, needed = sum(map(len, first)), enough(self.rho)
            if known < needed:
                raise ValueError(f"the bank holds {known} losses; rho {self.rho} needs {needed}")
        return self

    def model_post_init(self, context: Any) -> None:
        if self.file is not None:
            self._file = BankFile.load(self.file)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def file_content(self) -> str | None:
        """Digest of the bank file: another bank is another configuration."""
        return self._file.content() if self._file is not None else None

    def learns(self) -> bool:
        return self.calibration == "online" and self.bank != "per_question" and self.rho > 0

    def check(self, engines: Mapping[str, Engine], sampling: Sampling, *, started: bool) -> None:
        super().check(engines, sampling, started=started)
        if self._file is not None:
            self._file.check(self.draft_tokens, engines, sampling, started=started)

    async def write(self, ctx: Context, prefix: Chain, n: int, until: Until) -> list[Chain]:
        if until == "step":
            raise ConfigError("ATTS writes whole chains, not steps")
        if self.rho == 0:
            return await self.drafts_only(ctx, prefix, n)
        banks = await self._banks(ctx, prefix)

        async def one(branch: Context, chain: Chain) -> Chain:
            return await self._chain(branch, chain, banks)

        room = max(1, self.room(ctx, prefix))
        drafted = room * (self.attempts if self.variant == "resample" else 1)
        return await side_by_side(ctx, prefix, n, one, most=drafted + self.turns)

    async def _chain(self, ctx: Context, start: Chain, banks: Banks) -> Chain:
        chain = start
        try:
            for turn in range(self.turns):
                ended = self.over(ctx, chain) if turn else self.full(ctx, chain)
                if ended is not None:
                    return ended
                before, chain = chain, await self.chunk(ctx, chain)
                if cut(chain) or len(chain.ids) == len(before.ids):
                    return mixed(chain)  # the budget ended, or the draft has nothing to say
                verdict = await self._verdict(ctx, before, chain, turn, 0, banks)
                # Of redrawn chunks nothing is told: they are no fair sample of chunks.
                ctx.trace.add("decision", ctx.path, **verdict.told())
                if self.learns():
                    ctx.contribute(LOSSES, [turn, verdict.told()["loss"]])
                if verdict.takeover and self.variant == "continue":
                    chain = await self.take_over(ctx, chain)
                elif verdict.takeover:
                    chain = await self._resampled(ctx, before, chain, verdict, banks)
            return self.over(ctx, chain) or mixed(replace(chain, finish="length"))
        except Stopped as stopped:
            return mixed(cut_short(ctx, start, chain, stopped))

    async def _resampled(
        self, ctx: Context, before: Chain, rejected: Chain, verdict: Verdict, banks: Banks
    ) -> Chain:
        """The first redrawn chunk that is not rejected; where all are, that of the lowest loss."""
        best, lowest = rejected, verdict.loss
        for attempt in range(1, self.attempts):
            drafted = before
            try:
                drafted = await self.chunk(ctx, before)
                if cut(drafted):
                    ctx.book(DRAFT, discarded=len(drafted.ids) - len(before.ids))
                    return best
                again = await self._verdict(ctx, before, drafted, verdict.turn, attempt, banks)
            except Stopped as stopped:
                ctx.note_cut(stopped.status)
                ctx.book(DRAFT, discarded=len(drafted.ids) - len(before.ids))
                return best
            better = len(drafted.ids) > len(before.ids) and (
                not again.takeover or again.loss < lowest
            )
            dropped = best if better else drafted
            ctx.book(DRAFT, discarded=len(dropped.ids) - len(before.ids))
            if better:
                best, lowest = drafted, again.loss
            if better and not again.takeover:
                break
        return best

    async def _verdict(
        self, ctx: Context, before: Chain, drafted: Chain, turn: int, attempt: int, banks: Banks
    ) -> Verdict:
        loss = await self.verify(ctx, before, drafted)
        return self._decide(ctx, before, turn, attempt, loss, banks)

    def _decide(
        self, ctx: Context, chain: Chain, turn: int, attempt: int, loss: float, banks: Banks
    ) -> Verdict:
        """By rank, or by a coin where the bank is too small. A function of this chain, its own
        random stream and the bank: of no other chain."""
        bank = banks.of(turn)
        stream = key(*ctx.stream_path, chain.fork, "takeover", attempt)
        luck = float(uniform(stream, len(chain.ids)))
        if len(bank) < (1 if self.bank == "per_question" else enough(self.rho)):
            return Verdict(turn, loss, None, len(bank), luck < self.rho)
        rank = bank.rank(loss, luck)
        p = rank / (len(bank) + 1)
        return Verdict(turn, loss, p, len(bank), rejects(rank, len(bank), self.rho))

    async def _banks(self, ctx: Context, prefix: Chain) -> Banks:
        if self.bank == "per_question":
            return Banks(
                [(0, loss) for loss in await self._own_losses(ctx, prefix)], per_turn=False, last=0
            )
        turns = self._file.turns if self._file is not None else []
        losses = [(turn, loss) for turn, found in enumerate(turns) for loss in found]
        if self.learns():
            losses += [(turn, loss) for turn, loss in await ctx.read(LOSSES)]
            last = self.turns
        else:
            last = deepest(turns, enough(self.rho))
        return Banks(losses, per_turn=self.bank == "per_turn", last=last)

    async def _own_losses(self, ctx: Context, prefix: Chain) -> list[float]:
        """Losses of `samples` first chunks of this question, which no chain keeps. They have a
        random stream of their own: the chains are the same whatever was drawn for the bank.

        At most half of a budget goes into them; none, and coins decide, where that is nothing.
        """
        name, most = (
            f"bank{ctx.next_key('bank')[-2]}",
            min(self.draft_tokens, self.room(ctx, prefix)),
        )
        if most < 1:
            return []
        try:
            branch = ctx.branch(name, share(ctx, math.inf, parts=2))
        except BudgetExhausted:
            return []
        async with branch:
            try:
                drafted = await self._samples(branch, prefix, most)
                return list(
                    await asyncio.gather(*(self.verify(branch, prefix, c) for c in drafted))
                )
            except BudgetExhausted as refused:
                branch.note_cut(refused.status)
                return []

    async def _samples(self, ctx: Context, prefix: Chain, most: int) -> list[Chain]:
        if self.exchange == "ids":
            drafted = await ctx.sample(prefix, self.samples, role=DRAFT, max_tokens=most)
            tokens = sum(len(chain.ids) - len(prefix.ids) for chain in drafted)
        else:
            made = (self.draft(ctx, prefix.drawn(i), most) for i in range(self.samples))
            found = await asyncio.gather(*made)
            drafted, tokens = [one.chain for one in found], sum(one.tokens for one in found)
        ctx.book(DRAFT, probe=tokens)
        whole = [chain for chain in drafted if not cut(chain)]
        return [chain for chain in whole if len(chain.ids) > len(prefix.ids)]
