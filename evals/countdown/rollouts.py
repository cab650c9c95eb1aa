"""Rollouts of a policy, judged line by line: what a process reward model learns from.

A line is judged by the exact solver: how many numbers are left, and which share of the moves from
there keeps the target within reach. A line that is not true arithmetic is worth 0, and so is all
that builds on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reasoning.engines.base import Engine, SampleRequest, Sampling, Stream
from reasoning.evals.countdown.check import check, extract_answer
from reasoning.evals.countdown.problems import CountdownProblem
from reasoning.evals.countdown.solver import Numbers, moves, reachable
from reasoning.evals.countdown.traces import follows, parse_line, prompt
from reasoning.randomness import key


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the solver says of a line. left: numbers left (0: this is the answer line). worth: share
    of the moves that keep the target in reach (1 or 0 where one number is left, or none)."""

    left: int
    worth: float


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sample. verdicts: one for each line of the text."""

    problem: CountdownProblem
    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    text: str
    right: bool
    verdicts: tuple[Verdict, ...]

    @classmethod
    def of(
        cls, problem: CountdownProblem, prompt_ids: Sequence[int], ids: Sequence[int], text: str
    ) -> Rollout:
        """A sample, judged."""
        verdicts = judged(problem, text)
        return cls(problem, tuple(prompt_ids), tuple(ids), text, right(problem, text), verdicts)


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
        return [Rollout.of(problem, ids, c.ids, c.text) for c in reply.completions]

    return [r for found in await asyncio.gather(*map(one, problems)) for r in found]


def right(problem: CountdownProblem, text: str) -> bool:
    """Whether the text's answer passes the check."""
    answer = extract_answer(text)
    return answer is not None and check(answer, problem.numbers, problem.target)


def judged(problem: CountdownProblem, text: str) -> tuple[Verdict, ...]:
    """A verdict on each line."""
    state: Numbers = problem.numbers
    visited: list[Numbers] = [state]
    sound = True
    verdicts = []
    for text_line in text.splitlines():
        line = parse_line(text_line)
        if line is None:
            verdicts.append(Verdict(0, float(right(problem, text_line + "\n"))))
            continue
        # A return mends a wrong line: what counts is the state it goes back to.
        sound = follows(state, line, visited) and (sound or line.operation is None)
        state = line.state
        if sound:
            visited.append(state)
        known = sound and len(state) <= 6
        verdicts.append(Verdict(len(state), worth(state, problem.target) if known else 0.0))
    return tuple(verdicts)


def worth(state: Numbers, target: int) -> float:
    """Share of the moves from a state that keep the target within reach."""
    if len(state) == 1:
        return float(state[0] == target)
    kept = [reachable(left, target) for *_, left in moves(state)]
    return sum(kept) / len(kept)


def pass_at(rollouts: Iterable[Rollout], ks: Iterable[int]) -> dict[int, float]:
    """Unbiased pass@k over problems."""
    from reasoning.evals.sampling import pass_at_k

    groups: dict[str, list[bool]] = {}
    for rollout in rollouts:
        groups.setdefault(rollout.problem.id, []).append(rollout.right)
    samples = [len(group) for group in groups.values()]
    rights = [sum(group) for group in groups.values()]
    return {k: float(pass_at_k(samples, rights, k).mean()) for k in ks}
