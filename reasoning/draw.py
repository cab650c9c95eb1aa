"""The way of a sample ask: journal, lease, store, engine, charge, record.

A Draw is one ask for n chains of one prefix. Chains that the journal knows are replayed. The rest
is sent in one request when its worst case fits the budget. When it does not, chains are leased
one by one, in order: one that will fit once earlier ones settle waits, one that fits only in part
is shortened, and one that cannot fit is left out, all before anything is sent.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reasoning.branch import Branch
from reasoning.budget import Lease, Usage
from reasoning.chain import Chain, ChainFinish, packed
from reasoning.costs import pricing
from reasoning.engines.base import (
    Completion,
    EngineUsage,
    SampleRequest,
    Sampling,
    Stream,
    TokenLogprob,
)
from reasoning.errors import BudgetExhausted, EngineReplyError, Stopped, first_error
from reasoning.journal import Key, digest, encoded


@dataclass(slots=True)
class _Item:
    """One chain on its way."""

    child: Chain
    stream: Stream
    key: Key
    digest: str
    stored_as: str
    chain: Chain | None = None


class Draw:
    """One ask for n chains of one prefix. `await draw.run()` once."""

    def __init__(
        self, branch: Branch, prefix: Chain, n: int, role: str, sampling: Sampling, cap: int
    ) -> None:
        self.branch = branch
        self.prefix = prefix
        self.role = role
        self.engine = branch.bindings.engine(role)
        self.cost = branch.bindings.cost(role)
        self.one_prefill = self.engine.capabilities.one_prefill
        self.sampling = sampling
        self.cap = cap
        self.size = len(prefix.prompt_ids) + len(prefix.ids)
        self.what = {"sample": role, "n": n, "cap": cap, "context": self.size}
        self.items = self._items(n)

    async def run(self) -> list[Chain]:
        """The chains, in draw order; fewer than n when the budget or the clock cut some."""
        with self.branch.noting():
            await self._run()
        return [item.chain for item in self.items if item.chain is not None]

    async def _run(self) -> None:
        fresh = []
        for item in self.items:
            reply = self.branch.journal.find(item.key, item.digest, self.what)
            if reply is None:
                fresh.append(item)
            else:
                await self._replay(item, reply)
        if fresh:
            self.branch.refuse_if_stopped()
            lease = None
            if len(fresh) == len(self.items):  # else they were sent one by one, and still are
                n, once = len(fresh), self.one_prefill
                worst = pricing.worst(self.cost, self.size, self.cap, n, one_prefill=once)
                lease = self.branch.ledger.try_lease(self.role, worst)
            if lease is not None:
                await self._send(fresh, lease, self.cap)
            else:
                await self._send_one_by_one(fresh)

    def _items(self, n: int) -> list[_Item]:
        branch, prefix = self.branch, self.prefix
        first = branch.next_draws(prefix, n)
        key = branch.next_key("sample")
        content = ""
        if branch.journal.path is not None or branch.store:
            described = _described(self.sampling)
            content = digest(branch.identity(self.role), packed(prefix.all_ids), described)
        # A continuation has a token at least: what is asked for beyond that is never drawn.
        fitting = int(max(1.0, min(n, branch.ledger.remaining("tokens"))))
        if fitting < n:
            branch.note_cut("budget")
        items = []
        for index in range(fitting):
            child = prefix.drawn(first + index)
            stream = branch.random_stream(child)
            stored_as = f"{content}-{len(prefix.ids)}-{stream.key:x}" if content else ""
            items.append(_Item(child, stream, (*key, index), f"{stored_as}-{self.cap}", stored_as))
        return items

    async def _replay(self, item: _Item, reply: dict[str, Any]) -> None:
        completion = decode(reply)
        self.branch.ledger.charge(self.role, Usage(**reply["u"]))
        if reply["finish"] == "abort":
            # It lost a race: as then, it does not return, and is cancelled when the race is over.
            await asyncio.get_running_loop().create_future()
        self._finish(item, completion, reply["finish"])
        self._store([item], self._encoded([item], {item.stream.key: completion}))  # see `put`

    async def _send_one_by_one(self, items: list[_Item]) -> None:
        least = pricing.worst(self.cost, self.size, 1, 1)
        most = pricing.worst(self.cost, self.size, self.cap, 1)
        asker = asyncio.current_task()

        async def send(item: _Item, lease: Lease, granted: int) -> None:
            try:
                await self._send([item], lease, granted)
            except Exception:
                self.branch.sweep(asker)  # before the group cancels the others
                raise

        try:
            async with asyncio.TaskGroup() as group:
                for number, item in enumerate(items):
                    alone = number == 0 and len(items) == len(self.items)
                    try:
                        lease = await self.branch.ledger.lease(self.role, most, least)
                    except BudgetExhausted:
                        if alone:
                            raise  # there is no chain at all
                        self.branch.note_cut("budget")
                        return
                    granted = pricing.fitting(self.cost, self.size, self.cap, lease.worst)
                    stopped = self.branch.stopped()
                    if granted < 1 or stopped:
                        lease.settle(Usage())
                        if alone:
                            self.branch.refuse_if_stopped()
                            raise BudgetExhausted("the budget does not fit one token")
                        self.branch.note_cut(stopped or "budget")
                        return
                    group.create_task(send(item, lease, granted))
        except BaseExceptionGroup as failed:
            raise first_error(failed) from None

    async def _send(self, items: list[_Item], lease: Lease, granted: int) -> None:
        """Fetch chains from the store or the engine, charge them, write them down."""
        known = self._stored(items, granted)
        wanted = [item for item in items if item.stream.key not in known]
        work, cut = EngineUsage(), None
        completions = dict(known)
        if wanted:
            self.branch.journal.intend([item.key for item in wanted])
            received = _Received(len(wanted))
            try:
                reply = await self.branch.session.call(
                    self.engine, self.branch.deadline, lambda: self._ask(wanted, granted, received)
                )
                drawn, work = reply.completions, reply.usage
            except Stopped as stopped:
                cut, drawn = stopped.status, received.completions()
                work = received.usage(self.size, self.one_prefill)
            except asyncio.CancelledError:
                self._charge_loser(wanted, received, lease)
                raise
            except BaseException:
                lease.settle(Usage())
                raise
            if len(drawn) != len(wanted):
                lease.settle(pricing.decoded(self.cost, self.size, work))
                raise EngineReplyError(
                    f"engine {self.engine.name} returned {len(drawn)} of {len(wanted)} chains"
                )
            completions.update((i.stream.key, c) for i, c in zip(wanted, drawn, strict=True))
        usages = self._usages(items, completions, set(known), work)
        for item in items:
            completion = completions[item.stream.key]
            self._finish(item, completion, _reason(completion, granted < self.cap, cut))
        lease.settle(Usage.sum(usages))
        if cut == "interrupted":
            self.branch.note_cut(cut)
            return  # a continued run asks for these again
        texts = self._encoded(items, completions)
        self._record(items, texts, usages)
        self._store(wanted, texts)

    async def _ask(self, items: list[_Item], granted: int, received: _Received) -> Any:
        received.clear()
        request = SampleRequest(
            prompt_ids=self.prefix.all_ids,
            max_tokens=granted,
            sampling=self.sampling,
            streams=tuple(item.stream for item in items),
            position=len(self.prefix.ids),
        )
        return await self.engine.sample(request, received if self.branch.cancellable else None)

    def _stored(self, items: list[_Item], granted: int) -> dict[int, Completion]:
        """Completions that the store holds, cut to `granted` tokens, by stream key."""
        found = (
            self.branch.store.get([item.stored_as for item in items]) if self.branch.store else {}
        )
        known = {}
        for item in items:
            if item.stored_as not in found:
                continue
            whole = decode(found[item.stored_as])
            if len(whole.ids) > granted:
                ids = whole.ids[:granted]
                text = self.engine.tokenizer.decode(ids)
                logprobs = whole.logprobs and whole.logprobs[:granted]
                known[item.stream.key] = Completion(ids, text, "length", None, logprobs)
            elif whole.finish == "stop" or len(whole.ids) == granted:
                known[item.stream.key] = whole
        return known

    def _encoded(self, items: list[_Item], completions: dict[int, Completion]) -> dict[int, str]:
        """Completions for the journal and the store, by stream key; none where there is neither."""
        if self.branch.journal.path is None and not self.branch.store:
            return {}
        return {i.stream.key: encoded(encode(completions[i.stream.key])) for i in items}

    def _store(self, items: list[_Item], texts: dict[int, str]) -> None:
        """Keep whole chains for other configurations."""
        if self.branch.store and self.engine.capabilities.seeds:
            whole = [i for i in items if i.chain and i.chain.finish not in ("abort", "deadline")]
            self.branch.store.put({item.stored_as: texts[item.stream.key] for item in whole})

    def _usages(
        self,
        items: list[_Item],
        completions: dict[int, Completion],
        known: set[int],
        work: EngineUsage,
    ) -> list[Usage]:
        """The cost of each chain. The request's prefill is booked on the first one drawn; one
        from the store is charged as if its context had been in the prefix cache."""
        usages: list[Usage] = []
        booked = False
        for index, item in enumerate(items):
            new = len(completions[item.stream.key].ids)
            if item.stream.key in known:
                part = EngineUsage(cached=self.size, new=new)
                usage = pricing.decoded(self.cost, self.size, part, shared=index > 0)
                usages.append(usage + Usage(reused=new))
                continue
            first, booked = not booked, True
            part = EngineUsage(work.prefill, work.cached, new) if first else EngineUsage(new=new)
            usages.append(pricing.decoded(self.cost, self.size, part, shared=not first))
        return usages

    def _charge_loser(self, items: list[_Item], received: _Received, lease: Lease) -> None:
        """A cancelled ask: charge what was received; record it, if it is lost for good."""
        completions = {i.stream.key: c for i, c in zip(items, received.completions(), strict=True)}
        work = received.usage(self.size, self.one_prefill)
        usages = self._usages(items, completions, set(), work)
        lease.settle(Usage.sum(usages))
        if not self.branch.swept:
            for item in items:
                self._finish(item, completions[item.stream.key], "abort")
            self._record(items, self._encoded(items, completions), usages)

    def _finish(self, item: _Item, completion: Completion, finish: ChainFinish) -> None:
        if finish in ("budget", "deadline"):
            self.branch.note_cut(finish)
        item.chain = item.child.extended(completion, finish, self.engine.tokenizer.eos_id)

    def _record(self, items: list[_Item], texts: dict[int, str], usages: list[Usage]) -> None:
        if self.branch.journal.path is None:
            return
        replies = []
        for item, usage in zip(items, usages, strict=True):
            assert item.chain is not None
            more = encoded({"finish": item.chain.finish, "u": usage.sparse()})
            replies.append((item.key, item.digest, f"{texts[item.stream.key][:-1]},{more[1:]}"))
        self.branch.journal.append(self.what, replies)


@functools.lru_cache(maxsize=256)
def _described(sampling: Sampling) -> dict[str, Any]:
    """Sampling as JSON values; the same for thousands of asks."""
    return sampling.described()


class _Received:
    """A sink that keeps what has come so far."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.clear()

    def clear(self) -> None:
        self.ids: list[list[int]] = [[] for _ in range(self.n)]
        self.texts: list[str] = [""] * self.n
        self.logprobs: list[list[TokenLogprob]] = [[] for _ in range(self.n)]

    def __call__(
        self, index: int, ids: Sequence[int], text: str, logprobs: Sequence[TokenLogprob]
    ) -> None:
        self.ids[index].extend(ids)
        self.texts[index] += text
        self.logprobs[index].extend(logprobs)

    def completions(self) -> tuple[Completion, ...]:
        return tuple(
            Completion(tuple(ids), text, "abort", None, tuple(logprobs) or None)
            for ids, text, logprobs in zip(self.ids, self.texts, self.logprobs, strict=True)
        )

    def usage(self, prompt: int, one_prefill: bool) -> EngineUsage:
        begun = sum(map(bool, self.ids))
        prefills = min(begun, 1) if one_prefill else begun
        return EngineUsage(prefill=prefills * prompt, new=sum(map(len, self.ids)))


def encode(completion: Completion) -> dict[str, Any]:
    """A completion as JSON values."""
    record: dict[str, Any] = {
        "ids": list(completion.ids),
        "text": completion.text,
        "end": completion.finish,
    }
    if completion.stop_reason is not None:
        record["reason"] = completion.stop_reason
    if completion.logprobs is not None:
        record["lp"] = [[lp.logprob, list(lp.top.items())] for lp in completion.logprobs]
    return record


def decode(record: dict[str, Any]) -> Completion:
    """The completion that `encode` wrote."""
    logprobs = record.get("lp")
    return Completion(
        ids=tuple(record["ids"]),
        text=record["text"],
        finish=record["end"],
        stop_reason=record.get("reason"),
        logprobs=None
        if logprobs is None
        else tuple(TokenLogprob(value, {int(t): p for t, p in top}) for value, top in logprobs),
    )


def _reason(completion: Completion, shortened: bool, cut: str | None) -> ChainFinish:
    if completion.finish == "stop":
        return "stop"
    if completion.finish == "abort":
        return "deadline" if cut == "deadline" else "abort"
    return "budget" if shortened else "length"
