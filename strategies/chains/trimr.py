"""TrimR: verifier-driven trimming of thinking (arXiv 2505.17155).

Three rules end the thinking of a chain by putting guidance behind it, once at most:

| rule | when | guidance |
|---|---|---|
| over-thinking (Alg. 1) | M + 1 thoughts in a row that state an answer state the same | gentle |
| under-thinking (Alg. 2) | R_thres of the budget and N_thres thoughts without agreement | forced |
| repetition | the last tokens are a loop | forced |

The verifier works while the model decodes; the model never waits for it. A verdict that comes
after the chain has closed its thinking is not used, and one that never comes changes nothing.
Reflection words, N_sent, the prompts, the guidance and the windows are not public [unverified];
they are settings.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from reasoning.context import Context
from reasoning.engines.base import Engine, Sampling
from reasoning.errors import EngineError, PromptError, Stopped
from reasoning.strategies.chains.answers import NO, YES, AnswerCheck, ByModel, ByRules, one_token
from reasoning.strategies.chains.observed import Action, Draft, Observed, Observer
from reasoning.strategies.chains.phases import Closing
from reasoning.strategies.chains.repetition import Repetition
from reasoning.strategies.chains.segments import REFLECTIONS, Segmenter, last_sentences

GENTLE = "**Final Answer**\n"
FORCED = "I think I already thought for a long time. I should answer now.\n"


# An excerpt that states an answer, and with how many of those before it that it agrees.
Verdict = tuple[str, int]


class TrimR(Observed):
    """A verifier reads along and ends thinking that repeats, wanders or loops.

    m: agreeing pairs in a row that stop (None: the rule is off). majority: instead of M + 1 in a
    row, M + 1 of the last `majority` answers are to be the same, the newest among them; at most
    2 M + 1, of which M + 1 are most. (Not of the paper, where one other answer begins the count
    anew. It asks the verifier up to `majority` - 1 times about each answer.)

    r_thres: share of `budget` (over 1: the rule is off). n_thres: thoughts. agreement: whether
    agreeing thoughts, as many as stop for over-thinking (m None: three), keep the under-thinking
    rule from firing (the paper's text; its pseudo-code has no such test).

    repetition, windows, times: see Repetition. n_sent: sentences of a thought that are judged, of
    `excerpt` characters at most, and by a model of 128 of its tokens. min_thought: tokens under
    which a thought is not judged. n_send: tokens between looks. budget: of thinking tokens; None is
    the room of the chain. paragraph: what ends a paragraph; None is the task's own separator of
    steps.
    verifier: `model` (in `role`) or `rules`. gentle, forced: guidance; `forced` ends with the
    closing text, which is added.

    With m None, r_thres over 1 and repetition off it is plain decoding.
    """

    m: int | None = Field(default=2, ge=1)
    majority: int | None = None
    r_thres: float = Field(default=0.5, gt=0.0, allow_inf_nan=False)
    n_thres: int = Field(default=20, ge=0)
    agreement: bool = True
    repetition: bool = True
    windows: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(32, 64), min_length=1)
    times: int = Field(default=4, ge=2)
    n_sent: int = Field(default=3, ge=1)
    excerpt: int = Field(default=400, ge=1)
    min_thought: int = Field(default=16, ge=0)
    n_send: int = Field(default=50, ge=1)
    budget: int | None = Field(default=None, ge=1)
    paragraph: str | None = Field(default=None, min_length=1)
    reflections: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=REFLECTIONS, min_length=1
    )
    verifier: Literal["model", "rules"] = "model"
    role: str = "verifier"
    gentle: str | None = Field(default=None, min_length=1)
    forced: str | None = None

    @model_validator(mode="after")
    def _is_majority(self) -> TrimR:
        least = self.pairs + 1
        if self.majority is not None and not least <= self.majority <= 2 * least - 1:
            raise ValueError(
                f"`majority` {self.majority} must be from {least} to {2 * least - 1}, so that "
                f"{least} are most of it"
            )
        return self

    @property
    def pairs(self) -> int:
        """Agreeing pairs that are an agreement."""
        return self.m or 2

    @property
    def judges(self) -> bool:
        """Whether any rule needs verdicts."""
        return self.m is not None or (self.r_thres <= 1 and self.agreement)

    def uses(self) -> dict[str, tuple[str, ...]]:
        asked = {self.role: ("choose",)} if self.judges and self.verifier == "model" else {}
        return super().uses() | asked

    def check(self, engines: Mapping[str, Engine], sampling: Sampling, *, started: bool) -> None:
        super().check(engines, sampling, started=started)
        if started and self.role in self.uses():
            for words in (YES, NO):
                one_token(engines[self.role].tokenizer, words)

    def texts(self, closing: Closing) -> tuple[str, ...]:
        forces = self.r_thres <= 1 or self.repetition
        gentle = () if self.m is None or closing.word else (self.gentle or GENTLE,)
        return (*gentle, self.lead(closing)) if forces else gentle

    def lead(self, closing: Closing) -> str:
        """What stands before the closing in forced guidance."""
        return self.forced if self.forced is not None else "" if closing.word else FORCED

    def observer(self, draft: Draft) -> Observer:
        return _Trimming(self, draft)


class _Trimming(Observer):
    """thoughts: all that have ended. run, longest: pairs that agree, now and at most."""

    def __init__(self, policy: TrimR, draft: Draft) -> None:
        self.every = policy.n_send
        self._policy = policy
        self._check: AnswerCheck = ByModel(policy.role) if policy.verifier == "model" else ByRules()
        paragraph = policy.paragraph or draft.ctx.problem.step
        self._segmenter = Segmenter(paragraph, policy.reflections)
        self._loops = [Repetition(w, policy.times) for w in policy.windows if policy.repetition]
        self._fresh: list[str] = []  # thoughts that no verifier has been asked about
        self._thoughts = 0
        # The last excerpts that state an answer, the newest first: as many as one is compared with.
        self._stated: list[str] = []
        self._back = 1 if policy.majority is None else policy.majority - 1
        self._run = self._longest = 0
        self._job: asyncio.Task[list[Verdict]] | None = None
        self._jobs = self._answered = 0
        self._directed = False

    def see(self, text: str, ids: tuple[int, ...]) -> None:
        thoughts = self._segmenter.feed(text)
        self._thoughts += len(thoughts)
        self._fresh += thoughts
        for loop in self._loops:
            loop.feed(ids)

    async def look(self, draft: Draft) -> Action | None:
        if self._directed:
            return None
        await self._hear(draft)
        if self._policy.judges:
            await self._ask(draft)
        rule = self._rule(draft)
        text = None if rule is None else self._guidance(rule, draft)
        if rule is None or text is None or not draft.fits(text):
            return None
        self._directed = True
        return Action(rule, text)

    async def close(self, draft: Draft) -> None:
        job = self._job
        if job is None:
            return
        if draft.ctx.stopped() is None:
            # What it was told by now was paid for: a replay hears as much, and pays the same.
            answered = await draft.ctx.note("answered", lambda: self._answered)
            # A recorded reply needs a turn, and no time.
            while self._answered < answered and not job.done():  # noqa: ASYNC110
                await asyncio.sleep(0)
        job.cancel()
        await asyncio.gather(job, return_exceptions=True)

    def _rule(self, draft: Draft) -> str | None:
        policy = self._policy
        if policy.m is not None and self._longest >= policy.m:
            return "over"
        late = draft.size >= policy.r_thres * (policy.budget or draft.room)
        agreed = policy.agreement and self._longest >= policy.pairs
        if policy.r_thres <= 1 and late and self._thoughts >= policy.n_thres and not agreed:
            return "under"
        return "repetition" if any(loop.found for loop in self._loops) else None

    def _guidance(self, rule: str, draft: Draft) -> str | None:
        """None where the model is just closing its thinking by itself."""
        text, closing, policy = draft.chain.text, draft.closing, self._policy
        if rule == "over" and not closing.word:
            blank = "" if text.endswith("\n\n") else "\n" if text.endswith("\n") else "\n\n"
            return None if closing.begun(text) else blank + (policy.gentle or GENTLE)
        if rule == "over" and policy.gentle is not None:
            return policy.gentle
        return closing.behind(text, policy.lead(closing))

    async def _ask(self, draft: Draft) -> None:
        """Have the fresh thoughts judged, in a branch of their own, while decoding goes on."""
        if self._job is not None or not self._fresh:
            return
        policy, excerpts = self._policy, []
        for thought in self._fresh:
            if len(draft.tokenizer.encode(thought)) >= policy.min_thought:
                excerpts.append(last_sentences(thought, policy.n_sent, policy.excerpt))
        self._fresh.clear()
        if excerpts and self._check.instant:
            self._judge(await self._verdicts(draft.ctx, excerpts))
        elif excerpts:
            branch = draft.ctx.branch(f"verdict{self._jobs}")
            self._jobs += 1
            self._job = asyncio.ensure_future(self._verdicts(branch, excerpts))

    async def _hear(self, draft: Draft) -> None:
        """Take in the verdicts of the job in flight, if they are there."""
        job = self._job
        if job is None:
            return
        state = await draft.ctx.note("verdict", lambda: _state(job))
        if state == "there":
            self._judge(await job)
        elif state == "lost":
            # No verdicts, no directives: the chain is decoded as if there were no verifier.
            job.cancel()
            (reason,) = await asyncio.gather(job, return_exceptions=True)
            draft.ctx.trace.add("verifier_lost", draft.ctx.path, reason=str(reason))
        self._job = None if state else job

    async def _verdicts(self, ctx: Context, excerpts: list[str]) -> list[Verdict]:
        """Of the excerpts that state an answer."""
        there = await asyncio.gather(*(self._exists(ctx, excerpt) for excerpt in excerpts))
        stated, pairs = list(self._stated), []
        for excerpt, is_there in zip(excerpts, there, strict=True):
            if is_there:
                pairs.append((excerpt, stated[: self._back]))
                stated.insert(0, excerpt)
        asks = [self._same(ctx, one, excerpt) for excerpt, earlier in pairs for one in earlier]
        same = iter(await asyncio.gather(*asks))
        return [(excerpt, sum(next(same) for _ in earlier)) for excerpt, earlier in pairs]

    async def _exists(self, ctx: Context, excerpt: str) -> bool:
        there = await self._check.exists(ctx, excerpt)
        self._answered += 1
        return there

    async def _same(self, ctx: Context, one: str, other: str) -> bool:
        same = await self._check.equal(ctx, one, other)
        self._answered += 1
        return same

    def _judge(self, verdicts: list[Verdict]) -> None:
        in_a_row = self._policy.majority is None
        for excerpt, agrees in verdicts:
            self._run = self._run + 1 if in_a_row and agrees else agrees
            self._longest = max(self._longest, self._run)
            self._stated = [excerpt, *self._stated][: self._back]


def _state(job: asyncio.Task[list[Verdict]]) -> str:
    """`there`, `lost` with its verifier, or nothing while it is not done."""
    if not job.done():
        return ""
    lost = isinstance(job.exception(), EngineError | PromptError | Stopped)
    return "lost" if lost else "there"
