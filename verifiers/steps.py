"""Steps: where a chain's steps end, in text and in tokens.

A step is the text up to and including a separator. A step of white space only is none: a text that
ends with its separator, or holds two in a row, would otherwise have an empty step whose score is
the one that `last` reads.
"""

from __future__ import annotations

from reasoning.chain import Chain
from reasoning.engines.base import Tokenizer
from reasoning.problem import Problem


def steps_of(text: str, separator: str) -> list[str]:
    """The steps of a text without their separators. A separator that never occurs leaves one."""
    parts = text.split(separator) if separator else [text]
    return [part.strip() for part in parts if part.strip()]


def step_ends(chain: Chain, separator: str, tokenizer: Tokenizer) -> list[int]:
    """Positions in `chain.all_ids` of the tokens that end a step; the last token with text ends
    one too. EOS, which has no text, ends nothing."""
    ends = []
    step = ""
    start = last = len(chain.prompt_ids)
    for position, token in enumerate(chain.ids, start):
        text = tokenizer.decode([token])
        step += text
        if separator in step:
            before, step = step.rsplit(separator, 1)
            if before.strip():
                ends.append(position)
        if step.strip() and text:
            last = position
    if step.strip() and (not ends or last > ends[-1]):
        ends.append(last)
    return ends


def question(problem: Problem) -> str:
    """What the last user message asks. System text and examples are for the policy."""
    for message in reversed(problem.messages):
        if message.get("role") == "user":
            return message.get("content", "").strip()
    return problem.messages[-1].get("content", "").strip()
