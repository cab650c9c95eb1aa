"""Tasks: where problems come from, and what a bad data file says."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from reasoning.errors import ConfigError, DataError
from reasoning.evals.tasks import AIME24, AMC23, GSM8K, Countdown, Math500, MathTask
from reasoning.isolation import close_shared_pool
from reasoning.registry import tasks

SIZES = {"math500": 500, "gsm8k": 1319, "aime24": 30, "aime25": 30, "amc23": 40}


def write(folder: Path, name: str, *lines: Any) -> None:
    text = "\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines)
    (folder / name).write_text(text + "\n")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REASONING_DATA", str(tmp_path))
    return tmp_path


ROW = {"unique_id": "test/a.json", "problem": "1+1?", "answer": "2", "level": 1}


def test_every_registered_task_is_complete() -> None:
    for name in tasks:
        task = tasks.get(name)()
        assert task.name == name
        assert task.split in task.splits
        assert task.recognise("What is the capital of France?") is None


def test_countdown_problems_carry_what_a_strategy_needs() -> None:
    problems = Countdown(numbers=3, split="dev", seed=5).problems(8)
    assert len({problem.id for problem in problems}) == 8
    again = Countdown(numbers=3, split="dev", seed=5).problems(4)
    assert [problem.id for problem in again] == [problem.id for problem in problems[:4]]
    for problem in problems:
        assert problem.meta["split"] == "dev" and len(problem.meta["numbers"]) == 3
        assert problem.step == "\n" and problem.task == "countdown"
        assert problem.check is not None and not problem.check("1")


def test_countdown_reads_free_text() -> None:
    task = Countdown()
    problem = task.recognise("Use 3, 7, 25, 50 to make 79")
    assert problem is not None and problem.check is not None
    assert problem.check("50+25+7-3")
    text = "50+25=75 : 3 7 75\nanswer (50 + 25)+7-3\n"
    assert problem.extract(text) == task.extract(text) == "(50 + 25)+7-3"
    assert problem.canonical("(50 + 25)+7-3") == task.canonical("((50+25)+7-3)")


def test_settings_are_checked() -> None:
    for settings in ({"numbers": 7}, {"split": "all"}, {"colour": 1}):
        with pytest.raises(ValidationError):
            Countdown(**settings)
    with pytest.raises(ConfigError, match="at least 1"):
        Countdown().problems(0)


def test_math_problems(data: Path) -> None:
    write(data, "math500.jsonl", ROW, "", {**ROW, "unique_id": "b", "answer": r"\frac 12"})
    first, second = Math500().problems()
    assert (first.id, first.reference, first.meta["level"]) == ("test/a.json", "2", 1)
    assert [m["role"] for m in first.messages] == ["system", "user"]
    assert second.check is not None
    assert second.check("0.5") and not second.check("0.4")
    assert second.extract(r"so \boxed{0.5}") == Math500().extract(r"\boxed{0.5}") == "0.5"
    assert second.canonical("0.50") == Math500().canonical("1/2")
    assert len(Math500().problems(1)) == 1
    with pytest.raises(ConfigError, match="2 problems, not 3"):
        Math500().problems(3)
    close_shared_pool()


def test_other_sources_name_their_fields_otherwise(data: Path) -> None:
    write(data, "gsm8k.jsonl", {"question": "?", "answer": "2+2\n#### 70,000"})
    assert [(p.id, p.reference) for p in GSM8K().problems()] == [("gsm8k/0", "70000")]
    write(data, "aime24.jsonl", {"id": 60, "problem": "?", "answer": 204})
    assert [(p.id, p.reference) for p in AIME24().problems()] == [("aime24/60", "204")]
    write(data, "amc23.jsonl", {"id": 0, "problem": "?", "answer": "27"})
    assert [p.id for p in AMC23().problems()] == ["amc23/0"]


@pytest.mark.parametrize(
    ("task", "lines", "message"),
    [
        (Math500, [ROW, "{oops"], "math500.jsonl, line 2"),
        (Math500, [ROW, "", "[1]"], "line 3: not a JSON object"),
        (Math500, [ROW, ROW], "line 2: id 'test/a.json' is that of line 1"),
        (Math500, [{**ROW, "answer": None}], "line 1: .*answer"),
        (Math500, [{"problem": "?", "answer": "2"}], "line 1: .*id"),
        (Math500, [{**ROW, "problem": ""}], "line 1: .*question"),
        (Math500, ["[" * 100_000], "line 1"),
        (GSM8K, [{"question": "?", "answer": "4"}], "line 1: .*####"),
    ],
)
def test_malformed_lines_are_named(
    data: Path, task: type[MathTask], lines: list[Any], message: str
) -> None:
    write(data, task.file, *lines)
    with pytest.raises(DataError, match=message):
        task().problems()


def test_missing_data_is_explained(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"math500\.jsonl: .*REASONING_DATA"):
        Math500().problems()
    (data / "math500.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="UTF-8"):
        Math500().problems()
    monkeypatch.delenv("REASONING_DATA")
    with pytest.raises(DataError, match="set REASONING_DATA"):
        Math500().problems()


@pytest.mark.parametrize("name", SIZES)
def test_real_files(name: str) -> None:
    if not os.environ.get("REASONING_DATA"):
        pytest.skip("REASONING_DATA is not set: no data files to read")
    problems = tasks.get(name)().problems()
    assert len(problems) == SIZES[name]
    for problem in problems:
        assert problem.reference is not None and problem.check is not None
        assert problem.check(problem.extract(rf"\boxed{{{problem.reference}}}") or "")
