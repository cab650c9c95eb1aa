"""Equality of two mathematical answers by computer algebra. Runs in isolated workers only.

The work is math-verify's (Hugging Face; latex2sympy, then sympy), which may run for hours or eat
all memory on a short input. Only its LaTeX extraction is used: its plain-expression extraction
goes through sympy's `parse_expr`, which evaluates text as Python.
"""

from __future__ import annotations

import logging

from math_verify import parse, verify
from math_verify.parser import LatexExtractionConfig

# Digits after the point in which floats must agree. The default of 6 takes .0000672 and
# .000067 for equal, and no reference answer here is meant to be rounded.
FLOAT_DIGITS = 10

_LATEX = [LatexExtractionConfig()]

# Both functions warn that their own time limits are off; the worker has a harder one.
logging.getLogger("math_verify").setLevel(logging.ERROR)


def equal(reference: str, answer: str) -> bool:
    r"""Whether `answer` is the same mathematics as `reference` (both normalised LaTeX).

    Directional, as math-verify is: `x=5` is answered by `5`, an interval by its inequality only
    where the reference is the relation. An answer that does not parse is not equal.
    """
    sides = []
    for text in (reference, answer):
        found = parse(
            f"${text.replace('$', '')}$",
            extraction_config=_LATEX,
            fallback_mode="no_fallback",
            parsing_timeout=None,
        )
        if not found:
            return False
        sides.append(found)
    return bool(verify(sides[0], sides[1], float_rounding=FLOAT_DIGITS, timeout_seconds=None))
