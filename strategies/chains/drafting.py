"""Drafting: what chain policies have in common in which a small model writes for a large one.

The roles are `draft` (the small model) and `policy` (the large one: SpecReason's base model, the
target of ATTS). They exchange token ids, which needs one vocabulary, or text.
"""

from __future__ import annotations

import abc
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from reasoning.chain import Chain
from reasoning.context import Context
from reasoning.engines.base import Engine, Sampling, Tokenizer
from reasoning.errors import CapabilityError, ConfigError, Stopped
from reasoning.problem import Problem
from reasoning.prompts import render
from reasoning.strategies.chains.side_by_side import only
from reasoning.strategy import ChainPolicy

DRAFT, TARGET = "draft", "policy"

# Texts and ids on which two tokenizers of one vocabulary agree.
_PROBE = "Wait, 14*10 = 140.\n\nThe answer is \\boxed{6}: x² ≥ 0."
_PROBED_IDS = 1024
_PROSE = re.compile(r"\banswer\s+is\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Drafted:
    """A chain with what the draft wrote behind it. tokens: what that was in its own tokens."""

    chain: Chain
    tokens: int

    def refuse_if_cut(self) -> None:
        """Raise Stopped when the budget or the clock ended it, not the model or its own cap."""
        if cut(self.chain):
            finish = self.chain.finish
            status = "interrupted" if finish == "abort" else str(finish)
            raise Stopped(status, "a draft was cut off in its middle; raise the budget")


class Drafting(ChainPolicy, abc.ABC):
    """exchange: `ids`, or `text` where draft and target have different vocabularies. Text is then
    tokenised anew on each side, and a chain must start at the task's own prompt."""

    logprobs: ClassVar[Literal["kept", "mixed", "dropped"]] = "dropped"

    exchange: Literal["ids", "text"] = "ids"

    def roles(self) -> tuple[str, ...]:
        return (DRAFT,)

    def check(self, engines: Mapping[str, Engine], sampling: Sampling, *, started: bool) -> None:
        draft, target = engines[DRAFT], engines[TARGET]
        require(draft, "sample", "the role `draft`", started)
        if self.exchange == "text" or not (known(draft, started) and known(target, started)):
            return
        for engine in (draft, target):
            if not engine.capabilities.token_ids:
                raise CapabilityError(
                    f"{engine.name} takes text, not token ids; set `exchange: text` of the chain "
                    f"policy"
                )
        unlike = difference(draft.tokenizer, target.tokenizer)
        if unlike is not None:
            raise ConfigError(
                f"draft {draft.name} and policy {target.name} have different tokenizers "
                f"({unlike}); use models of one vocabulary, or set `exchange: text` of the chain "
                f"policy"
            )

    def room(self, ctx: Context, chain: Chain) -> int:
        """New tokens that the chain has room for, in the recipe's cap and in both contexts."""
        limits = [ctx.bindings.engine(role).context_length for role in (DRAFT, TARGET)]
        room = min(limits) - len(chain.all_ids)
        most = ctx.bindings.max_tokens
        return room if most is None else min(room, most - len(chain.ids))

    async def draft(
        self, ctx: Context, chain: Chain, most: int, sampling: Sampling | None = None
    ) -> Drafted:
        """The chain with up to `most` more tokens by the draft. A second draft at one place of a
        chain has random numbers of its own."""
        if self.exchange == "ids":
            wrote = only(await ctx.sample(chain, role=DRAFT, sampling=sampling, max_tokens=most))
            return Drafted(wrote, len(wrote.ids) - len(chain.ids))
        engine, target = ctx.bindings.engine(DRAFT), ctx.bindings.engine(TARGET).tokenizer
        if chain.prompt_ids != ctx.prompt.prompt_ids:
            raise ConfigError(
                "with `exchange: text` a chain starts at the task's own prompt; the strategy wrote "
                "another one, which the draft's template cannot render"
            )
        key = (DRAFT, ctx.problem.id, ctx.bindings.identity)
        prompt = ctx.session.rendered(key, lambda: render(ctx.problem, engine))
        before = tuple(engine.tokenizer.encode(chain.text))
        side = Chain(prompt, before, chain.text, fork=chain.fork)
        wrote = only(await ctx.sample(side, role=DRAFT, sampling=sampling, max_tokens=most))
        text = wrote.text[len(chain.text) :]
        ids = tuple(target.encode(text))[:most]
        if wrote.done and target.eos_id is not None and len(ids) < most:
            ids += (target.eos_id,)
        said = chain.text + target.decode(ids)
        rest = Chain(chain.prompt_ids, chain.ids + ids, said, wrote.finish, wrote.done, chain.fork)
        return Drafted(rest, len(wrote.ids) - len(before))


def known(engine: Engine, started: bool) -> bool:
    """Whether it is certain what the engine can do: servers tell only when they are asked."""
    return started or engine.capabilities.sample


def require(engine: Engine, capability: str, who: str, started: bool) -> None:
    """Raise CapabilityError when the engine certainly lacks what `who` needs."""
    if known(engine, started):
        engine.capabilities.require((capability,), engine=engine.name, who=who)


def difference(a: Tokenizer, b: Tokenizer) -> str | None:
    """What two tokenizers disagree on; None where they are of one vocabulary, as far as a sample
    of ids and a text can tell."""
    if a is b:
        return None
    if a.vocab_size != b.vocab_size:
        return f"{a.vocab_size} and {b.vocab_size} tokens"
    if a.eos_id != b.eos_id:
        return f"EOS is {a.eos_id} and {b.eos_id}"
    step = max(1, a.vocab_size // _PROBED_IDS)
    for token in range(0, a.vocab_size, step):
        if a.decode([token]) != b.decode([token]):
            return f"token {token} is {a.decode([token])!r} and {b.decode([token])!r}"
    return None if a.encode(_PROBE) == b.encode(_PROBE) else "they cut a text differently"


def given(problem: Problem, text: str) -> str | None:
    """The answer that the text gives in its task's own form (a box, an `Answer:` line). What prose
    says "the answer is" of may be a first guess."""
    return problem.extract(_PROSE.sub("", text))


def answered(problem: Problem, text: str) -> bool:
    """Whether the text gives a whole answer: one that no further text would make another."""
    answer = given(problem, text)
    return answer is not None and given(problem, f"{text}0") == answer


def cut(chain: Chain) -> bool:
    """Whether the budget or the clock ended the last write, not a model or a cap of its own."""
    return chain.finish in ("budget", "deadline", "abort")


def mixed(chain: Chain) -> Chain:
    """A chain of two models' tokens keeps no log-probabilities: they would be of either."""
    return replace(chain, logprobs=()) if chain.logprobs else chain
