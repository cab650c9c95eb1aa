"""Grading: verdicts, and reasons where there is none."""

from __future__ import annotations

import asyncio
import functools
import gzip
import json
import operator
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reasoning.evals.grading import MAX_ANSWER, Grade, IsolatedCheck, Outcome, grade, grade_all
from reasoning.evals.math_answers import extract
from reasoning.evals.tasks import Countdown, MakesTarget
from reasoning.isolation import IsolatedPool, close_shared_pool
from reasoning.problem import Problem
from reasoning.verifiers.math_equal import SYMBOLIC, EqualTo

CORRECT, WRONG = Grade(Outcome.correct), Grade(Outcome.wrong)


@pytest.fixture(scope="module")
def pool() -> Iterator[IsolatedPool]:
    with IsolatedPool(workers=2, seconds=20.0) as pool:
        yield pool


@pytest.fixture(scope="module", autouse=True)
def shared_is_closed() -> Iterator[None]:
    yield
    close_shared_pool()


def problem(check: Callable[[str], Any] | None = None, reference: str | None = None) -> Problem:
    return Problem(
        id="p", messages=({"role": "user", "content": "?"},), check=check, reference=reference
    )


def is_seven(answer: str) -> bool:
    return answer == "7"


def never(answer: str) -> bool:
    time.sleep(60)
    return True


def broken(answer: str) -> bool:
    raise RuntimeError("bad check")


async def later(answer: str) -> bool:
    await asyncio.sleep(0.01)
    return answer == "7"


async def test_math(pool: IsolatedPool) -> None:
    asked = problem(EqualTo("x+1"))
    assert await grade(asked, " 1 + x", pool=pool) == CORRECT
    assert await grade(asked, "x", pool=pool) == WRONG
    assert isinstance(asked.check, IsolatedCheck)


async def test_countdown_never_needs_a_worker() -> None:
    asked = Countdown().recognise("Use 3, 7, 25, 50 to make 79")
    assert asked is not None and isinstance(asked.check, IsolatedCheck)
    with IsolatedPool(workers=1) as closed:
        pass
    assert await grade(asked, "50+25+7-3", pool=closed) == CORRECT
    assert await grade(asked, "50+25+7-4", pool=closed) == WRONG
    assert await grade(asked, "9**9**9**9", pool=closed) == WRONG
    assert await grade(asked, "__import__('os')", pool=closed) == WRONG


async def test_countdown_gives_the_same_verdict_in_a_worker(pool: IsolatedPool) -> None:
    check = MakesTarget((3, 7, 25, 50), 79)
    for answer in ("50+25+7-3", "79", "(" * 500):
        function, arguments = check.isolated(answer)
        assert await pool.call(function, *arguments) is check(answer)


async def test_no_answer_is_wrong() -> None:
    for answer in (None, "", "  "):
        found = await grade(problem(EqualTo("5")), answer)
        assert found == Grade(Outcome.wrong, "no answer")


async def test_too_long_is_ungradable() -> None:
    found = await grade(problem(EqualTo("5")), "5" * (MAX_ANSWER + 1))
    assert found.outcome is Outcome.ungradable
    assert "characters" in (found.reason or "")


async def test_a_hanging_answer_is_ungradable_and_the_rest_goes_on() -> None:
    async with IsolatedPool(workers=2, seconds=1.0) as pool:
        await asyncio.gather(*(pool.call(SYMBOLIC, "1", "1", seconds=60.0) for _ in range(8)))
        asked = problem(EqualTo("7"))
        answers = ["7", "9^{9^{9^{9}}}", "7.0", r"\sqrt{49}", "8"]
        grades = await grade_all([(asked, a) for a in answers], pool=pool)
    outcomes = [g.outcome.value for g in grades]
    assert outcomes == ["correct", "ungradable", "correct", "correct", "wrong"]
    assert (grades[1].reason or "").startswith("timeout")


