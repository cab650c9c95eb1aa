"""Tasks: where problems come from, how they are asked, and how an answer is found and judged.

A task's fields are its settings. Countdown makes its problems; the others read files named in
their class from the folder in the environment variable REASONING_DATA.
"""

from __future__ import annotations

import abc
import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field, ValidationError

from reasoning.errors import ConfigError, DataError
from reasoning.evals.countdown import check as countdown
from reasoning.evals.countdown import problems as generator
from reasoning.evals.countdown.problems import CountdownProblem
from reasoning.evals.countdown.traces import prompt
from reasoning.evals.math_answers import canonical, extract
from reasoning.naming import explain
from reasoning.problem import Problem
from reasoning.strategy import Settings
from reasoning.verifiers.math_equal import EqualTo

DATA = "REASONING_DATA"


class Task(Settings, abc.ABC):
    """A source of problems.

    name: its registry name. splits: those that exist. step: the separator that ends a step in
    its solutions. system: the system message, None where there is none.
    """

    name: ClassVar[str]
    splits: ClassVar[tuple[str, ...]] = ("test",)
    step: ClassVar[str] = "\n\n"
    system: ClassVar[str | None] = None

    @abc.abstractmethod
    def problems(self, count: int | None = None) -> list[Problem]:
        """The first `count` problems of the split, always in the same order; all for None.

        Raises ConfigError for a count that the split does not hold, DataError for its files.
        """

    def recognise(self, text: str) -> Problem | None:
        """The problem that a free text states, or None when it is none of this task's."""
        return None

    @abc.abstractmethod
    def extract(self, text: str) -> str | None:
        """The answer in a solution's text, or None."""

    @abc.abstractmethod
    def canonical(self, answer: str) -> str:
        """The key by which votes are counted."""


@dataclass(frozen=True, slots=True)
class MakesTarget:
    """Countdown's check: the expression makes the target of all numbers, each used once."""

    numbers: tuple[int, ...]
    target: int

    def __call__(self, answer: str) -> bool:
        return countdown.check(answer, self.numbers, self.target)

    def decided(self, answer: str) -> bool | None:
        """Always here: the check is an own parser of bounded length and depth."""
        return self(answer)

    def isolated(self, answer: str) -> tuple[str, tuple[Any, ...]]:
        """The same check as a call in another process."""
        return "reasoning.evals.countdown.check:check", (answer, self.numbers, self.target)


class Countdown(Task):
    """Make a target of all the numbers with + - * / (arXiv 2504.15466).

    A vote is for an expression as it is written: two different right expressions are different
    answers, so majority voting measures agreement in wording. The check knows no reference, but
    is exact: a strategy that uses it reports coverage.
    """

    name: ClassVar[str] = "countdown"
    splits: ClassVar[tuple[str, ...]] = ("train", "calibrate", "dev", "test")
    step: ClassVar[str] = "\n"
    default_count: ClassVar[int] = 100

    split: Literal["train", "calibrate", "dev", "test"] = "test"
    numbers: int = Field(default=4, ge=3, le=6)
    seed: int = 0

    def problems(self, count: int | None = None) -> list[Problem]:
        """`default_count` problems for None: the generator has no end."""
        wanted = self.default_count if count is None else _positive(count)
        made = generator.problems(self.split, wanted, numbers=self.numbers, seed=self.seed)
        return [self._problem(problem) for problem in made]

    def recognise(self, text: str) -> Problem | None:
        """A problem such as "Use 3, 7, 25, 50 to make 79"."""
        found = generator.parse_question(text)
        return None if found is None else self._problem(found)

    def extract(self, text: str) -> str | None:
        return countdown.extract_answer(text)

    def canonical(self, answer: str) -> str:
        return countdown.canonical(answer)

    def _problem(self, made: CountdownProblem) -> Problem:
        return Problem(
            id=made.id,
            messages=({"role": "user", "content": prompt(made.numbers, made.target)},),
            task=self.name,
            check=MakesTarget(made.numbers, made.target),
            extract=countdown.extract_answer,
            canonical=countdown.canonical,
            step=self.step,
            closing="answer ",
            meta={
                "numbers": list(made.numbers),
                "target": made.target,
                "split": generator.split(made.numbers, made.target),
            },
        )


class MathRow(BaseModel):
    """One line of a mathematics file, whatever its source calls the fields."""

    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    id: str
    meta: dict[str, Any] = {}


