"""Chain: a prompt and what has been written after it, in token ids."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from reasoning.engines.base import Completion, TokenLogprob

# stop: the model ended it, or a stop string or id did. length: its own cap. budget: the ledger's.
# deadline: the clock's. abort: cancelled.
ChainFinish = Literal["stop", "length", "budget", "deadline", "abort"]


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain of thought, finished or not. Continuing it makes a new one.

    prompt_ids: the rendered prompt. ids, text: what was written after it.
    finish: why the last write ended; None for a bare prompt. done: the model ended the chain,
    so that there is nothing to continue.
    fork: where this chain's random stream left the prompt's: pairs (token index, draw).
    logprobs: of `ids`, where they were asked for (then as long as ids; 0 for a forced token).
    """

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...] = ()
    text: str = ""
    finish: ChainFinish | None = None
    done: bool = False
    fork: tuple[tuple[int, int], ...] = ()
    logprobs: tuple[TokenLogprob, ...] = field(default=(), repr=False)

    @property
    def all_ids(self) -> tuple[int, ...]:
        return self.prompt_ids + self.ids

    def drawn(self, draw: int) -> Chain:
        """This chain with the random stream of its `draw`-th continuation (0: its own stream)."""
        if not draw:
            return self
        return Chain(
            self.prompt_ids,
            self.ids,
            self.text,
            self.finish,
            self.done,
            (*self.fork, (len(self.ids), draw)),
            self.logprobs,
        )

    def extended(self, completion: Completion, finish: ChainFinish, eos_id: int | None) -> Chain:
        """This chain with a completion behind it."""
        ended = finish == "stop" and completion.stop_reason in (None, eos_id)
        return Chain(
            prompt_ids=self.prompt_ids,
            ids=self.ids + completion.ids,
            text=self.text + completion.text,
            finish=finish,
            done=ended,
            fork=self.fork,
            logprobs=self.logprobs + (completion.logprobs or ()),
        )


def packed(ids: Sequence[int]) -> str:
    """Token ids as the hex digits of 32-bit integers: what a digest reads faster than a list."""
    return array("i", ids).tobytes().hex()
