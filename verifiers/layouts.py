"""How process reward models want a question and its steps laid out, in their own tokens.

A layout is one list of ids and the positions where the score of each step is read. All models here
are causal, so what follows the last such position changes no score and is left out: a growing
path's ids then begin with those of its parent, and an engine with a prefix cache computes the new
step only.

Text that was written by a policy is data: where it holds a marker of the format, that is taken out,
or it would count as the end of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reasoning.engines.base import Tokenizer
from reasoning.errors import EngineReplyError, ModelError


@dataclass(frozen=True, slots=True)
class Layout:
    """ids: what the model reads, up to the last step's end. ends: one position a step."""

    ids: tuple[int, ...]
    ends: tuple[int, ...]


def single(tokenizer: Tokenizer, text: str, what: str) -> int:
    """The id of a text that must be one token. Raises ModelError."""
    ids = tokenizer.encode(text)
    if len(ids) != 1:
        raise ModelError(
            f"{what} {text!r} is {len(ids)} tokens in the reward model's tokenizer, and must be "
            f"one; this is not a model of that format, or another marker must be set"
        )
    return ids[0]


def behind_markers(
    opening: Sequence[int], steps: Sequence[str], closing: Sequence[int], tokenizer: Tokenizer
) -> Layout:
    """Each step and then the tokens `closing`, whose last one is where it is scored."""
    ids, ends = list(opening), []
    for step in steps:
        ids += [*tokenizer.encode(step), *closing]
        ends.append(len(ids) - 1)
    return Layout(tuple(ids), tuple(ends))


def at_tags(
    opening: Sequence[int], question: str, steps: Sequence[str], tag: str, tokenizer: Tokenizer
) -> Layout:
    """`question step tag`, one step a line, tokenised in one piece; scored at each tag.

    Tokenised in one piece because the tag is an ordinary word there, and what stands before it
    decides how it is cut. Raises EngineReplyError when a tag was not found again.
    """
    tag_id = tokenizer.encode(tag)[-1]
    lines = "\n".join(f"{step.replace(tag, '')} {tag}" for step in steps)
    ids = (*opening, *tokenizer.encode(f"{question.replace(tag, '')} {lines}"))
    ends = tuple(position for position, token in enumerate(ids) if token == tag_id)
    if len(ends) != len(steps):
        raise EngineReplyError(
            f"{len(ends)} tags {tag!r} in the tokens of {len(steps)} steps; the tokenizer joins "
            f"the tag with its neighbours: use the model's own step tag"
        )
    return Layout(ids, ends)


def in_turns(question: str, steps: Sequence[str], good: str, tokenizer: Tokenizer) -> Layout:
    """A conversation: each step is a user turn (the first behind the question), each answer is
    `good`; scored one position before each answer, where the answer is predicted.

    Raises ModelError when the chat template rewrites earlier turns, because then the position
    before an answer is another one in each conversation.
    """
    messages: list[dict[str, str]] = []
    ids: list[int] = []
    ends = []
    for step in steps:
        content = step if messages else f"{question} {step}"
        messages.append({"role": "user", "content": content})
        rendered = tokenizer.render(messages)
        if rendered[: len(ids)] != ids:
            raise ModelError(
                "the reward model's chat template rewrites earlier turns; it cannot be read as a "
                "conversation of steps: use the template that the model was trained with"
            )
        ids = rendered
        ends.append(len(ids) - 1)
        messages.append({"role": "assistant", "content": good})
    return Layout(tuple(ids), tuple(ends))
