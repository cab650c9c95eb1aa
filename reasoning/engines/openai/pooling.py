"""The reward head of a pooling model: /pooling of vLLM, by token or of the last token.

A server does one of the two. By token (`token_classify`) it does not read its prefix cache, so a
pass costs the whole length. Of the last token (`classify`, the server's `--pooler-config
'{"task": "classify"}'`) it does, and a growing path costs what it grew by; but /pooling tells no
cached tokens, so that it is charged as computed in full.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from reasoning.engines.base import EngineUsage, PoolReply
from reasoning.engines.openai.assembly import parsed
from reasoning.engines.openai.faults import Fault, Malformed
from reasoning.engines.openai.transport import Transport

PATH = "//pooling"
Task = Literal["token_classify", "classify"]


def body(model: str, ids: Sequence[int], task: Task = "token_classify") -> bytes:
    asked = {
        "model": model,
        "input": [list(ids)],
        "task": task,
        "use_activation": True,
        "encoding_format": "float",
    }
    return json.dumps(asked, separators=(",", ":")).encode()


async def offered(transport: Transport, model: str) -> Task | None:
    """How the server scores; None where it does not."""
    tasks: tuple[Task, ...] = ("token_classify", "classify")
    for task in tasks:
        said = read if task == "token_classify" else read_last
        take = partial(_taken, said)
        try:
            await transport.post(PATH, body(model, [0], task), take, 30.0)
        except Fault:
            continue
        return task
    return None


def _taken(said: Callable[..., PoolReply], reply: bytes) -> PoolReply:
    return said(parsed(reply), 1, [0])


def read(payload: Any, size: int, positions: Sequence[int]) -> PoolReply:
    """The last label's value (of one: sigmoid; of two: the probability of the second).

    Raises Malformed.
    """
    try:
        rows = payload["data"][0]["data"]
        if len(rows) != size:
            raise Malformed(f"{len(rows)} scores for {size} tokens")
        found = [rows[position] for position in positions]
        values = tuple(float(row[-1] if type(row) is list else row) for row in found)
    except (KeyError, IndexError, TypeError, ValueError):
        raise Malformed("no scores by token") from None
    return PoolReply(_in_range(values), EngineUsage(prefill=size))


def read_last(payload: Any, size: int, positions: Sequence[int]) -> PoolReply:
    """The same of a reply that holds one row, of the last token's labels. Raises Malformed."""
    try:
        labels = payload["data"][0]["data"]
        values = (float(labels[-1] if type(labels) is list else labels),)
    except (KeyError, IndexError, TypeError, ValueError):
        raise Malformed("no scores of the last token") from None
    return PoolReply(_in_range(values), EngineUsage(prefill=size))


def _in_range(values: tuple[float, ...]) -> tuple[float, ...]:
    if not all(0.0 <= value <= 1.0 for value in values):
        raise Malformed("scores outside 0 to 1")
    return values
