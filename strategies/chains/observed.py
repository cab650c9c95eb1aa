"""Observed: chain policies that watch a chain while it is decoded, and act on it.

Each policy is an observer of one stream; a policy around another adds its observer to the same
stream, the outer one first. At a look an observer lets the chain go on (None) or names an action:
put text behind it, cut it back, stop its thinking, end it. Observers look at the thinking only.

An observer that never acts leaves the chain as plain decoding writes it, token for token: the
stream is the same request with the same random numbers.
"""

from __future__ import annotations

import abc
import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from pydantic import Field, PrivateAttr

from reasoning.chain import Chain
from reasoning.context import Context
from reasoning.engines.base import Completion, Engine, Sampling, TokenLogprob
from reasoning.errors import ConfigError, Stopped, first_error
from reasoning.naming import Spec, build
from reasoning.problem import Problem
from reasoning.registry import chain_policies
from reasoning.strategies.chains.phases import Closing
from reasoning.strategies.chains.plain import Plain
from reasoning.strategy import ChainPolicy, Until


@dataclass(frozen=True, slots=True)
class Action:
    """What an observer does to a chain.

    why: the rule that acted, for the trace. text: put behind the chain. keep: how many of the
    chain's tokens stay (None: all). ends: nothing is decoded behind it.
    """

    why: str
    text: str = ""
    keep: int | None = None
    ends: bool = False


def encoded(engine: Engine, text: str) -> tuple[int, ...]:
    """Raises ConfigError where the model's vocabulary cannot express the text."""
    ids = tuple(engine.tokenizer.encode(text))
    # Some tokenizers take or give a space at the start of a text; no letter may be lost.
    if engine.tokenizer.decode(ids).split() != text.split():
        raise ConfigError(
            f"{engine.name} has no tokens for {text!r}, which a chain policy puts into its chains; "
            f"set another text"
        )
    return ids


class Draft:
    """A chain that is being written, as its observers see it.

    room: the most tokens that the chain may have. thinking: whether it has not closed its
    thinking. Tokens are counted from the end of the prompt.
    """

    def __init__(self, ctx: Context, chain: Chain, closing: Closing) -> None:
        self.ctx = ctx
        self.chain = chain
        self.closing = closing
        self.engine = ctx.bindings.engine("policy")
        self.tokenizer = self.engine.tokenizer
        self.room = len(chain.ids) + ctx.cap(self.engine, chain, None)
        self.thinking = closing.find(chain.text) < 0
        self._searched = len(chain.text)

    @property
    def size(self) -> int:
        return len(self.chain.ids)

    @property
    def ended(self) -> bool:
        """Whether the model has ended the chain, told by its last token."""
        return self.size > 0 and self.chain.ids[-1] == self.tokenizer.eos_id

    def encode(self, text: str) -> tuple[int, ...]:
        """Tokens of a text to be put into the chain."""
        return encoded(self.engine, text)

    def fits(self, text: str, keep: int | None = None) -> bool:
        """Whether the chain, or its first `keep` tokens, has room for `text` and a token more."""
        return (self.size if keep is None else keep) + len(self.encode(text)) < self.room

    def thinking_after(self, action: Action) -> int:
        """Tokens of thinking with an action's text behind the chain."""
        text = self.chain.text
        place = self.closing.find(text + action.text)
        added = action.text if place < 0 else (text + action.text)[len(text) : place]
        return self.size + len(self.tokenizer.encode(added))

    def follow(self, chain: Chain) -> str:
        """Take over what was decoded. Returns the new text that is thinking."""
        before, self.chain = len(self.chain.text), chain
        if not self.thinking:
            return ""
        overlap = len(self.closing.text) + 1  # a closing may have begun before, on a new line
        place = self.closing.find(chain.text, max(0, self._searched - overlap))
        self._searched = len(chain.text)
        if place < 0:
            return chain.text[before:]
        self.thinking = False
        return chain.text[before : max(before, place)]

    def before(self, text: str) -> tuple[int, str]:
        """What stays when the chain's last `text` is cut off, and all behind it: how many tokens,
        and text before it that shares a token with it. Without such a text all but EOS stays."""
        end = self.size - 1 if self.ended else self.size
        whole = self.tokenizer.decode(self.chain.ids[:end])
        place = whole.rfind(text)
        wanted = whole if place < 0 else whole[:place]
        kept = whole
        while end and len(kept) > len(wanted):
            end -= 1
            kept = self.tokenizer.decode(self.chain.ids[:end])
        return end, wanted[len(kept) :]

    def cut(self, keep: int) -> Chain:
        """The chain's first `keep` tokens."""
        chain = self.chain
        text = self.tokenizer.decode(chain.ids[:keep])
        logprobs = chain.logprobs[:keep]
        return replace(chain, ids=chain.ids[:keep], text=text, done=False, logprobs=logprobs)

    def behind(self, chain: Chain, text: str) -> Chain:
        """A chain with a text put behind it."""
        ids = self.encode(text)
        sure = self.ctx.bindings.sampling.logprobs is not None  # what is forced has probability 1
        logprobs = (TokenLogprob(0.0),) * len(ids) if sure else ()
        return chain.extended(Completion(ids, text, "abort", None, logprobs), "abort", None)

    def apply(self, action: Action) -> tuple[str, tuple[int, ...]]:
        """Act. Returns the text that was put into the thinking, and all tokens put there."""
        if action.keep is not None:
            self.ctx.book("policy", discarded=self.size - action.keep)
            self.chain = self.cut(action.keep)
            self.thinking = self.closing.find(self.chain.text) < 0
            self._searched = len(self.chain.text)
        start = self.size
        fresh = self.follow(self.behind(self.chain, action.text))
        ids = self.chain.ids[start:]
        if action.ends:
            self.chain = replace(self.chain, finish="stop", done=True)
        self.ctx.trace.add("force", self.ctx.path, why=action.why, offset=self.size, ids=ids)
        return fresh, ids


