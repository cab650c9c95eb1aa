"""What a text says it has come to, read from its end."""

import pytest

from reasoning.stated import stated

BEFORE = "So the answer is 7.\n\nWait, let me check. "


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So the answer is 1/2.", "1/2"),
        ("So the answer is 1/2", "1/2"),
        ("Therefore, x = -3", "-3"),
        ("So it is \\frac{1}{2}", "\\frac{1}{2}"),
        ("So the answer is [1, 2)", "[1, 2)"),
        ("Thus the angle is 90^\\circ", "90^\\circ"),
        ("So P(5) = 2\\pi", "2\\pi"),
        ("Then \\boxed{12} and x = 1/", "12"),
        ("So it is \\boxed{>}", ">"),
    ],
)
def test_a_finished_statement_is_read(text: str, answer: str) -> None:
    assert stated(BEFORE + text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "So the answer is 1/",
        "So the answer is 1/ ",
        "So x = 3 +",
        "Therefore, x = 2^",
        "So, 9 + 16 =",
        "So it is \\frac{1}",
        "So it is \\frac{1}{2",
        "So it is 3\\sqrt",
        "So it is 3\\sqrt{",
        "So it is 5\\",
        "So the answer is (1, 2,",
        "So the answer is \\boxed{1",
    ],
)
def test_an_expression_that_breaks_off_at_the_end_is_no_answer(text: str) -> None:
    assert stated(BEFORE + text) == "7" and stated(text) is None


def test_only_the_end_of_the_text_can_break_off() -> None:
    assert stated("So x = 1/\nHm") == "1/"
