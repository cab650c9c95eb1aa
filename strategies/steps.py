"""Steps: what the searches over partial solutions have in common.

A path is a chain that is written step by step; a step ends with the task's separator, or at a cap
of its own. This module writes steps, tells apart what came back, scores partial paths, says what
still fits the budget, and finishes a path in one go. What to expand is each search's own subject.

A path is complete when the model ended it, when a finished step holds the task's answer, when a
stop string of the recipe was met, or when the chain may not get longer.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import math
from bisect import bisect_left
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field

from reasoning.branch import Bindings
from reasoning.budget import UNITS, Budget, Usage
from reasoning.chain import Chain
from reasoning.context import Context
from reasoning.errors import BudgetExhausted
from reasoning.strategies.best_of_n import most_voted
from reasoning.strategy import Outcome, Strategy, Unit, Until
from reasoning.verifiers.aggregate import Aggregation
from reasoning.verifiers.scoring import Scoring

T = TypeVar("T")

Select = Literal["best", "weighted", "majority"]


class Stepwise(Strategy, abc.ABC):
    """Settings of every search over partial paths.

    step_by: what ends a step, the task's separator or only the cap. separators: how many of them
    make one step; papers rarely say how long theirs are, and a longer step saves verifier passes.
    step_tokens: cap for one step; a step that reaches it goes on in the next one, so that a task
    whose separator never comes is searched in blocks of this many tokens.
    reserve: tokens kept back, with what they cost, so that the best partial path can be finished.
    None: what a chain may have, at most a quarter of the budget.
    aggregate: from the rewards of a path's steps to one score. role: the verifier that gives them.
    """

    unit: ClassVar[Unit] = "step"
    needs: ClassVar[tuple[str, ...]] = ("sample", "continue_turn")

    step_by: Literal["separator", "tokens"] = "separator"
    separators: int = Field(default=1, ge=1)
    step_tokens: int = Field(default=256, ge=1)
    reserve: int | None = Field(default=None, ge=0)
    aggregate: Aggregation = Aggregation.last
    role: str = "verifier"

    def verifier_roles(self) -> tuple[str, ...]:
        return (self.role,)

    def steps(self, ctx: Context) -> Steps:
        """The steps of one problem, under these settings."""
        return Steps(ctx, self)


@dataclass(frozen=True, slots=True)
class Ask:
    """n continuations of a path, in a branch of that name (unique within the problem).

    The draws of a prefix are counted in each branch anew, from 0: draw 0 goes on with the path's
    own random stream. Ask once for a prefix, or say which draws with `prefix.drawn(d)`.
    greedy: at temperature 0.
    """

    name: str
    prefix: Chain
    n: int = 1
    until: Until = "step"
    greedy: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """What one continuation added to a path.

    chain: the path with it. text, tokens: what is new. answer: of a complete path, if it has one.
    copies: how many draws of the same ask said the same; spent: the tokens of all of them.
    """

    chain: Chain
    text: str
    tokens: int
    complete: bool
    answer: str | None
    copies: int = 1
    spent: int = 0

    @property
    def empty(self) -> bool:
        """A step that says nothing, and does not end the path either."""
        return not self.complete and not self.text.strip()


@dataclass(frozen=True, slots=True)
class Path:
    """A path with its score, as the searches hold it.

    rated: a verifier gave the score to this path; else it is that of the path's beginning, or
    stands in for one.
    """

    step: Step
    score: float
    rated: bool = True

    @property
    def chain(self) -> Chain:
        return self.step.chain


class Steps:
    """Writes and scores the steps of one problem.

    longest: the most tokens a path may have. cap: the most that a step may have.
    rounds: writes that waited for the one before (sequential depth).
    """

    def __init__(self, ctx: Context, settings: Stepwise) -> None:
        self.ctx = ctx
        self.settings = settings
        self.longest = ctx.cap(ctx.bindings.engine("policy"), ctx.prompt, None)
        self.cap = min(settings.step_tokens, self.longest)
        self.rounds = 0
        self._scoring = Scoring(ctx, settings.aggregate, settings.role)
        self._reserve: Context | None = None

    @property
    def root(self) -> Path:
        """The bare prompt."""
        return Path(Step(self.ctx.prompt, "", 0, complete=False, answer=None), 0.0, rated=False)

    # Writing.

    async def write(self, asks: Sequence[Ask]) -> list[list[Chain]]:
        """The continuations of each ask, all asked at once; [] where the budget refused."""
        self.rounds += 1
        written = await _all(map(self._write, asks))
        first = next((chain for chains in written for chain in chains), None)
        if self.ctx.best is None and first is not None:
            self.ctx.offer(first)  # should the clock end it before anything is scored
        return written

    async def _write(self, ask: Ask) -> list[Chain]:
        # A branch of its own: its journal keys don't depend on what else is in flight. Not a
        # random stream of its own: a path is the same in every strategy.
        branch = self.ctx.child(ask.name, None)
        bindings, most, sampling = branch.bindings, self.longest, branch.bindings.sampling
        if ask.until == "step":
            most = min(most, len(ask.prefix.ids) + self.cap)
            if not sampling.include_stop:  # a step's text keeps its separator
                sampling = replace(sampling, include_stop=True)
        if ask.greedy:
            sampling = replace(sampling, temperature=0.0)
        until = "answer" if self.settings.step_by == "tokens" else ask.until
        many = self.settings.separators if until == "step" else 1
        counted = many > 1 and self._counted(bindings)
        if counted:
            until, sampling = "answer", replace(sampling, nth_stop=(self.ctx.problem.step, many))
        branch.bindings = replace(bindings, max_tokens=most, sampling=sampling)
        try:
            chains = await branch.write(ask.prefix, ask.n, until)
        except BudgetExhausted as refused:
            self.ctx.note_cut(refused.status)
            return []
        if many == 1:
            return chains
        if counted:
            return [self._shortened(ask.prefix, chain) for chain in chains]
        return await _all(
            self._lengthened(branch, i, ask.prefix, chain) for i, chain in enumerate(chains)
        )

    @staticmethod
    def _counted(bindings: Bindings) -> bool:
        """Whether one ask can write a step of several separators."""
        return bindings.policy.one_ask and bindings.engine("policy").capabilities.nth_stop

    def _shortened(self, before: Chain, chain: Chain) -> Chain:
        """A continuation of several separators, without what it says after the separator at which
        the path was complete: asked for one at a time, it would have ended there."""
        step, text = self.ctx.problem.step, chain.text[len(before.text) :]
        end = text.find(step) + len(step)
        while end >= len(step):
            said = before.text + text[:end]
            if self._answers(said, self.ctx.problem.extract(said)):
                return self._cut(before, chain, text[:end])
            end = text.find(step, end) + len(step)
        return chain

    def _cut(self, before: Chain, chain: Chain, text: str) -> Chain:
        """`chain` up to the token with which its continuation says all of `text`."""
        decode = self.ctx.bindings.engine("policy").tokenizer.decode
        ids = chain.ids[len(before.ids) :]
        fewer = range(1, len(ids))
        kept = 1 + bisect_left(fewer, True, key=lambda size: decode(ids[:size]).startswith(text))
        if kept == len(ids):
            return replace(chain, finish="stop")
        self.ctx.book("policy", discarded=len(ids) - kept)
        size = len(before.ids) + kept
        return replace(
            chain,
            ids=chain.ids[:size],
            text=before.text + decode(ids[:kept]),
            finish="stop",
            done=False,
            logprobs=chain.logprobs[:size],
        )

    async def _lengthened(self, branch: Context, index: int, before: Chain, chain: Chain) -> Chain:
        """A continuation written on to as many separators as make a step, within its cap."""
        most = branch.bindings.max_tokens or self.longest
        for number in range(1, self.settings.separators):
            ended = chain.finish != "stop" or self.read(before, chain).complete
            if ended or len(chain.ids) >= most:
                break
            before = chain
            try:
                (chain,) = await branch.child(f"{index}.{number}", None).write(chain, 1, "step")
            except BudgetExhausted as refused:
                self.ctx.note_cut(refused.status)
                break
        return chain

    async def finish(self, path: Path, name: str = "finish") -> Path:
        """The path written to its end in one ask, which nobody has rated; as it is where it is
        complete, or nothing is left to spend."""
        chain = path.chain
        if path.step.complete or chain.done or self.rest(chain) < 1:
            return path
        (written,) = await self.write([Ask(name, chain, until="answer")])
        if not written:
            return path
        return Path(self.read(chain, written[0]), path.score, rated=False)

    @contextlib.asynccontextmanager
    async def reserving(self) -> AsyncIterator[None]:
        """Within the block the reserve is set aside in the ledger: nothing else can spend it,
        unless `release` gives it back before. An ask that the budget refuses ends the block, not
        the search: what stands behind it concludes with what there is."""
        kept = self._kept()
        if kept.caps():
            self._reserve = self.ctx.child("reserve", kept)
        try:
            yield
        except BudgetExhausted as refused:
            self.ctx.note_cut(refused.status)
        finally:
            self.release()

    def _kept(self) -> Budget:
        """The reserve, in every unit that is capped."""
        asked = self.settings.reserve
        if asked == 0:
            return Budget()
        tokens = self.longest if asked is None else min(asked, self.longest)
        most = self.ctx.most_written(self.ctx.prompt, 1, tokens)
        kept: dict[str, Any] = {}
        for unit in UNITS:
            left, need = self.ctx.remaining(unit), getattr(most, unit)
            need = min(need, left if asked is not None else left / 4)
            need = int(need) if unit == "tokens" else need
            if need > 0 and math.isfinite(left):
                kept[unit] = need
        return Budget(**kept)

    def release(self) -> None:
        """Give the reserve back to the search: there is an answer that it can't lose again."""
        held, self._reserve = self._reserve, None
        if held is not None:
            held.ledger.close()

    # Telling apart.

    def rest(self, chain: Chain) -> int:
        """How many tokens the path may still get."""
        return self.longest - len(chain.ids)

    def read(self, parent: Chain, chain: Chain) -> Step:
        """What a continuation of `parent` added."""
        text, tokens = chain.text[len(parent.text) :], len(chain.ids) - len(parent.ids)
        stopped = chain.finish == "stop"
        answer = self.ctx.answer(chain)
        if not stopped:
            marked = False  # an answer that is cut off in its middle is none yet
        elif self.ctx.problem.step not in text or self._stops(chain, text):
            marked = True  # the model's end, or what the recipe stops at
        else:
            marked = self._answers(chain.text, answer)
        complete = chain.done or marked or self.rest(chain) < 1
        return Step(chain, text, tokens, complete, answer if complete else None, 1, tokens)

    @staticmethod
    def _answers(text: str, answer: str | None) -> bool:
        """Whether the answer ends the path. Where any text is an answer, it ends nothing."""
        return answer is not None and answer != text.strip()

    def _stops(self, chain: Chain, text: str) -> bool:
        sampling = self.ctx.bindings.sampling
        return chain.ids[-1] in sampling.stop_ids or any(s in text for s in sampling.stop)

    def read_all(self, parent: Chain, chains: Sequence[Chain]) -> list[Step]:
        return [self.read(parent, chain) for chain in chains]

    def distinct(self, steps: Sequence[Step]) -> list[Step]:
        """Each text once, where it came first, with the number and cost of its copies."""
        first: dict[tuple[str, bool], Step] = {}
        for step in steps:
            key = step.text, step.complete
            if (known := first.get(key)) is None:
                first[key] = step
            else:
                first[key] = replace(
                    known, copies=known.copies + step.copies, spent=known.spent + step.spent
                )
        return list(first.values())

    # Scoring.

    async def score(self, chains: Sequence[Chain]) -> list[float]:
        """One score in [0, 1] for each path: see Scoring."""
        return await self._scoring.score(chains)

    async def score_and_write(
        self, chains: Sequence[Chain], asks: Sequence[Ask]
    ) -> tuple[list[float], list[list[Chain]]]:
        """Both at once: a search that writes on while rewards are on their way."""
        if not asks:
            return await self.score(chains), []
        scores: list[float]
        written: list[list[Chain]]
        both: list[Coroutine[Any, Any, Any]] = [self.score(chains), self.write(asks)]
        scores, written = await _all(both)
        return scores, written

    # Budgets.

    def fit(
        self,
        paths: Sequence[Chain],
        k: int,
        *,
        each: int | None = None,
        fresh: Sequence[bool] | None = None,
        scored: bool = True,
        before: Usage | None = None,
    ) -> tuple[int, int]:
        """How many of `paths` can be expanded, k continuations each, in the worst case.

        k shrinks first, to 1, then the number of paths, the last first; (0, 0) when not even one
        fits, in any unit of the budget. A continuation costs up to `each` tokens (a step's cap, by
        default) and, if `scored`, a pass. A chain that stands there twice is read once.
        fresh: for each path whether its continuations have yet to be written (others are there
        and only need scoring). before: what is spent first, however narrow it gets.
        """
        each = self.cap if each is None else each
        reads, writes = [], []  # what each path costs however wide it is, and each continuation
        passes: dict[int, Usage] = {}
        for path, new in zip(paths, fresh or [True] * len(paths), strict=True):
            again = id(path) in passes
            if not again:
                passes[id(path)] = self._pass(path, each) if scored else Usage()
            read, write = Usage(), passes[id(path)]
            if new:
                read = self.ctx.most_written(path, 0, each)
                write += self.ctx.most_written(path, 1, each) - read
            reads.append(Usage() if again else read)
            writes.append(write)
        for count in range(len(paths), 0, -1):
            first = Usage.sum([before or Usage(), *reads[:count]])
            fitting = self.ctx.times(Usage.sum(writes[:count]), first)
            if fitting >= 1:
                return count, int(min(k, fitting))
        return 0, 0

    def scorable(self, chains: Sequence[Chain]) -> bool:
        """Whether a pass over each of them may still be spent."""
        return self.ctx.times(Usage.sum(self._pass(chain, 0) for chain in chains)) >= 1

    def _pass(self, chain: Chain, more: int) -> Usage:
        return self.ctx.most_rated(chain, more, role=self.settings.role)

    @property
    def passes(self) -> int:
        """Ratings that came, as the ledger has them."""
        return self.ctx.ledger.total.verifier_passes

    # Choosing.

    def choose(self, paths: Sequence[Path], how: Select) -> Path:
        """One of the paths; one without an answer only when none has one. Ties: the earlier.

        best: the highest score. weighted: a path with the answer whose scores sum highest.
        majority: a path with the answer that most paths give.
        """
        answered = [path for path in paths if path.step.answer is not None]
        among = answered or list(paths)
        if how == "best" or not answered:
            return max(among, key=lambda path: path.score)  # the first of equals
        weights = [path.score if how == "weighted" else 1.0 for path in among]
        chain = most_voted(self.ctx, [path.chain for path in among], weights)
        return next(path for path in among if path.chain is chain)

    async def conclude(
        self, complete: Sequence[Path], live: Path | None, how: Select, **meta: Any
    ) -> Outcome:
        """The path chosen of the complete ones; where none of them has an answer, `live` is
        written to its end, if it has none yet, and stands beside them. One of both there must
        be."""
        paths = list(complete)
        if live is not None and not any(path.step.answer is not None for path in paths):
            paths.append(await self.finish(live))
        best = self.choose(paths, how)
        return self.offer(best, path_tokens=len(best.chain.ids), **meta, **self.counters())

    def offer(self, path: Path, **meta: Any) -> Outcome:
        """Name a path the best so far, with its score if it was rated."""
        scored = {"score": path.score} if path.rated else {}
        return self.ctx.offer(path.chain, **scored, **meta)

    def counters(self) -> dict[str, Any]:
        """What happened on the way, for a solution's meta; zeros are left out."""
        return ({"rounds": self.rounds} if self.rounds else {}) | self._scoring.counters()


async def _all(asks: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Their results, in order. All are awaited even when one fails, so that what was decoded is
    recorded and charged; then the first error is raised."""
    done: list[T] = []
    for one in await asyncio.gather(*asks, return_exceptions=True):
        if isinstance(one, BaseException):
            raise one
        done.append(one)
    return done
