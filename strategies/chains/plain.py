"""Plain: one ask, one continuation. The base decoder that every chain policy can be set to."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from reasoning.chain import Chain
from reasoning.context import Context
from reasoning.strategy import ChainPolicy, Until


class Plain(ChainPolicy):
    """Writes a chain as the model does. A step ends with the task's separator."""

    units: ClassVar[frozenset[str]] = frozenset({"token", "step", "chain"})
    one_ask: ClassVar[bool] = True

    async def write(self, ctx: Context, prefix: Chain, n: int, until: Until) -> list[Chain]:
        sampling = ctx.bindings.sampling
        if until == "step":
            sampling = replace(sampling, stop=(*sampling.stop, ctx.problem.step))
        return await ctx.sample(prefix, n, sampling=sampling)
