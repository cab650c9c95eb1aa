"""Phases: where the thinking of a chain ends and its answer begins."""

from __future__ import annotations

from dataclasses import dataclass

from reasoning.engines.base import Engine
from reasoning.errors import ConfigError
from reasoning.problem import Problem
from reasoning.prompts import closing as known_closing


@dataclass(frozen=True, slots=True)
class Closing:
    """The text that ends thinking: a tag such as `</think>`, or a word such as `answer `.

    A word counts at the start of a line only, because it may stand elsewhere in prose.
    """

    text: str

    @classmethod
    def of(cls, problem: Problem, engine: Engine, own: str | None) -> Closing:
        """The setting's own, else the task's, else the model's tag.

        Raises ConfigError, before anything is asked, where none of them is known.
        """
        text = known_closing(problem, engine) if own is None else own
        if not text:
            raise ConfigError(
                f"nothing says how {engine.name} ends its thinking on task {problem.task!r}; "
                f"set `closing` of the chain policy, for example to '</think>'"
            )
        return cls(text)

    @property
    def word(self) -> bool:
        return self.text[0].isalnum()

    def find(self, text: str, start: int = 0) -> int:
        """Where the first closing from `start` on begins; -1 where there is none."""
        place = text.find(self.text, start)
        while self.word and place > 0 and text[place - 1] != "\n":
            place = text.find(self.text, place + 1)
        return place

    def begun(self, text: str) -> int:
        """How many characters of a closing that was begun stand at the end of `text`."""
        for size in range(min(len(self.text) - 1, len(text)), 0, -1):
            line_start = len(text) == size or text[-size - 1] == "\n"
            if text.endswith(self.text[:size]) and (line_start or not self.word):
                return size
        return 0

    def behind(self, text: str, lead: str = "") -> str:
        """What closes `text`: the rest of a closing that was begun there, else all of it, on a
        line of its own and after `lead`, where that is given."""
        begun = self.begun(text)
        if begun:
            return self.text[begun:]
        newline = "" if not text or text.endswith("\n") else "\n"
        return f"{newline}{lead}{self.text}"
