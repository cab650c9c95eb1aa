"""OutcomeReward: a reward model that scores a finished solution as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from reasoning.chain import Chain
from reasoning.engines.base import Engine, EngineUsage
from reasoning.errors import ConfigError
from reasoning.problem import Problem
from reasoning.strategy import Rating, Reading, Verifier
from reasoning.verifiers.batch import checked, each
from reasoning.verifiers.steps import question


class OutcomeReward(Verifier):
    """The head of a reward model at the last token of the conversation (question, solution).

    Sequence classifiers (`...ForSequenceClassification`) and token classifiers alike. One label is
    a preference score, brought to (0, 1) by the sigmoid, which keeps its order; of several the last
    one's probability counts. The conversation is rendered and closed by the model's own template;
    without a template it is the two texts, line by line, and EOS.

    A chain without text is rated 0 and costs no request.
    """

    needs: ClassVar[tuple[str, ...]] = ("pool",)

    async def rate(
        self, problem: Problem, chains: Sequence[Chain], engine: Engine | None
    ) -> list[Rating]:
        return await each(self._rate, problem, chains, engine, "outcome")

    def most(self, problem: Problem, chain: Chain, engine: Engine | None) -> tuple[Reading, ...]:
        if engine is None or not chain.text.strip():
            return ()
        size = len(self.laid(problem, chain, engine))
        return (Reading(size, EngineUsage(prefill=size)),)

    def laid(self, problem: Problem, chain: Chain, engine: Engine) -> list[int]:
        """The conversation in the model's tokens. Raises ConfigError without a tokenizer for it."""
        transcript = getattr(engine.tokenizer, "transcript", None)
        if transcript is None:
            raise ConfigError(
                f"verifier outcome needs the tokenizer of {engine.name}, whose template closes a "
                f"conversation; serve the model with local/, vllm/, or openai/ with `tokenizer`"
            )
        asked = {"role": "user", "content": question(problem)}
        told = {"role": "assistant", "content": chain.text.strip()}
        return list(transcript([asked, told]))

    async def _rate(self, problem: Problem, chain: Chain, engine: Engine) -> Rating:
        if not chain.text.strip():
            return Rating((0.0,))
        ids = self.laid(problem, chain, engine)
        reply = await engine.pool(ids, [len(ids) - 1])
        return Rating.of(checked(reply.values, 1, engine), [Reading(len(ids), reply.usage)])
