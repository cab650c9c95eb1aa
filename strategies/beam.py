"""Beam search over steps, with and without lookahead, and diverse verifier tree search.

| strategy | source |
|---|---|
| beam | Snell et al. 2024 (arXiv 2408.03314), section 5.1; Hugging Face's search-and-learn |
| lookahead | Snell et al. 2024, the same, scored after a rollout of k steps at temperature 0 |
| dvts | search-and-learn: n / M trees of their own, each keeps the best of its M candidates |

A round costs n steps and n verifier passes; with lookahead k, n (k + 1) steps. To compare at a
budget of B chains, run lookahead with n = B // (k + 1) (Snell, section 5.2).

Where a budget binds, a round is made narrower; a path that is cut at the cap of a step is not
complete (in search-and-learn it is), it goes on in the next round.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from reasoning.context import Context
from reasoning.strategies.steps import Ask, Path, Select, Step, Steps, Stepwise
from reasoning.strategy import Outcome


class _Beams(Stepwise):
    """n: paths in a round. beam_width: M, which must divide n.

    max_rounds: the last of them writes every path to its end. select: how the completions
    decide; one without an answer counts only where none has one.
    lookahead: steps at temperature 0 behind a candidate, for its score only.
    """

    n: int = Field(default=16, ge=1)
    beam_width: int = Field(default=4, ge=1)
    max_rounds: int = Field(default=40, ge=1)
    lookahead: int = Field(default=0, ge=0)
    select: Select = "best"

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.n % self.beam_width:
            less = self.n - self.n % self.beam_width
            near = f"{less} or {less + self.beam_width}" if less else f"{self.beam_width}"
            raise ValueError(
                f"n={self.n} must be a multiple of beam_width={self.beam_width}, such as {near}"
            )
        return self

    async def score(self, steps: Steps, number: int, found: Sequence[Step]) -> list[float]:
        """The scores of a round's candidates, each at the end of its rollout."""
        seen = list(found)
        for ahead in range(self.lookahead):
            growing = [i for i, step in enumerate(seen) if not step.complete and not step.empty]
            if not growing:
                break
            asks = [Ask(f"ahead-{number}.{i}.{ahead}", seen[i].chain, greedy=True) for i in growing]
            for i, chains in zip(growing, await steps.write(asks), strict=True):
                if chains:
                    seen[i] = steps.read(seen[i].chain, chains[0])
        return await steps.score([step.chain for step in seen])

    def fitting(self, steps: Steps, number: int, paths: Sequence[Path], k: int) -> tuple[int, int]:
        """How many of the paths a round can expand, how wide."""
        each = steps.longest if self.last(number) else steps.cap * (1 + self.lookahead)
        count, width = steps.fit([path.chain for path in paths], k, each=each)
        if (count, width) != (len(paths), k):
            steps.ctx.note_cut("budget")
        return count, width

    def last(self, number: int) -> bool:
        return number == self.max_rounds - 1

    def ask(self, number: int, index: int, path: Path, n: int) -> Ask:
        until: Literal["step", "answer"] = "answer" if self.last(number) else "step"
        return Ask(f"round-{number}.{index}", path.chain, n, until)

    async def conclude(
        self, ctx: Context, steps: Steps, completions: Sequence[Path], live: Sequence[Path]
    ) -> Outcome:
        """The path chosen of the completions, or the best live one, finished."""
        ctx.trace.add(
            "completions",
            ctx.path,
            paths=[{"text": p.chain.text, "score": p.score} for p in completions],
        )
        best = max(live, key=lambda path: path.score, default=None)
        return await steps.conclude(completions, best, self.select)


