"""Process reward models with a tokenizer of their own: they read the chain's text.

This is the one seam where text crosses models. The question and the steps are laid out by the
reward model's own template and tokenizer (layouts.py), whatever the policy's tokens were.

| verifier | layout | score of a step |
|---|---|---|
| qwen_prm | chat; steps closed by `<extra_0>` | P(positive) of a two-label head at the marker |
| math_shepherd | plain; lines closed by a tag word | P(+) against P(-) at the tag |
| rlhflow_prm | a user turn a step, answered "+" | P(+) against P(-) one position before that |
| skywork_prm | plain; steps closed by a newline | sigmoid of a value head at the newline |
| value_head | chat or plain; steps closed by a separator | last label of a token classifier there |
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field

from reasoning.chain import Chain
from reasoning.configuration import name_of
from reasoning.engines.base import Engine, EngineUsage, Tokenizer
from reasoning.errors import ConfigError
from reasoning.problem import Problem
from reasoning.strategy import Rating, Reading, Verifier
from reasoning.verifiers.batch import checked, each
from reasoning.verifiers.layouts import Layout, at_tags, behind_markers, in_turns, single
from reasoning.verifiers.prm import Read
from reasoning.verifiers.steps import question, steps_of

MATH_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."


class TextReward(Verifier, abc.ABC):
    """A process reward model that reads text.

    read: `steps` scores every step, `last` the last one only, `model` the whole text as one step.
    separator: what ends a step in the policy's text; None is the task's.

    Empty steps are left out, so a trailing separator adds no score. A chain without text is rated
    0 and costs no request.
    """

    read: Read = "steps"
    separator: str | None = Field(default=None, min_length=1)

    @property
    def single(self) -> bool:
        return self.read != "steps"

    @abc.abstractmethod
    def layout(self, asked: str, steps: Sequence[str], tokenizer: Tokenizer) -> Layout:
        """The question and its steps (at least one) in the model's tokens. Raises ModelError when
        the tokenizer is none of this format."""

    @abc.abstractmethod
    async def scores(self, layout: Layout, engine: Engine) -> tuple[list[float], list[Reading]]:
        """The score at each of the layout's ends."""

    @abc.abstractmethod
    def readings(self, layout: Layout) -> tuple[Reading, ...]:
        """What reading the layout can cost at most."""

    async def rate(
        self, problem: Problem, chains: Sequence[Chain], engine: Engine | None
    ) -> list[Rating]:
        return await each(self._rate, problem, chains, engine, name_of(self))

    def most(self, problem: Problem, chain: Chain, engine: Engine | None) -> tuple[Reading, ...]:
        laid = self.laid(problem, chain, engine)
        return () if laid is None else self.readings(laid)

    def laid(self, problem: Problem, chain: Chain, engine: Engine | None) -> Layout | None:
        """What is read of a chain; None where it has no step."""
        if engine is None:
            raise ConfigError(f"verifier {name_of(self)} needs a reward model; set its `model`")
        steps = steps_of(chain.text, self.separator or problem.step)
        if not steps:
            return None
        if self.read == "model":
            steps = [chain.text.strip()]
        tokenizer: Any = engine.tokenizer
        layout = _laid(self, question(problem), tuple(steps), tokenizer)
        return Layout(layout.ids, layout.ends[-1:]) if self.read == "last" else layout

    async def _rate(self, problem: Problem, chain: Chain, engine: Engine) -> Rating:
        laid = self.laid(problem, chain, engine)
        if laid is None:
            return Rating((0.0,))
        values, readings = await self.scores(laid, engine)
        return Rating.of(checked(values, len(laid.ends), engine), readings)


@functools.lru_cache(maxsize=1024)
def _laid(verifier: TextReward, asked: str, steps: tuple[str, ...], tokenizer: Any) -> Layout:
    """Once for the lease and for the ask. tokenizer: a Tokenizer, by identity."""
    return verifier.layout(asked, steps, tokenizer)


class PooledReward(TextReward, abc.ABC):
    """One whose head is read at every token (an engine's `pool`), in one request."""

    needs: ClassVar[tuple[str, ...]] = ("pool",)

    async def scores(self, layout: Layout, engine: Engine) -> tuple[list[float], list[Reading]]:
        reply = await engine.pool(layout.ids, layout.ends)
        return list(reply.values), [Reading(len(layout.ids), reply.usage)]

    def readings(self, layout: Layout) -> tuple[Reading, ...]:
        return (Reading(len(layout.ids), EngineUsage(prefill=len(layout.ids))),)


