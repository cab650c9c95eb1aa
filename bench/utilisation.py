"""How busy a search keeps the models, beside best-of-N with the same process reward model.

Tokens are the engines' own counts while all the problems are in flight: what the policy decoded
(none of these strategies throws tokens away) and what the reward model read, prompts included and
its prefix cache left out. Problems a minute follow from the policy's rate and its tokens a problem.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from bench import solving
from bench.pairs import Sample, alternate, mean_rate, share
from bench.report import Row, Table, shown, verdict
from reasoning.budget import Budget, Usage
from reasoning.configuration import Configuration
from reasoning.engines.base import Engine
from reasoning.evals.statistics import mean_interval, wilson
from reasoning.naming import Spec
from reasoning.problem import Problem
from reasoning.runner import Job, Runner

GOAL = 0.8
BASELINE = "best_of_n(n=8)"
STEPS = {"separators": 3, "step_tokens": 96, "reserve": 160}  # as in the recipes
STRATEGIES: dict[str, tuple[Spec, Budget]] = {
    BASELINE: ({"name": "best_of_n", "n": 8}, Budget()),
    "a_star(k=3), 750 tokens": ({"name": "a_star", "k": 3, **STEPS}, Budget(tokens=750)),
    "beam(n=8, beam_width=4)": ({"name": "beam", "n": 8, "beam_width": 4, **STEPS}, Budget()),
    "particle_filtering(n=8)": ({"name": "particle_filtering", "n": 8, **STEPS}, Budget()),
}


@dataclass(frozen=True, slots=True)
class Busy(Sample):
    """tokens, seconds, cpu: while all problems were in flight. scored: part of `tokens`.

    usage, right: of all problems that were solved, `requests` in number.
    """

    scored: int
    usage: Usage
    right: int

    @property
    def problems_a_minute(self) -> float:
        return 60 * self.requests * (self.tokens - self.scored) / self.seconds / self.usage.tokens


class Solving:
    """`size` fresh problems a measurement from cold caches, the runner full of them."""

    def __init__(
        self, runner: Runner, configuration: Configuration, problems: Sequence[Problem], size: int
    ) -> None:
        self._runner = runner
        self._configuration = configuration
        self._problems = iter(problems)
        self._size = size

    async def __call__(self) -> Busy:
        jobs = [Job(p, self._configuration) for p in islice(self._problems, self._size)]
        await solving.cold(self._configuration)
        usage, done, right = Usage(), 0, 0
        before = await self._work()
        began, cpu = time.perf_counter(), time.process_time()
        async for job, solution in solving.solved(self._runner, jobs):
            done += 1
            if done == self._size - self._runner.in_flight + 1:  # none is left to take its place
                taken = time.perf_counter() - began, time.process_time() - cpu
                after = await self._work()
            usage += solution.usage
            check, answer = job.problem.check, solution.answer
            right += check is not None and answer is not None and check(answer)
        new, scored = (int(b - a) for a, b in zip(before, after, strict=True))
        return Busy(new + scored, self._size, *taken, scored, usage, right)

    async def _work(self) -> tuple[float, float]:
        """Tokens that the policy has decoded, and that the reward model has read."""
        policy, prm = (self._configuration.engines[role] for role in ("policy", "prm"))
        return (await policy.counters())["new"], (await prm.counters())["prefill"]


async def run(
    policy: Engine,
    prm: Engine,
    rounds: int,
    concurrency: int,
    waves: int,
    max_tokens: int = solving.MAX_TOKENS,
) -> Table:
    """A measurement is `waves` times `concurrency` problems."""
    table = Table(
        "utilisation",
        f"Policy tokens and scored tokens a second of searches against best-of-N, {policy.name}, "
        f"{concurrency} problems at once, chains of at most {max_tokens} tokens",
        (
            "strategy",
            "tokens/s",
            "of them scored",
            "share of best-of-N [95 %]",
            "problems/min [95 %]",
            "policy tokens a problem",
            "accuracy % [95 %]",
            f"goal: share ≥ {GOAL:.0%}",
        ),
    )
    size = waves * concurrency
    problems = solving.dev(size * (rounds + 1))
    async with solving.runner(concurrency) as runner:
        contenders = {}
        for name, (strategy, budget) in STRATEGIES.items():
            configuration = solving.configuration(
                strategy, policy, prm, budget=budget, max_tokens=max_tokens
            )
            await runner.bind(configuration)
            contenders[name] = Solving(runner, configuration, problems, size)
        found = await alternate(contenders, rounds)
    for name, samples in found.items():
        table.add(_row(name, samples, found[BASELINE]))
    return table


def _row(name: str, samples: list[Busy], base: list[Busy]) -> Row:
    ratio = share(samples, base)
    many = sum(s.requests for s in samples)
    right = wilson(sum(s.right for s in samples), many)
    cells = (
        name,
        f"{mean_rate(samples):,.0f}",
        f"{sum(s.scored for s in samples) / sum(s.tokens for s in samples):.0%}",
        "1" if name == BASELINE else shown(ratio),
        shown(mean_interval([s.problems_a_minute for s in samples]), 0),
        f"{sum(s.usage.tokens for s in samples) / many:,.0f}",
        f"{100 * right.value:.1f} [{100 * right.low:.1f}, {100 * right.high:.1f}]",
        "" if name == BASELINE else verdict(ratio.low >= GOAL),
    )
    return Row(cells, {"samples": samples})
