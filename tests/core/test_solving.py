"""Solving on the scripted engine: budgets, resume, races, deadlines, interruptions."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

import reasoning
from reasoning import Budget, Problem, Sampling, Solver
from reasoning.engines.scripted import Line, ScriptedEngine, VirtualTimeLoop
from reasoning.engines.weights import content_hash, resolve
from reasoning.errors import (
    CapabilityError,
    ConfigError,
    EngineError,
    JournalError,
    PromptError,
    ReplayDiverged,
    UnknownName,
)
from reasoning.header import note_sitting
from reasoning.solver import engine

ANSWERS = ["answer a", "answer b", "answer a long one", "no idea"]


def problem(name: str = "p", **settings: object) -> Problem:
    return Problem(
        name,
        ({"role": "user", "content": f"question {name}"},),
        extract=lambda text: text.split("answer ", 1)[1] if "answer " in text else None,
        check=lambda answer: answer == "b",
        **settings,  # type: ignore[arg-type]
    )


def majority(engine: ScriptedEngine, n: int = 16, **settings: object) -> Solver:
    return Solver({"policy": engine}, strategy={"name": "majority", "n": n}, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("tokens", [1, 7, 60, 100, 1000])
def test_a_budget_is_never_passed_and_cuts_n(tokens: int) -> None:
    engine = ScriptedEngine(script=ANSWERS)
    solution = majority(engine, budget=Budget(tokens=tokens), max_tokens=30).solve(problem())
    assert solution.usage.tokens <= tokens
    assert solution.usage.tokens == engine.totals.new
    assert solution.status == ("ok" if tokens == 1000 else "budget")


def test_a_flops_budget_too_small_for_the_prompt_spends_nothing() -> None:
    from reasoning.costs.kinetics import CostModel, ModelShape

    engine = ScriptedEngine(script=ANSWERS)
    costs = {"policy": CostModel(ModelShape(1e6, 1e3, 2))}
    solution = majority(engine, budget=Budget(flops=1e3), costs=costs).solve(problem())
    assert solution.status == "budget" and solution.answer is None
    assert "flops" in (solution.error or "") and engine.totals.requests == 0


def test_a_question_of_no_task_is_voted_on_by_what_solutions_conclude() -> None:
    wordings = ["So it is \\boxed{4}.", "Five.\nThe answer is 5.", "two and two:\nanswer: $4$"]
    solution = majority(ScriptedEngine(script=wordings), n=3).solve("What is 2+2?")
    assert solution.answer in ("4", "$4$") and solution.text in (wordings[0], wordings[2])


@pytest.mark.parametrize("tokens", [1, 5, 9])
def test_a_cap_is_used_up_in_its_own_unit_whatever_else_is_counted(tokens: int) -> None:
    """FLOPs that nothing caps, and FLOPs enough, cost no token of a cap on tokens."""
    from reasoning.costs.kinetics import CostModel, ModelShape

    costs = {"policy": CostModel(ModelShape(1e6, 1e3, 2))}
    for flops in (None, 1e12):
        engine = ScriptedEngine(script=[Line("x" * 10, ends=False)])
        budget = Budget(tokens=tokens, flops=flops)
        settings = {"strategy": "single", "budget": budget, "max_tokens": 10, "costs": costs}
        solver = Solver({"policy": engine}, **settings)  # type: ignore[arg-type]
        assert solver.solve(problem()).usage.tokens == tokens


def test_more_chains_than_tokens_are_not_made() -> None:
    """A billion chains within 100 tokens are the few that fit, and nothing waits for the rest."""
    engine = ScriptedEngine(script=ANSWERS)
    solution = majority(engine, n=10**9, budget=Budget(tokens=100), max_tokens=30).solve(problem())
    assert solution.status == "budget" and 0 < solution.usage.tokens <= 100
    assert solution.answer is not None


def test_questions_of_other_words_are_other_problems(tmp_path: Path) -> None:
    engine = ScriptedEngine(script=lambda prompt, key: Line(f"answer of {prompt}"))
    solver = Solver({"policy": engine}, strategy="single", run=tmp_path)
    first, second = solver.solve_many(["one?", "two?"])
    assert "one?" in first.text and "two?" in second.text and first.problem != second.problem
    asked = engine.totals.requests
    assert solver.solve("two?").text == second.text and engine.totals.requests == asked
    with pytest.raises(ConfigError, match="5 is no problem"):
        solver.solve(5)  # type: ignore[arg-type]


def test_the_shipped_model_is_asked_as_the_recipes_ask_it() -> None:
    configuration = Solver()._configuration
    assert configuration.sampling.temperature == 0.6 and configuration.max_tokens == 640
    assert configuration.strategy.model_dump()["n"] and "Weighted" in repr(configuration.strategy)
    with pytest.raises(ConfigError, match="max_tokens=0"):
        Solver(max_tokens=0)
    own = Solver(strategy="single", sampling=Sampling(temperature=1.0), max_tokens=50)
    assert own._configuration.sampling.temperature == 1.0 and own._configuration.max_tokens == 50


@pytest.mark.parametrize("n", [1, 4, 16])
def test_strategies_share_their_luck(n: int) -> None:
    engine = ScriptedEngine(script=ANSWERS)
    majority(engine, n).solve(problem())
    majority(engine, 16).solve(problem())
    small, large = engine.totals.log
    assert large.streams[:n] == small.streams


def test_a_run_is_continued_without_asking_again(tmp_path: Path) -> None:
    engine = ScriptedEngine(script=ANSWERS)
    settings = {"budget": Budget(tokens=100), "max_tokens": 30, "run": tmp_path}
    first = majority(engine, **settings).solve(problem())
    asked = engine.totals.requests
    second = majority(engine, **settings).solve(problem())
    assert engine.totals.requests == asked
    assert (second.answer, second.text, second.status, second.usage) == (
        first.answer,
        first.text,
        first.status,
        first.usage,
    )


def test_a_runs_header_says_what_it_ran_on(tmp_path: Path) -> None:
    draft = {"model": "local/countdown-draft", "max_batch": 7, "threads": 1}
    settings = {"strategy": "single", "max_tokens": 2, "run": tmp_path}
    solver = Solver({"policy": draft}, **settings)  # type: ignore[arg-type]
    for question in ("Use 1, 2, 3 to make 6", "Use 1, 2, 3 to make 7"):
        solver.solve(question)
    (sitting,) = json.loads((tmp_path / "run.json").read_text())["sittings"]
    assert re.fullmatch(r"[0-9a-f]{40}\+?", sitting["commit"] or "0" * 40)
    weights = content_hash(resolve("countdown-draft"))
    assert sitting["models"]["policy"]["weights"] == weights
    assert sitting["arguments"]["policy"] == {
        "model": "local/countdown-draft",
        "dtype": "auto",
        "device": "auto",
        "max_batch": 7,
        "max_context": None,
        "prefix_cache": 256 << 20,
        "threads": 1,
    }


def test_a_runs_header_holds_a_servers_settings_and_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    spec = {"model": "openai/m", "base_url": "http://localhost:1/v1", "attempts": 3}
    for models in (spec, engine(spec)):
        note_sitting(tmp_path, {"policy": engine(spec)}, {"policy": models}, "a command")
    text = (tmp_path / "run.json").read_text()
    first, second = json.loads(text)["sittings"]
    assert first["arguments"] == second["arguments"] and first["command"] == "a command"
    told = first["arguments"]["policy"]
    assert told["attempts"] == 3 and told["seeding"] == "group" and told["model"] == "openai/m"
    assert "sk-secret" not in text


@pytest.mark.parametrize("kept", [0, 1, 3, 7])
def test_a_problem_is_continued_in_its_middle(tmp_path: Path, kept: int) -> None:
    """What a kill left in the journal is replayed; the rest is asked; the result is the same."""
    settings = {"budget": Budget(tokens=100), "max_tokens": 30, "run": tmp_path}
    whole = majority(ScriptedEngine(script=ANSWERS), **settings).solve(problem())
    journal = tmp_path / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    replies = [line for line in lines if line.startswith(b'{"k"')][:kept]
    journal.write_bytes(b"".join(replies) + b'{"k":["torn')
    (tmp_path / "replies.sqlite").unlink()
    engine = ScriptedEngine(script=ANSWERS)
    again = majority(engine, **settings).solve(problem())
    assert (again.answer, again.text, again.status) == (whole.answer, whole.text, whole.status)
    assert again.usage.tokens == whole.usage.tokens
    assert (
        engine.totals.requests == len([line for line in lines if line.startswith(b'{"k"')]) - kept
    )


def test_a_replay_that_asks_something_else_stops(tmp_path: Path) -> None:
    def recorded(text: str) -> None:
        journal = tmp_path / "journal.jsonl"
        journal.write_text(journal.read_text().replace(text, "0" * len(text)))

    engine = ScriptedEngine(script=ANSWERS)
    majority(engine, run=tmp_path).solve(problem())
    digest = (tmp_path / "journal.jsonl").read_text().split('"d":"')[1][:20]
    recorded(digest)
    with pytest.raises(ReplayDiverged, match="asked now"):
        majority(engine, run=tmp_path).solve(problem())


def test_the_store_gives_a_sweep_its_samples_once(tmp_path: Path) -> None:
    engine = ScriptedEngine(script=ANSWERS)
    majority(engine, 4, run=tmp_path).solve(problem())
    drawn = engine.totals.new
    solution = majority(engine, 16, run=tmp_path).solve(problem())
    assert solution.usage.reused == drawn
    assert solution.usage.tokens == engine.totals.new
    alone = majority(ScriptedEngine(script=ANSWERS), 16).solve(problem())
    assert (alone.text, alone.usage.tokens) == (solution.text, solution.usage.tokens)


def test_a_journal_in_use_is_not_shared(tmp_path: Path) -> None:
    from reasoning.journal import Journal

    held = Journal(tmp_path / "journal.jsonl")
    with pytest.raises(JournalError, match="in use"):
        majority(ScriptedEngine(script=ANSWERS), run=tmp_path).solve(problem())
    held.close()


def test_first_verified_cancels_the_rest_and_charges_what_was_received(tmp_path: Path) -> None:
    def script(prompt: str, key: int) -> Line:
        quick = key == first[0]
        return Line("answer b" if quick else "answer " + "x" * 50, seconds=1.0)

    first: list[int] = []
    engine = ScriptedEngine(script=script)

    def solver() -> Solver:
        return Solver(
            {"policy": engine},
            strategy={"name": "first_verified", "n": 4},
            verifiers={"verifier": "check"},
            run=tmp_path,
        )

    from reasoning.randomness import key

    first.append(key(0, "p", 0, "", ((0, 2),)))
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        solution = runner.run(solver().asolve(problem()))
    assert solution.answer == "b"
    # 9 tokens a chain when the winner was done, and at most one more in flight for each loser.
    assert 36 <= solution.usage.tokens <= 39
    assert engine.totals.open == 0
    asked = engine.totals.requests
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        replayed = runner.run(solver().asolve(problem()))
    assert engine.totals.requests == asked
    assert (replayed.answer, replayed.usage) == (solution.answer, solution.usage)
    assert solution.racing and replayed.racing


@pytest.mark.parametrize(
    ("strategy", "racing"),
    [
        ({"name": "majority", "n": 4}, False),
        ({"name": "auto", "candidates": ["single"]}, False),
        ({"name": "auto", "candidates": ["first_verified"]}, True),
    ],
)
def test_results_say_whether_what_came_first_decided(strategy: Any, racing: bool) -> None:
    verifiers: Any = {"verifier": "check"}
    engine = ScriptedEngine(script=ANSWERS)
    solver = Solver({"policy": engine}, strategy=strategy, verifiers=verifiers)
    assert solver.solve(problem()).racing == racing


def test_a_deadline_gives_the_best_so_far() -> None:
    engine = ScriptedEngine(script=[Line("answer b", seconds=1.0)])
    solver = majority(engine, 4, budget=Budget(seconds=7.5))
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        solution = runner.run(solver.asolve(problem()))
    assert (solution.status, solution.text, solution.seconds) == ("deadline", "answer ", 7.5)
    assert solution.usage.tokens == engine.totals.new == 28


def test_a_halt_ends_every_problem_in_order() -> None:
    engine = ScriptedEngine(script=[Line("answer b", seconds=1.0)])
    solver = majority(engine, 2)

    async def main() -> list[reasoning.Solution]:
        async with solver:
            assert solver._runner is not None
            asyncio.get_running_loop().call_later(3, solver._runner.session.halt)
            return [s async for s in solver.asolve_many([problem("p"), problem("q")])]

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        solutions = runner.run(main())
    assert [s.status for s in solutions] == ["interrupted", "interrupted"]


@pytest.mark.parametrize("strategy", ["majority", "weighted", "best_of_n"])
def test_ctrl_c_finds_the_chains_that_are_written(strategy: str) -> None:
    seen: list[int] = []

    def script(prompt: str, key: int) -> Line:
        seen.append(key)
        return Line("answer b" if key == seen[0] else "x" * 90, seconds=1.0)

    engine = ScriptedEngine(script=script)
    verifiers = {} if strategy == "majority" else {"verifier": "check"}
    spec = {"name": strategy, "n": 2}
    solver = Solver({"policy": engine}, strategy=spec, verifiers=verifiers)

    async def main() -> reasoning.Solution:
        async with solver:
            assert solver._runner is not None
            asyncio.get_running_loop().call_later(20.5, solver._runner.session.halt)
            return await solver.asolve(problem())

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        solution = runner.run(main())
    assert (solution.status, solution.answer) == ("interrupted", "b")
    assert solution.usage.tokens == engine.totals.new > 20


def test_an_engine_fault_fails_its_problem_and_no_other() -> None:
    def script(prompt: str, key: int) -> Line:
        fault = EngineError("the engine broke") if "bad" in prompt else None
        return Line("answer b", fault=fault, fault_after=3)

    solutions = majority(ScriptedEngine(script=script)).solve_many(
        [problem("bad"), problem("good")]
    )
    assert [s.status for s in solutions] == ["failed", "ok"]
    assert solutions[0].error == "EngineError: the engine broke"


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"strategy": "best_of_m"}, UnknownName, "did you mean best_of_n"),
        ({"strategy": {"name": "majority", "m": 3}}, ConfigError, "unknown setting `m`"),
        ({"strategy": {"name": "majority", "n": 0}}, ConfigError, "`n`"),
        ({"strategy": "best_of_n"}, UnknownName, "verifier"),
        ({"models": {"policy": "nothing/x"}}, UnknownName, "nothing"),
        ({"models": {"draft": ScriptedEngine()}}, UnknownName, "policy"),
        ({"models": 5}, ConfigError, "mapping of roles"),
        ({"strategy": 5}, ConfigError, "is no strategy: give its name"),
        ({"budget": 100}, ConfigError, r"give a Budget, such as"),
        ({"budget": Budget(flops=1e9)}, ConfigError, "role 'policy' does not say"),
        ({"budget": Budget(money=1)}, ConfigError, "needs `prices` in a recipe, `costs`"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(
    settings: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        Solver(**({"models": {"policy": ScriptedEngine()}, "strategy": "single"} | settings))  # type: ignore[arg-type]


def test_prompts_that_cannot_be_asked() -> None:
    for content, words in (
        ("", "empty"),
        ("a\0b", "NUL"),
        ("a\ud800b", "surrogate"),
        ("x" * 1_000_001, "shorten"),
    ):
        with pytest.raises(PromptError, match=words):
            Problem("p", ({"role": "user", "content": content},))
    engine = ScriptedEngine(script=ANSWERS, context_length=8)
    with pytest.raises(PromptError, match="context"):
        majority(engine).solve(problem())


def test_a_missing_capability_is_named_before_anything_is_spent() -> None:
    engine = ScriptedEngine(script=ANSWERS)
    solver = Solver(
        {"policy": engine, "prm": engine},
        strategy="best_of_n",
        verifiers={"verifier": {"name": "prm", "model": "prm"}},
    )
    with pytest.raises(CapabilityError, match="pool"):
        solver.solve(problem())
    assert engine.totals.requests == 0


def test_best_of_n_and_weighted_choose_by_reward() -> None:
    rewards = {"a": 0.62, "b": 0.63, "a long one": 0.91}
    engine = ScriptedEngine(
        script=ANSWERS[:3], rewards=lambda text: rewards[text.split("answer ", 1)[1]]
    )
    models = {"policy": engine, "prm": engine}
    verifiers = {"verifier": {"name": "prm", "model": "prm"}}
    best = Solver(models, strategy="best_of_n", verifiers=verifiers).solve(problem())
    assert best.answer == "a long one" and best.usage.verifier_passes == 16
    few = Solver(
        models, strategy="best_of_n", verifiers=verifiers, budget=Budget(verifier_passes=3)
    ).solve(problem())
    assert few.usage.verifier_passes == 3


@pytest.mark.parametrize(
    "setting",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"min_p": 2.0},
        {"min_tokens": -1},
        {"logprobs": -1},
        {"stop": ("",)},
    ],
)
def test_sampling_out_of_range_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"sampling {next(iter(setting))}="):
        reasoning.Sampling(**setting)


@pytest.mark.parametrize("most", [0, -5])
def test_a_chain_without_room_is_refused(most: int) -> None:
    with pytest.raises(ConfigError, match="max_tokens"):
        Solver({"policy": ScriptedEngine()}, max_tokens=most)


async def test_majority_answers_where_no_verifier_is_given() -> None:
    engine = ScriptedEngine(script=["answer 1+2\n", "answer 2+1\n"])
    solution = await Solver({"policy": engine}).asolve(problem())
    assert solution.usage.asks == 1 and solution.usage.verifier_passes == 0
    assert solution.answer in ("1+2\n", "2+1\n")