class ChosenReward(TextReward, abc.ABC):
    """One that says `good` or `bad` as its next token (an engine's `choose`).

    The steps of a chain are asked one after the other, so that each finds the ones before it in
    the engine's prefix cache; chains are asked at once.
    """

    needs: ClassVar[tuple[str, ...]] = ("choose",)

    good: str = Field(default="+", min_length=1)
    bad: str = Field(default="-", min_length=1)

    @abc.abstractmethod
    def candidates(self, tokenizer: Tokenizer) -> tuple[int, int]:
        """The ids of `good` and `bad` where they are predicted. Raises ModelError."""

    async def scores(self, layout: Layout, engine: Engine) -> tuple[list[float], list[Reading]]:
        options = self.candidates(engine.tokenizer)
        values, readings = [], []
        for end in layout.ends:
            reply = await engine.choose(layout.ids[: end + 1], options)
            values.append(reply.probabilities[0])
            readings.append(Reading(end + 1, reply.usage))
        return values, readings

    def readings(self, layout: Layout) -> tuple[Reading, ...]:
        # Servers that cannot prefill alone decode one token to answer.
        return tuple(Reading(e + 1, EngineUsage(prefill=e + 1, new=1)) for e in layout.ends)


class QwenPrm(PooledReward):
    """Qwen2.5-Math-PRM (arXiv 2501.07301): P(positive) at the marker behind each step.

    Its head has two labels; the score is the softmax's second one. system: the system turn it was
    trained with.
    """

    marker: str = Field(default="<extra_0>", min_length=1)
    system: str = MATH_SYSTEM

    def layout(self, asked: str, steps: Sequence[str], tokenizer: Tokenizer) -> Layout:
        marker = single(tokenizer, self.marker, "the step marker")
        messages = [
            {"role": "system", "content": self.system},
            {"role": "user", "content": asked.replace(self.marker, "")},
        ]
        clean = [step.replace(self.marker, "") for step in steps]
        return behind_markers(tokenizer.render(messages), clean, (marker,), tokenizer)


class MathShepherd(ChosenReward):
    """Math-Shepherd (arXiv 2312.08935): P(+) against P(-), predicted at the tag behind each step.

    tag: a word that the model's vocabulary has as one token after a space.
    """

    tag: str = Field(default="ки", min_length=1)

    def layout(self, asked: str, steps: Sequence[str], tokenizer: Tokenizer) -> Layout:
        return at_tags(getattr(tokenizer, "opening", ()), asked, steps, self.tag, tokenizer)

    def candidates(self, tokenizer: Tokenizer) -> tuple[int, int]:
        ids = tokenizer.encode(f"{self.good} {self.bad}")
        if len(ids) != 2:
            raise ConfigError(
                f"`good` {self.good!r} and `bad` {self.bad!r} are {len(ids)} tokens of the reward "
                f"model, and must be one each"
            )
        return ids[0], ids[1]


class RlhflowPrm(ChosenReward):
    """RLHFlow's Llama-3.1 PRMs (RLHF-Reward-Modeling, math-rm): P(+) against P(-) at each turn.

    Predicted one position before each assistant turn, which is taken to be "+".
    """

    def layout(self, asked: str, steps: Sequence[str], tokenizer: Tokenizer) -> Layout:
        return in_turns(asked, steps, self.good, tokenizer)

    def candidates(self, tokenizer: Tokenizer) -> tuple[int, int]:
        return (
            single(tokenizer, self.good, "`good`"),
            single(tokenizer, self.bad, "`bad`"),
        )


class SkyworkPrm(PooledReward):
    """Skywork-o1-Open-PRM: sigmoid of a value head at the newline behind each step.

    The question is plain text behind BOS (where the tokenizer has one) and ends with a newline.
    marker: the step token; must be one token.
    """

    marker: str = Field(default="\n", min_length=1)

    def layout(self, asked: str, steps: Sequence[str], tokenizer: Tokenizer) -> Layout:
        marker = single(tokenizer, self.marker, "the step marker")
        bos = getattr(tokenizer, "bos_id", None)
        opening = [*([] if bos is None else [bos]), *tokenizer.encode(f"{asked}\n")]
        return behind_markers(opening, steps, (marker,), tokenizer)


class ValueHead(PooledReward):
    """A value head on any Hugging Face model (token classification), with its own tokenizer.

    The value of a step is the last label's (one label: sigmoid; more: softmax) at the last token
    of `marker`, which stands behind every step, tokenised by itself. chat: the question through the
    model's chat template; else plain, behind the special tokens the tokenizer opens with.
    """

    marker: str = Field(default="\n", min_length=1)
    chat: bool = True

    def layout(self, asked: str, steps: Sequence[str], tokenizer: Tokenizer) -> Layout:
        if self.chat:
            opening = tokenizer.render([{"role": "user", "content": asked}])
        else:
            opening = [*getattr(tokenizer, "opening", ()), *tokenizer.encode(f"{asked}\n")]
        return behind_markers(opening, steps, tokenizer.encode(self.marker), tokenizer)
