r"""Finding the answer in a mathematical solution's text.

In order: the last balanced `\boxed{...}`; GSM8K's `#### answer`; the last "answer: ..." or
"the answer is ...". All searches are linear in the text, whatever a model wrote.
"""

from __future__ import annotations

import re

from reasoning.prompts import THINK_TAGS
from reasoning.verifiers.math_text import canonical, normalise

__all__ = ["boxed", "canonical", "conclusion", "extract", "normalise"]

_TOKEN = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_INK = re.compile(r"\S")
_BARE_BOX = re.compile(r"\\boxed\s*([0-9A-Za-z]+)")
_HASHES = re.compile(r"####[ \t]*([^\n]+)")
_STATED = re.compile(
    r"\banswer(?:\**[ \t]*[:=]\**|[ \t]+is(?:[ \t]*:)?)[ \t*]*([^\n]+)", re.IGNORECASE
)
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)")


def extract(text: str) -> str | None:
    """The answer a solution text gives, as written, or None."""
    found = boxed(text)
    if found is not None:
        return found
    for pattern in (_BARE_BOX, _HASHES, _STATED):
        matches = pattern.findall(text)
        if not matches:
            continue
        line: str = matches[-1]
        if pattern is _STATED:
            line = _SENTENCE_END.split(line, maxsplit=1)[0]
        answer = line.strip(" \t*`").rstrip(".").strip()
        if answer:
            return answer
    return None


def conclusion(text: str) -> str | None:
    """The answer to a question of any kind: the last box, what the last line states as the answer,
    or else all that follows the thinking. None where nothing does, or the thinking has no end."""
    opens, closes = THINK_TAGS
    said = text.rpartition(closes)[2].strip()
    if opens in said:
        return None
    last = said.rpartition("\n")[2]
    return boxed(said) or extract(last) or said or None


def boxed(text: str) -> str | None:
    r"""Contents of the `\boxed{...}` that closes last, or None; empty and unclosed ones do not
    count. Of nested boxes it is the outermost."""
    last: tuple[int, int] | None = None
    # Starts of contents for boxes, None for other braces. One pass: a text of ten thousand
    # unclosed boxes must not be scanned ten thousand times.
    open_braces: list[int | None] = []
    for token in _TOKEN.finditer(text):
        mark = token[0]
        if mark == "}":
            start = open_braces.pop() if open_braces else None
            if start is not None and _INK.search(text, start, token.start()):
                last = (start, token.start())
        elif mark == "{":
            open_braces.append(None)
        elif mark.endswith("{") and len(mark) > 2:
            open_braces.append(token.end())
    return text[last[0] : last[1]].strip() if last else None
