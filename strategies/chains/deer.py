"""DEER: dynamic early exit in reasoning (Yang et al. 2025, arXiv 2504.15895).

At a transition of the thinking the model is made to try an answer. Its confidence in the tokens
of that answer decides: over the threshold the thinking ends there; else the trial is dropped and
the thinking goes on with its transition word. DEER-Pro asks in several ways at once, and lowers
the mean confidence by how far the trials lie apart.
"""

from __future__ import annotations

import asyncio
import math
import statistics
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from reasoning.chain import Chain
from reasoning.engines.base import Sampling
from reasoning.errors import ConfigError, Stopped, first_error
from reasoning.strategies.chains.observed import Action, Draft, Observed, Observer
from reasoning.strategies.chains.phases import Closing

INDUCER = "\n**Final Answer**\n\\boxed{"
PRO = (
    INDUCER,
    "\nThe final answer is \\boxed{",
    "\nI can answer now: \\boxed{",
    "\nTherefore, the result is \\boxed{",
)
TOP = 20  # alternatives that the entropy variant sees


class DEER(Observed):
    """A trial answer at each transition ends the thinking where it is confident.

    threshold: lambda; the thinking ends where the confidence is above it.
    confidence: avg2, the geometric mean of the tokens' probabilities (the paper), or avg1, their
    arithmetic mean (the default of the public code); both leave out the first token.
    words: transitions. entropy: instead of words, paragraph breaks behind which the next token's
    distribution (its 20 likeliest) has at least this entropy, in nats [unverified].
    trials: at most so many. trial_tokens: of each, decoded greedily. trial_closes: a trial that
    does not close the thinking has confidence 0 (the variant for Qwen3).
    inducers: what opens a trial; by default a box, where a tag closes the thinking, else the
    task's own answer line. trial_stop: what ends a trial; by default the box's or the line's end.

    With several inducers (`pro`: the four of this project; those of DEER-Pro are not public
    [unverified]) a judgement is a trial by each. Its confidence is the mean of theirs less `alpha`
    times their MAD, and at least 0. deviation: whether that is the mean or the median absolute
    deviation [unverified].

    A threshold of 1 or more is plain decoding; a negative one exits at the first transition.
    """

    needs: ClassVar[tuple[str, ...]] = ("sample", "stream", "logprobs")

    threshold: float = Field(default=0.95, ge=-1.0, le=2.0)
    confidence: Literal["avg1", "avg2"] = "avg2"
    words: tuple[Annotated[str, Field(min_length=1)], ...] = Field(default=("Wait",), min_length=1)
    entropy: float | None = Field(default=None, ge=0.0)
    trials: int = Field(default=10, ge=1)
    trial_tokens: int = Field(default=20, ge=2)
    trial_closes: bool = False
    inducers: (
        Literal["pro"]
        | Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
        | None
    ) = None
    alpha: float = Field(default=1.0, ge=0.0, allow_inf_nan=False)
    deviation: Literal["mean", "median"] = "mean"
    trial_stop: str | None = Field(default=None, min_length=1)

    def texts(self, closing: Closing) -> tuple[str, ...]:
        if self.threshold >= 1:
            return ()
        if self.inducers is not None and self.inducers != "pro":
            return self.inducers
        if closing.word and self.inducers == "pro":
            raise ConfigError(
                f"the inducers of `pro` open a box, and this task's answers begin with "
                f"{closing.text!r}; give DEER a list of `inducers`"
            )
        return () if closing.word else PRO if self.inducers == "pro" else (INDUCER,)

    def observer(self, draft: Draft) -> Observer:
        return _Exit(self)


