"""Experiment: runs a recipe into a folder, and continues it after whatever stopped it.

FOLDER/recipe.json    the recipe
FOLDER/run.json       commit, versions, models, hardware, one entry for each sitting
FOLDER/journal.jsonl  every reply received
FOLDER/results.jsonl  one record for each finished (problem, configuration, replicate)
FOLDER/../replies.sqlite  chains by content, shared by the runs beside it
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from reasoning import header
from reasoning.budget import Usage
from reasoning.configuration import Configuration
from reasoning.errors import JournalError
from reasoning.evals import records
from reasoning.evals.grading import Grade, Outcome, grade
from reasoning.journal import Journal, Key
from reasoning.problem import Problem, Solution
from reasoning.recipe import Recipe
from reasoning.replies import ReplyStore
from reasoning.runner import Job, Runner, interruptible
from reasoning.session import Session
from reasoning.shared_state import SharedState

# Called with each finished record and the number of those still to come.
Progress = Callable[[dict[str, Any], int], None]


@dataclass
class Summary:
    """What a sitting came to. expected = correct + wrong + ungradable + failed + skipped."""

    folder: Path
    expected: int = 0
    grades: Counter[str] = field(default_factory=Counter)
    usage: Usage = field(default_factory=Usage)
    abandoned: float = 0
    asked_again: list[Key] = field(default_factory=list)
    interrupted: bool = False

    def __str__(self) -> str:
        skipped = self.expected - sum(self.grades.values())
        parts = [f"{self.grades[g]} {g}" for g in ("correct", "wrong", "ungradable", "failed")]
        return f"expected {self.expected} = {' + '.join(parts)} + {skipped} skipped"


async def run(
    recipe: Recipe, folder: Path, progress: Progress | None = None, command: str = ""
) -> Summary:
    """Run what is not done yet. Ctrl-C ends it in order; nothing finished is lost.

    command: how the user started it, kept in the header for tables.
    """
    task = recipe.build_task()
    problems: list[Problem] = task.problems(recipe.count)
    configurations = recipe.configurations()
    session = Session()
    journal = Journal(folder / "journal.jsonl")  # locks the folder
    store = ReplyStore(folder.parent / "replies.sqlite")
    try:
        _keep_recipe(recipe, folder)
        runner = Runner(session, journal=journal, store=store, in_flight=recipe.in_flight)
        names = {}
        for configuration in configurations:
            names[id(configuration)] = (await runner.bind(configuration)).identity
            configuration.policy.check_task(problems[0], configuration.engines)
        asked = [
            (names[id(configuration)], problem.id, seed)
            for configuration, problem, seed in itertools.product(
                configurations, problems, recipe.seeds
            )
        ]
        summary = Summary(folder, len(asked))
        done = _finished(folder, summary, set(asked))
        _recall(runner.shared, folder, problems, configurations, names)
        header.note_sitting(
            folder, configurations[0].engines, recipe.models, command, list(names.values())
        )
        lanes = [lane for lane in _lanes(recipe, problems, configurations, names, done) if lane]
        left, spent = sum(map(len, lanes)), Usage()
        with interruptible(session), (folder / records.RESULTS).open("ab") as results:
            async with asyncio.TaskGroup() as grading:

                async def finish(job: Job, solution: Solution) -> None:
                    nonlocal left
                    name = names[id(job.configuration)]
                    record = await _graded(recipe, name, job, solution)
                    store.flush()  # what is done is not replayed, which would put its chains again
                    _append(results, record)
                    left -= 1
                    summary.grades[record["grade"]] += 1
                    summary.usage += solution.usage
                    if progress is not None:
                        progress(record, left)

                async for job, solution in runner.solve_all(lanes):
                    spent += solution.usage
                    if solution.status != "interrupted":
                        grading.create_task(finish(job, solution))
        summary.interrupted = session.halted
        summary.asked_again = journal.asked_again
        summary.abandoned = await _abandoned(configurations[0], spent)
        return summary
    finally:
        journal.close()
        store.close()
        await session.close()


async def _graded(recipe: Recipe, name: str, job: Job, solution: Solution) -> dict[str, Any]:
    if solution.status in ("failed", "group_aborted"):
        verdict = Grade(Outcome.ungradable)
    else:
        verdict = await grade(job.problem, solution.answer)
    return records.record(
        recipe.name, name, job.configuration, job.problem, job.replicate, solution, verdict
    )


def _lanes(
    recipe: Recipe,
    problems: list[Problem],
    configurations: list[Configuration],
    names: dict[int, str],
    done: set[tuple[str, str, int]],
) -> Iterator[list[Job]]:
    """For each problem and seed its configurations, in order, without what is done."""
    for seed in recipe.seeds:
        for place, problem in enumerate(problems):
            yield [
                Job(problem, configuration, seed, configuration.round_of(place))
                for configuration in configurations
                if (names[id(configuration)], problem.id, seed) not in done
            ]


def _recall(
    shared: SharedState,
    folder: Path,
    problems: list[Problem],
    configurations: list[Configuration],
    names: dict[int, str],
) -> None:
    """What finished problems contributed in earlier sittings."""
    learning = {names[id(c)]: c for c in configurations if c.policy.learns()}
    places = {problem.id: place for place, problem in enumerate(problems)}
    for record in (
        records.read([folder]) if learning and (folder / records.RESULTS).exists() else ()
    ):
        configuration = learning.get(record["configuration"])
        place = places.get(record["problem"])
        if configuration is not None and place is not None and record["grade"] != "failed":
            where = record["configuration"], record["replicate"], configuration.round_of(place)
            shared.add(*where, record["problem"], record.get("evidence", {}))


def _finished(
    folder: Path, summary: Summary, asked: set[tuple[str, str, int]]
) -> set[tuple[str, str, int]]:
    """What of `asked` has a record, and it into the summary."""
    path = folder / records.RESULTS
    done: set[tuple[str, str, int]] = set()
    if not path.exists():
        return done
    _cut_torn_line(path)
    for record in records.read([folder]):
        key = (record["configuration"], record["problem"], record["replicate"])
        if key in asked and key not in done:
            done.add(key)
            summary.grades[record["grade"]] += 1
            summary.usage += Usage(**record["usage"])
    return done


def _cut_torn_line(path: Path) -> None:
    with path.open("rb+") as file:
        data = file.read()
        file.truncate(data.rfind(b"\n") + 1)


def _append(file: IO[bytes], record: dict[str, Any]) -> None:
    file.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")
    file.flush()


def _keep_recipe(recipe: Recipe, folder: Path) -> None:
    path = folder / "recipe.json"
    kept = header.kept(path) or recipe.model_dump()
    if kept.get("name") != recipe.name:
        raise JournalError(
            f"{folder} holds a run of another recipe; give another folder with --out"
        )
    was, now = _problems_of(kept.get("task")), _problems_of(recipe.task)
    if was != now:
        raise JournalError(
            f"{folder} holds answers to problems of another task ({was}, not {now}), which tables "
            f"would mix; give the recipe another name, or another folder with --out"
        )
    header.rewrite(path, recipe.model_dump_json(indent=2) + "\n")


def _problems_of(task: Any) -> dict[str, Any]:
    """What a task's spec says but for the count: with another count, problems are the same."""
    spec = dict(task) if isinstance(task, dict) else {"name": task}
    return {key: value for key, value in spec.items() if key != "count"}


async def _abandoned(configuration: Configuration, usage: Usage) -> float:
    """Tokens that engines decoded and nobody received, by their own counters."""
    decoded = 0.0
    for role, engine in configuration.engines.items():
        counters = await engine.counters() if role == "policy" else {}
        decoded += counters.get("new", 0.0)
    return max(0.0, decoded - (usage.tokens - usage.reused)) if decoded else 0.0


def run_sync(
    recipe: Recipe, folder: Path, progress: Progress | None = None, command: str = ""
) -> Summary:
    """`run`, for code that is not async."""
    return asyncio.run(run(recipe, folder, progress, command))
