"""The worker's side of `reasoning.isolation`: limits itself, then answers calls until EOF.

Run as `python -m reasoning.isolated_worker BYTES`. Messages have a 4-byte length before them:
`load module:function` imports, `call module:function SECONDS [arguments]` calls. Replies are
JSON: {"value": ...} or {"reason": "error" or "memory", "message": ...}.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import struct
import sys
from collections.abc import Callable
from typing import Any

HEADER = struct.Struct(">I")
GRACE = 1.0  # seconds after the parent's limit before the worker ends itself
MAX_REPLY_TEXT = 300


def main() -> None:
    """Answer calls until the parent closes the pipe."""
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.dup(1)
    # A parser that prints must not write into the protocol, nor read from it.
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    limit(None if sys.argv[1] == "None" else int(sys.argv[1]))
    while len(head := requests.read(HEADER.size)) == HEADER.size:
        message = requests.read(HEADER.unpack(head)[0])
        reply = json.dumps(answer(message)).encode()
        data = HEADER.pack(len(reply)) + reply
        while data:
            data = data[os.write(replies, data) :]


def limit(memory: int | None) -> None:
    """No more memory than given, no core dumps, no files written."""
    with contextlib.suppress(ImportError):
        import resource

        def cap(kind: int, value: int) -> None:
            # Some systems refuse a limit (macOS: address space); the wall clock still holds.
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(kind, (value, value))

        cap(resource.RLIMIT_CORE, 0)
        cap(resource.RLIMIT_FSIZE, 0)
        if memory is not None:
            cap(resource.RLIMIT_AS, memory)


def answer(message: bytes) -> dict[str, Any]:
    """The reply to one message; whatever a function raises becomes a reply too."""
    try:
        kind, rest = message.split(b" ", 1)
        if kind == b"load":
            find(rest.decode())
            return {"value": None}
        name, seconds, arguments = rest.split(b" ", 2)
        function = find(name.decode())
        # An orphan ends by itself: the default action of this signal stops even C code.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, float(seconds) + GRACE)
        try:
            value = function(*json.loads(arguments))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        json.dumps(value)  # here, so that a value that is no JSON is the function's error
        return {"value": value}
    except MemoryError:
        return {"reason": "memory", "message": "out of memory"}
    except BaseException as error:
        text = f"{type(error).__name__}: {error}"
        return {"reason": "error", "message": text[:MAX_REPLY_TEXT]}


def find(name: str) -> Callable[..., Any]:
    """The function behind "module:name"."""
    module, _, attribute = name.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return function


if __name__ == "__main__":
    main()