class _Exit(Observer):
    def __init__(self, policy: DEER) -> None:
        self._policy = policy
        self._trials = self._looks = 0

    def stops(self, draft: Draft) -> tuple[str, ...]:
        policy = self._policy
        if policy.threshold >= 1 or self._trials >= policy.trials:
            return ()
        return policy.words if policy.entropy is None else (draft.ctx.problem.step,)

    async def ended(self, draft: Draft) -> Action | None:
        stops = self.stops(draft)
        if draft.ended or not draft.thinking or not stops:
            return None
        keep, lost = draft.size, ""
        if self._policy.entropy is None:
            keep, lost = draft.before(max(stops, key=draft.chain.text.rfind))
        elif await self._entropy(draft) < self._policy.entropy:
            return None
        thought = draft.behind(draft.cut(keep), lost)
        confidence = await self._confidence(draft, thought)
        if confidence is None or not confidence > self._policy.threshold:
            return None
        text = lost + draft.closing.behind(thought.text)
        return Action("confident", text, keep) if draft.fits(text, keep) else None

    async def _confidence(self, draft: Draft, thought: Chain) -> float | None:
        """In [0, 1]; None where a trial could not be asked for."""
        inducers = self._policy.texts(draft.closing) or (draft.closing.behind(thought.text),)
        self._trials += 1
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(
                        self._trial(draft, thought, inducer, f"trial{index}-" if index else "trial")
                    )
                    for index, inducer in enumerate(inducers)
                ]
        except BaseExceptionGroup as failed:
            raise first_error(failed) from None
        found = [task.result() for task in tasks]
        values = [value for value in found if value is not None]
        if len(values) < len(found):
            return None
        return lowered(values, self._policy.alpha, self._policy.deviation)

    async def _trial(self, draft: Draft, thought: Chain, inducer: str, name: str) -> float | None:
        """The confidence of one trial."""
        policy = self._policy
        stop = policy.trial_stop or (draft.ctx.problem.step if draft.closing.word else "}")
        if policy.trial_closes:
            stop = draft.closing.text
        sampling = Sampling(temperature=0.0, logprobs=0, stop=(stop,))
        prefix = draft.behind(thought, inducer)
        trial = await self._ask(draft, prefix, sampling, policy.trial_tokens, name)
        if trial is None:
            return None
        if policy.trial_closes and not trial.text.endswith(stop):
            return 0.0
        new = slice(len(trial.ids) - len(trial.logprobs), None)
        told = zip(trial.ids[new], trial.logprobs, strict=True)
        values = [lp.logprob for token, lp in told if token != draft.tokenizer.eos_id]
        return mean_probability(values[1:], geometric=policy.confidence == "avg2")

    async def _entropy(self, draft: Draft) -> float:
        """Of the next token, in nats; what could not be asked has none."""
        sampling = Sampling(temperature=0.0, logprobs=TOP)
        self._looks += 1
        peek = await self._ask(draft, draft.chain, sampling, 1, f"entropy{self._looks}-")
        if peek is None or not peek.logprobs:
            return 0.0
        shares = [math.exp(value) for value in peek.logprobs[-1].top.values()]
        return -sum(share * math.log(share) for share in shares if share > 0)

    async def _ask(
        self, draft: Draft, prefix: Chain, sampling: Sampling, tokens: int, name: str
    ) -> Chain | None:
        """A continuation in a branch of its own: nothing of it stays in the chain."""
        if len(prefix.all_ids) + tokens > draft.engine.context_length:
            return None
        branch = draft.ctx.branch(f"{name}{self._trials}")
        bare = Chain(prefix.prompt_ids, prefix.ids, prefix.text, fork=prefix.fork)
        try:
            (trial,) = await branch.sample(bare, sampling=sampling, max_tokens=tokens)
        except Stopped:
            return None  # the chain itself is told, where it asks for more
        finally:
            draft.ctx.book("policy", probe=branch.ledger.total.tokens)
        return trial


def mean_probability(logprobs: list[float], *, geometric: bool) -> float:
    """The mean of probabilities given by their logarithms, in [0, 1]; the geometric mean is never
    above the arithmetic one. Of none, or where one is not a number, it is 0: no confidence."""
    if not logprobs or any(math.isnan(value) for value in logprobs):
        return 0.0
    values = [min(value, 0.0) for value in logprobs]
    arithmetic = math.fsum(map(math.exp, values)) / len(values)
    if not geometric:
        return arithmetic
    return min(math.exp(math.fsum(values) / len(values)), arithmetic)


def lowered(
    values: Sequence[float], alpha: float, deviation: Literal["mean", "median"] = "mean"
) -> float:
    """The mean of confidences less `alpha` times their absolute deviation (from their mean, its
    mean; or from their median, its median), and at least 0. Of one confidence it is that itself."""
    average = statistics.median if deviation == "median" else statistics.fmean
    middle = average(values)
    apart = average([abs(value - middle) for value in values])
    return max(0.0, statistics.fmean(values) - alpha * apart)
