"""Continuous batching: sequences join and leave between steps of one batched forward pass.

Live sequences sit in rows 0..B-1 of the slots. A step first prefills some that wait, in rows B
and up, then decodes one token for every live one. A sequence that ends leaves its KV in the
prefix cache, and later rows move up.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from reasoning.engines.base import Completion, Finish, SampleRequest, TokenLogprob
from reasoning.engines.hf_tokenizer import Detokenizer, HFTokenizer
from reasoning.engines.local.decoder import BAND, Decoder
from reasoning.engines.local.prefixes import Prefix, PrefixCache
from reasoning.engines.local.sampler import Row, sample

# New tokens that one step prefills at most, so that decoding does not stall for long.
PREFILL_TOKENS = 4096
# A request of at most so many sequences, whose prompt is cached but for its last token, needs no
# pass of its own: each of them decodes that token (usage has it once, as ever). More would do in n
# rows what a pass does in one.
WITHOUT_PREFILL = 4


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
    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    detokenizer: Detokenizer | None = None
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


@dataclass(frozen=True, slots=True)
class Found:
    """Work that needs a pass: the prefix cache holds its first `shared` ids."""

    work: Batch | Pass
    prefix: Prefix | None
    shared: int

    @property
    def missing(self) -> tuple[int, ...]:
        return self.work.ids[self.shared :]


class Scheduler:
    """Owns the model's state. Runs in one thread; nothing here is thread-safe."""

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: HFTokenizer,
        eos_ids: tuple[int, ...],
        max_batch: int,
        prefix_bytes: int,
    ) -> None:
        self.counters = {"new": 0, "prefill": 0, "cached": 0}
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._eos = frozenset(eos_ids)
        self._max_batch = max_batch
        self._slots = decoder.slots(8, 128)
        self._prefixes = PrefixCache(prefix_bytes)
        self._live: list[Sequence] = []
        self._waiting: list[tuple[int, int, Batch | Pass]] = []
        self._passing: list[Found] = []  # neither waiting nor answered: open if their pass fails
        self._order = itertools.count()

    @property
    def idle(self) -> bool:
        return not self._live and not self._waiting

    def add(self, work: Batch | Pass) -> None:
        heapq.heappush(self._waiting, (work.priority, next(self._order), work))

    def step(self) -> None:
        """Admit what fits, decode one token for all that live."""
        self._drop_cancelled()
        self._admit()
        if self._live:
            self._decode()

    def open_work(self) -> list[Batch | Pass]:
        """Everything that has not been answered, and after a failed pass what it had answered."""
        known: list[Batch | Pass] = [sequence.request for sequence in self._live]
        known += [work for _, _, work in self._waiting]
        known += [found.work for found in self._passing]
        return list(dict.fromkeys(known))

    def _drop_cancelled(self) -> None:
        for row in range(len(self._live) - 1, -1, -1):
            sequence = self._live[row]
            if sequence.request.cancelled:
                self._leave(row)
            elif sequence.stopped:
                self._end(row, "abort", None)
        if any(work.cancelled for _, _, work in self._waiting):
            self._waiting = [item for item in self._waiting if not item[2].cancelled]
            heapq.heapify(self._waiting)

    # Prefill.

    def _admit(self) -> None:
        """Prefill waiting work, in order, until the step's share of tokens is used."""
        room = PREFILL_TOKENS
        fresh: list[Found] = []
        self._passing = fresh
        while self._waiting and room > 0:
            work = self._waiting[0][2]
            if isinstance(work, Batch) and len(self._live) + len(fresh) >= self._max_batch:
                break
            if isinstance(work, Pass) or work.prompt_kv is None:
                found = self._look_up(work)
                if found is not None:
                    heapq.heappop(self._waiting)
                    fresh.append(found)
                    room -= len(work.ids)
                    continue
            assert isinstance(work, Batch)  # a pass is never without its look-up
            if not self._join(work, len(fresh)):
                break
            heapq.heappop(self._waiting)
        if fresh:
            self._prefill(fresh)
            self._passing = []

    def _look_up(self, work: Batch | Pass) -> Found | None:
        """What the cache holds of the work's ids; None where that is all: the batch may join."""
        # At least the last token is computed: its output is wanted.
        most = len(work.ids) - 1 if isinstance(work, Batch) else self._reusable(work)
        prefix, shared = self._prefixes.find(work.ids, most)
        self.counters["prefill"] += len(work.ids) - shared
        self.counters["cached"] += shared
        if isinstance(work, Batch):
            work.prefill, work.cached = len(work.ids) - shared, shared
            if prefix is not None and shared == most and work.ask.n <= WITHOUT_PREFILL:
                work.prompt_kv = prefix.kv
                return None
        return Found(work, prefix, shared)

    def _prefill(self, group: list[Found]) -> None:
        first = len(self._live)
        width = max(len(found.missing) for found in group)
        self._slots.reserve(first + len(group), max(found.shared for found in group) + width)
        device = self._decoder.device
        padded = torch.zeros(len(group), width, dtype=torch.long)
        starts = torch.tensor([found.shared for found in group])
        for g, found in enumerate(group):
            if found.prefix is not None:
                self._slots.put(first + g, found.prefix.kv, found.shared)
            padded[g, : len(found.missing)] = torch.tensor(found.missing)
        hidden = self._decoder.forward(padded.to(device), starts.to(device), self._slots, first)
        for g, found in enumerate(group):
            work = found.work
            own = hidden[g, : len(found.missing)]
            kv = self._slots.take(first + g, len(work.ids))
            if isinstance(work, Batch):
                work.prompt_kv = kv
                work.first_logits = self._decoder.logits(own[-1:])[0]
                self._prefixes.add(Prefix(work.ids, kv))
                self._put_first(work)
            else:
                self._answer(work, found, own, kv)
        self._admit_prefilled()

    def _put_first(self, work: Batch) -> None:
        heapq.heappush(self._waiting, (work.priority, -next(self._order), work))

    def _admit_prefilled(self) -> None:
        """Let the sequences of prefilled batches join, as many as there are rows."""
        while self._waiting:
            work = self._waiting[0][2]
            if not isinstance(work, Batch) or work.prompt_kv is None:
                return
            if not self._join(work, 0):
                return
            heapq.heappop(self._waiting)

    def _reusable(self, work: Pass) -> int:
        """How much of a pass may come from the cache: rewards are cached, logits are not."""
        last = len(work.ids) - 1
        cached = self._decoder.head == "reward" and not work.hidden
        return last if cached else min(work.needed, last)

    def _answer(self, work: Pass, found: Found, hidden: Tensor, kv: Tensor) -> None:
        prefix, shared = found.prefix, found.shared
        values: Tensor | None = None
        if self._decoder.head == "reward":
            fresh = self._decoder.rewards(hidden).cpu()
            before = prefix.values[:shared] if prefix is not None else fresh[:0]  # type: ignore[index]
            values = torch.cat((before, fresh))
        if work.hidden:
            outputs = hidden[work.needed - shared :].float()
        elif values is not None:
            outputs = values[work.needed :, None]
        else:
            outputs = self._decoder.logits(hidden[work.needed - shared :])
        self._prefixes.add(Prefix(work.ids, kv, values))
        work.done(outputs, shared)

    def _join(self, batch: Batch, reserved: int) -> bool:
        """Turn waiting sequences of a prefilled batch live; True when none is left waiting."""
        assert batch.prompt_kv is not None
        prompt = len(batch.ids)
        known = prompt if batch.first_logits is not None else prompt - 1
        fresh: list[Sequence] = []
        while batch.waiting < batch.ask.n:
            row = len(self._live) + len(fresh)
            if row + reserved >= self._max_batch:
                break
            self._slots.reserve(row + 1, prompt + 1)
            self._slots.put(row, batch.prompt_kv, known)
            needs_text = batch.sink is not None or bool(batch.ask.sampling.stop)
            fresh.append(
                Sequence(
                    batch,
                    batch.waiting,
                    detokenizer=Detokenizer(self._tokenizer) if needs_text else None,
                )
            )
            batch.waiting += 1
        if fresh:
            first = len(self._live)
            self._live.extend(fresh)
            batch.sequences.extend(fresh)
            if batch.first_logits is not None:
                logits = batch.first_logits.expand(len(fresh), -1)
                self._take(range(first, first + len(fresh)), logits)
        return batch.waiting == batch.ask.n

    # Decode.

    def _decode(self) -> None:
        lengths = [sequence.length for sequence in self._live]
        self._slots.reserve(len(self._live), max(lengths) + 1)
        device = self._decoder.device
        last = [s.tokens[-1] if s.tokens else s.request.ids[-1] for s in self._live]
        ids = torch.tensor(last, device=device)[:, None]
        starts = torch.tensor(lengths, device=device)
        hidden = self._decoder.forward(ids, starts, self._slots, 0)
        self._take(range(len(self._live)), self._decoder.logits(hidden[:, -1]))

    def _take(self, rows: range, logits: Tensor) -> None:
        """Draw a token for each row; end those that end, last row first."""
        tokens, logprobs = sample(logits, [self._live[row].row() for row in rows])
        for row, token, value in reversed(list(zip(rows, tokens, logprobs, strict=True))):
            sequence = self._live[row]
            request = sequence.request
            self.counters["new"] += 1
            sequence.tokens.append(token)
            if value is not None:
                sequence.logprobs.append(value)
            piece = ""
            if sequence.detokenizer is not None:
                piece = sequence.detokenizer.feed(token)
                sequence.text += piece
            if request.sink is not None:
                request.sink(sequence.index, token, piece, value)
            found = self._stop(sequence, token, piece)
            if found is not None:
                self._end(row, "stop", found)
            elif len(sequence.tokens) >= request.limit:
                self._end(row, "length", None)

    def _stop(self, sequence: Sequence, token: int, piece: str) -> str | int | None:
        sampling = sequence.request.ask.sampling
        if len(sequence.tokens) < sampling.min_tokens:
            return None
        if token in self._eos and not sampling.ignore_eos:
            return token
        if token in sampling.stop_ids:
            return token
        for stop in sampling.stop:
            # Only what ends within the new piece is new.
            tail = sequence.text[-(len(stop) + len(piece)) :]
            if piece and stop in tail:
                return stop
        return None

    def _end(self, row: int, finish: Finish, reason: str | int | None) -> None:
        sequence = self._live[row]
        batch = sequence.request
        text = self._tokenizer.decode(sequence.tokens)
        if isinstance(reason, str) and not batch.ask.sampling.include_stop:
            text = text[: text.rindex(reason)]
        logprobs = tuple(sequence.logprobs) if batch.ask.sampling.logprobs is not None else None
        batch.completions[sequence.index] = Completion(
            tuple(sequence.tokens), text, finish, reason, logprobs
        )
        self._leave(row)
        if len(batch.completions) == batch.ask.n:
            ordered = [batch.completions[i] for i in range(batch.ask.n)]
            batch.done(ordered, batch.prefill, batch.cached)

    def _leave(self, row: int) -> None:
        """Free a row: its KV goes to the prefix cache, a later row into its place."""
        sequence = self._live[row]
        # The last token's KV was never computed.
        ids = (*sequence.request.ids, *sequence.tokens)[: sequence.length]
        if self._prefixes.enabled:
            self._prefixes.add(Prefix(ids, self._slots.take(row, len(ids))))
        last = len(self._live) - 1
        longest = self._live[last].length
        # Rows join at the end, so a row has seen less than those far before it. Filling the hole
        # from the band behind, and that one's likewise, keeps rows of like length in a band. Where
        # the last row is no shorter than that one, it may as well go there at once.
        while row < last:
            behind = min(row + BAND, last)
            if self._live[behind].length <= longest:
                behind = last
            mover = self._live[behind]
            self._slots.copy(behind, row, mover.length)
            self._live[row] = mover
            row = behind
        self._live.pop()
