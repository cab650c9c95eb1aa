"""The one exception tree. A message says what was wrong, where, and what to do.

Everything a caller may want to catch derives from `ReasoningError`; the command line prints
such an error as one line and any other exception as a bug.
"""

from __future__ import annotations

from typing import Any


class ReasoningError(Exception):
    """Base of all errors raised on purpose by this package."""


class ConfigError(ReasoningError):
    """A recipe, setting or argument is wrong. Raised before anything is spent."""


class UnknownName(ConfigError):
    """A name that no registry entry, role or column answers to."""


class CapabilityError(ConfigError):
    """A strategy needs what its engine (or recording) cannot do. Raised before any spending."""


class ModelError(ConfigError):
    """A model cannot be loaded: missing files, no tokenizer, pickled weights."""


class PromptError(ConfigError):
    """A prompt that cannot be asked: empty, longer than the context, holding NUL bytes."""


class DataError(ReasoningError):
    """A data file is missing or malformed; the message names file and line."""


class JournalError(ReasoningError):
    """A run's files cannot be used: locked by another process, or written by another recipe."""


class ReplayDiverged(JournalError):
    """A resumed strategy asked something other than what its journal recorded.

    The message shows both asks. It means that code, settings or seeds changed under a run.
    """


class BudgetBreach(ReasoningError):
    """A hard cap was passed: a bug in an engine or in the ledger, never normal operation."""


class EngineError(ReasoningError):
    """An engine failed. `retryable` says whether asking again may help."""

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class EngineUnavailable(EngineError):
    """The engine or server cannot be reached, or died with requests open."""


class EngineReplyError(EngineError):
    """The engine answered something that cannot be right: too few choices, malformed JSON."""


class RatingFailed(EngineReplyError):
    """Some chains of a batch could not be rated; the message names the first one.

    ratings: those of the others, None where one failed; they are charged and kept.
    spent: what they cost, as the context booked it.
    """

    def __init__(self, message: str, ratings: list[Any]) -> None:
        super().__init__(message)
        self.ratings = ratings
        self.spent: Any = None


class Stopped(ReasoningError):
    """Raised inside a strategy when it may ask no more; the runner turns it into a Solution.

    `status` is the Solution's status: `budget`, `deadline` or `interrupted`.
    """

    def __init__(self, status: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.status = status
        self.details = details


class BudgetExhausted(Stopped):
    """What was asked for cannot fit the remaining budget, even once open leases settle."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__("budget", message, **details)


class DeadlinePassed(Stopped):
    """The seconds of the budget have passed."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__("deadline", message, **details)


def first_error(group: BaseException) -> BaseException:
    """The first real error inside (nested) exception groups."""
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group
