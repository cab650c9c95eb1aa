"""Weighted voting: a score of 0 is no vote, and where there is nothing else, each chain has one."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.strategies.selection.scripts import numbered, solve

ANSWERS = st.lists(st.sampled_from("abc"), min_size=1, max_size=6)


def chosen(answers: list[str], scores: list[float]) -> str | None:
    """The answer of `weighted`; chain i gives answers[i], which the verifier scores scores[i]."""
    texts = [f"{i} answer {answer}" for i, answer in enumerate(answers)]
    by_text = dict(zip(texts, scores, strict=True))
    strategy = {"name": "weighted", "n": len(answers)}
    return solve(
        numbered(texts),
        strategy,
        rewards=lambda text: by_text[text.splitlines()[-1]],
    ).answer


def majority(answers: list[str]) -> str:
    return max(answers, key=lambda answer: (answers.count(answer), -answers.index(answer)))


@settings(max_examples=25)
@given(answers=ANSWERS, score=st.sampled_from([0.0, 0.25, 1.0]))
@example(answers=["b", "a", "a"], score=0.0)
def test_equal_scores_are_a_vote(answers: list[str], score: float) -> None:
    assert chosen(answers, [score] * len(answers)) == majority(answers)


@settings(max_examples=25)
@given(answers=ANSWERS, more=ANSWERS)
def test_a_score_of_zero_adds_nothing_where_another_is_not(
    answers: list[str], more: list[str]
) -> None:
    scores = [2.0**-i for i in range(len(answers))]
    assert chosen(answers + more, scores + [0.0] * len(more)) == chosen(answers, scores)
