"""Grading: was the answer right, decided in a process that can be killed.

What a model wrote may make a grader hang or crash; then the answer is `ungradable`, with the
reason, and counts as not right in every table. Nothing a model wrote is evaluated as code.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from reasoning.isolation import SECONDS, IsolatedFailure, IsolatedPool, shared_pool
from reasoning.problem import Problem

# Longer answers are not handed to a grader; none is right.
MAX_ANSWER = 10_000


class Outcome(StrEnum):
    """correct and wrong are verdicts; ungradable is a grader that gave none."""

    correct = "correct"
    wrong = "wrong"
    ungradable = "ungradable"


@dataclass(frozen=True, slots=True)
class Grade:
    """An outcome, and why where it is not the grader's plain verdict."""

    outcome: Outcome
    reason: str | None = None


@runtime_checkable
class IsolatedCheck(Protocol):
    """A problem's check that knows how to run in another process."""

    def decided(self, answer: str) -> bool | None:
        """The verdict where it needs no other process, else None."""

    def isolated(self, answer: str) -> tuple[str, tuple[Any, ...]]:
        """Function name "module:name" and JSON arguments of the call that gives the verdict."""


async def grade(
    problem: Problem,
    answer: str | None,
    *,
    pool: IsolatedPool | None = None,
    seconds: float | None = None,
) -> Grade:
    """Grade one answer; never raises for what the answer holds.

    pool: killable workers (the shared ones by default). seconds: wall-clock limit of the check.
    A check that cannot run in a worker (a lambda, a method) runs in a thread of this process: it
    is given up at the limit, but goes on.
    """
    if answer is None or not answer.strip():
        return Grade(Outcome.wrong, "no answer")
    if len(answer) > MAX_ANSWER:
        return Grade(Outcome.ungradable, f"the answer has {len(answer):,} characters")
    check: Any = problem.check
    if check is None:
        if problem.reference is None:
            return Grade(Outcome.ungradable, "the problem has neither check nor reference")
        return _verdict(problem.canonical(answer) == problem.canonical(problem.reference))
    if isinstance(check, IsolatedCheck):
        decided = check.decided(answer)
        if decided is not None:
            return _verdict(decided)
        call: tuple[str, tuple[Any, ...]] | None = check.isolated(answer)
    else:
        call = _importable(check, answer)
    try:
        if call is None:
            return _verdict(await _in_thread(check, answer, seconds or SECONDS))
        function, arguments = call
        return _verdict(await (pool or shared_pool()).call(function, *arguments, seconds=seconds))
    except IsolatedFailure as failure:
        return Grade(Outcome.ungradable, f"{failure.reason}: {failure}")
    except TimeoutError:
        return Grade(Outcome.ungradable, f"timeout: the check took over {seconds or SECONDS:g} s")
    except Exception as error:
        # A user's check that raises is a grader without a verdict, not the end of a sweep.
        return Grade(Outcome.ungradable, f"error: {type(error).__name__}: {error}"[:300])


async def grade_all(
    items: Iterable[tuple[Problem, str | None]],
    *,
    pool: IsolatedPool | None = None,
    seconds: float | None = None,
) -> list[Grade]:
    """Grades of many answers, concurrently, in order."""
    return list(
        await asyncio.gather(
            *(grade(problem, answer, pool=pool, seconds=seconds) for problem, answer in items)
        )
    )


def _verdict(right: Any) -> Grade:
    return Grade(Outcome.correct if right else Outcome.wrong)


def _importable(check: Callable[[str], bool], answer: str) -> tuple[str, tuple[Any, ...]] | None:
    """The check as a call by name: a module's function, or `functools.partial` of one."""
    before: tuple[Any, ...] = ()
    if isinstance(check, functools.partial):
        if check.keywords:
            return None
        before, check = check.args, check.func
    if not inspect.isfunction(check) or inspect.iscoroutinefunction(check):
        return None
    if "." in check.__qualname__ or "<" in check.__qualname__ or check.__module__ == "__main__":
        return None
    try:
        json.dumps(before)
    except (TypeError, ValueError):
        return None
    return f"{check.__module__}:{check.__qualname__}", (*before, answer)


async def _in_thread(check: Callable[[str], Any], answer: str, seconds: float) -> Any:
    done: Future[Any] = Future()

    def run() -> None:
        try:
            result = check(answer)
        except BaseException as error:
            settle = functools.partial(done.set_exception, error)
        else:
            settle = functools.partial(done.set_result, result)
        if done.set_running_or_notify_cancel():  # else it was given up
            settle()

    # A daemon, not the loop's executor: a check that hangs must not keep the program from ending.
    threading.Thread(target=run, name="check", daemon=True).start()
    async with asyncio.timeout(seconds):
        result = await asyncio.wrap_future(done)
        return await result if inspect.isawaitable(result) else result