@dataclass(frozen=True, slots=True)
class Limit:
    """Where thinking that has not ended by itself is closed.

    why: the rule, for the trace. tokens: the most that the thinking may have. final: put behind
    the closing.
    """

    why: str
    tokens: int
    final: str

    def action(self, draft: Draft) -> Action:
        return Action(self.why, draft.closing.behind(draft.chain.text) + self.final)


class Observer:
    """Watches the thinking of one chain.

    every: tokens between looks; 0 is no look while the chain is decoded.
    """

    every: int = 0

    def stops(self, draft: Draft) -> tuple[str, ...]:
        """Texts behind which decoding is to end, so that `ended` can act there."""
        return ()

    def limit(self, draft: Draft) -> Limit | None:
        """The most that the thinking may have; None is no limit."""
        return None

    def see(self, text: str, ids: tuple[int, ...]) -> None:
        """New text of the thinking, decoded or put there, and its tokens."""

    async def look(self, draft: Draft) -> Action | None:
        """Asked every `every` tokens of thinking."""
        return None

    async def ended(self, draft: Draft) -> Action | None:
        """Asked where decoding has ended behind one of `stops`, or the chain in its thinking."""
        return None

    async def close(self, draft: Draft) -> None:
        """The chain is written, or given up: cancel what is in flight."""


class Observed(ChainPolicy):
    """A chain policy that is an observer. inner: one or `plain` that it stands around.

    closing: the text that ends thinking; by default the task's or the model's tag.
    """

    units: ClassVar[frozenset[str]] = frozenset({"chain"})
    needs: ClassVar[tuple[str, ...]] = ("sample", "stream")
    logprobs: ClassVar[Literal["kept", "mixed", "dropped"]] = "mixed"

    inner: Spec = "plain"
    closing: str | None = Field(default=None, min_length=1)

    _inner: Observed | None = PrivateAttr(default=None)

    def model_post_init(self, context: Any) -> None:
        inner = build(chain_policies, self.inner)
        if isinstance(inner, Plain):
            return
        me = type(self).__name__
        if not isinstance(inner, Observed):
            raise ConfigError(
                f"{me} cannot stand around {type(inner).__name__}, which decodes in its own way; "
                f"`inner` is a policy that watches one stream, or plain"
            )
        if any(isinstance(policy, type(self)) for policy in inner.policies()):
            raise ConfigError(f"{me} stands around another {me}; use one of them")
        self._inner = inner

    def policies(self) -> tuple[Observed, ...]:
        """This policy and those inside it, the outermost first."""
        return (self, *(self._inner.policies() if self._inner is not None else ()))

    def roles(self) -> tuple[str, ...]:
        found = dict.fromkeys(role for policy in self.policies() for role in policy.uses())
        return tuple(role for role in found if role != "policy")

    def check(self, engines: Mapping[str, Engine], sampling: Sampling, *, started: bool) -> None:
        for policy in self.policies():
            for role, needs in policy.uses().items():
                engine = engines[role]
                # A server says what it can do when it is met, not before.
                if started or engine.capabilities.sample:
                    who = f"chain policy {type(policy).__name__} (role {role})"
                    engine.capabilities.require(needs, engine=engine.name, who=who)

    def check_task(self, problem: Problem, engines: Mapping[str, Engine]) -> None:
        self._closing(problem, engines["policy"])

    def _closing(self, problem: Problem, engine: Engine) -> Closing:
        """Raises ConfigError, before anything is asked, where none is known, or where a text that
        may be put into a chain has no tokens."""
        own = next((p.closing for p in self.policies() if p.closing is not None), None)
        closing = Closing.of(problem, engine, own)
        for policy in self.policies():
            for text in policy.texts(closing):
                encoded(engine, text)
        return closing

    def uses(self) -> dict[str, tuple[str, ...]]:
        """Capabilities that this policy needs, by model role."""
        return {"policy": self.needs}

    def texts(self, closing: Closing) -> tuple[str, ...]:
        """Texts that it may put into a chain, besides the closing."""
        return ()

    @abc.abstractmethod
    def observer(self, draft: Draft) -> Observer:
        """The observer of one chain."""

    async def write(self, ctx: Context, prefix: Chain, n: int, until: Until) -> list[Chain]:
        if until == "step":
            raise ConfigError(f"{type(self).__name__} writes whole chains, not steps")
        closing = self._closing(ctx.problem, ctx.bindings.engine("policy"))
        # Chain i is draw i of the prefix, as in plain decoding; its asks have their own path.
        first, write = ctx.next_draws(prefix, n), ctx.next_key("write")[-2]
        refused: list[Stopped] = []

        async def one(index: int) -> Chain | None:
            branch = ctx.rival(f"write{write}-{index}")
            draft = Draft(branch, prefix.drawn(first + index), closing)
            try:
                return await _written(draft, [p.observer(draft) for p in self.policies()])
            except Stopped as stopped:
                refused.append(stopped)
                return None

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(index)) for index in range(n)]
        except BaseExceptionGroup as failed:
            raise first_error(failed) from None
        chains = [chain for task in tasks if (chain := task.result()) is not None]
        if refused:
            if not chains:
                raise refused[0]
            ctx.note_cut(refused[0].status)
        return chains


