"""The best-of-N family: facts 2.8.1 to 2.8.4, 2.8.6, 2.8.10 and 2.8.11.

2.8.5 is in tests/verifiers/test_aggregate.py; what 2.8.7 to 2.8.10 say of beams and trees in
tests/strategies/search/test_beam.py. Of 2.8.6, pred@k is the strategy with n=k: its chains are the
first k of those of a larger n. The estimators of evals/sampling.py average over all k-subsets
instead, as these chains are independent: the same expectation with less variance. (The reference
takes the first k because its searches' completions are grouped by subtree.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from reasoning import Solution, Solver
from reasoning.engines.scripted import ScriptedEngine
from reasoning.verifiers.math_text import canonical
from tests.strategies.selection.scripts import numbered, problem, solve

ANSWERS = st.lists(st.sampled_from("abc"), min_size=1, max_size=6)
FAMILY = ["best_of_n", "majority", "weighted"]


def run(
    name: str, answers: Sequence[str], scores: Sequence[float], n: int | None = None
) -> Solution:
    """Chain i gives answers[i], which the verifier scores scores[i]."""
    texts = [f"{i} answer {answer}" for i, answer in enumerate(answers)]
    by_text = dict(zip(texts, scores, strict=True))
    strategy = {"name": name, "n": n or len(answers)}
    return solve(numbered(texts), strategy, rewards=lambda text: by_text[text.splitlines()[-1]])


def chosen(name: str, answers: Sequence[str], scores: Sequence[float]) -> str | None:
    return run(name, answers, scores).answer


def majority(answers: Sequence[str]) -> str:
    return max(answers, key=lambda answer: (answers.count(answer), -answers.index(answer)))


@pytest.mark.parametrize("seed", range(4))
def test_best_of_n_2_8_1_of_one_chain_all_are_that_chain(seed: int) -> None:
    lines = ["answer a", "answer b", "no idea"]
    settings: dict[str, Any] = {"rewards": lambda text: 0.0, "seed": seed}
    texts = [solve(lines, {"name": name, "n": 1}, **settings).text for name in FAMILY]
    assert set(texts) == {solve(lines, "single", seed=seed).text}


@settings(max_examples=25)
@given(answers=ANSWERS, score=st.sampled_from([0.0, 0.25, 1.0]))
@example(answers=["b", "a", "a"], score=0.0)
def test_best_of_n_2_8_2_of_equal_scores(answers: list[str], score: float) -> None:
    """Weighted is majority; the best is the first."""
    equal = [score] * len(answers)
    assert chosen("weighted", answers, equal) == majority(answers)
    assert run("best_of_n", answers, equal).text.startswith("0 ")


def test_best_of_n_2_8_2_the_first_is_the_first_with_an_answer() -> None:
    lines = ["no idea", "1 answer b", "2 answer a"]
    solution = solve(numbered(lines), {"name": "best_of_n", "n": 3}, rewards=lambda text: 0.5)
    assert solution.text == lines[1]


@settings(max_examples=25)
@given(answers=ANSWERS, more=ANSWERS)
def test_best_of_n_2_8_3_a_score_of_zero_adds_nothing_where_another_is_not(
    answers: list[str], more: list[str]
) -> None:
    scores = [2.0**-i for i in range(len(answers))]
    with_more = chosen("weighted", answers + more, scores + [0.0] * len(more))
    assert with_more == chosen("weighted", answers, scores)


@settings(max_examples=25)
@given(scores=st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_best_of_n_2_8_3_the_only_answer_is_the_answer(scores: list[float]) -> None:
    assert chosen("weighted", ["a"] * len(scores), scores) == "a"


@settings(max_examples=25)
@given(answers=ANSWERS, data=st.data())
def test_best_of_n_2_8_4_without_a_tie_order_says_nothing(
    answers: list[str], data: st.DataObject
) -> None:
    # Sums of different powers of 2 differ, and are exact in any order.
    pairs = [(answer, 2.0**-i) for i, answer in enumerate(answers)]
    moved, weights = zip(*data.draw(st.permutations(pairs)), strict=True)
    scores = [score for _, score in pairs]
    assert chosen("weighted", moved, weights) == chosen("weighted", answers, scores)
    counts = sorted(map(answers.count, set(answers)))
    assume(len(counts) == 1 or counts[-1] > counts[-2])
    assert chosen("majority", moved, weights) == chosen("majority", answers, scores)


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("k", range(1, 6))
def test_best_of_n_2_8_6_the_first_k_decide_with_n_k(name: str, k: int) -> None:
    answers, scores = ["c", "a", "b", "b", "a"], [0.5, 0.25, 0.375, 0.25, 1.0]
    cut = run(name, answers, scores, n=k)
    assert cut.text == run(name, answers[:k], scores[:k]).text


@pytest.mark.parametrize("name", FAMILY)
def test_best_of_n_2_8_10_exactly_n_chains(name: str) -> None:
    (event,) = run(name, "abcab", [0.5] * 5).trace.of("sample")
    assert len(event.data["chains"]) == 5


@pytest.mark.parametrize("name", ["majority", "weighted"])
def test_best_of_n_2_8_11_equal_answers_vote_together_in_the_words_of_the_first(name: str) -> None:
    lines = [f"answer {a}" for a in ("3", r"\frac12", "3", "0.5", "1/2")]
    engine = ScriptedEngine(script=numbered(lines), rewards=lambda text: 0.5)
    solution = Solver(
        {"policy": engine, "prm": engine},
        strategy={"name": name, "n": 5},
        verifiers={"verifier": {"name": "prm", "model": "prm"}},
    ).solve(replace(problem(), canonical=canonical))
    assert solution.answer == r"\frac12"
