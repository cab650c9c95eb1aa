r"""SpecReason: speculative reasoning, step by step (Pan et al. 2025, arXiv 2504.07891).

The draft writes a step; the base model (role `policy`) rates it without writing; a rating of at
least the threshold keeps the step, else the base writes the step itself. What is exploited is that
a step of reasoning can be right without being the base's own words.

Token-level speculative decoding of the base's own steps (SpecReason+Decode) is an argument of the
base's engine: `policy: {model: vllm/..., speculative_config: {...}}`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from reasoning.chain import Chain
from reasoning.context import Context
from reasoning.engines.base import Engine, Sampling
from reasoning.errors import Stopped
from reasoning.prompts import closing as known_closing
from reasoning.strategies.chains import rating
from reasoning.strategies.chains.drafting import (
    TARGET,
    Drafting,
    answered,
    cut,
    given,
    known,
    mixed,
    require,
)
from reasoning.strategies.chains.plain import Plain
from reasoning.strategies.chains.side_by_side import cut_short, only, side_by_side
from reasoning.strategy import Until


class SpecReason(Drafting):
    """The draft writes each step; the policy rates it, and keeps or rewrites it.

    threshold: ratings lie in 0..9; 0 keeps every step of the draft, and above 9 nothing could be
    kept, so the draft is not asked and the chain is what `plain` writes, token for token.

    rating: who says how good a step is (rating.py). `likelihood`: the base model's probability of
    the step, for models without instruction tuning. `digits`: the base model asked for a digit, as
    in the paper. `prm`: the verifier in `role`. reading: of the digits, `greedy` takes the
    likeliest token (not a digit: 0), `average` the mean over the digits among the likeliest ten.

    first_n_base: so many steps at the start are the base's, unrated. step_tokens: cap of a step;
    one that reaches it is a step all the same.

    A chain ends where the model ends it, where a step completes an answer in the task's own form,
    when a step repeats the one before it (of more than two), or at the recipe's cap. A closing tag
    of a speculated step that comes without an answer is taken out, so that thinking goes on.
    closing: the text that ends thinking; by default the task's or the model's tag.
    Log-probabilities of the chain are not kept: they would be of two models.
    """

    threshold: float = Field(default=7.0, ge=0.0, le=10.0, allow_inf_nan=False)
    rating: Literal["likelihood", "digits", "prm"] = "likelihood"
    reading: Literal["greedy", "average"] = "greedy"
    first_n_base: int = Field(default=0, ge=0)
    step_tokens: int = Field(default=512, ge=1)
    role: str = "verifier"
    closing: str | None = Field(default=None, min_length=1)

    @model_serializer(mode="wrap")
    def _told(self, told: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a `closing` that is not set: hashes of finished work are older than it."""
        return {k: v for k, v in told(self).items() if k != "closing" or v is not None}

    def verifier_roles(self) -> tuple[str, ...]:
        return (self.role,) if self.rating == "prm" else ()

    def check(self, engines: Mapping[str, Engine], sampling: Sampling, *, started: bool) -> None:
        super().check(engines, sampling, started=started)
        if self.rating != "prm":
            needed = "score" if self.rating == "likelihood" else "logprobs"
            who = f"chain policy spec_reason with `rating: {self.rating}`"
            require(engines[TARGET], needed, who, started)
        if self.rating == "digits" and known(engines[TARGET], started):
            rating.refuse_if_speechless(engines[TARGET])

    async def write(self, ctx: Context, prefix: Chain, n: int, until: Until) -> list[Chain]:
        if self.threshold > 9:
            return await Plain().write(ctx, prefix, n, until)

        async def one(branch: Context, chain: Chain) -> Chain:
            return mixed(await self._write(branch, chain, until))

        room = max(1, self.room(ctx, prefix))
        if until == "step":
            room = min(room, self.step_tokens)
        # Every token drafted in vain and written again, and a token to answer each rating.
        return await side_by_side(ctx, prefix, n, one, most=2 * room + room // 8 + 1)

    async def _write(self, ctx: Context, start: Chain, until: Until) -> Chain:
        chain, separator = start, ctx.problem.step
        number, last = chain.text.count(separator), None
        while (room := self.room(ctx, chain)) >= 1:
            try:
                step = await self._step(ctx, chain, number, min(room, self.step_tokens))
            except Stopped as stopped:
                return cut_short(ctx, start, chain, stopped)
            text, grown = step.text[len(chain.text) :], len(step.ids) > len(chain.ids)
            chain, number = step, number + 1
            if until == "step" or chain.done or cut(chain):
                return _ended(ctx, chain, "step" if until == "step" else chain.finish)
            if not grown or (chain.finish == "stop" and separator not in text):
                return _ended(ctx, chain, "stop")  # at a stop string of the recipe
            if answered(ctx.problem, chain.text):
                return _ended(ctx, replace(chain, finish="stop", done=True), "answer")
            if number > 2 and text == last:
                return _ended(ctx, replace(chain, finish="stop", done=True), "repeated")
            last = text
        return _ended(ctx, replace(chain, finish="length"), "length")

    async def _step(self, ctx: Context, chain: Chain, number: int, most: int) -> Chain:
        """The chain with one more step. One that the budget cut in its middle is only kept of the
        base, because nobody rates half a step."""
        sampling = ctx.bindings.sampling
        stop = (*sampling.stop, ctx.problem.step)
        sampling = replace(sampling, stop=stop, include_stop=True)
        if number < self.first_n_base:
            return only(await ctx.sample(chain, sampling=sampling, max_tokens=most))
        drafted = await self.draft(ctx, chain, most, sampling)
        step, kept = drafted.chain, False
        try:
            drafted.refuse_if_cut()
            score = await self._rate(ctx, chain, step)
            kept = score >= self.threshold
        finally:
            if not kept:
                ctx.book("draft", discarded=drafted.tokens)
        ctx.trace.add("decision", ctx.path, step=number, score=round(score, 4), kept=kept)
        if not kept:
            step = only(await ctx.sample(chain, sampling=sampling, max_tokens=most))
        return self._unclosed(ctx, chain, step)

    async def _rate(self, ctx: Context, chain: Chain, step: Chain) -> float:
        """0..9. A step that could not be rated has 0, and is counted in the trace."""
        if len(step.ids) == len(chain.ids):
            return 0.0
        if self.rating == "likelihood":
            score = await rating.by_likelihood(ctx, chain, step)
        elif self.rating == "prm":
            score = await rating.by_reward(ctx, step, self.role)
        else:
            shown = self._unclosed(ctx, chain, step)
            score = await rating.by_digit(ctx, shown, average=self.reading == "average")
        if score is None or math.isnan(score):
            ctx.trace.add("unrated", ctx.path, offset=len(step.ids))
            return 0.0
        return score

    def _unclosed(self, ctx: Context, chain: Chain, step: Chain) -> Chain:
        """The step without a closing tag, where no answer comes with it."""
        engine = ctx.bindings.engine(TARGET)
        tag = self.closing or known_closing(ctx.problem, engine)
        text = step.text[len(chain.text) :]
        if not tag or tag not in text or given(ctx.problem, step.text) is not None:
            return step
        before, new, mark = len(chain.ids), step.ids[len(chain.ids) :], engine.tokenizer.encode(tag)
        places = [i for i in range(len(new)) if list(new[i : i + len(mark)]) == mark]
        if len(places) == 1:
            ids = new[: places[0]] + new[places[0] + len(mark) :]
        else:  # its tokens hold other text as well
            ids = tuple(engine.tokenizer.encode(text.replace(tag, "")))[: len(new)]
        text = chain.text + engine.tokenizer.decode(ids)
        ctx.trace.add("unclosed", ctx.path, offset=before)
        return replace(step, ids=chain.ids + ids, text=text, logprobs=())


def _ended(ctx: Context, chain: Chain, why: str | None) -> Chain:
    ctx.trace.add("end", ctx.path, why=why)
    return chain
