"""Countdown's dev problems under a strategy: what the benches of strategies have in common."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count

from bench.pairs import Sample
from reasoning.budget import Budget, Usage
from reasoning.configuration import Configuration
from reasoning.engines.base import Engine, Sampling
from reasoning.evals.tasks import Countdown
from reasoning.naming import Spec, build
from reasoning.problem import Problem, Solution
from reasoning.registry import chain_policies, strategies
from reasoning.runner import Job, Runner
from reasoning.session import Session
from reasoning.strategy import Verifier
from reasoning.verifiers.prm import ProcessReward

MAX_TOKENS = 640  # of a chain


def dev(count: int) -> list[Problem]:
    return Countdown(split="dev").problems(count)


def configuration(
    strategy: Spec,
    policy: Engine,
    prm: Engine | None = None,
    *,
    draft: Engine | None = None,
    chain_policy: Spec = "plain",
    budget: Budget | None = None,
    max_tokens: int = MAX_TOKENS,
) -> Configuration:
    """A strategy at the recipes' temperature, with `prm` as its verifier's model if it has one."""
    engines = {"policy": policy} | ({} if draft is None else {"draft": draft})
    verifiers: dict[str, tuple[Verifier, str | None]] = {}
    if prm is not None:
        engines["prm"] = prm
        verifiers["verifier"] = (ProcessReward(), "prm")
    return Configuration(
        strategy=build(strategies, strategy),
        policy=build(chain_policies, chain_policy),
        engines=engines,
        verifiers=verifiers,
        sampling=Sampling(temperature=0.6),
        max_tokens=max_tokens,
        budget=budget or Budget(),
    )


@asynccontextmanager
async def runner(in_flight: int) -> AsyncIterator[Runner]:
    """A runner without journal and store; what it has loaded is freed at the end."""
    session = Session()
    try:
        yield Runner(session, in_flight=in_flight)
    finally:
        await session.close()


async def solved(runner: Runner, jobs: Iterable[Job]) -> AsyncIterator[tuple[Job, Solution]]:
    """Jobs as they are done. Raises RuntimeError for one that failed."""
    async for job, solution in runner.solve_all([job] for job in jobs):
        if solution.status not in ("ok", "budget"):
            raise RuntimeError(f"the benchmark failed: {solution.status}: {solution.error}")
        yield job, solution


async def cold(configuration: Configuration) -> None:
    """Load its engines anew: no measurement finds another's prefixes in a cache, such as the first
    lines that many chains have in common."""
    for engine in configuration.engines.values():
        await engine.close()
        await engine.start()


@dataclass(frozen=True, slots=True)
class Solved(Sample):
    """roles: the usage of each role, for all its problems."""

    roles: dict[str, Usage]

    @property
    def usage(self) -> Usage:
        return Usage.sum(self.roles.values())


class Again:
    """The same problems in every measurement, with other luck; cold: from engines loaded anew."""

    def __init__(
        self,
        runner: Runner,
        configuration: Configuration,
        problems: Sequence[Problem],
        *,
        cold: bool,
    ) -> None:
        self._runner = runner
        self._configuration = configuration
        self._problems = problems
        self._cold = cold
        self._replicates = count()

    async def __call__(self) -> Solved:
        replicate = next(self._replicates)
        jobs = [Job(problem, self._configuration, replicate) for problem in self._problems]
        if self._cold:
            await cold(self._configuration)
        roles: dict[str, Usage] = {}
        began, cpu = time.perf_counter(), time.process_time()
        async for _, solution in solved(self._runner, jobs):
            for role, usage in solution.roles.items():
                roles[role] = roles.get(role, Usage()) + usage
        taken = time.perf_counter() - began, time.process_time() - cpu
        tokens = sum(usage.tokens for usage in roles.values())
        return Solved(tokens, len(jobs), *taken, roles)
