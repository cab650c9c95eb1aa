"""A prompt of other messages than the problem's goes through the same template and checks."""

from __future__ import annotations

from typing import Any

import pytest

from reasoning import Problem, Solver
from reasoning.context import Context
from reasoning.engines.scripted import Line, ScriptedEngine
from reasoning.errors import PromptError
from reasoning.strategy import Outcome, Strategy


class Prompted(Strategy):
    more: str

    async def solve(self, ctx: Context) -> Outcome:
        same = ctx.prompted(ctx.problem.messages)
        prefix = ctx.prompted([*ctx.problem.messages, {"role": "user", "content": self.more}])
        (chain,) = await ctx.write(prefix)
        return Outcome(None, chain.text, {"same": same == ctx.prompt, "ids": prefix.all_ids})


def solve(more: str, **settings: Any) -> Any:
    problem = Problem("p", ({"role": "user", "content": "one"},))
    engine = ScriptedEngine(script=lambda prompt, _: Line(prompt.upper()), **settings)
    return Solver({"policy": engine}, strategy=Prompted(more=more)).solve(problem)


def test_other_messages_are_rendered_as_the_problems_are() -> None:
    solution = solve("two")
    assert solution.text == "ONE\nTWO\n" and solution.meta["same"]
    assert solution.meta["ids"] == tuple(map(ord, "one\ntwo\n"))


def test_messages_that_cannot_be_asked_are_refused() -> None:
    with pytest.raises(PromptError, match="longer context"):
        solve("x" * 100, context_length=50)
    with pytest.raises(PromptError, match="NUL"):
        solve("\0")