class MathTask(Task):
    """Questions with a reference answer, in a JSON-lines file of the data folder.

    A vote counts answers as equal when they are spelled alike or are equal numbers; that a right
    answer equals the reference is decided by algebra, in a killable process.
    """

    file: ClassVar[str]
    system: ClassVar[str | None] = (
        "Solve the problem step by step, with a blank line between steps. "
        "Finish with the answer alone inside \\boxed{}."
    )

    split: Literal["test"] = "test"

    def problems(self, count: int | None = None) -> list[Problem]:
        rows = list(self._rows())
        if count is not None and _positive(count) > len(rows):
            raise ConfigError(f"{self.name} has {len(rows)} problems, not {count}")
        return [self._problem(row) for row in rows[:count]]

    def extract(self, text: str) -> str | None:
        return extract(text)

    def canonical(self, answer: str) -> str:
        return canonical(answer)

    def row(self, data: dict[str, Any], line: int) -> dict[str, Any]:
        """The fields of MathRow from one line's object; line counts from 1."""
        answer = data.get("answer")
        return {
            "question": data.get("problem", data.get("question")),
            "answer": str(answer) if isinstance(answer, int) else answer,  # AIME's are numbers
            "id": f"{self.name}/{data.get('id', line - 1)}",
        }

    def _rows(self) -> Iterator[MathRow]:
        path = data_folder() / self.file
        seen: dict[str, int] = {}
        for line, data in _objects(path):
            try:
                row = MathRow(**self.row(data, line))
            except ValidationError as error:
                raise DataError(f"{path}, line {line}: {explain(error)}") from None
            except (KeyError, ValueError) as error:
                raise DataError(f"{path}, line {line}: {error}") from None
            if row.id in seen:
                raise DataError(
                    f"{path}, line {line}: id {row.id!r} is that of line {seen[row.id]}"
                )
            seen[row.id] = line
            yield row

    def _problem(self, row: MathRow) -> Problem:
        return Problem(
            id=row.id,
            messages=(
                {"role": "system", "content": self.system or ""},
                {"role": "user", "content": row.question},
            ),
            task=self.name,
            reference=row.answer,
            check=EqualTo(row.answer),
            extract=extract,
            canonical=canonical,
            step=self.step,
            meta={"split": self.split, **row.meta},
        )


class Math500(MathTask):
    """The 500 test problems of MATH chosen by Lightman et al. 2023 (arXiv 2305.20050)."""

    name: ClassVar[str] = "math500"
    file: ClassVar[str] = "math500.jsonl"

    def row(self, data: dict[str, Any], line: int) -> dict[str, Any]:
        meta = {key: data[key] for key in ("subject", "level") if key in data}
        # The dataset's own id is kept: recordings by others name problems by it.
        return {**super().row(data, line), "id": data.get("unique_id"), "meta": meta}


class GSM8K(MathTask):
    """The 1,319 test problems of GSM8K (arXiv 2110.14168); the answer stands after `####`."""

    name: ClassVar[str] = "gsm8k"
    file: ClassVar[str] = "gsm8k.jsonl"

    def row(self, data: dict[str, Any], line: int) -> dict[str, Any]:
        _, mark, answer = str(data.get("answer", "")).rpartition("####")
        if not mark:
            raise ValueError("`answer` holds no `####`")
        return {**super().row(data, line), "answer": answer.strip().replace(",", "")}


class AIME24(MathTask):
    """The 30 problems of AIME 2024; answers are integers from 0 to 999."""

    name: ClassVar[str] = "aime24"
    file: ClassVar[str] = "aime24.jsonl"


class AIME25(MathTask):
    """The 30 problems of AIME 2025."""

    name: ClassVar[str] = "aime25"
    file: ClassVar[str] = "aime25.jsonl"


class AMC23(MathTask):
    """40 problems of AMC 12 2023, as integers where the original was multiple choice."""

    name: ClassVar[str] = "amc23"
    file: ClassVar[str] = "amc23.jsonl"


def _positive(count: int) -> int:
    if count < 1:
        raise ConfigError(f"a count of problems must be at least 1, not {count}")
    return count


def data_folder() -> Path:
    """The folder in REASONING_DATA. Raises DataError where it is not set."""
    folder = os.environ.get(DATA)
    if not folder:
        raise DataError(
            f"set {DATA} to the folder that holds the data files, such as math500.jsonl"
        )
    return Path(folder)


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers from 1 and the objects of a JSON-lines file; blank lines are skipped."""
    try:
        with path.open(encoding="utf-8") as lines:
            for line in itertools.count(1):
                text = lines.readline()
                if not text:
                    return
                if not text.strip():
                    continue
                data = json.loads(text)
                if not isinstance(data, dict):
                    raise DataError(f"{path}, line {line}: not a JSON object")
                yield line, data
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; is {DATA} the right folder?") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {line}: {error}") from None
    except RecursionError:
        raise DataError(f"{path}, line {line}: nested too deeply") from None
