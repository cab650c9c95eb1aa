"""What can go wrong between us and a server, and the error a caller sees."""

from __future__ import annotations

import email.utils
import json
import re
import time
from typing import Literal

from reasoning.errors import (
    EngineReplyError,
    EngineUnavailable,
    ModelError,
    PromptError,
    ReasoningError,
)

# connect: no connection. reset: it broke. timeout: one of ours ran out. status: an HTTP error.
# reply: HTTP said 200, and the content cannot be right.
Kind = Literal["connect", "reset", "timeout", "status", "reply"]

_CONTEXT = re.compile(
    r"context[ _](?:length|window)|max_model_len|maximum (?:model|input|context)"
    r"|too many tokens|prompt is too long|longer than the maximum",
    re.IGNORECASE,
)
QUOTED = 300  # characters of a server's text that a message quotes


class Fault(Exception):
    """One attempt failed. Never leaves the engine: `error` makes what the caller sees.

    message: what happened, with the URL and without anything secret.
    text: the server's own words, redacted.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        status: int = 0,
        text: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.status = status
        self.text = text
        self.retry_after = retry_after

    @property
    def retryable(self) -> bool:
        return self.kind != "status" or self.status in (408, 409, 425, 429) or self.status >= 500

    @property
    def overload(self) -> bool:
        """The server asks for less at once."""
        return self.kind == "timeout" or self.status in (429, 503)

    @property
    def broken(self) -> bool:
        """The server may be down: others should wait until it is known to be up."""
        return self.kind in ("connect", "reset", "timeout") or self.status >= 500


class Malformed(Exception):
    """A reply that cannot be right; the message says what is wrong with it."""


def reply_fault(url: str, wrong: str) -> Fault:
    """A reply that cannot be right."""
    return Fault("reply", f"{url} answered what cannot be right: {wrong}")


def error(fault: Fault, *, key_variable: str, model: str, served: list[str]) -> ReasoningError:
    """The public error for a fault that is not retried (any more)."""
    says = f": {fault.text}" if fault.text else ""
    if fault.kind == "reply":
        return EngineReplyError(fault.message)
    if fault.status == 429:
        return EngineUnavailable(f"{fault.message}{says}; lower `max_concurrency`, or wait")
    if fault.status >= 500:
        return EngineUnavailable(f"{fault.message}{says}; see the server's log")
    if fault.kind != "status" or fault.retryable:
        return EngineUnavailable(fault.message + says)
    if fault.status in (401, 403):
        return EngineUnavailable(
            f"{fault.message}: the server refuses the key; set a valid one in the environment "
            f"variable {key_variable}{says}"
        )
    if fault.status in (400, 413, 422) and _CONTEXT.search(fault.text):
        return PromptError(f"{fault.message}: the prompt does not fit{says}")
    if fault.status == 404:
        listed = ", ".join(served) or "none"
        return ModelError(
            f"{fault.message}: the server does not have model {model!r} or this endpoint; "
            f"it serves {listed}{says}"
        )
    return EngineReplyError(f"{fault.message}{says}")


def words(said: bytes | str, key: str | None) -> str:
    """What a server said, for people: one line, shortened, without the key."""
    text = said if isinstance(said, str) else said.decode("utf-8", "replace")
    try:
        parsed = json.loads(text)
        inner = parsed.get("error", parsed)
        found = inner.get("message") if isinstance(inner, dict) else inner
        text = found if isinstance(found, str) else text
    except (ValueError, AttributeError, RecursionError):
        pass
    if key:
        text = text.replace(key, "***")
    printable = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(printable.split())[:QUOTED]


def retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for: a number, or an HTTP date."""
    if not value:
        return None
    try:
        return max(0.0, float(value)) if float(value) == float(value) else None
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
