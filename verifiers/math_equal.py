"""Whether two mathematical answers are equal: cheap certainty here, algebra in a killable process.

Most pairs are settled by spelling or as exact numbers. What is left goes to computer algebra in
`reasoning.isolation`, where a pair that never ends is killed; then nothing is known, and the
functions here raise or treat the pair as different, as each says.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from reasoning.chain import Chain
from reasoning.engines.base import Engine
from reasoning.errors import ConfigError
from reasoning.isolation import IsolatedFailure, IsolatedPool, shared_pool
from reasoning.problem import Problem
from reasoning.strategy import Rating, Verifier
from reasoning.verifiers.math_text import (
    MAX_ANSWER,
    canonical,
    in_base,
    is_word,
    normalise,
    number,
    spelling,
)

SYMBOLIC = "reasoning.verifiers.math_symbolic:equal"
CACHED_PAIRS = 100_000

# Verdicts of finished comparisons: voting and grading meet the same pairs again and again.
_known: OrderedDict[tuple[str, str], bool] = OrderedDict()


def quick(reference: str, answer: str) -> bool | None:
    """The verdict that needs no algebra, or None.

    Equal spellings are equal; two plain numbers are equal exactly when their values are, so that
    0.333 is not 1/3; numerals in two bases, and words, are equal only when spelled so.
    """
    if spelling(reference) == spelling(answer):
        return True
    if max(len(reference), len(answer)) > MAX_ANSWER or not answer.strip():
        return False
    if is_word(reference) or is_word(answer):
        return False
    one, other = normalise(reference), normalise(answer)
    if number(one) is not None and number(other) is not None:
        return False
    if in_base(one) is not None and in_base(other) is not None:
        return False
    return None


async def equal(
    reference: str,
    answer: str,
    *,
    pool: IsolatedPool | None = None,
    seconds: float | None = None,
) -> bool:
    """Whether `answer` equals `reference`, which leads where the two differ in kind.

    Raises IsolatedFailure where algebra hung, crashed or ran out of memory.
    """
    verdict = _decided(reference, answer)
    if verdict is not None:
        return verdict
    pair = (normalise(reference), normalise(answer))
    value = bool(await (pool or shared_pool()).call(SYMBOLIC, *pair, seconds=seconds))
    return _remember(pair, value)


def equal_sync(reference: str, answer: str, *, pool: IsolatedPool | None = None) -> bool:
    """`equal` for code without an event loop; blocks for the time limit at most."""
    verdict = _decided(reference, answer)
    if verdict is not None:
        return verdict
    pair = (normalise(reference), normalise(answer))
    return _remember(pair, bool((pool or shared_pool()).call_sync(SYMBOLIC, *pair)))


async def equal_batch(
    pairs: Sequence[tuple[str, str]], *, pool: IsolatedPool | None = None
) -> list[bool | None]:
    """`equal` of every (reference, answer), concurrently; None where it could not be decided."""
    verdicts = await asyncio.gather(
        *(equal(reference, answer, pool=pool) for reference, answer in pairs),
        return_exceptions=True,
    )
    out: list[bool | None] = []
    for verdict in verdicts:
        if isinstance(verdict, IsolatedFailure):
            out.append(None)
        elif isinstance(verdict, BaseException):
            raise verdict
        else:
            out.append(verdict)
    return out


async def groups(answers: Sequence[str], *, pool: IsolatedPool | None = None) -> list[int]:
    """For every answer, the index of the first answer it is equal to (its group's name).

    Algebraic equality is not quite transitive, so the rule is fixed: an answer joins the first
    group, in order of appearance, whose first member equals it, either way round. Undecided pairs
    are different. The cost is one comparison for each pair of distinct canonical forms at most.
    """
    first: dict[str, int] = {}
    for index, answer in enumerate(answers):
        first.setdefault(canonical(answer), index)
    leaders: list[int] = []
    leader_of: dict[str, int] = {}
    for key, index in first.items():
        both_ways = [
            pair
            for leader in leaders
            for pair in (
                (answers[leader], answers[index]),
                (answers[index], answers[leader]),
            )
        ]
        verdicts = await equal_batch(both_ways, pool=pool)
        joined = [leaders[place // 2] for place, same in enumerate(verdicts) if same]
        leader_of[key] = joined[0] if joined else index
        if not joined:
            leaders.append(index)
    return [leader_of[canonical(answer)] for answer in answers]


@dataclass(frozen=True, slots=True)
class EqualTo:
    """A problem's check: whether an answer equals its reference.

    Calling it blocks for the time limit at most, and takes what could not be decided for wrong;
    grading uses `decided` and `isolated`, which can tell.
    """

    reference: str

    def __call__(self, answer: str) -> bool:
        try:
            return equal_sync(self.reference, answer)
        except IsolatedFailure:
            return False

    def decided(self, answer: str) -> bool | None:
        """The verdict where it needs no other process."""
        return _decided(self.reference, answer)

    def isolated(self, answer: str) -> tuple[str, tuple[str, str]]:
        """The call that gives the verdict in a killable process."""
        return SYMBOLIC, (normalise(self.reference), normalise(answer))


class MathCheck(Verifier):
    """1 for a chain whose answer equals the problem's reference, else 0. An oracle.

    A chain without an answer is rated 0, and so is one whose answer could not be compared.
    """

    oracle: ClassVar[bool] = True

    async def rate(
        self, problem: Problem, chains: Sequence[Chain], engine: Engine | None
    ) -> list[Rating]:
        if problem.reference is None:
            raise ConfigError(
                f"problem {problem.id!r} of task {problem.task!r} has no reference answer; "
                f"use another verifier"
            )
        answers = [problem.extract(chain.text) for chain in chains]
        pairs = [(problem.reference, answer or "") for answer in answers]
        return [Rating((1.0 if same else 0.0,)) for same in await equal_batch(pairs)]


def _decided(reference: str, answer: str) -> bool | None:
    verdict = quick(reference, answer)
    if verdict is None:
        verdict = _known.get((normalise(reference), normalise(answer)))
    return verdict


def _remember(pair: tuple[str, str], value: bool) -> bool:
    _known[pair] = value
    if len(_known) > CACHED_PAIRS:
        _known.popitem(last=False)
    return value
