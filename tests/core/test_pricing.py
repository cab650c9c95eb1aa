"""What asks cost: worst cases hold on engines that read a prompt once, and for each chain."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning import Budget, Problem, Solution, Solver
from reasoning.budget import Usage
from reasoning.costs import pricing
from reasoning.costs.kinetics import CostModel, ModelShape
from reasoning.engines.base import Capabilities, EngineUsage, SampleReply, SampleRequest, Sink
from reasoning.engines.scripted import Line, ScriptedEngine, VirtualTimeLoop

PROBLEM = Problem("p", ({"role": "user", "content": "question " * 20},))
SIZE = len(PROBLEM.messages[0]["content"]) + 1
COST = CostModel(ModelShape(1e6, 1e3, 2), prefill_price=1.0, cached_price=0.1, token_price=1.0)


class PromptForEach(ScriptedEngine):
    """Prefills the prompt for each chain, as vLLM does where it is shorter than a cache block."""

    async def sample(self, request: SampleRequest, sink: Sink | None = None) -> SampleReply:
        reply = await super().sample(request, sink)
        prefill = request.n * len(request.prompt_ids)
        return SampleReply(reply.completions, replace(reply.usage, prefill=prefill))


def solved(budget: Budget, seconds: float = 0.0) -> Solution:
    engine = PromptForEach(
        script=[Line("x" * 50, seconds=seconds, ends=False)], capabilities=Capabilities()
    )
    strategy = {"name": "majority", "n": 4}
    solver = Solver(
        {"policy": engine}, strategy=strategy, budget=budget, max_tokens=10, costs={"policy": COST}
    )
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(solver.asolve(PROBLEM))


@pytest.mark.parametrize("unit", ["flops", "eflops", "money"])
def test_a_cap_holds_on_an_engine_that_reads_the_prompt_for_each_chain(unit: str) -> None:
    def within(most: Usage) -> Solution:
        cap: Any = {unit: getattr(most, unit)}
        solution = solved(Budget(**cap))
        assert getattr(solution.usage, unit) <= cap[unit] * (1 + 1e-12)
        return solution

    enough = within(pricing.worst(COST, SIZE, 10, 4))
    assert enough.status == "ok" and enough.usage.prefill == 4 * SIZE and enough.usage.asks == 1
    scarce = within(pricing.worst(COST, SIZE, 10, 4, one_prefill=True))
    assert scarce.status == "budget" and 0 < scarce.usage.tokens < 40


def test_chains_that_the_clock_cut_are_charged_a_prompt_each() -> None:
    solution = solved(Budget(seconds=3.5), seconds=1.0)
    assert solution.usage.tokens == 4 * 3 and solution.usage.prefill == 4 * SIZE


@given(context=st.integers(1, 500), n=st.integers(1, 8), new=st.integers(0, 50))
def test_prompts_read_for_n_chains_cost_n_prompts(context: int, n: int, new: int) -> None:
    one = pricing.decoded(COST, context, EngineUsage(prefill=context))
    whole = pricing.decoded(COST, context, EngineUsage(prefill=n * context, new=new))
    decoding = pricing.decoded(COST, context, EngineUsage(new=new))
    assert whole.flops == pytest.approx(n * one.flops + decoding.flops)
    assert whole.eflops == pytest.approx(n * one.eflops + decoding.eflops)
