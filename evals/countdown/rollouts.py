"""Rollouts of a policy, labelled line by line: what a process reward model learns from.

Two labels a line. `outcome`: the share of this problem's rollouts that ended right, from here (one
Monte-Carlo sample: whether this one did). `reachable`: whether the target can still be made from
the line's state, which the exact solver knows; a line that is not true arithmetic is worth 0.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from reasoning.engines.base import Engine, SampleRequest, Sampling, Stream
from reasoning.evals.countdown.check import check, extract_answer
from reasoning.evals.countdown.problems import CountdownProblem
from reasoning.evals.countdown.solver import Numbers, reachable
from reasoning.evals.countdown.traces import follows, parse_line, prompt
from reasoning.randomness import key


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sample. lines: for each line of the text, whether the target stayed reachable."""

    problem: CountdownProblem
    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    text: str
    right: bool
    reachable: tuple[bool, ...]


async def roll(
    engine: Engine,
    problems: Iterable[CountdownProblem],
    samples: int,
    *,
    max_tokens: int,
    seed: int,
) -> list[Rollout]:
    """`samples` rollouts of each problem at temperature 1."""

    async def one(problem: CountdownProblem) -> list[Rollout]:
        content = prompt(problem.numbers, problem.target)
        ids = tuple(engine.tokenizer.render([{"role": "user", "content": content}]))
        streams = tuple(Stream(key("rollout", seed, problem.id, i)) for i in range(samples))
        reply = await engine.sample(SampleRequest(ids, max_tokens, Sampling(), streams))
        return [
            Rollout(problem, ids, c.ids, c.text, right(problem, c.text), judged(problem, c.text))
            for c in reply.completions
        ]

    return [r for found in await asyncio.gather(*map(one, problems)) for r in found]


def right(problem: CountdownProblem, text: str) -> bool:
    """Whether the text's answer passes the check."""
    answer = extract_answer(text)
    return answer is not None and check(answer, problem.numbers, problem.target)


def judged(problem: CountdownProblem, text: str) -> tuple[bool, ...]:
    """For each line: is it true, and is the target still within reach after it?"""
    state: Numbers = problem.numbers
    visited: list[Numbers] = [state]
    sound = True
    verdicts = []
    for text_line in text.splitlines():
        line = parse_line(text_line)
        if line is None:
            verdicts.append(right(problem, text_line + "\n"))
            continue
        # A return mends a wrong line: what counts is the state it goes back to.
        sound = follows(state, line, visited) and (sound or line.operation is None)
        state = line.state
        if sound:
            visited.append(state)
        verdicts.append(sound and len(state) <= 6 and reachable(state, problem.target))
    return tuple(verdicts)


def pass_at(rollouts: Iterable[Rollout], ks: Iterable[int]) -> dict[int, float]:
    """Unbiased pass@k over problems."""
    from reasoning.evals.sampling import pass_at_k

    groups: dict[str, list[bool]] = {}
    for rollout in rollouts:
        groups.setdefault(rollout.problem.id, []).append(rollout.right)
    samples = [len(group) for group in groups.values()]
    rights = [sum(group) for group in groups.values()]
    return {k: float(pass_at_k(samples, rights, k).mean()) for k in ks}
