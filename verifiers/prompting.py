"""Prompts in which a solution is shown to a model that is to judge it."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator


def _holds_the_solution(prompt: str) -> str:
    if "{solution}" not in prompt:
        raise ValueError("must hold {solution}, where the text to be judged stands")
    return prompt


# The text of a user turn, with {solution} and perhaps {question} in it.
JudgePrompt = Annotated[str, AfterValidator(_holds_the_solution)]


def filled(prompt: str, asked: str, solution: str) -> list[dict[str, str]]:
    """The prompt with both put in, as messages. What was put in is not looked at again: a question
    or a solution may hold braces of its own."""
    parts = [part.replace("{question}", asked) for part in prompt.split("{solution}")]
    return [{"role": "user", "content": solution.join(parts)}]
