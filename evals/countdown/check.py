"""Checker of a final expression: an own parser over exact fractions. Nothing is evaluated.

Grammar: sum = product (("+" | "-") product)*; product = atom (("*" | "/") atom)*;
atom = integer | "(" sum ")". Lengths and depths are bounded, so hostile text ends quickly.
"""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction

MAX_EXPRESSION = 200
_TOKEN = re.compile(r"\s*(\d{1,9}|[-+*/()])", re.ASCII)
_ANSWER = re.compile(r"^answer[ \t]+([^\n]{1,400})$", re.MULTILINE)


def extract_answer(text: str) -> str | None:
    """The expression of the last `answer ...` line, or None."""
    found = _ANSWER.findall(text)
    return found[-1].strip() if found else None


def check(answer: str, numbers: tuple[int, ...], target: int) -> bool:
    """Whether the expression makes the target and uses every number exactly once."""
    try:
        value, used = _evaluate(answer)
    except ValueError:
        return False
    return value == target and used == Counter(numbers)


def canonical(answer: str) -> str:
    """The form in which answers are compared for votes: without spaces and outer brackets.

    Two different right expressions stay two answers; votes measure agreement in wording.
    """
    text = re.sub(r"\s+", "", answer)[:MAX_EXPRESSION]
    while text.startswith("(") and _closing(text) == len(text) - 1:
        text = text[1:-1]
    return text


def _closing(text: str) -> int:
    depth = 0
    for index, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return index
    return -1


def _evaluate(text: str) -> tuple[Fraction, Counter[int]]:
    """Value and the numbers used. Raises ValueError for anything that is not an expression.

    Shunting-yard: no recursion, so nesting cannot exhaust the stack.
    """
    text = text.strip()
    if not text or len(text) > MAX_EXPRESSION:
        raise ValueError("no expression, or too long")
    used: Counter[int] = Counter()
    values: list[Fraction] = []
    operators: list[str] = []
    position, expects_value = 0, True
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ValueError(f"unexpected character at {position}")
        token, position = match[1], match.end()
        if token.isdigit() and expects_value:
            used[int(token)] += 1
            values.append(Fraction(int(token)))
            expects_value = False
        elif token == "(" and expects_value:
            operators.append(token)
        elif token == ")" and not expects_value:
            while operators and operators[-1] != "(":
                _apply(operators.pop(), values)
            if not operators:
                raise ValueError("a bracket is closed that was not opened")
            operators.pop()
        elif token in "+-*/" and not expects_value:
            while operators and _rank(operators[-1]) >= _rank(token):
                _apply(operators.pop(), values)
            operators.append(token)
            expects_value = True
        else:
            raise ValueError(f"unexpected {token!r}")
    if expects_value:
        raise ValueError("the expression ends early")
    while operators:
        _apply(operators.pop(), values)
    return values[0], used


def _rank(operator: str) -> int:
    return {"(": 0, "+": 1, "-": 1, "*": 2, "/": 2}[operator]


def _apply(operator: str, values: list[Fraction]) -> None:
    if operator == "(":
        raise ValueError("a bracket is left open")
    b, a = values.pop(), values.pop()
    if operator == "/":
        if b == 0 or (a / b).denominator != 1:
            raise ValueError("a division that does not come out even")
        values.append(a / b)
    else:
        values.append(a + b if operator == "+" else a - b if operator == "-" else a * b)
