"""Judge: a language model that is asked for its verdict, and read without decoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from reasoning.chain import Chain
from reasoning.engines.base import Engine, EngineUsage, Tokenizer
from reasoning.errors import ConfigError
from reasoning.problem import Problem
from reasoning.strategy import Rating, Reading, Verifier
from reasoning.verifiers.batch import checked, each
from reasoning.verifiers.layouts import single
from reasoning.verifiers.prompting import JudgePrompt, filled
from reasoning.verifiers.steps import question, steps_of

YES_NO = """Question:
{question}

Proposed solution:
{solution}

Is the reasoning so far correct, with no mistake in any line? Answer with one word, Yes or No."""

DIGITS = """Question:
{question}

Proposed solution:
{solution}

How likely is it that this leads to the right answer? Answer with one digit, from 0 (certainly not)
to 9 (certainly)."""


class Judge(Verifier):
    """A generative model in a role, as a reward: its chances for one-token answers.

    scale: `yes_no` is P(Yes) against P(No); `digits` the expected digit over 9, from the chances of
    0 to 9.
    steps: whether every step is judged, with those before it, or the whole text once. Each is a
    request of its own; they share their beginning in the engine's prefix cache.
    prompt: the user turn, with {question} and {solution} in it; None is this project's own.
    opening: text behind the assistant's opening, for models that begin otherwise (an empty thinking
    block, for instance): the verdict must be the very next token.

    A chain without text is rated 0 and costs no request.
    """

    needs: ClassVar[tuple[str, ...]] = ("choose",)

    scale: Literal["yes_no", "digits"] = "yes_no"
    steps: bool = False
    prompt: JudgePrompt | None = None
    opening: str = ""
    yes: str = Field(default="Yes", min_length=1)
    no: str = Field(default="No", min_length=1)

    @property
    def single(self) -> bool:
        return not self.steps

    async def rate(
        self, problem: Problem, chains: Sequence[Chain], engine: Engine | None
    ) -> list[Rating]:
        return await each(self._rate, problem, chains, engine, "judge")

    def most(self, problem: Problem, chain: Chain, engine: Engine | None) -> tuple[Reading, ...]:
        if engine is None:
            return ()
        sizes = [len(ids) for ids in self.prompts(problem, chain, engine.tokenizer)]
        return tuple(Reading(size, EngineUsage(prefill=size, new=1)) for size in sizes)

    def prompts(self, problem: Problem, chain: Chain, tokenizer: Tokenizer) -> list[list[int]]:
        """What the judge is asked about a chain, in its tokens: one prompt a verdict."""
        steps = steps_of(chain.text, problem.step)
        parts = [problem.step.join(steps[: k + 1]) for k in range(len(steps))]
        if not self.steps:
            parts = [chain.text.strip()] if steps else []
        return [self._ids(question(problem), part, tokenizer) for part in parts]

    async def _rate(self, problem: Problem, chain: Chain, engine: Engine) -> Rating:
        options = self._options(engine.tokenizer)
        values, readings = [], []
        for ids in self.prompts(problem, chain, engine.tokenizer):
            reply = await engine.choose(ids, options)
            values.append(self._value(reply.probabilities))
            readings.append(Reading(len(ids), reply.usage))
        if not readings:
            return Rating((0.0,))
        return Rating.of(checked(values, len(readings), engine), readings)

    def _ids(self, asked: str, solution: str, tokenizer: Tokenizer) -> list[int]:
        prompt = self.prompt or (YES_NO if self.scale == "yes_no" else DIGITS)
        ids = tokenizer.render(filled(prompt, asked, solution))
        return [*ids, *tokenizer.encode(self.opening)] if self.opening else ids

    def _options(self, tokenizer: Tokenizer) -> list[int]:
        words = [self.yes, self.no] if self.scale == "yes_no" else list("0123456789")
        options = [single(tokenizer, word, "the judge's answer") for word in words]
        if len(set(options)) < len(options):
            raise ConfigError(f"the judge's answers {', '.join(words)} are not different tokens")
        return options

    def _value(self, chances: Sequence[float]) -> float:
        if self.scale == "yes_no":
            return chances[0]
        # min: ten rounded chances may sum to a hair above 1.
        return min(1.0, sum(digit * chance for digit, chance in enumerate(chances)) / 9)