async def _written(draft: Draft, observers: list[Observer]) -> Chain:
    """The chain, from one stream for each time that an observer acted.

    Raises Stopped when not even its first token could be asked for.
    """
    start = draft.size
    try:
        for observer in observers:
            observer.see(draft.chain.text if draft.thinking else "", draft.chain.ids)
        while True:
            action, over = await _decoded(draft, observers)
            if action is not None:
                news = draft.apply(action)
                for observer in observers:
                    observer.see(*news)
                over = action.ends
            if over:
                return draft.chain
    except Stopped as stopped:
        if draft.size == start:
            raise
        draft.ctx.note_cut(stopped.status)
        finish: Any = {"budget": "budget", "deadline": "deadline"}.get(stopped.status, "abort")
        return replace(draft.chain, finish=finish)
    finally:
        for observer in observers:
            await observer.close(draft)


async def _decoded(draft: Draft, observers: list[Observer]) -> tuple[Action | None, bool]:
    """Decode up to an action, or as far as one stream goes. True: the chain is over."""
    room, every = draft.room - draft.size, 0
    stops: tuple[str, ...] = ()
    if room < 1:
        draft.chain = replace(draft.chain, finish="length")
        return None, True
    limited, limits = False, []
    if draft.thinking:
        limits = [limit for observer in observers if (limit := observer.limit(draft)) is not None]
        for limit in limits:
            if limit.tokens <= draft.size:
                return limit.action(draft), False
            if limit.tokens - draft.size < room:
                room, limited = limit.tokens - draft.size, True
        stops = tuple(stop for observer in observers for stop in observer.stops(draft))
        every = math.gcd(*(observer.every for observer in observers))
    own, began = draft.ctx.bindings.sampling, len(draft.chain.text)
    sampling = replace(own, stop=(*own.stop, *stops)) if stops else own
    async with draft.ctx.stream(
        draft.chain, every=every or room, sampling=sampling, max_tokens=room
    ) as stream:
        async for piece in stream:
            if not draft.thinking:
                continue
            fresh = draft.follow(stream.chain)
            for observer in observers:
                observer.see(fresh, piece.ids)
            if draft.thinking and not draft.ended and every and draft.ctx.stopped() is None:
                for observer in observers:
                    action = await observer.look(draft) if observer.every else None
                    if action is not None:
                        await stream.stop()
                        longer = draft.thinking_after(action)
                        passed = (limit for limit in limits if limit.tokens < longer)
                        return next((limit.action(draft) for limit in passed), action), False
    draft.follow(stream.chain)
    finish = draft.chain.finish
    # A token may go on behind the stop that it completes. A stop of the recipe's ends the chain,
    # which has no token yet where Ctrl-C or the clock came first.
    new, last = draft.chain.text[began:], draft.chain.ids[-1:]
    theirs = any(stop in new for stop in own.stop) or any(token in own.stop_ids for token in last)
    stopped = bool(stops) and finish == "stop" and not draft.ended and not theirs
    if stopped or (draft.thinking and draft.ended):
        for observer in observers:
            action = await observer.ended(draft)
            if action is not None:
                return action, False
    return None, not (stopped or (limited and finish == "length"))
