"""Finding answers in solution texts."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning.evals.math_answers import boxed, conclusion, extract

PROSE = "The answer is open. Some say so.\nOthers do not."


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{5}.", "5"),
        (r"\boxed{1} and then \boxed{ \frac{1}{2} }", r"\frac{1}{2}"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{\text{a } b} \boxed{unclosed \frac{1}{2}", r"\text{a } b"),
        (r"\boxed{} \boxed{ } \fbox{7}", "7"),
        (r"\boxed{\boxed{3}}", r"\boxed{3}"),
        (r"} stray \boxed{4} {", "4"),
        (r"\boxed 9", "9"),
        ("Janet has 3.\n#### 1,234", "1,234"),
        ("**Answer:** 12", "12"),
        ("**Answer**: $12$", "$12$"),
        ("Final answer: 3.5.", "3.5"),
        ("The answer is 12. I hope it is right.", "12"),
        ("answer is 1\nanswer is: 2", "2"),
        (r"\boxed{8} the answer is 9", "8"),
        ("no idea", None),
        ("", None),
        ("answer:   ", None),
    ],
)
def test_extract(text: str, answer: str | None) -> None:
    assert extract(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>\\boxed{9}?</think>\nSo \\boxed{4}.", "4"),
        ("2 + 2 is 4\n**Answer:** 4", "4"),
        (PROSE, PROSE),
        ("<think>I know</think>\n\nParis", "Paris"),
        ("\\boxed{} Paris", "\\boxed{} Paris"),
        ("<think>the answer is 4", None),
        ("<think>I know</think>", None),
        (" \n", None),
    ],
)
def test_conclusion(text: str, answer: str | None) -> None:
    assert conclusion(text) == answer


@given(inner=st.text(alphabet="ab{} 1", max_size=20))
def test_any_balanced_content_comes_back(inner: str) -> None:
    depth, balanced = 0, True
    for character in inner:
        depth += (character == "{") - (character == "}")
        balanced &= depth >= 0
    if balanced and depth == 0 and inner.strip():
        assert boxed(rf"first \boxed{{0}}, last \boxed{{{inner}}}") == inner.strip()


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{" * 300_000,
        r"\boxed{" * 300_000 + "}" * 300_000,
        "answer is " * 100_000,
        "####" * 200_000,
        "{" * 500_000,
        "\\" * 500_001,
        "answer:" + "*" * 300_000,
        "answer" + " " * 300_000,
        "answer:" + "*" * 1000 + "\nanswer" * 50_000,
    ],
)
def test_hostile_texts_are_read_in_linear_time(text: str) -> None:
    start = time.monotonic()
    extract(text)
    assert time.monotonic() - start < 5.0
