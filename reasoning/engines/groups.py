"""Groups: the seam of engines that decode several workers over one shared KV cache.

What Hogwild! (arXiv 2504.06261), Group Think (2505.11107) and ParaThinker (2509.04475) ask of an
engine. They differ in where a worker sees the tokens of the others: the layout.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

from reasoning.engines.base import Completion, EngineUsage, Sampling, Stream

# Hogwild!'s layouts: the others' tokens in a block each before one's own (contiguous), behind the
# common history (combined), or only once they are committed to it (interleaved). Group Think's: a
# slot of positions for each worker. ParaThinker's: paths that do not see each other, and the
# summary that sees them all overlaid.
Layout = Literal["contiguous", "combined", "interleaved", "slots", "paths", "summary"]


@dataclass(frozen=True, slots=True)
class GroupRequest:
    """Workers behind one prompt.

    openings: each worker's own first tokens. streams: one for each worker.
    max_tokens: the most that all workers and forks together decode or are forced to take.
    """

    prompt_ids: tuple[int, ...]
    openings: tuple[tuple[int, ...], ...]
    max_tokens: int
    sampling: Sampling
    streams: tuple[Stream, ...]
    layout: Layout

    @property
    def size(self) -> int:
        """Tokens that are there before the first step."""
        return len(self.prompt_ids) + sum(map(len, self.openings))


class Group(Protocol):
    """A group in decoding: `async for step in group`. What is asked between two steps takes effect
    in the next one. Raises Stopped of status `group_aborted` when a member fails."""

    @property
    def usage(self) -> EngineUsage:
        """The work so far; forced tokens are among the new ones."""
        ...

    def __aiter__(self) -> AsyncIterator[Mapping[int, int]]:
        """Steps: the new token of each worker that still writes. Ends when none does."""
        ...

    async def force(self, worker: int, ids: Sequence[int]) -> None:
        """Make `ids` the worker's next tokens."""
        ...

    async def stop(self, worker: int) -> None:
        """The worker writes no more; what it wrote stays in sight."""
        ...

    async def commit(self, worker: int) -> None:
        """Move the worker's own tokens to the end of the common history."""
        ...

    async def ask(self, worker: int, ids: Sequence[int], max_tokens: int) -> Completion:
        """What the worker would write behind `ids`, on a fork that nobody sees."""
        ...

    async def join(self, layout: Layout, openings: Sequence[Sequence[int]]) -> None:
        """Go on in another layout over the same KV, with one new worker behind each opening."""
        ...


GroupManager = AbstractAsyncContextManager[Group]
