"""The reward head of a pooling model: /pooling of vLLM, one value for each token.

vLLM does not read its prefix cache for per-token scores, so a pass costs the whole length.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from reasoning.engines.base import EngineUsage, PoolReply
from reasoning.engines.openai.assembly import parsed
from reasoning.engines.openai.faults import Fault, Malformed
from reasoning.engines.openai.transport import Transport

PATH = "//pooling"


def body(model: str, ids: Sequence[int]) -> bytes:
    asked = {
        "model": model,
        "input": [list(ids)],
        "task": "token_classify",
        "use_activation": True,
        "encoding_format": "float",
    }
    return json.dumps(asked, separators=(",", ":")).encode()


async def offered(transport: Transport, model: str) -> bool:
    """Whether the server scores tokens."""
    try:
        await transport.post(PATH, body(model, [0]), lambda said: read(parsed(said), 1, [0]), 30.0)
    except Fault:
        return False
    return True


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
    if not all(0.0 <= value <= 1.0 for value in values):
        raise Malformed("scores outside 0 to 1")
    return PoolReply(values, EngineUsage(prefill=size))
