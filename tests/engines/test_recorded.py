"""The recorded engine: a recording replays as it is, and says what it cannot answer."""

import gzip
import json
import os
from pathlib import Path

import pytest

from reasoning import Problem, Solver
from reasoning.engines.recorded import RecordedEngine
from reasoning.errors import CapabilityError, ConfigError, DataError, ReasoningError


def recording(folder: Path) -> Path:
    path = folder / "samples.jsonl.gz"
    with gzip.open(path, "wt") as file:
        for sample, answer in enumerate(["a", "b", "b"]):
            parts = [{"text": "Let me think.\n\n"}, {"text": f"It is {answer}"}]
            file.write(json.dumps({"id": "p", "sample": sample, "turns": parts}) + "\n")
    return path


COLUMNS = {"problem": "id", "text": "turns", "part": "text"}
PROBLEM = Problem("p", ({"role": "user", "content": "p"},), extract=lambda t: t[-1])


def test_samples_are_drawn_in_their_order(tmp_path: Path) -> None:
    engine = RecordedEngine(str(recording(tmp_path)), columns=COLUMNS)
    solution = Solver({"policy": engine}, strategy={"name": "majority", "n": 3}).solve(PROBLEM)
    assert solution.answer == "b" and solution.text.startswith("Let me think.\n\nIt is ")
    assert solution.usage.tokens == 3 * len("Let me think.\n\nIt is a" + "$")


def test_a_recording_in_slices_is_the_recording(tmp_path: Path) -> None:
    engine = RecordedEngine(str(recording(tmp_path)), columns=COLUMNS)

    async def main() -> str:
        async with Solver({"policy": engine}, strategy="single") as solver:
            assert solver._runner is not None
            from reasoning.budget import Ledger
            from reasoning.context import Context

            bindings = await solver._runner.bind(solver._configuration)
            ctx = Context(
                PROBLEM,
                bindings,
                session=solver._runner.session,
                journal=solver._runner.journal,
                store=solver._runner.store,
                ledger=Ledger("p"),
            )
            (chain,) = await ctx.write(ctx.prompt, until="step")
            assert chain.text == "Let me think.\n\n" and not chain.done
            (chain,) = await ctx.write(chain)
            assert chain.done
            return chain.text

    import asyncio

    assert asyncio.run(main()) == "Let me think.\n\nIt is a"


def test_what_a_recording_cannot_answer(tmp_path: Path) -> None:
    path = str(recording(tmp_path))
    with pytest.raises(CapabilityError, match="3 recorded samples"):
        engine = RecordedEngine(path, columns=COLUMNS)
        Solver({"policy": engine}, strategy={"name": "majority", "n": 4}).solve(PROBLEM)
    with pytest.raises(ReasoningError, match="holds no sample"):
        other = Problem("q", ({"role": "user", "content": "q"},))
        engine = RecordedEngine(path, columns=COLUMNS)
        Solver({"policy": engine}, strategy="single").solve(other)
    with pytest.raises(DataError, match="no file"):
        RecordedEngine(str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="colour"):
        RecordedEngine(path, columns={"colour": "x"})
    with pytest.raises(DataError, match=r"samples\.jsonl\.gz:1 has no field 'problem'"):
        Solver({"policy": RecordedEngine(path)}, strategy="single").solve(PROBLEM)


def test_real_transcripts() -> None:
    folder = os.environ.get("REASONING_DATA")
    if not folder:
        pytest.skip("REASONING_DATA is not set: no recorded transcripts")
    from reasoning.evals.tasks import Math500

    engine = RecordedEngine(
        f"{folder}/transcripts_math100x16.jsonl.gz",
        columns={"problem": "unique_id", "text": "turns", "part": "text"},
        prompts={"file": f"{folder}/math500.jsonl", "id": "unique_id", "text": "problem"},
    )
    row = json.loads(
        gzip.open(f"{folder}/transcripts_math100x16.jsonl.gz", "rt").readline()  # noqa: SIM115
    )
    task = Math500()
    asked = next(p for p in task.problems() if p.id == row["unique_id"])
    plain = Problem(
        asked.id,
        ({"role": "user", "content": asked.messages[-1]["content"]},),
        extract=asked.extract,
        canonical=asked.canonical,
    )
    try:
        solution = Solver({"policy": engine}, strategy={"name": "majority", "n": 16}).solve(plain)
    except ReasoningError as error:
        pytest.fail(f"{error}")
    assert solution.answer