class Beam(_Beams):
    """Keeps the best paths of a round and draws continuations of each.

    width_is says what beam_width is, as the conventions differ:
    - `expansion` (Snell, search-and-learn): of n paths keep n / M, draw M of each;
    - `kept` (its_hub): keep M, draw n / M of each, of the prompt too in the first round.

    finished says what becomes of complete paths:
    - `aside` (search-and-learn): they leave the pool, the survivors are drawn n times all the
      same. The first n to complete are the completions, copied up to n where there are fewer,
      which favours short solutions; with sort_completed the rounds go on, and the n best are;
    - `hold` (its_hub): they keep their score and compete for their place; it ends when all
      kept paths are complete.

    filter_duplicates: of candidates with the same text only the first stays.
    """

    width_is: Literal["expansion", "kept"] = "expansion"
    finished: Literal["aside", "hold"] = "aside"
    filter_duplicates: bool = False
    sort_completed: bool = False

    @property
    def kept(self) -> int:
        return self.n // self.beam_width if self.width_is == "expansion" else self.beam_width

    @property
    def expansion(self) -> int:
        return self.n // self.kept

    async def solve(self, ctx: Context) -> Outcome:
        steps = self.steps(ctx)
        root = steps.root
        live, done = [root], list[Path]()
        async with steps.reserving():
            for number in range(self.max_rounds):
                found = await self._round(steps, number, live)
                if not found:
                    break
                live, done = self._prune(found, done)
                # A path that is held may yet lose its place.
                if self.finished == "aside" and any(p.step.answer is not None for p in done):
                    steps.release()
                best = steps.choose(done, "best") if done else live[0]
                steps.offer(best)
                if not live or self._enough(done):
                    break
        return await self.conclude(ctx, steps, self._completions(done), live)

    async def _round(self, steps: Steps, number: int, live: Sequence[Path]) -> list[Path]:
        """The candidates of a round, scored; [] when the budget does not fit one."""
        wanted = self.n if self.finished == "aside" else self.expansion * len(live)
        if number == 0:
            wanted = self.n if self.width_is == "expansion" else self.expansion
        drawn = [live[place % len(live)] for place in range(wanted)]
        count, _ = self.fitting(steps, number, drawn, 1)
        asks = [
            self.ask(number, index, path, share)
            for index, (path, share) in enumerate(zip(live, tiled(count, len(live)), strict=True))
            if share
        ]
        written = await steps.write(asks) if asks else []
        found = [
            step
            for ask, chains in zip(asks, written, strict=True)
            for step in steps.read_all(ask.prefix, chains)
        ]
        if not found:
            return []
        scores = await self.score(steps, number, found)
        return [Path(step, score) for step, score in zip(found, scores, strict=True)]

    def _prune(self, found: Sequence[Path], done: list[Path]) -> tuple[list[Path], list[Path]]:
        """(live, done) after a round. An empty step ends a path."""
        pool = [*done, *found] if self.finished == "hold" else list(found)
        if self.finished == "aside":
            done = [*done, *(path for path in pool if _over(path))]
            pool = [path for path in pool if not _over(path)]
        if self.filter_duplicates:
            pool = list({path.chain.text: path for path in reversed(pool)}.values())[::-1]
        pool = sorted(pool, key=lambda path: -path.score)[: self.kept]  # stable: ties to the first
        if self.finished == "hold":
            done = [path for path in pool if _over(path)]
        return [path for path in pool if not _over(path)], done

    def _enough(self, done: Sequence[Path]) -> bool:
        # Without sorting the first n count, whatever comes later.
        return self.finished == "aside" and not self.sort_completed and len(done) >= self.n

    def _completions(self, done: Sequence[Path]) -> list[Path]:
        """Exactly n, unless nothing was completed."""
        if self.sort_completed:
            done = sorted(done, key=lambda path: -path.score)
        return [done[i % len(done)] for i in range(self.n)] if done else []


class Lookahead(Beam):
    """Beam search with candidates scored after a rollout of k steps at temperature 0."""

    lookahead: int = Field(default=1, ge=0)


class DVTS(_Beams):
    """n / M trees that never meet before the end; each keeps the best of M candidates a round.

    A tree ends when its best candidate is complete or empty. Its completions are the M
    candidates of its last round, complete or not, n together.
    """

    async def solve(self, ctx: Context) -> Outcome:
        steps = self.steps(ctx)
        root = steps.root
        trees = [_Tree(root, []) for _ in range(self.n // self.beam_width)]
        async with steps.reserving():
            for number in range(self.max_rounds):
                growing = [tree for tree in trees if not tree.over]
                if not growing or not await self._round(steps, number, growing):
                    break
                if any(tree.over and tree.answered for tree in trees):
                    steps.release()
                best = max((tree.best for tree in trees), key=lambda path: path.score)
                steps.offer(best)
        completions = [path for tree in trees for path in tree.candidates]
        live = [tree.best for tree in trees if not tree.over]
        return await self.conclude(ctx, steps, completions, live)

    async def _round(self, steps: Steps, number: int, trees: Sequence[_Tree]) -> bool:
        """One step of the trees, as many of them and as wide as the budget lets."""
        count, width = self.fitting(steps, number, [t.best for t in trees], self.beam_width)
        trees = trees[:count]
        if not trees:
            return False
        if number == 0:  # one ask, as all trees stand on the prompt
            (drawn,) = await steps.write([self.ask(number, 0, trees[0].best, count * width)])
            written = [drawn[i * width : (i + 1) * width] for i in range(count)]
        else:
            asks = [self.ask(number, i, tree.best, width) for i, tree in enumerate(trees)]
            written = await steps.write(asks)
        read = [
            steps.read_all(tree.best.chain, chains)
            for tree, chains in zip(trees, written, strict=True)
        ]
        found = [step for candidates in read for step in candidates]
        if not found:
            return False
        scores = iter(await self.score(steps, number, found))
        for tree, candidates in zip(trees, read, strict=True):
            if candidates:
                tree.grow([Path(step, next(scores)) for step in candidates])
        return True


class _Tree:
    """One subtree of DVTS: its best path, and the candidates of its last round."""

    def __init__(self, best: Path, candidates: list[Path]) -> None:
        self.best = best
        self.candidates = candidates

    @property
    def over(self) -> bool:
        return _over(self.best) and bool(self.candidates)

    @property
    def answered(self) -> bool:
        return any(path.step.answer is not None for path in self.candidates)

    def grow(self, candidates: list[Path]) -> None:
        self.candidates = candidates
        self.best = max(candidates, key=lambda path: path.score)  # the first of equals


def tiled(n: int, paths: int) -> list[int]:
    """How often each of `paths` stands in the list a, b, c, a, b, c, ... of length n."""
    return [n // paths + (index < n % paths) for index in range(paths)]


def _over(path: Path) -> bool:
    return path.step.complete or path.step.empty
