"""Dynasor-CoT and Certaindex (Fu et al. 2024, arXiv 2412.20993).

Every c tokens of thinking the model is asked what it would answer now, beside the decoding of the
next chunk. When the last k answers are the same, and none was given hesitantly, the thinking ends
with that answer. Certaindex, `entropy` and `certainty` below, is for callers that share out compute
among chains or questions; this stop does not use it.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from reasoning.chain import Chain
from reasoning.context import Context
from reasoning.engines.base import Sampling
from reasoning.errors import PromptError, Stopped
from reasoning.strategies.chains.observed import Action, Draft, Observed, Observer
from reasoning.strategies.chains.phases import Closing

# The public presets: (k, c).
EFFORTS = {"mild": (8, 64), "low": (5, 64), "mid": (3, 64), "high": (2, 64), "crazy": (2, 32)}
HESITATION = ("wait", "hold", "but", "okay", "no", "hmm")
PROBE = "\n\nI know the answer now.\n\n**Final Answer**\n\\boxed{"


class Dynasor(Observed):
    """Probes for an answer every c tokens; k equal, certain ones end the thinking.

    effort: a preset of k and c by its public name. k: answers that must be the same (None:
    never stop). c: tokens between probes. probe: what asks for the answer; by default a box where
    a tag closes the thinking, else the task's own answer line. hesitation: words that spoil a
    probe, matched as words. probe_tokens, temperature, top_p: of a probe.

    With k None it is plain decoding.
    """

    effort: Literal["mild", "low", "mid", "high", "crazy"] | None = None
    k: int | None = Field(default=3, ge=1)
    c: int = Field(default=64, ge=1)
    probe: str | None = Field(default=None, min_length=1)
    probe_tokens: int = Field(default=20, ge=1)
    temperature: float = Field(default=0.6, ge=0.0, allow_inf_nan=False)
    top_p: float = Field(default=0.95, gt=0.0, le=1.0)
    hesitation: tuple[Annotated[str, Field(min_length=1)], ...] = HESITATION

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, settings: Any) -> Any:
        effort = settings.get("effort") if isinstance(settings, dict) else None
        if effort not in EFFORTS:
            return settings
        if "k" in settings or "c" in settings:
            raise ValueError("`effort` sets k and c; give one or the other")
        return settings | dict(zip(("k", "c"), EFFORTS[effort], strict=True))

    def texts(self, closing: Closing) -> tuple[str, ...]:
        own = () if closing.word else (PROBE,)
        return () if self.k is None else own if self.probe is None else (self.probe,)

    def observer(self, draft: Draft) -> Observer:
        return _Probing(self)


class _Probing(Observer):
    def __init__(self, policy: Dynasor) -> None:
        self.every = policy.c if policy.k is not None else 0
        self._policy = policy
        words = "|".join(map(re.escape, policy.hesitation))
        self._hesitates = re.compile(rf"\b(?:{words})\b" if words else r"(?!)", re.IGNORECASE)
        self._probes = 0
        self._open: list[tuple[Context, asyncio.Task[str]]] = []
        self._answers: list[str | None] = []  # None: none, or given hesitantly

    async def look(self, draft: Draft) -> Action | None:
        while self._open:
            branch, task = self._open[0]
            # Probes come in their order; one that takes longer than a chunk is heard later.
            if not await draft.ctx.note("probe", task.done):
                break
            self._answers.append(self._read(draft, await task))
            self._leave(draft, branch)
        answer = self._certain(draft)
        if answer is not None:
            end = answer + draft.ctx.problem.step if draft.closing.word else f"\\boxed{{{answer}}}"
            lead = "" if draft.closing.word else "\n\n"
            text = draft.closing.behind(draft.chain.text) + lead + end
            if draft.fits(text):
                return Action("certain", text, ends=True)
        await self._ask(draft)
        return None

    async def close(self, draft: Draft) -> None:
        for branch, task in list(self._open):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._leave(draft, branch)

    async def _ask(self, draft: Draft) -> None:
        policy, closing = self._policy, draft.closing
        branch = draft.ctx.branch(f"probe{self._probes}")
        self._probes += 1
        text = policy.probe or (closing.behind(draft.chain.text) if closing.word else PROBE)
        sampling = Sampling(temperature=policy.temperature, top_p=policy.top_p)
        prefix = draft.behind(draft.chain, text)
        bare = Chain(prefix.prompt_ids, prefix.ids, prefix.text, fork=prefix.fork)
        work = _answered(branch, bare, sampling, policy.probe_tokens)
        self._open.append((branch, asyncio.ensure_future(work)))
        await asyncio.sleep(0)  # it is sent now, or replayed, also if the chain ends before a look

    def _leave(self, draft: Draft, branch: Context) -> None:
        self._open.pop(0)
        draft.ctx.book("policy", probe=branch.ledger.total.tokens)

    def _read(self, draft: Draft, said: str) -> str | None:
        if self._hesitates.search(said):
            return None
        if draft.closing.word:
            answer, ended, _ = said.partition(draft.ctx.problem.step)
            return answer.strip() or None if ended else None
        return boxed(said)

    def _certain(self, draft: Draft) -> str | None:
        """The answer of the last k probes, where it is one."""
        k = self._policy.k
        last = self._answers[-k:] if k is not None else []
        answers = [answer for answer in last if answer is not None]
        if k is None or len(answers) < k:
            return None
        forms = {draft.ctx.problem.canonical(answer) for answer in answers}
        return answers[-1] if len(forms) == 1 else None


async def _answered(branch: Context, prefix: Chain, sampling: Sampling, tokens: int) -> str:
    """What the model says to a probe; nothing where it could not be asked."""
    try:
        (chain,) = await branch.sample(prefix, sampling=sampling, max_tokens=tokens)
    except (Stopped, PromptError):
        return ""
    return chain.text[len(prefix.text) :]


def boxed(said: str) -> str | None:
    """The text up to the first brace that closes more than was opened; None without one."""
    depth = 0
    for place, character in enumerate(said):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth < 0:
            return said[:place].strip() or None
    return None


def entropy(clusters: Sequence[Hashable]) -> float:
    """Certaindex: the entropy of answers over their equivalence classes, in bits.

    clusters: the class of each answer. H = -sum p_c log2 p_c; 0 for one class or no answer.
    """
    counts = Counter(clusters)
    shares = [count / len(clusters) for count in counts.values()]
    return -math.fsum(share * math.log2(share) for share in shares) + 0.0


def certainty(clusters: Sequence[Hashable]) -> float:
    """(log n - H) / log n, in [0, 1]: 1 where all n answers agree, 0 where no two do.

    The usual normalisation; that of the paper is unverified. Fewer than two answers: 0.
    """
    if len(clusters) < 2:
        return 0.0
    most = math.log2(len(clusters))
    return min(1.0, max(0.0, (most - entropy(clusters)) / most))
