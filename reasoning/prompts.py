"""Prompts: a problem's messages to token ids, once, through the model's own template."""

from __future__ import annotations

from dataclasses import replace

from reasoning.engines.base import Engine, Tokenizer
from reasoning.errors import ConfigError, PromptError
from reasoning.problem import Problem

# Kinds of prompt, by what they add to the task's system message (arXiv 2502.07191 compares them;
# the wording is this project's own).
KINDS: dict[str, str] = {
    "standard": "",
    "cot": "Think step by step before you give the answer.",
    "reflect_cot": (
        "Think step by step. After each step look back at it, and if something in it is wrong, "
        "correct it before you go on."
    ),
}

# What opens and closes thinking in models that have tokens for it.
THINK_TAGS = ("<think>", "</think>")


def check_kind(kind: str) -> None:
    """Raise ConfigError for a kind of prompt that does not exist."""
    if kind not in KINDS:
        raise ConfigError(f"unknown prompt kind {kind!r}; known are {', '.join(KINDS)}")


def instructed(problem: Problem, kind: str) -> Problem:
    """The problem with the instruction of a kind of prompt in its system message.

    Models whose template knows no system message make nothing of it.
    """
    instruction = KINDS[kind]
    if not instruction:
        return problem
    first, rest = problem.messages[0], problem.messages[1:]
    if first.get("role") != "system":
        first, rest = {"role": "system", "content": ""}, problem.messages
    said = f"{first['content']}\n{instruction}".strip()
    return replace(problem, messages=({**first, "content": said}, *rest))


def render(problem: Problem, engine: Engine) -> tuple[int, ...]:
    """Prompt ids that end where the assistant's text begins.

    Raises PromptError when the prompt does not fit the model's context.
    """
    ids = tuple(engine.tokenizer.render(list(problem.messages)))
    if not ids:
        raise PromptError(f"problem {problem.id!r}: the prompt renders to no tokens")
    if len(ids) >= engine.context_length:
        raise PromptError(
            f"problem {problem.id!r}: the prompt has {len(ids)} tokens, the context of "
            f"{engine.name} is {engine.context_length}; shorten it or use a longer context"
        )
    return ids


def think_tags(tokenizer: Tokenizer) -> tuple[str, str] | None:
    """The tags that open and close a model's thinking; None where its vocabulary has none.

    The architecture does not tell: QwQ and the R1 distillations are Qwen2 and Llama.
    """
    ids = tokenizer.encode(THINK_TAGS[1])
    return THINK_TAGS if len(ids) == 1 and tokenizer.decode(ids) == THINK_TAGS[1] else None


def closing(problem: Problem, engine: Engine) -> str | None:
    """The text that ends the thinking of a solution and opens its answer; None if nothing does.

    The task's own where it has one (a base model's plain format), else the model's tag.
    """
    if problem.closing is not None:
        return problem.closing
    tags = think_tags(engine.tokenizer)
    return None if tags is None else tags[1]
