"""Continuous batching: sequences join and leave between steps of one batched forward pass.

A step first prefills some that wait, then decodes one token for every live one. A sequence that
ends leaves its KV in the prefix cache.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from reasoning.engines.base import Completion, Finish
from reasoning.engines.hf_tokenizer import Detokenizer, HFTokenizer
from reasoning.engines.local.buckets import Buckets
from reasoning.engines.local.decoder import Decoder
from reasoning.engines.local.prefixes import Prefix, PrefixCache
from reasoning.engines.local.sampler import sample
from reasoning.engines.local.slots import Rows
from reasoning.engines.local.work import Batch, Pass, Sequence
from reasoning.engines.stops import Stops

# New tokens that one step prefills at most, so that decoding does not stall for long.
PREFILL_TOKENS = 4096
# A request of at most so many sequences, whose prompt is cached but for its last token, needs no
# pass of its own: each of them decodes that token (usage has it once, as ever). More would do in n
# rows what a pass does in one.
WITHOUT_PREFILL = 4


@dataclass(frozen=True, slots=True)
class Found:
    """Work that needs a pass: the prefix cache holds its first `shared` ids.

    place: in the queue, which a batch gets back when it is prefilled.
    """

    place: int
    work: Batch | Pass
    prefix: Prefix | None
    shared: int

    def width(self) -> int:
        """New tokens in its row."""
        return len(self.work.ids) - self.shared


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
        self._prefill_slots = decoder.slots(8, 128)  # rows of one pass
        self._prefixes = PrefixCache(prefix_bytes)
        self._live = Buckets(decoder)
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
        for sequence in list(self._live):
            if sequence.request.cancelled:
                self._leave(sequence)
            elif sequence.stopped:
                self._end(sequence, "abort", None)
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
            _, place, work = self._waiting[0]
            if isinstance(work, Batch) and len(self._live) + len(fresh) >= self._max_batch:
                break
            if isinstance(work, Pass) or work.prompt_kv is None:
                found = self._look_up(place, work)
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

    def _look_up(self, place: int, work: Batch | Pass) -> Found | None:
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
        return Found(place, work, prefix, shared)

    def _prefill(self, group: list[Found]) -> None:
        """One pass over what is missing, without padding."""
        slots = self._prefill_slots
        slots.reserve(len(group), max(len(found.work.ids) for found in group))
        by_width = sorted(group, key=Found.width)
        parts: list[Rows] = []
        row = 0
        for width, alike in itertools.groupby(by_width, Found.width):
            starts: list[int] = []
            for found in alike:
                if found.prefix is not None:
                    slots.put(row + len(starts), found.prefix.kv, found.shared)
                starts.append(found.shared)
            parts.append(Rows(slots, row, starts, width))
            row += len(starts)
        ids = [token for found in by_width for token in found.work.ids[found.shared :]]
        hidden = self._decoder.forward(torch.tensor(ids, device=self._decoder.device), parts)
        outputs = torch.split(hidden, [found.width() for found in by_width])
        rows = {found: row for row, found in enumerate(by_width)}
        for found in group:  # in the order in which they were asked
            work, row = found.work, rows[found]
            own, kv = outputs[row], slots.take(row, len(work.ids))
            if isinstance(work, Batch):
                work.prompt_kv = kv
                work.first_logits = self._decoder.logits(own[-1:])[0]
                self._prefixes.add(Prefix(work.ids, kv))
                heapq.heappush(self._waiting, (work.priority, found.place, work))
            else:
                self._answer(work, found, own, kv)
        self._admit_prefilled()

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
        known = len(batch.ids) if batch.first_logits is not None else len(batch.ids) - 1
        sampling = batch.ask.sampling
        can_stop = bool(sampling.stop or sampling.nth_stop)
        room = self._max_batch - len(self._live) - reserved
        until = min(batch.ask.n, batch.waiting + room)
        fresh = [Sequence(batch, index) for index in range(batch.waiting, until)]
        if not fresh:
            return False
        for sequence in fresh:
            if can_stop or batch.sink is not None:
                sequence.detokenizer = Detokenizer(self._tokenizer)
            if can_stop:
                sequence.stops = Stops(sampling)
        self._live.add(fresh, batch.prompt_kv, known)
        batch.waiting += len(fresh)
        batch.sequences.extend(fresh)
        if batch.first_logits is not None:
            self._take(fresh, batch.first_logits.expand(len(fresh), -1))
        return batch.waiting == batch.ask.n

    # Decode.

    def _decode(self) -> None:
        parts = self._live.parts()
        sequences = list(self._live)
        last = [s.tokens[-1] if s.tokens else s.request.ids[-1] for s in sequences]
        hidden = self._decoder.forward(torch.tensor(last, device=self._decoder.device), parts)
        self._take(sequences, self._decoder.logits(hidden))

    def _take(self, sequences: list[Sequence], logits: Tensor) -> None:
        """Draw a token for each; end those that end."""
        tokens, logprobs = sample(logits, [sequence.row() for sequence in sequences])
        self.counters["new"] += len(tokens)
        for sequence, token in zip(sequences, tokens, strict=True):
            sequence.tokens.append(token)  # of all, before one that ends makes a row move
        for sequence, token, value in zip(sequences, tokens, logprobs, strict=True):
            request = sequence.request
            if value is not None:
                sequence.logprobs.append(value)
            piece = ""
            if sequence.detokenizer is not None:
                piece = sequence.detokenizer.feed(token)
            if request.sink is not None:
                request.sink(sequence.index, token, piece, value)
            found = self._stop(sequence, token, piece)
            if found is not None:
                self._end(sequence, "stop", found)
            elif len(sequence.tokens) >= request.limit:
                self._end(sequence, "length", None)

    def _stop(self, sequence: Sequence, token: int, piece: str) -> str | int | None:
        sampling = sequence.request.ask.sampling
        found = sequence.stops.feed(piece) if sequence.stops is not None else None
        if len(sequence.tokens) < sampling.min_tokens:
            return None
        if token in self._eos and not sampling.ignore_eos:
            return token
        if token in sampling.stop_ids:
            return token
        return found

    def _end(self, sequence: Sequence, finish: Finish, reason: str | int | None) -> None:
        batch = sequence.request
        text = self._tokenizer.decode(sequence.tokens)
        if isinstance(reason, str) and not batch.ask.sampling.include_stop:
            text = text[: text.rindex(reason)]
        logprobs = tuple(sequence.logprobs) if batch.ask.sampling.logprobs is not None else None
        batch.completions[sequence.index] = Completion(
            tuple(sequence.tokens), text, finish, reason, logprobs
        )
        self._leave(sequence)
        if len(batch.completions) == batch.ask.n:
            ordered = [batch.completions[i] for i in range(batch.ask.n)]
            batch.done(ordered, batch.prefill, batch.cached)

    def _leave(self, sequence: Sequence) -> None:
        """Free its row; what is in it goes to the prefix cache."""
        if self._prefixes.enabled:
            # The last token's KV was never computed.
            ids = (*sequence.request.ids, *sequence.tokens)[: sequence.length]
            self._prefixes.add(Prefix(ids, self._live.kv(sequence)))
        self._live.remove(sequence)
