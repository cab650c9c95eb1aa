"""The written form of a mathematical answer: one spelling for what differs only in typesetting.

Pure string work, linear in the answer's length and safe in the main process; nothing here is
parsed as mathematics except plain numbers. `reasoning.verifiers.math_equal` decides the rest.
"""

from __future__ import annotations

import re
from fractions import Fraction

# Longer answers are compared as they stand: no reference answer comes near, and every step
# below and in the symbolic parser costs with length.
MAX_ANSWER = 1000
MAX_DIGITS = 60

# The first branch keeps a matrix's row break from being read as a backslash and a space.
_SPACING = re.compile(
    r"(\\\\)|\\(?:[,;:! ]|(?:quad|qquad|displaystyle|left|right|middle)(?![a-zA-Z]))|[~\n\t]"
)
_TEXT = re.compile(
    r"\\(?:text|mbox|textbf|textit|textrm|mathrm|mathbf|operatorname)\s*\{([^{}]*)\}"
)
_UNIT = re.compile(
    r"(?<=[^\s=,])\s*\\(?:text|mbox|textrm|mathrm)\s*\{[^{}]*\}(?:\^\{?[23]\}?)?\s*$"
)
_ORDINAL = re.compile(r"\^\s*\{?\s*\\(?:text|mbox|textrm|mathrm)\s*\{\s*(?:st|nd|rd|th)\s*\}\s*\}?")
_DEGREES = re.compile(r"\^\s*(?:\\circ|\{\s*\\circ\s*\}|°)|\\degree\b|°")
_FRACTION = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_SHORT_FRACTION = re.compile(r"\\frac\s*(\{[^{}]*\}|[0-9a-zA-Z])\s*(\{[^{}]*\}|[0-9a-zA-Z])")
_SHORT_ROOT = re.compile(r"\\sqrt\s*([0-9a-zA-Z])")
_SINGLE_SCRIPT = re.compile(r"([_^])\{([0-9a-zA-Z])\}")
_BASE_SCRIPT = re.compile(r"_\{([0-9]+)\}$")
_SPACE = re.compile(r"(\\[a-zA-Z]+)?\s+(?=(.)?)", re.DOTALL)
_WRAPPERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_SYMBOLS = str.maketrans({"−": "-", "–": "-", "π": r"\pi ", "∞": r"\infty ", "×": r"\times "})

_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d*)?")
_DECIMAL = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)")
_QUOTIENT = re.compile(r"([+-]?)(\d*)\\frac\{([+-]?\d+)\}\{([+-]?\d+)\}|([+-]?\d+)/(\d+)")
_IN_BASE = re.compile(r"([+-]?[0-9A-Za-z]+)_\{?(\d+)\}?")
_ASSIGNED = re.compile(r"[A-Za-z]=(.+)", re.DOTALL)
_CHOICE = re.compile(r"\(([A-Za-z])\)")


def normalise(answer: str) -> str:
    r"""One spelling: no spacing, no `\text`, no trailing unit, `\frac{a}{b}`, `\sqrt{a}`.

    Returns the stripped answer itself where it is longer than MAX_ANSWER.
    """
    text = answer.strip()
    if len(text) > MAX_ANSWER:
        return text
    text = _unwrapped(text.translate(_SYMBOLS)).rstrip(". ")
    text = text.replace(r"\$", "").replace("{,}", ",").replace(r"\%", "%")
    text = _FRACTION.sub(r"\\frac", text)
    text = _ORDINAL.sub("", _DEGREES.sub("", text))
    text = _SPACING.sub(lambda found: found[1] or " ", text).strip()
    text = _UNIT.sub("", text)
    text = _TEXT.sub(lambda found: f" {found[1].strip()} ", text)
    text = _SHORT_FRACTION.sub(lambda f: rf"\frac{_braced(f[1])}{_braced(f[2])}", text)
    text = _SHORT_ROOT.sub(r"\\sqrt{\1}", text)
    text = _BASE_SCRIPT.sub(r"_\1", _SINGLE_SCRIPT.sub(r"\1\2", text))
    text = text.replace(r"\leq", r"\le").replace(r"\geq", r"\ge").replace(r"\neq", r"\ne")
    # A space ends a macro's name: `\pi r` must not become `\pir`.
    text = _SPACE.sub(_kept_space, text).strip()
    return text[1:-1] if _CHOICE.fullmatch(text) else text


def spelling(answer: str) -> str:
    r"""The key of answers that are certainly equal: numbers by value, words without case.

    "5.5", "\frac{11}{2}" and "11/2" are all "11/2". Different keys may still be equal answers.
    """
    text = normalise(answer)
    value = number(text)
    if value is not None:
        return str(value)
    return text.casefold() if is_word(answer) else text


def canonical(answer: str) -> str:
    """The key by which votes on one problem are counted.

    `spelling`, and besides: the variable before an equality sign is dropped ("x=5" votes for
    "5"), and a bare list is in no order ("7,5,3" votes for "3,5,7"). Answers that only algebra
    shows to be equal keep different keys; `math_equal.groups` merges those too.
    """
    key = spelling(answer)
    assigned = _ASSIGNED.fullmatch(key)
    if assigned is not None and "=" not in assigned[1]:
        key = spelling(assigned[1])
    parts = _split(key)
    return ",".join(sorted(spelling(part) for part in parts)) if len(parts) > 1 else key


def number(text: str) -> Fraction | None:
    """The exact value of a normalised plain number: integer, decimal, quotient or mixed number."""
    if len(text) > MAX_DIGITS:
        return None
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    if _DECIMAL.fullmatch(text):
        return Fraction(text.rstrip(".") or "0")
    found = _QUOTIENT.fullmatch(text)
    if found is None:
        return None
    sign, whole, top, bottom, left, right = found.groups()
    if left is not None:
        return Fraction(int(left), int(right)) if int(right) else None
    if not int(bottom) or (whole and ("-" in top or "-" in bottom)):
        return None
    value = int(whole or 0) + Fraction(int(top), int(bottom))
    return -value if sign == "-" else value


def in_base(text: str) -> tuple[str, int] | None:
    """Digits and base of a normalised numeral such as `2516_8`."""
    found = _IN_BASE.fullmatch(text)
    return (found[1].upper(), int(found[2])) if found and len(found[2]) < 3 else None


def is_word(answer: str) -> bool:
    r"""Whether an answer is words, not a product of variables: `\text{east}`, `Evelyn`."""
    bare = _unwrapped(answer.strip())
    found = _TEXT.fullmatch(bare)
    if found is not None:
        return len([c for c in found[1] if c.isalpha()]) > 1
    words = bare.replace(" ", "").replace("-", "").rstrip(".")
    return words.isalpha() and len(words) >= 4


def _split(text: str) -> list[str]:
    """Parts between commas outside all brackets; one part where there are brackets left open."""
    if len(text) > MAX_ANSWER or "," not in text:
        return [text]
    parts, depth, start = [], 0, 0
    for place, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[start:place])
            start = place + 1
        if depth < 0:
            return [text]
    return [*parts, text[start:]] if depth == 0 else [text]


def _unwrapped(text: str) -> str:
    for start, end in _WRAPPERS:
        inner = text[len(start) : -len(end)]
        if text.startswith(start) and text.endswith(end) and start not in inner:
            return inner.strip()
    return text


def _braced(part: str) -> str:
    return part if part.startswith("{") else "{" + part + "}"


def _kept_space(found: re.Match[str]) -> str:
    macro, following = found[1], found[2]
    if macro is None:
        return ""
    return macro + " " if following and following.isalpha() else macro
