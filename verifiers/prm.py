"""ProcessReward: a reward head over the policy's own tokens, read at the end of each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from reasoning.chain import Chain
from reasoning.engines.base import Engine
from reasoning.problem import Problem
from reasoning.strategy import Rating, Reading, Verifier
from reasoning.verifiers.batch import checked, each
from reasoning.verifiers.steps import step_ends

# What is asked of a chain: the score of each step, of the last step only (the incremental form:
# an engine with a prefix cache computes the new step alone), or of the whole as one step (the
# one score that aggregation `model` takes).
Read = Literal["steps", "last", "model"]


class ProcessReward(Verifier):
    """Rewards at the tokens that end a step (the task's separator), and at the chain's end.

    The engine in its role serves a reward head over the same tokens as the policy: no text is
    tokenised again. `last` and `model` are the same for such a head: the value at the last token.
    A chain without text is rated 0 and costs no request. A reward that is NaN or outside [0, 1] is
    an error of the model, and raised.
    """

    needs: ClassVar[tuple[str, ...]] = ("pool",)

    read: Read = "steps"

    @property
    def single(self) -> bool:
        return self.read != "steps"

    async def rate(
        self, problem: Problem, chains: Sequence[Chain], engine: Engine | None
    ) -> list[Rating]:
        return await each(self._rate, problem, chains, engine, "prm")

    async def _rate(self, problem: Problem, chain: Chain, engine: Engine) -> Rating:
        ends = step_ends(chain, problem.step, engine.tokenizer)
        if not ends:
            return Rating((0.0,))
        if self.read != "steps":
            ends = ends[-1:]
        ids = chain.all_ids[: ends[-1] + 1]
        reply = await engine.pool(ids, ends)
        values = checked(reply.values, len(ends), engine)
        return Rating.of(values, [Reading(len(ids), reply.usage)])
