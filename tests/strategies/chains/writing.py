"""Writing chains with a policy on an engine, for the tests of chain policies."""

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reasoning import Problem, Solver
from reasoning.chain import Chain
from reasoning.context import Context
from reasoning.engines.base import ChooseReply, EngineUsage
from reasoning.engines.characters import CharacterTokenizer
from reasoning.engines.scripted import Line, ScriptedEngine, VirtualTimeLoop
from reasoning.problem import Solution
from reasoning.strategies.chains.answers import NO, YES
from reasoning.strategy import Outcome, Strategy

TAG = "</think>"


class Written(Strategy):
    """n chains by the recipe's policy, kept whole in `chains`."""

    n: int = 1

    async def solve(self, ctx: Context) -> Outcome:
        chains = await ctx.write(ctx.prompt, self.n)
        CHAINS[ctx.problem.id] = chains
        ctx.offer(chains[0])
        return Outcome(ctx.answer(chains[0]), chains[0].text)


CHAINS: dict[str, list[Chain]] = {}


def problem(name: str = "p", closing: str | None = TAG, **settings: Any) -> Problem:
    extract = settings.pop("extract", lambda text: text.split(TAG)[1] if TAG in text else None)
    return Problem(
        name,
        ({"role": "user", "content": f"question {name}"},),
        extract=extract,
        closing=closing,
        **settings,
    )


def write(
    engine: Any,
    policy: Any = "plain",
    n: int = 1,
    *,
    asked: Problem | None = None,
    models: dict[str, Any] | None = None,
    run: Path | None = None,
    **settings: Any,
) -> tuple[list[Chain], Solution]:
    """Chains and the solution of one problem, in virtual time."""
    asked = asked or problem()
    solver = Solver(
        {"policy": engine, **(models or {})},
        strategy=Written(n=n),
        chain_policy=policy,
        run=run,
        **settings,
    )
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        solution = runner.run(solver.asolve(asked))
    return CHAINS.pop(asked.id, []), solution


def forced(solution: Solution) -> list[str]:
    """Why text was put into the chains, in order."""
    return [event.data["why"] for event in solution.trace.of("force")]


class YesNo(CharacterTokenizer):
    """Characters, and one token for each Yes and No."""

    def encode(self, text: str) -> list[int]:
        words = (*YES, *NO)
        return [0xE000 + words.index(text)] if text in words else super().encode(text)


class Judge(ScriptedEngine):
    """Answers `choose` by a function of the prompt: the probability of the first half of the
    options (Yes), the rest being No. Takes `seconds` for it."""

    def __init__(self, says: Callable[[str], float], seconds: float = 0.0) -> None:
        super().__init__("judge")
        self.tokenizer = YesNo()
        self.says = says
        self.seconds_taken = seconds
        self.asked: list[str] = []

    async def choose(self, prefix_ids: Any, option_ids: Any) -> ChooseReply:
        prompt = self.tokenizer.decode(prefix_ids)
        self.asked.append(prompt)
        self.totals.prefill += len(prefix_ids)
        if self.seconds_taken:
            await asyncio.sleep(self.seconds_taken)
        yes, half = self.says(prompt), len(option_ids) // 2
        shares = [yes / half] * half + [(1 - yes) / half] * half
        return ChooseReply(tuple(shares), 1.0, EngineUsage(prefill=len(prefix_ids)))


class Asked(ScriptedEngine):
    """Plays `lines`; where a prompt ends with `mark` it says what `says` answers to it."""

    def __init__(
        self, lines: list[Any], says: Callable[[str], Line], mark: str = "\\boxed{", **settings: Any
    ) -> None:
        super().__init__(script=lines, **settings)
        self.says = says
        self.mark = mark
        self.probes: list[str] = []

    async def _chain(self, request: Any, index: int, prompt: str, sink: Any) -> Any:
        if not prompt.endswith(self.mark):
            return await super()._chain(request, index, prompt, sink)
        self.probes.append(prompt)
        line = self.says(prompt)
        # A script is counted from the prompt's end.
        padded = dataclasses.replace(line, text=" " * request.position + line.text)
        other = ScriptedEngine(script=lambda prompt, key: padded)
        other.totals = self.totals
        return await other._chain(request, index, prompt, sink)
