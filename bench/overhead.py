"""What watching a chain costs: a chain policy that never acts against plain streaming.

Both write the same chains, each a request of its own with the same prompt and random stream. Plain
streaming is `plain` under a deadline: its tokens go to a sink that appends them. TrimR reads the
same stream, tells thoughts apart, has rules read their answers and looks for loops; its thresholds
are out of reach.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from bench import solving
from bench.pairs import Sample, alternate, mean_rate, share
from bench.report import Row, Table, shown, verdict
from reasoning.budget import Budget
from reasoning.configuration import Configuration
from reasoning.engines.base import Engine
from reasoning.errors import ReasoningError
from reasoning.naming import Spec
from reasoning.problem import Problem
from reasoning.runner import Job, Runner

GOAL = 0.95
STREAMING = "plain, streamed"
_NEVER = 1_000_000
_SILENT = {
    "name": "trimr",
    "verifier": "rules",
    "reflections": ["wait"],
    "min_thought": 1,
    "m": _NEVER,
    "times": _NEVER,
    "r_thres": 2.0,
}
POLICIES: dict[str, Spec] = {
    STREAMING: "plain",
    "trimr, a look every 50 tokens": _SILENT,
    "trimr, a look every 10 tokens": _SILENT | {"n_send": 10},
}


class Writing:
    """One chain a problem by a chain policy. texts: of the chains, by problem."""

    def __init__(
        self, runner: Runner, configuration: Configuration, problems: Sequence[Problem]
    ) -> None:
        self.texts: dict[str, str] = {}
        self._runner = runner
        self._jobs = [Job(problem, configuration) for problem in problems]

    async def __call__(self) -> Sample:
        """Raises RuntimeError when the policy acted: then it is not its watching that costs."""
        tokens = 0
        began, cpu = time.perf_counter(), time.process_time()
        async for job, solution in solving.solved(self._runner, self._jobs):
            if any(solution.trace.of("force")):
                raise RuntimeError(f"the chain policy acted on problem {job.problem.id}")
            tokens += solution.usage.tokens
            self.texts[job.problem.id] = solution.text
        taken = time.perf_counter() - began, time.process_time() - cpu
        return Sample(tokens, len(self._jobs), *taken)


async def run(
    engines: Sequence[Engine],
    pairs: int,
    concurrency: int,
    waves: int,
    max_tokens: int = solving.MAX_TOKENS,
) -> Table:
    """On each engine. A measurement is `waves` times `concurrency` chains."""
    table = Table(
        "overhead",
        f"Chain policies that never act against plain streaming, {concurrency} chains at once, "
        f"of at most {max_tokens} tokens",
        (
            "engine",
            "chain policy",
            "tokens/s",
            "share of plain streaming [95 %]",
            "same chains",
            f"goal: lower bound ≥ {GOAL:.0%}",
        ),
    )
    problems = solving.dev(waves * concurrency)
    for engine in engines:
        async with solving.runner(concurrency) as runner:
            try:
                await _compare(table, runner, engine, problems, pairs, max_tokens)
            except ReasoningError as error:
                table.notes.append(f"{engine.name} did not run here: {error}")
    return table


async def _compare(
    table: Table,
    runner: Runner,
    engine: Engine,
    problems: Sequence[Problem],
    pairs: int,
    max_tokens: int,
) -> None:
    contenders = {}
    for name, policy in POLICIES.items():
        # The deadline is there to have `plain` stream; it is never reached.
        configuration = solving.configuration(
            "single",
            engine,
            chain_policy=policy,
            budget=Budget(seconds=3600),
            max_tokens=max_tokens,
        )
        await runner.bind(configuration)
        contenders[name] = Writing(runner, configuration, problems)
    found = await alternate(contenders, pairs)
    plain = contenders[STREAMING].texts
    for name, samples in found.items():
        same = sum(plain[problem] == text for problem, text in contenders[name].texts.items())
        ratio = share(samples, found[STREAMING])
        measured = ("1", "", "")
        if name != STREAMING:
            measured = (shown(ratio), f"{same} of {len(plain)}", verdict(ratio.low >= GOAL))
        cells = (engine.name.partition("/")[0], name, f"{mean_rate(samples):,.0f}", *measured)
        table.add(Row(cells, {"samples": samples}))
