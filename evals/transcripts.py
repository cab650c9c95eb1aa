"""MATH problems of which recorded samples are at hand, in a half to tune on and one to report.

The recording names its problems by the ids of math500.jsonl. Which half a problem is in is a hash
of its id, so that no choice could favour one.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from reasoning.errors import DataError
from reasoning.evals.tasks import Math500, MathRow, data_folder
from reasoning.problem import Problem


class Transcripts(Math500):
    """Recorded solutions of MATH problems, for chain policies that cut them.

    half: the problems that rules are tuned on, or the others. recording: a file of the data
    folder, one sample a line; `unique_id` names its problem. closing: what ends its thinking."""

    name: ClassVar[str] = "transcripts"

    half: Literal["tune", "report"] = "report"
    recording: str = Field(default="transcripts_math100x16.jsonl.gz", min_length=1)
    closing: str = Field(default="</think>", min_length=1)

    def row(self, data: dict[str, Any], line: int) -> dict[str, Any]:
        found = super().row(data, line)
        return {**found, "meta": {**found["meta"], "split": self.half}}

    def _rows(self) -> Iterator[MathRow]:
        ids = {str(sample["unique_id"]) for sample in samples(self.recording)}
        ordered = sorted(ids, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        middle = len(ordered) // 2
        ours = set(ordered[:middle] if self.half == "tune" else ordered[middle:])
        return (row for row in super()._rows() if row.id in ours)

    def _problem(self, row: MathRow) -> Problem:
        messages = ({"role": "user", "content": row.question},)
        return replace(super()._problem(row), messages=messages, closing=self.closing)


def samples(recording: str) -> Iterator[dict[str, Any]]:
    """The lines of a recording in the data folder. Raises DataError for one that is none."""
    path = Path(data_folder()) / recording
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                sample = json.loads(line)
                if "unique_id" not in sample:
                    raise DataError(f"{path}, line {number} has no `unique_id`")
                yield sample
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise DataError(f"{path}, line {number}: {error}") from None
