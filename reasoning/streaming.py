"""TokenStream: a chain handed over while it is decoded, looked at by token offsets.

The consumer sees the chain every k tokens, or at the token that completes a separator; never at
chunks as they arrived, so its decisions do not depend on timing. It may stop the chain at the
offset it has seen, or force the next tokens there. What the engine decoded beyond that offset is
discarded and charged; an engine that cannot force is asked again with the longer prefix.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from reasoning.branch import Branch
from reasoning.budget import Lease, Usage
from reasoning.chain import Chain, ChainFinish
from reasoning.costs import pricing
from reasoning.draw import decode, encode
from reasoning.engines.base import (
    Completion,
    EngineUsage,
    SampleRequest,
    Sampling,
    Sink,
    Tokenizer,
    TokenLogprob,
)
from reasoning.errors import (
    BudgetExhausted,
    ConfigError,
    EngineReplyError,
    ReplayDiverged,
    Stopped,
)
from reasoning.journal import digest


@dataclass(frozen=True, slots=True)
class Piece:
    """What came since the last look. offset: tokens of the chain up to its end.

    logprobs: one for each of `ids` where the stream's sampling asks for them, else none.
    """

    offset: int
    ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


class TokenStream:
    """One continuation, in pieces. `chain` is what is committed so far."""

    def __init__(
        self,
        branch: Branch,
        prefix: Chain,
        role: str,
        sampling: Sampling,
        cap: int,
        every: int,
        separator: str | None,
    ) -> None:
        if every < 1:
            raise ConfigError(f"a stream is looked at every {every} tokens; use 1 or more")
        if separator == "":
            raise ConfigError("a stream's separator is empty; leave it out to look by tokens")
        self._chain = prefix.drawn(branch.next_draws(prefix, 1))
        self._pieces: list[Piece] = []  # read, and not yet joined to the chain
        self._offset = len(prefix.ids)
        self._branch = branch
        self._role = role
        self._engine = branch.bindings.engine(role)
        self._cost = branch.bindings.cost(role)
        self._sampling = sampling
        self._end = len(prefix.ids) + cap
        self._every = every
        self._separator = separator
        self._key = branch.next_key("stream")
        self._segment: _Segment | None = None
        self._segments = 0
        self._closed = False
        self._text = _Text(self._engine.tokenizer)

    @property
    def chain(self) -> Chain:
        """What is committed so far. Pieces are joined to it when it is read: a long chain that is
        looked at token by token must not be copied token by token."""
        if self._pieces:
            pieces, self._pieces = self._pieces, []
            joined = Completion(
                tuple(itertools.chain.from_iterable(piece.ids for piece in pieces)),
                "".join(piece.text for piece in pieces),
                "abort",
                None,
                tuple(itertools.chain.from_iterable(piece.logprobs for piece in pieces)),
            )
            self._chain = self._chain.extended(joined, "abort", None)
        return self._chain

    @chain.setter
    def chain(self, chain: Chain) -> None:
        self._chain, self._offset = chain, len(chain.ids)

    async def __aenter__(self) -> TokenStream:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, *rest: object) -> None:
        self._branch.note_error(error)
        if self._segment is not None:
            ended = isinstance(error, Stopped) or error is None
            self._segment.swept = not ended and self._branch.swept
        await self._leave_segment()

    def __aiter__(self) -> TokenStream:
        return self

    async def __anext__(self) -> Piece:
        if self._closed or self._offset >= self._end:
            # All the tokens that were asked for are here: the engine is ending by itself.
            await self._finish_segment()
            raise StopAsyncIteration
        if self._segment is None:
            self._segment = await self._open_segment()
        segment = self._segment
        fresh: list[int] = []
        text = ""
        if self._separator is None:
            fresh = await segment.take(self._every)
            text = self._text.feed(fresh)
        else:
            while self._separator not in text and (token := await segment.take(1)):
                fresh += token
                text += self._text.feed(token)
        if fresh:
            self._offset += len(fresh)
            piece = Piece(self._offset, tuple(fresh), text, segment.values(len(fresh)))
            self._pieces.append(piece)
            return piece
        await self._finish_segment()
        raise StopAsyncIteration

    async def stop(self) -> None:
        """End the chain at the offset seen last."""
        self._closed = True
        await self._leave_segment()

    async def force(self, ids: Sequence[int]) -> None:
        """Put `ids` behind the offset seen last and go on from there."""
        await self._leave_segment()
        self._closed = False
        # What is forced has probability 1.
        certain = (TokenLogprob(0.0),) * len(ids) if self._sampling.logprobs is not None else None
        forced = Completion(tuple(ids), self._engine.tokenizer.decode(ids), "abort", None, certain)
        self.chain = self.chain.extended(forced, "abort", None)
        self._branch.trace.add(
            "force", self._branch.path, offset=len(self.chain.ids), ids=tuple(ids)
        )

    async def _open_segment(self) -> _Segment:
        branch, chain = self._branch, self.chain
        key = (*self._key, self._segments)
        self._segments += 1
        size, cap = len(chain.all_ids), self._end - len(chain.ids)
        what = {"stream": self._role, "context": size, "cap": cap}
        ask_digest = digest(what, branch.identity(self._role), chain.all_ids)
        recorded = branch.journal.find(key, ask_digest, what)
        if recorded is not None:
            branch.ledger.charge(self._role, Usage(**recorded["u"]))
            segment = _Segment(key, ask_digest, what, size, recorded=decode(recorded))
            segment.cut = "deadline" if recorded["finish"] == "deadline" else None
            segment.lost = recorded["finish"] == "lost"
            return segment
        branch.refuse_if_stopped()
        lease = await branch.ledger.lease(
            self._role,
            pricing.worst(self._cost, size, cap, 1),
            pricing.worst(self._cost, size, 1, 1),
        )
        granted = pricing.fitting(self._cost, size, cap, lease.worst)
        if granted < 1:
            lease.settle(Usage())
            raise BudgetExhausted("the budget does not fit one more token")
        branch.journal.intend([key])
        segment = _Segment(key, ask_digest, what, size, lease=lease)
        request = SampleRequest(
            prompt_ids=chain.all_ids,
            max_tokens=granted,
            sampling=self._sampling,
            streams=(branch.random_stream(chain),),
            position=len(chain.ids),
        )
        segment.start(
            branch.session.call(
                self._engine,
                branch.deadline,
                lambda: self._engine.sample(request, segment.attempt()),
            )
        )
        return segment

    async def _leave_segment(self) -> None:
        """Cut the segment off, if one is open, at what was handed over."""
        if self._segment is not None:
            task = asyncio.current_task()
            self._segment.lost = task is not None and task.cancelling() > 0
            self._segment.cancel()
            await self._finish_segment()

    async def _finish_segment(self) -> None:
        """Charge and record a segment that ended, and close the chain as it says."""
        segment, self._segment = self._segment, None
        if segment is None:
            return
        try:
            completion, work = await segment.result()
        except BaseException as error:
            if segment.lease is not None:
                segment.lease.settle(Usage())
            self._branch.note_error(error)
            raise
        self._closed = True
        self.chain = replace(self.chain, text=self.chain.text + self._text.rest())
        if segment.cancelled:
            pass  # its reader ended it; whether the model was ending there too is a matter of time
        elif segment.handed == len(completion.ids) and completion.finish != "abort":
            finish: ChainFinish = "stop" if completion.finish == "stop" else "length"
            if finish == "length" and len(completion.ids) < segment.what["cap"]:
                finish = "budget"
                self._branch.note_cut(finish)
            tail = Completion((), "", completion.finish, completion.stop_reason)
            self.chain = self.chain.extended(tail, finish, self._engine.tokenizer.eos_id)
        elif segment.cut is not None:
            self._branch.note_cut(segment.cut)
            if segment.cut == "deadline":
                self.chain = replace(self.chain, finish="deadline")
        if segment.lease is not None:
            usage = pricing.decoded(self._cost, segment.size, work)
            usage = usage._replace(discarded=max(0, work.new - segment.handed))
            segment.lease.settle(usage)
            if not (segment.swept or self._branch.session.halted):
                reply = encode(completion) | {
                    "finish": segment.cut or ("lost" if segment.lost else completion.finish),
                    "u": usage.sparse(),
                }
                self._branch.journal.record(segment.what, [(segment.key, segment.digest, reply)])
        elif not segment.cancelled and segment.cut_off:
            raise ReplayDiverged(
                f"at {list(segment.key)} a stream was stopped after {len(completion.ids)} tokens; "
                f"now it is read on. Code or settings changed; use a new run folder"
            )


class _Segment:
    """One engine request of a stream, or its recording."""

    def __init__(
        self,
        key: tuple[Any, ...],
        ask_digest: str,
        what: dict[str, Any],
        size: int,
        *,
        lease: Lease | None = None,
        recorded: Completion | None = None,
    ) -> None:
        self.key, self.digest, self.what, self.size, self.lease = key, ask_digest, what, size, lease
        self.handed = 0
        self._wanted = 0  # tokens that its reader waits for
        self.cancelled = False
        self.cut: str | None = None  # what ended it, if that was neither the model nor its reader
        self.lost = False  # it was cancelled with its reader, as the losers of a race are
        self.swept = False  # an error cancelled it: a continued run asks for it again
        self._recorded = recorded
        self._ids: list[int] = list(recorded.ids) if recorded else []
        self._logprobs: list[TokenLogprob] = list((recorded and recorded.logprobs) or ())
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[Any] | None = None

    @property
    def cut_off(self) -> bool:
        """Whether this is a recording of a segment that its reader cut off."""
        recorded = self._recorded is not None and self._recorded.finish == "abort"
        return recorded and self.cut is None

    def start(self, call: Any) -> None:
        self._task = asyncio.ensure_future(call)
        self._task.add_done_callback(lambda _: self._arrived.set())

    def attempt(self) -> Sink:
        """The sink of one attempt. An engine that died under a stream is asked again, from the
        start of the segment: what was handed over is not taken twice."""
        del self._ids[self.handed :], self._logprobs[self.handed :]
        known = self.handed  # so many tokens of this attempt are here already

        def sink(
            index: int, ids: Sequence[int], text: str, logprobs: Sequence[TokenLogprob]
        ) -> None:
            nonlocal known
            again = min(known, len(ids))
            known -= again
            self._ids.extend(ids[again:])
            self._logprobs.extend(logprobs[again:])
            # A reader of every 50th token is not woken for each.
            if len(self._ids) >= self._wanted:
                self._arrived.set()

        return sink

    def values(self, fresh: int) -> tuple[TokenLogprob, ...]:
        """Log-probabilities of the `fresh` tokens handed over last; none if not asked for."""
        return tuple(self._logprobs[self.handed - fresh : self.handed])

    async def take(self, count: int) -> list[int]:
        """The next `count` tokens; fewer when the segment has ended."""
        self._wanted = self.handed + count
        while len(self._ids) < self._wanted:
            if self._task is None and self.lost:
                # As then, its reader gets no more, and is cancelled when the race is over.
                await asyncio.get_running_loop().create_future()
            if self._task is None or self._task.done():
                break
            self._arrived.clear()
            await self._arrived.wait()
        taken = self._ids[self.handed : self.handed + count]
        self.handed += len(taken)
        return taken

    def cancel(self) -> None:
        self.cancelled = True
        if self._task is not None:
            self._task.cancel()

    async def result(self) -> tuple[Completion, EngineUsage]:
        """What was received, and the work it was."""
        if self._task is None:
            assert self._recorded is not None
            return self._recorded, EngineUsage()
        try:
            reply = await self._task
            completion: Completion = reply.completions[0]
            seen = tuple(self._ids[: self.handed])  # longer, where a stop string was cut off
            if seen[: len(completion.ids)] != completion.ids[: self.handed]:
                raise EngineReplyError(
                    "the engine died under a stream, and wrote another chain when it was asked "
                    "again; use an engine that honours seeds"
                )
            return completion, reply.usage
        except (asyncio.CancelledError, Stopped) as ended:
            task = asyncio.current_task()
            if task is not None and task.cancelling() and not self.cancelled:
                raise
            self.cut = ended.status if isinstance(ended, Stopped) else None
            work = EngineUsage(prefill=self.size if self._ids else 0, new=len(self._ids))
            values = tuple(self._logprobs) or None
            return Completion(tuple(self._ids), "", "abort", None, values), work


class _Text:
    """The text of tokens that come in pieces. Where a piece ends inside a character, its text is
    held back until the character is whole."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._held: list[int] = []

    def feed(self, ids: Sequence[int]) -> str:
        self._held += ids
        text = self._tokenizer.decode(self._held)
        if text.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        self._held.clear()
        return text

    def rest(self) -> str:
        """What is still held back, as it is."""
        held, self._held = self._held, []
        return self._tokenizer.decode(held)
