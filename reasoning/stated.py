r"""Stated: the answer that a piece of mathematical reasoning says it has come to.

Read from the end: the last `\boxed{...}`, the last "the answer is ...", or the last sentence that
draws a conclusion ("So, P(5) = 15.", "Therefore, that's 12."). Whether it answers the question
that was asked is not known here: a conclusion may be about an intermediate value. Pure string
work, linear in the text.
"""

from __future__ import annotations

import re

_LINE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\\])|\n+")
_BOX = re.compile(r"\\boxed\s*\{")
_ANSWER = re.compile(
    r"\banswer\b[^.:=]{0,40}?(?:\bis\b|\bshould be\b|\bwould be\b|\bmust be\b|:|=)\s*(.+)",
    re.IGNORECASE,
)
_CONCLUDES = re.compile(
    r"^\W*(?:(?:so|therefore|thus|hence|then|which means|that means|which gives|that gives|"
    r"this gives|finally|in conclusion|yes|okay|ok)\b\W*)+",
    re.IGNORECASE,
)
_VALUE = re.compile(
    r".*(?:=|≈|\bis\b|\bequals\b|\bbe\b|\bto\b|\bgives\b|\bget\b|'s)(.+)$", re.DOTALL
)
_MARKS = re.compile(r"\\[()\[\]]|\*\*|\$")
_LEAD = re.compile(r"^(?:indeed|just|simply|exactly|equal to|also|approximately|about|the)\b\s*")
_NUMERIC = re.compile(r"\d|\\(?:pi|frac|sqrt|infty|text)|π|√|∞")
_WORDS = re.compile(r"[A-Za-z]{2,}")
_LONGEST = 60
# An expression that waits for more: for what follows a sign, or for a command's argument.
_OPEN = re.compile(
    r"(?:[-−+*/·×÷^_=<>≈≤≥≠\\]|\\(?:cdot|times|div|pm|sqrt|left)|\\[dt]?frac(?:\s*\{[^{}]*\})?)$"
)


def stated(text: str, *, lines: int | None = None) -> str | None:
    """The answer stated last, or None. lines: how many sentences or lines are read, from the end
    (None: all)."""
    parts = [part for part in _LINE.split(text) if part and part.strip()]
    for back, part in enumerate(reversed(parts if lines is None else parts[-lines:])):
        boxed, concluded = _boxed(part), _concluded(part)
        if not back and concluded and _unfinished(concluded):
            concluded = None  # where the text was cut, not what it says
        if boxed or concluded:
            return boxed or concluded
    return None


def _unfinished(value: str) -> bool:
    """Whether an expression breaks off. Brackets of any kinds may pair, as those of intervals do;
    more may close than open, as in `b) 12`."""
    opened = sum(value.count(bracket) for bracket in "([{")
    return opened > sum(value.count(bracket) for bracket in ")]}") or bool(_OPEN.search(value))


def _boxed(part: str) -> str | None:
    last = None
    for box in _BOX.finditer(part):
        depth, place = 1, box.end()
        while place < len(part) and depth:
            depth += {"{": 1, "}": -1}.get(part[place], 0)
            place += 1
        if not depth:
            last = part[box.end() : place - 1].strip()
    return last


def _concluded(part: str) -> str | None:
    if len(part) > 400:
        return None
    plain = " ".join(_MARKS.sub(" ", part).split())
    said = _ANSWER.search(plain)
    if said is not None:
        return _value(said[1])
    opening = _CONCLUDES.match(plain)
    if opening is None:
        return None
    found = _VALUE.match(plain[opening.end() :])
    return _value(found[1] if found else "")


def _value(said: str) -> str | None:
    """A value, without what stands around it; None where it is none."""
    inner = _VALUE.match(said)
    value = (inner[1] if inner and "=" in said else said).strip()
    value = _LEAD.sub("", value).strip(" .,;:!?")
    if not value or len(value) > _LONGEST or not _NUMERIC.search(value):
        return None
    words = [w for w in _WORDS.findall(re.sub(r"\\[a-zA-Z]+", "", value))]
    return value if len(words) <= 1 else None