async def test_functions_by_name_run_in_a_worker(pool: IsolatedPool) -> None:
    by_name = functools.partial(operator.eq, "7")  # a built-in: runs here
    assert await grade(problem(by_name), "7", pool=pool) == CORRECT
    contains = problem(functools.partial(json.dumps))  # any text is true
    assert await grade(contains, "7", pool=pool) == CORRECT


async def test_checks_that_cannot_travel_run_in_a_thread(pool: IsolatedPool) -> None:
    assert await grade(problem(lambda answer: answer == "7"), "7", pool=pool) == CORRECT
    keyed = functools.partial(int, base=10)
    assert await grade(problem(keyed), "0", pool=pool) == WRONG
    assert await grade(problem(later), "7", pool=pool) == CORRECT
    local = functools.partial(lambda wanted, answer: wanted == answer, "7")
    assert await grade(problem(local), "8", pool=pool) == WRONG
    hanging = problem(lambda answer: never(answer))
    found = await grade(hanging, "7", pool=pool, seconds=0.2)
    assert found.outcome is Outcome.ungradable and "timeout" in (found.reason or "")
    found = await grade(problem(lambda answer: broken(answer)), "7", pool=pool)
    assert found == Grade(Outcome.ungradable, "error: RuntimeError: bad check")
    unserialisable = problem(functools.partial(json.dump, object()))
    assert (await grade(unserialisable, "7", pool=pool)).outcome is Outcome.ungradable


async def test_a_reference_without_a_check_is_compared(pool: IsolatedPool) -> None:
    assert await grade(problem(reference="7"), " 7 ", pool=pool) == CORRECT
    assert await grade(problem(reference="7"), "8", pool=pool) == WRONG
    assert (await grade(problem(), "8", pool=pool)).outcome is Outcome.ungradable


def test_grading_without_a_running_loop_closes_cleanly() -> None:
    async def main() -> Grade:
        async with IsolatedPool(workers=1, seconds=20.0) as pool:
            return await grade(problem(EqualTo("x+1")), "1+x", pool=pool)

    assert asyncio.run(main()) == CORRECT


def transcripts() -> list[dict[str, Any]]:
    folder = os.environ.get("REASONING_DATA")
    if not folder:
        pytest.skip("REASONING_DATA is not set: no recorded transcripts to grade")
    with gzip.open(Path(folder) / "transcripts_math100x16.jsonl.gz", "rt") as lines:
        return [json.loads(line) for line in lines]


async def count(
    rows: list[dict[str, Any]], answer: Callable[[dict[str, Any]], str | None]
) -> Counter[str]:
    asked = {row["gold"]: problem(EqualTo(row["gold"])) for row in rows}
    async with IsolatedPool(seconds=20.0) as pool:
        grades = await grade_all([(asked[r["gold"]], answer(r)) for r in rows], pool=pool)
    return Counter(g.outcome.value for g in grades)


def full_text(row: dict[str, Any]) -> str | None:
    return extract("".join(turn["text"] for turn in row["turns"]))


async def test_a_sample_of_recorded_transcripts() -> None:
    rows = random.Random(0).sample(transcripts(), 200)
    plain = sum(row["gold"] == row["recorded_answer"] for row in rows)
    graded = await count(rows, lambda row: row["recorded_answer"])
    whole = await count(rows, full_text)
    assert plain < graded["correct"] < whole["correct"]
    assert graded["ungradable"] == whole["ungradable"] == 0


@pytest.mark.slow
async def test_all_recorded_transcripts() -> None:
    rows = transcripts()
    assert sum(row["gold"] == row["recorded_answer"] for row in rows) == 947
    # Their extractor cuts `\\dfrac{5}{13}` at its first brace; reading the text finds it whole.
    assert await count(rows, lambda row: row["recorded_answer"]) == {"correct": 1051, "wrong": 549}
    assert await count(rows, full_text) == {"correct": 1219, "wrong": 381}
