"""Sequential revision (facts 4.6.2, 4.6.3, 4.6.7, 4.6.9) and self-refine (fact 5.4.4).

4.6.1 and the beams of 4.6.2 are in tests/strategies/search/test_beam.py. There is no test of 4.6.4,
4.6.5, 4.6.6 and 4.6.10 (the router by difficulty, its bins and folds) nor of 4.6.8 (the multiplier
for a larger model): they are the allocators' and their calibration profiles', of which there is
`fixed` alone, which neither fits nor bins anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reasoning import Budget, Solver
from reasoning.chain import Chain
from reasoning.engines.scripted import Line, ScriptedEngine
from reasoning.errors import ConfigError, UnknownName
from reasoning.randomness import key
from reasoning.strategies.revision import INSTRUCTION, SequentialRevision
from reasoning.strategies.self_refine import CRITIQUE, REFINE, SelfRefine
from reasoning.strategy import Rating, Verifier
from tests.strategies.selection.scripts import problem, solve

LAYOUTS = [(64, 1), (16, 4), (8, 8), (1, 64)]


class Words(Verifier):
    """The score of a chain is what stands behind its answer, as tenths."""

    async def rate(self, problem: Any, chains: Sequence[Chain], engine: Any) -> list[Rating]:
        return [Rating((int(chain.text[-1]) / 10,)) for chain in chains]


def counted(prompt: str, stream: int) -> Line:
    """Says how many attempts its prompt holds, and a letter by its stream."""
    return Line(f"attempt {prompt.count(INSTRUCTION)}, answer {'abc'[stream % 3]}")


def revise(
    parallel: int, sequential: int, script: Any = counted, **settings: Any
) -> tuple[Any, ScriptedEngine]:
    own = {k: settings.pop(k) for k in list(settings) if k in SequentialRevision.model_fields}
    own = {"select": "majority"} | own
    engine = settings.pop("engine", None) or ScriptedEngine(script=script)
    strategy = SequentialRevision(parallel=parallel, sequential=sequential, **own)
    return solve(script, strategy, engine=engine, **settings), engine


def attempts(engine: ScriptedEngine) -> list[tuple[int, int]]:
    """(attempts in the prompt, stream) of each attempt that was asked for."""
    return [
        (engine.tokenizer.decode(request.prompt_ids).count(INSTRUCTION), stream.key)
        for request in engine.totals.log
        for stream in request.streams
    ]


@pytest.mark.parametrize(("parallel", "sequential"), LAYOUTS)
def test_revision_4_6_2_every_layout_of_64_costs_64(parallel: int, sequential: int) -> None:
    solution, engine = revise(parallel, sequential)
    asked = attempts(engine)
    assert len(asked) == len({stream for _, stream in asked}) == 64
    assert solution.meta["attempts"] == 64
    assert solution.usage.tokens == 64 * len("attempt 0, answer a ")


@pytest.mark.parametrize("select", ["majority", "verifier"])
@pytest.mark.parametrize("seed", range(4))
def test_revision_4_6_3_one_attempt_a_chain_is_best_of_n(select: str, seed: int) -> None:
    lines = ["answer a4", "answer a4", "answer b7", "answer c1"]
    verifiers = {"verifiers": {"verifier": Words()}} if select == "verifier" else {}
    engine, other = ScriptedEngine(script=lines), ScriptedEngine(script=lines)
    one, _ = revise(8, 1, select=select, engine=engine, seed=seed, **verifiers)
    same = {"name": "weighted" if select == "verifier" else "majority", "n": 8}
    two = solve(lines, same, engine=other, seed=seed, **verifiers)
    assert (one.answer, one.text, one.usage) == (two.answer, two.text, two.usage)
    assert [key for _, key in attempts(engine)] == [key for _, key in attempts(other)]


def test_revision_4_6_3_one_chain_is_a_pure_chain() -> None:
    _, engine = revise(1, 5)
    assert [held for held, _ in attempts(engine)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("history", [1, 4])
def test_revision_4_6_7_a_prompt_holds_the_last_attempts(history: int) -> None:
    _, engine = revise(2, 8, history=history)
    held = [held for held, _ in attempts(engine)]
    assert held == [min(s, history) for s in range(8) for _ in range(2)]


def test_a_prompt_holds_the_attempts_of_its_own_chain_in_order() -> None:
    def script(prompt: str, stream: int) -> Line:
        return Line(f"attempt {stream % 997}, answer a")

    _, engine = revise(2, 3, script)
    asked = [(r, engine.tokenizer.decode(r.prompt_ids)) for r in engine.totals.log]
    said = [f"attempt {s.key % 997}, answer a" for r, _ in asked for s in r.streams]
    question = "question p\n"
    assert [prompt for _, prompt in asked] == [
        question,
        question + f"{said[0]}\n{INSTRUCTION}\n",
        question + f"{said[1]}\n{INSTRUCTION}\n",
        question + f"{said[0]}\n{INSTRUCTION}\n{said[2]}\n{INSTRUCTION}\n",
        question + f"{said[1]}\n{INSTRUCTION}\n{said[3]}\n{INSTRUCTION}\n",
    ]


def by_place(table: Sequence[Sequence[str]]) -> ScriptedEngine:
    """An engine whose attempt s of chain p is table[p][s]: the first attempts by their draw,
    revisions by what their prompt holds."""
    first = {key(0, "p", 0, "", ((0, p),) if p else ()): p for p in range(len(table))}

    def script(prompt: str, stream: int) -> Line:
        turns = prompt.count(INSTRUCTION)
        if not turns:
            return Line(table[first[stream]][0])
        chain = next(row for row in table if f"\n{row[turns - 1]}\n{INSTRUCTION}\n" in prompt)
        return Line(chain[turns])

    return ScriptedEngine(script=script)


# Chain 0 says x three times with little conviction, chains 1 and 2 end with their best.
TABLE = [
    ["0: answer x2", "1: answer x2", "2: answer x2"],
    ["3: answer y1", "4: answer z5", "5: answer z1"],
    ["6: answer y1", "7: answer y1", "8: answer z4"],
]


class Behind(Verifier):
    """Answers are one letter; the digit behind it is the score in tenths."""

    async def rate(self, problem: Any, chains: Sequence[Chain], engine: Any) -> list[Rating]:
        return [Rating((int(chain.text[-1]) / 10,)) for chain in chains]


def letters(**settings: Any) -> Any:
    own = replace(problem(), canonical=lambda answer: answer[0])
    engine = by_place(TABLE)
    return Solver(
        {"policy": engine},
        strategy=SequentialRevision(parallel=3, sequential=3, **settings),
        verifiers={"verifier": Behind()},
    ).solve(own)


def test_selection_by_a_verifier_goes_chain_by_chain() -> None:
    """In the chains win x (0.6), z (0.6) and z (0.4); then z (0.5 + 0.4) beats x (0.2)."""
    solution = letters(select="verifier")
    assert solution.answer == "z5" and solution.meta["score"] == 0.5
    assert solution.usage.verifier_passes == 9


def test_revision_4_6_9_flat_majority_counts_every_attempt() -> None:
    """x, y and z stand three times each: the one seen first. One y less, and it is still x."""
    solution = letters(select="majority")
    assert solution.answer == "x2" and solution.usage.verifier_passes == 0
    moved = [*TABLE[:2], ["6: answer z1", "7: answer y1", "8: answer z4"]]
    engine = by_place(moved)
    strategy = SequentialRevision(parallel=3, sequential=3, select="majority")
    own = replace(problem(), canonical=lambda answer: answer[0])
    assert Solver({"policy": engine}, strategy=strategy).solve(own).answer == "z1"


@pytest.mark.parametrize("tokens", [1, 19, 20, 21, 60, 139, 140, 400])
def test_the_budget_is_hard_and_leaves_the_best_so_far(tokens: int) -> None:
    solution, engine = revise(3, 4, budget=Budget(tokens=tokens), max_tokens=30)
    assert solution.usage.tokens == engine.totals.new <= tokens
    assert solution.status == ("ok" if tokens == 400 else "budget")
    assert (solution.answer is not None) == (tokens >= 19)


@pytest.mark.parametrize("passes", [0, 1, 2, 3, 7, 12])
def test_passes_cut_attempts_before_they_are_written(passes: int) -> None:
    lines = ["answer a4", "answer b7"]
    solution, engine = revise(
        3,
        4,
        lines,
        select="verifier",
        budget=Budget(verifier_passes=passes),
        verifiers={"verifier": Words()},
    )
    assert solution.usage.verifier_passes == passes == len(attempts(engine))
    assert solution.status == ("ok" if passes == 12 else "budget")
    assert (solution.answer is None) == (passes == 0)


def test_attempts_that_the_context_does_not_hold_are_left_out() -> None:
    size = len("question p\n") + 2 * len(f"attempt 0, answer a\n{INSTRUCTION}\n") + 30
    engine = ScriptedEngine(script=counted, context_length=size)
    solution, _ = revise(1, 6, engine=engine)
    assert [held for held, _ in attempts(engine)] == [0, 1, 2, 2, 2, 2]
    assert solution.status == "ok"


def test_rewards_all_zero_or_alike_leave_the_first_answer() -> None:
    for digit in "05":
        solution, _ = revise(
            2,
            3,
            [f"answer a{digit}"],
            select="verifier",
            verifiers={"verifier": Words()},
        )
        assert solution.answer == f"a{digit}" and solution.status == "ok"


def test_a_run_is_continued_with_the_same_asks(tmp_path: Path) -> None:
    engine = ScriptedEngine(script=counted)
    first, _ = revise(3, 4, engine=engine, run=tmp_path, budget=Budget(tokens=150), max_tokens=30)
    asked = engine.totals.requests
    again, _ = revise(3, 4, engine=engine, run=tmp_path, budget=Budget(tokens=150), max_tokens=30)
    assert engine.totals.requests == asked
    assert (again.text, again.status, again.usage.tokens) == (
        first.text,
        first.status,
        first.usage.tokens,
    )


@pytest.mark.parametrize(
    "wrong",
    [{"parallel": 0}, {"sequential": 0}, {"history": 0}, {"select": "last"}, {"instruction": ""}],
)
def test_bad_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        solve(counted, {"name": "sequential_revision", "select": "majority", **wrong})


def test_a_verifier_is_asked_for_when_the_recipe_is_read() -> None:
    with pytest.raises(UnknownName, match="needs a verifier"):
        solve(counted, {"name": "sequential_revision"})


# Self-refine.


def refining(*feedback: str, drafts: Sequence[str] = ("answer a", "answer b", "answer c")) -> Any:
    """An engine that drafts, criticises and refines in turn; its calls are its requests."""

    def script(prompt: str, stream: int) -> Line:
        # A refinement's prompt holds the critique's whole; each round begins a prompt of its own.
        if prompt.endswith(f"{CRITIQUE}\n"):
            return Line(feedback[next(rounds)])
        if prompt.endswith(f"{REFINE}\n"):
            return Line(drafts[next(refined)])
        return Line(drafts[0])

    rounds, refined = iter(range(99)), iter(range(1, 99))
    return ScriptedEngine(script=script)


def test_tricks_5_4_4_no_error_at_once_returns_the_draft_in_two_calls() -> None:
    engine = refining("I see No error.")
    solution = solve([], {"name": "self_refine"}, engine=engine)
    assert (solution.answer, engine.totals.requests) == ("a", 2)
    assert solution.meta["refinements"] == 0


def test_feedback_and_draft_stand_in_the_next_prompts() -> None:
    engine = refining("it is wrong", "no error")
    solution = solve([], {"name": "self_refine"}, engine=engine)
    prompts = [engine.tokenizer.decode(request.prompt_ids) for request in engine.totals.log]
    question = "question p\n"
    assert prompts == [
        question,
        f"{question}answer a\n{CRITIQUE}\n",
        f"{question}answer a\n{CRITIQUE}\nit is wrong\n{REFINE}\n",
        f"{question}answer b\n{CRITIQUE}\n",
    ]
    assert (solution.answer, solution.meta["refinements"]) == ("b", 1)
    keys = [stream.key for request in engine.totals.log for stream in request.streams]
    assert len(set(keys)) == 4


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_rounds_end_it(rounds: int) -> None:
    engine = refining("wrong", "wrong", "wrong")
    solution = solve([], {"name": "self_refine", "rounds": rounds}, engine=engine)
    assert (solution.answer, engine.totals.requests) == ("abc"[rounds], 1 + 2 * rounds)


def test_a_refinement_without_an_answer_does_not_take_a_drafts_place() -> None:
    engine = refining("wrong", "wrong", drafts=("answer a", "no idea", "answer c"))
    solution = solve([], {"name": "self_refine", "rounds": 1}, engine=engine)
    assert (solution.answer, solution.meta["refinements"]) == ("a", 0)


@pytest.mark.parametrize("tokens", [1, 8, 9, 10, 14, 15, 40])
def test_self_refine_keeps_to_its_budget(tokens: int) -> None:
    engine = refining("wrong", "No error")
    budget = Budget(tokens=tokens)
    solution = solve([], {"name": "self_refine"}, engine=engine, budget=budget, max_tokens=20)
    assert solution.usage.tokens == engine.totals.new <= tokens
    assert (solution.answer is None) == (tokens < 8)
    assert solution.status == ("ok" if tokens == 40 else "budget")


def test_self_refine_ends_where_the_context_does() -> None:
    question = len("question p\n")
    engine = refining("wrong", "wrong")
    engine.context_length = question + 60
    solution = solve([], {"name": "self_refine"}, engine=engine)
    assert (solution.answer, solution.status, engine.totals.requests) == ("a", "ok", 1)


@pytest.mark.parametrize("wrong", [{"rounds": -1}, {"stop": ""}, {"critique": ""}])
def test_self_refine_refuses_bad_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        SelfRefine(**wrong)
