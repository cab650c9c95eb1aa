"""The recorded engine: a recording replays as it is, and says what it cannot answer."""

import asyncio
import gzip
import json
import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from reasoning import Problem, Sampling, Solver
from reasoning.engines.base import SampleRequest, Stream
from reasoning.engines.recorded import RecordedEngine
from reasoning.errors import CapabilityError, ConfigError, DataError, ReasoningError
from reasoning.journal import Journal
from reasoning.recipe import Recipe
from reasoning.runner import Job, Runner
from reasoning.session import Session


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


def test_which_sample_a_chain_is_does_not_depend_on_what_was_asked_before(tmp_path: Path) -> None:
    """A run that is interrupted and continued replays the samples that a whole run does."""
    path = str(recording(tmp_path))

    async def texts(runner: Runner, replicates: Iterable[int]) -> list[str]:
        solver = Solver({"policy": RecordedEngine(path, columns=COLUMNS)}, strategy="single")
        jobs = [Job(PROBLEM, solver._configuration, replicate) for replicate in replicates]
        return [(await runner.solve(job, reraise=True)).text for job in jobs]

    async def main() -> None:
        whole = await texts(Runner(Session()), range(3))
        assert [text[-1] for text in whole] == ["a", "b", "b"]
        begun = Journal(tmp_path / "journal.jsonl")
        first = await texts(Runner(Session(), journal=begun), [1])
        begun.close()
        again = Journal(tmp_path / "journal.jsonl")
        assert await texts(Runner(Session(), journal=again), range(3)) == whole
        assert first == whole[1:2]
        again.close()

    asyncio.run(main())


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

    assert asyncio.run(main()) == "Let me think.\n\nIt is a"


def test_what_a_recording_cannot_answer(tmp_path: Path) -> None:
    path = str(recording(tmp_path))
    with pytest.raises(CapabilityError, match=r"sample 3 .* 3 recorded samples"):
        engine = RecordedEngine(path, columns=COLUMNS)
        Solver({"policy": engine}, strategy={"name": "majority", "n": 4}).solve(PROBLEM)
    with pytest.raises(ReasoningError, match="holds no sample"):
        other = Problem("q", ({"role": "user", "content": "q"},))
        engine = RecordedEngine(path, columns=COLUMNS)
        Solver({"policy": engine}, strategy="single").solve(other)
    with pytest.raises(DataError, match="no file"):
        RecordedEngine(str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match=r"`txt`: did you mean text\? known are problem"):
        RecordedEngine(path, columns={"txt": "x"})
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


CUT = "Let me think. So the answer is 7.\n\nWait, let me check. "


def answering(folder: Path) -> RecordedEngine:
    path = folder / "cut.jsonl"
    lines = [{"problem": "p", "text": CUT + more} for more in ("It is 8.", "Yes. So it is 7.")]
    path.write_text(
        "".join(json.dumps(line | {"sample": i}) + "\n" for i, line in enumerate(lines))
    )
    return RecordedEngine(str(path), answers="stated")


def ask(engine: RecordedEngine, written: str, number: int = 0, **settings: object) -> str:
    prompt = engine.tokenizer.encode("p\n")
    request = SampleRequest(
        prompt_ids=(*prompt, *engine.tokenizer.encode(written)),
        max_tokens=int(settings.pop("max_tokens", 1000)),  # type: ignore[call-overload]
        sampling=Sampling(),
        streams=(Stream(1, number),),
        position=len(written),
    )

    async def main() -> str:
        async with engine:
            return (await engine.sample(request)).completions[0].text

    return asyncio.run(main())


def test_what_is_put_behind_a_cut_is_answered_from_the_recording(tmp_path: Path) -> None:
    engine = answering(tmp_path)
    assert ask(engine, "") == CUT + "It is 8."
    assert ask(engine, CUT + "\n**Final Answer**\n") == "\\boxed{7}"
    assert ask(engine, CUT + "\n\\boxed{") == "7}"
    # In slices too, and nothing is said behind the answer, or where nothing was stated.
    assert ask(engine, CUT + "\nso\n", max_tokens=9) + ask(engine, CUT + "\nso\n\\boxed{7") == (
        "\\boxed{7}}"
    )
    assert ask(engine, CUT + "\n\\boxed{7}") == ""
    assert ask(engine, "Let me stop") == ""
    assert ask(engine, CUT + "Yes. So it is 7.\n\\boxed{", number=1) == "7}"


def test_without_answers_a_changed_chain_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps({"problem": "p", "sample": 0, "text": CUT}) + "\n")
    with pytest.raises(CapabilityError, match="cut, not changed"):
        ask(RecordedEngine(str(path)), "Let me stop")
    with pytest.raises(ConfigError, match="answers"):
        RecordedEngine(str(path), answers="guessed")  # type: ignore[arg-type]


def test_a_stream_of_a_recording_is_paid_as_far_as_it_was_read(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps({"problem": "p", "sample": 0, "text": "x" * 10_000}) + "\n")
    policy = {"name": "budget_forcing", "max_thinking": 500, "closing": "</think>"}
    loop = {"name": "trimr", "verifier": "rules", "m": None, "closing": "</think>", "n_send": 50}
    for spec, read in ((policy, 500), (loop, 100)):
        engine = RecordedEngine(str(path), answers="stated")
        solution = Solver({"policy": engine}, strategy="single", chain_policy=spec).solve(PROBLEM)
        assert solution.usage.tokens <= read + 64


def test_a_relative_file_is_looked_for_in_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording(tmp_path)
    monkeypatch.setenv("REASONING_DATA", str(tmp_path))
    engine = RecordedEngine("samples.jsonl.gz", columns=COLUMNS)
    assert Solver({"policy": engine}, strategy="single").solve(PROBLEM).answer == "a"


@pytest.mark.parametrize("missing", ["samples.jsonl.gz", "prompts.jsonl"])
def test_a_recipe_whose_recording_is_not_there_is_refused_as_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    recording(tmp_path)
    (tmp_path / "prompts.jsonl").touch()
    (tmp_path / "recipe.yaml").write_text(
        "{name: x, task: countdown, strategies: [single], models: {policy: "
        "{model: recorded/samples.jsonl.gz, prompts: {file: prompts.jsonl}}}}"
    )
    monkeypatch.setenv("REASONING_DATA", str(tmp_path))
    assert Recipe.load(tmp_path / "recipe.yaml")
    (tmp_path / missing).unlink()
    said = f"recipe .*recipe.yaml: .*no file {tmp_path / missing}; is REASONING_DATA the right"
    with pytest.raises(DataError, match=said):
        Recipe.load(tmp_path / "recipe.yaml")
    monkeypatch.delenv("REASONING_DATA")
    with pytest.raises(DataError, match=r"no file samples.*; set REASONING_DATA to"):
        Recipe.load(tmp_path / "recipe.yaml")


def test_a_system_message_may_stand_before_a_recorded_prompt(tmp_path: Path) -> None:
    engine = RecordedEngine(str(recording(tmp_path)), columns=COLUMNS)
    messages = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "p"})
    asked = Problem("p", messages, extract=lambda t: t[-1])
    assert Solver({"policy": engine}, strategy="single").solve(asked).answer == "a"
