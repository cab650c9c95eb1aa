"""ProcessReward: a reward model that scores a chain at the end of each of its steps."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import ClassVar

from reasoning.chain import Chain
from reasoning.engines.base import Engine, Tokenizer
from reasoning.errors import ConfigError, EngineReplyError
from reasoning.problem import Problem
from reasoning.strategy import Rating, Verifier


class ProcessReward(Verifier):
    """Rewards at the tokens that end a step (the task's separator), and at the chain's end.

    The engine in its role serves a reward head over the same tokens as the policy: no text is
    tokenised again. A reward that is NaN or outside [0, 1] is an error of the model, and raised.
    """

    needs: ClassVar[tuple[str, ...]] = ("pool",)

    async def rate(
        self, problem: Problem, chains: Sequence[Chain], engine: Engine | None
    ) -> list[Rating]:
        if engine is None:
            raise ConfigError("verifier prm needs a reward model; bind one to its role")
        return list(await asyncio.gather(*(self._rate(problem, c, engine) for c in chains)))

    async def _rate(self, problem: Problem, chain: Chain, engine: Engine) -> Rating:
        ends = step_ends(chain, problem.step, engine.tokenizer)
        if not ends:
            return Rating((0.0,))
        ids = chain.all_ids[: ends[-1] + 1]
        reply = await engine.pool(ids, ends)
        for end, value in zip(ends, reply.values, strict=True):
            if math.isnan(value) or not 0.0 <= value <= 1.0:
                raise EngineReplyError(
                    f"reward model {engine.name} gave {value} at token {end} of problem "
                    f"{problem.id!r}; rewards lie in [0, 1]"
                )
        return Rating(tuple(reply.values), reply.usage)


def step_ends(chain: Chain, separator: str, tokenizer: Tokenizer) -> list[int]:
    """Positions in `chain.all_ids` of the tokens that end a step; the last token with text ends
    one too. EOS, which has no text, ends nothing."""
    ends = []
    step = ""
    start = len(chain.prompt_ids)
    for position, token in enumerate(chain.ids, start):
        text = tokenizer.decode([token])
        step += text
        if separator in step:
            ends.append(position)
            step = step.rsplit(separator, 1)[1]
        elif text:
            last = position
    if step.strip():
        ends.append(last)
    return ends
