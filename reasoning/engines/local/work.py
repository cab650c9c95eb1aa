"""What the embedded engine is asked for: prefills, and batches of sequences to decode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from reasoning.engines.base import Completion, SampleRequest, TokenLogprob
from reasoning.engines.hf_tokenizer import Detokenizer
from reasoning.engines.local.sampler import Row
from reasoning.engines.stops import Stops


@dataclass(eq=False)
class Pass:
    """A prefill whose hidden states are wanted (score, choose, pool, embed).

    needed: position from which outputs are wanted. read(outputs): called in the worker with the
    logits (or reward values) at positions needed..end. Rewards are cached with the prefix.
    hidden: read(outputs) gets the hidden states themselves.
    """

    ids: tuple[int, ...]
    needed: int
    done: Callable[[Tensor, int], None]  # outputs [end - needed, V, 1 or hidden], cached tokens
    failed: Callable[[Exception], None]
    hidden: bool = False
    cancelled: bool = False
    priority: int = 0


@dataclass(eq=False)
class Sequence:
    """One continuation being decoded."""

    request: Batch
    index: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    detokenizer: Detokenizer | None = None
    stops: Stops | None = None
    stopped: bool = False  # its sink wants no more

    @property
    def length(self) -> int:
        """Positions of its row that are filled: all but its last token's."""
        return len(self.request.ids) + len(self.tokens) - 1

    def row(self) -> Row:
        sampling, request = self.request.ask.sampling, self.request.ask
        banned = self.request.enders if len(self.tokens) < sampling.min_tokens else ()
        index = request.position + len(self.tokens)
        return Row(sampling, request.streams[self.index].key, index, banned)


@dataclass(eq=False)
class Batch:
    """A sample request: n sequences over one prompt, prefilled once."""

    ask: SampleRequest
    enders: tuple[int, ...]  # token ids that end a chain
    limit: int  # tokens a chain may have here
    done: Callable[[list[Completion], int, int], None]  # completions, prefilled, cached
    failed: Callable[[Exception], None]
    sink: Callable[[int, int, str, TokenLogprob | None], None] | None
    cancelled: bool = False
    waiting: int = 0  # sequences admitted so far
    prefill: int = 0
    cached: int = 0
    completions: dict[int, Completion] = field(default_factory=dict)
    prompt_kv: Tensor | None = None  # without the last token's where there are no logits of it
    first_logits: Tensor | None = None
    sequences: list[Sequence] = field(default_factory=list)

    @property
    def ids(self) -> tuple[int, ...]:
        return self.ask.prompt_ids

    @property
    def priority(self) -> int:
        return self.ask.priority
