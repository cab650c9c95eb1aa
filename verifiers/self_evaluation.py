"""SelfEvaluation: the model says in words how sure it is of what it wrote (arXiv 2502.07191)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from reasoning.chain import Chain
from reasoning.engines.base import Engine, EngineUsage, SampleRequest, Sampling, Stream
from reasoning.errors import EngineReplyError, first_error
from reasoning.problem import Problem
from reasoning.randomness import key
from reasoning.strategy import Rating, Reading, Verifier
from reasoning.verifiers.batch import checked, each
from reasoning.verifiers.prompting import JudgePrompt, filled
from reasoning.verifiers.steps import question

VALUES = {"impossible": 0.0, "likely": 0.5, "sure": 1.0}

PROCESS = """Question:
{question}

Reasoning so far:
{solution}

Look for mistakes in the reasoning. Then say how probable it is that it leads to the right answer,
with one of the words Sure, Likely or Impossible."""

RESULT = """Question:
{question}

Proposed answer:
{solution}

Say how probable it is that this answer is right, with one of the words Sure, Likely or
Impossible."""

_WORD = re.compile(r"\b(impossible|likely|sure)\b", re.IGNORECASE)


def value_of(evaluations: Sequence[str]) -> float:
    """The mean over all value words in all evaluations: Impossible 0, Likely 1/2, Sure 1; without
    any word 0. Whole words: unlikely and unsure are none of them. That case does not matter is our
    reading (unverified)."""
    found = [VALUES[word.lower()] for text in evaluations for word in _WORD.findall(text)]
    return sum(found) / len(found) if found else 0.0


class SelfEvaluation(Verifier):
    """A model judges in words, Impossible, Likely or Sure, which are read as 0, 1/2, 1.

    `n` evaluations are written by the model in its role (mostly the policy itself), and their
    value words averaged; one score a chain.

    kind: `process` shows the reasoning, `result` only the answer (0 for a chain without one).
    The evaluations are new tokens like any others: they count in the dial `tokens`, and their worst
    case, n times max_tokens, is leased before they are asked for.
    prompt: the user turn, with {question} and {solution}; None is this project's own.
    """

    needs: ClassVar[tuple[str, ...]] = ("sample",)

    kind: Literal["process", "result"] = "process"
    n: int = Field(default=1, ge=1)
    max_tokens: int = Field(default=256, ge=1)
    temperature: float = Field(default=0.7, ge=0)
    top_p: float = Field(default=0.9, gt=0, le=1)
    prompt: JudgePrompt | None = None
    seed: int = 0

    async def rate(
        self, problem: Problem, chains: Sequence[Chain], engine: Engine | None
    ) -> list[Rating]:
        return await each(self._rate, problem, chains, engine, "self_evaluation")

    def most(self, problem: Problem, chain: Chain, engine: Engine | None) -> tuple[Reading, ...]:
        ids = None if engine is None else self._ids(problem, chain, engine)
        if engine is None or ids is None:
            return ()
        new = min(self.max_tokens, max(1, engine.context_length - len(ids)))
        one = Reading(len(ids), EngineUsage(prefill=len(ids), new=new), wrote=True)
        return (one,) * self.n

    async def _rate(self, problem: Problem, chain: Chain, engine: Engine) -> Rating:
        ids = self._ids(problem, chain, engine)
        if ids is None:
            return Rating((0.0,))
        # By content, not by draw: so a rating that is kept is the one that would be written again.
        content = ("self_evaluation", self.seed, problem.id, chain.ids, chain.text)
        try:
            async with asyncio.TaskGroup() as group:
                asked = [
                    group.create_task(self._evaluation(ids, key(*content, number), engine))
                    for number in range(self.n)
                ]
        except BaseExceptionGroup as failed:
            raise first_error(failed) from None
        texts, works = zip(*(task.result() for task in asked), strict=True)
        readings = [Reading(len(ids), work, wrote=True) for work in works]
        return Rating.of(checked([value_of(texts)], 1, engine), readings)

    async def _evaluation(
        self, ids: tuple[int, ...], stream: int, engine: Engine
    ) -> tuple[str, EngineUsage]:
        request = SampleRequest(
            prompt_ids=ids,
            max_tokens=self.max_tokens,
            sampling=Sampling(temperature=self.temperature, top_p=self.top_p),
            streams=(Stream(stream),),
        )
        reply = await engine.sample(request)
        if len(reply.completions) != 1:
            raise EngineReplyError(f"{engine.name} returned {len(reply.completions)} evaluations")
        return reply.completions[0].text, reply.usage

    def _ids(self, problem: Problem, chain: Chain, engine: Engine) -> tuple[int, ...] | None:
        """The prompt in the model's tokens; None where there is nothing to evaluate."""
        shown = chain.text.strip()
        if self.kind == "result":
            shown = problem.extract(chain.text) or ""
        if not shown:
            return None
        prompt = self.prompt or (PROCESS if self.kind == "process" else RESULT)
        return tuple(engine.tokenizer.render(filled(prompt, question(problem), shown)))
