"""Records: one line for each (problem, configuration, replicate) that a run has finished."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from reasoning import header
from reasoning.configuration import Configuration
from reasoning.errors import DataError, JournalError
from reasoning.evals.grading import Grade
from reasoning.problem import Problem, Solution
from reasoning.shared_state import evidence
from reasoning.trace import Trace

RESULTS = "results.jsonl"
# What a run that goes on reads of its records.
_NEEDED = {"configuration", "problem", "replicate", "grade", "usage"}


def record(
    run: str,
    identity: str,
    configuration: Configuration,
    problem: Problem,
    replicate: int,
    solution: Solution,
    grade: Grade,
) -> dict[str, Any]:
    """A result as JSON values. A failed problem counts as failed, whatever it left behind."""
    failed = solution.status in ("failed", "group_aborted")
    return {
        "run": run,
        "configuration": identity,
        "label": configuration.label,
        "strategy": configuration.describe()["strategy"]["name"],
        "settings": configuration.describe()["strategy"],
        "chain_policy": configuration.describe()["chain_policy"],
        "prompt": configuration.prompt,
        "sampling": configuration.describe()["sampling"],
        "budget": str(configuration.budget),
        "oracle": configuration.oracle,
        "task": problem.task,
        "split": problem.meta.get("split"),
        "problem": problem.id,
        "replicate": replicate,
        "status": solution.status,
        "answer": solution.answer,
        "grade": "failed" if failed else str(grade.outcome),
        "reason": solution.error if failed else grade.reason,
        "usage": solution.usage.sparse(),
        "roles": {role: usage.sparse() for role, usage in solution.roles.items()},
        "seconds": round(solution.seconds, 4),
        "racing": solution.racing,
        **_told(solution.meta),
        **_learned(solution.trace),
    }


def _told(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What the strategy says of its outcome: what it counted, and what was wrong with ratings."""
    told = {name: value for name, value in meta.items() if _is_json(value)}
    return {"meta": told} if told else {}


def _is_json(value: Any) -> bool:
    """Strategies of third parties may say what no record can hold."""
    try:
        return bool(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        return False


def _learned(trace: Trace) -> dict[str, Any]:
    """What later rounds read of this problem, and what its chain policy decided on the way."""
    given = evidence(trace)
    decided = sorted(trace.of("decision"), key=lambda event: event.branch)
    decisions = [event.data for event in decided]
    return {
        **({"evidence": given} if given else {}),
        **({"decisions": decisions} if decisions else {}),
    }


def read(folders: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """All records of run folders. A torn last line is left out; any other bad line is an error."""
    for folder in folders:
        path = folder / RESULTS if folder.is_dir() else folder
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}; run a recipe first") from None
        for number, line in enumerate(lines[:-1], 1):
            found = _parsed(line)
            if not isinstance(found, dict) or not found.keys() >= _NEEDED:
                raise DataError(
                    f"{path}:{number} is not a result record; delete the line, and run the recipe "
                    f"again: the journal has what was paid for"
                )
            yield found


def current(folders: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """The records of what each folder's recipe asked for when it ran last. A recipe that was
    changed has left others behind; where no header says which, all."""
    for folder in folders:
        yield from still_asked(folder, read([folder]))


def still_asked(folder: Path, found: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Those of the folder's records that `current` gives."""
    asked = set(_last_sitting(folder).get("configurations", ()))
    return (record for record in found if not asked or record["configuration"] in asked)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def command(folder: Path) -> str:
    """The command that a run folder was last continued with."""
    found = _last_sitting(folder).get("command")
    if not found:
        raise DataError(f"{folder / 'run.json'} does not say which command made the run")
    return str(found)


def _last_sitting(folder: Path) -> dict[str, Any]:
    """What the folder's header says of it; {} where it says nothing."""
    try:
        found = header.kept(folder / "run.json")["sittings"][-1]
    except (JournalError, OSError, LookupError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}
