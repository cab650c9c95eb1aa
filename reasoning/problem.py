"""Problem and Solution: what goes in and what comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from reasoning.errors import PromptError

if TYPE_CHECKING:
    from reasoning.budget import Usage
    from reasoning.trace import Trace

Message = dict[str, str]

# ok: the strategy returned by itself. budget, deadline, interrupted: the best answer so far.
# failed: an error ended the problem; `error` says which. group_aborted: a shared-cache group died.
Status = Literal["ok", "budget", "deadline", "interrupted", "failed", "group_aborted"]

MAX_PROMPT_CHARACTERS = 1_000_000


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem, with everything about its task that a strategy or verifier may use.

    id: stable name within its task; part of journal keys and random streams.
    messages: chat messages; the model's template renders them to ids once.
    task: the task's registry name, or "text" for a bare question.
    reference: the known answer, read by graders only.
    check: whether an answer is right, as the task defines it (an oracle where it is exact).
    extract: the answer in a solution's text, or None.
    canonical: the form in which two answers are compared when votes are counted.
    step: the separator that ends a step in this task's solutions.
    closing: the text that ends the thinking and opens the answer, where the task's solutions have
    one of their own; None where that is the model family's tag (see `prompts.closing`).
    """

    id: str
    messages: tuple[Message, ...]
    task: str = "text"
    reference: str | None = None
    check: Callable[[str], bool] | None = None
    extract: Callable[[str], str | None] = field(default=lambda text: text.strip() or None)
    canonical: Callable[[str], str] = field(default=lambda answer: answer.strip())
    step: str = "\n\n"
    closing: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.messages or not any(m.get("content", "").strip() for m in self.messages):
            raise PromptError(f"problem {self.id!r} has an empty prompt; give it a question")
        size = 0
        for message in self.messages:
            content = message.get("content", "")
            size += len(content)
            if "\0" in content:
                raise PromptError(f"problem {self.id!r}: the prompt holds a NUL byte; remove it")
            if any("\ud800" <= character <= "\udfff" for character in content):
                raise PromptError(
                    f"problem {self.id!r}: the prompt holds half of a character (a surrogate); "
                    f"decode it anew, with errors='replace'"
                )
        if size > MAX_PROMPT_CHARACTERS:
            raise PromptError(
                f"problem {self.id!r}: a prompt of {size:,} characters is over the limit of "
                f"{MAX_PROMPT_CHARACTERS:,}; shorten it"
            )


@dataclass(frozen=True, slots=True)
class Solution:
    """The answer a strategy gave, and what it cost.

    answer: None when no solution text held one. text: the solution it was taken from.
    status: see `Status`; anything but "ok" and "failed" is a best answer so far.
    roles: the usage of each role; `usage` is their sum.
    racing: which reply came first decided something, so that another run may differ (a replay does
    not); else it is ordered.
    """

    problem: str
    answer: str | None
    text: str
    status: Status
    usage: Usage
    trace: Trace = field(repr=False)
    seconds: float = 0.0
    error: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    roles: Mapping[str, Usage] = field(default_factory=dict)
    racing: bool = False
