"""The reward head of a pooling model: /pooling of vLLM.

A server scores in one of three ways, which its answer to a probe tells:

- `tokens`: a row for each token (task `token_classify`). It does not read its prefix cache, so a
  pass costs the whole length.
- `steps`: the same, but only the rows of one step token come back (vLLM's default for
  Qwen2.5-Math-PRM).
- `last`: one row, of the last token (task `classify`: vLLM's default for sequence classifiers; for
  token classifiers the server's `--pooler-config '{"task": "classify"}'`). It reads its prefix
  cache, so a growing path costs what it grew by; but /pooling tells no cached tokens, so that it
  is charged as computed in full.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from reasoning.engines.base import EngineUsage, PoolReply, reward
from reasoning.engines.openai.assembly import parsed
from reasoning.engines.openai.faults import Fault, Malformed
from reasoning.engines.openai.transport import Transport

PATH = "//pooling"
Way = Literal["tokens", "steps", "last"]


def body(model: str, ids: Sequence[int], way: Way = "tokens") -> bytes:
    asked = {
        "model": model,
        "input": [list(ids)],
        "task": "classify" if way == "last" else "token_classify",
        "use_activation": False,  # which one vLLM applies depends on the config's `problem_type`
        "encoding_format": "float",
    }
    return json.dumps(asked, separators=(",", ":")).encode()


async def offered(transport: Transport, model: str) -> Way | None:
    """How the server scores; None where it does not."""
    ways: tuple[Way, ...] = ("tokens", "last")
    for way in ways:
        try:
            rows = await transport.post(PATH, body(model, [0], way), _probed, 30.0)
        except Fault:
            continue
        return way if rows else "steps"  # the probe holds no step token
    return None


def _probed(reply: bytes) -> list[Any]:
    return _table(parsed(reply))


def reading(way: Way) -> Callable[[Any, int, Sequence[int]], PoolReply]:
    """What makes the rewards at some positions of a reply to a prompt of some size."""
    return {"tokens": read, "steps": read_steps, "last": read_last}[way]


def read(payload: Any, size: int, positions: Sequence[int]) -> PoolReply:
    """The rewards of a reply with a row of logits for each token. Raises Malformed."""
    rows = _table(payload)
    if len(rows) != size:
        raise Malformed(f"{len(rows)} scores for {size} tokens")
    return PoolReply(_values([rows[position] for position in positions]), EngineUsage(prefill=size))


def read_steps(payload: Any, size: int, positions: Sequence[int]) -> PoolReply:
    """The same of a reply that holds the rows of the step token only. Raises Malformed when they
    are not as many as the positions asked for."""
    rows = _table(payload)
    if len(rows) != len(positions):
        raise Malformed(
            f"{len(rows)} scores of its step token for {len(positions)} positions; serve the model "
            f"with --pooler-config.tok_pooling_type ALL"
        )
    return PoolReply(_values(rows), EngineUsage(prefill=size))


def read_last(payload: Any, size: int, positions: Sequence[int]) -> PoolReply:
    """The same of a reply that holds one row, of the last token's labels. Raises Malformed."""
    return PoolReply(_values([_table(payload)]), EngineUsage(prefill=size))


def _table(payload: Any) -> list[Any]:
    try:
        rows = payload["data"][0]["data"]
    except (KeyError, IndexError, TypeError):
        rows = None
    if type(rows) is not list:
        raise Malformed("no scores by token")
    return rows


def _values(rows: Sequence[Any]) -> tuple[float, ...]:
    try:
        values = tuple(
            reward([float(label) for label in (row if type(row) is list else [row])])
            for row in rows
        )
    except (TypeError, ValueError):
        raise Malformed("no scores by token") from None
    if not all(map(math.isfinite, values)):
        raise Malformed("scores that are no numbers")
    return values
