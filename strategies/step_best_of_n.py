"""Step-level best-of-N: of n candidates for the next step the best is taken, and so on.

Bag of Tricks (arXiv 2502.07191), where it is the greedy baseline: candidates that ramble on into a
new question, or answer over and over, are dropped and drawn again a few times; the path ends with
an answer, or after `max_steps` steps.
"""

from __future__ import annotations

from pydantic import Field

from reasoning.context import Context
from reasoning.strategies.steps import Ask, Path, Step, Steps, Stepwise
from reasoning.strategy import Outcome


class StepBestOfN(Stepwise):
    """One path, to which the best of N candidates is added step by step.

    n: candidates a step. max_steps: then the path is finished in one ask.

    at_most: how often a phrase may stand in a candidate; more often, or an empty step, and it is
    dropped. retries: how often n others are drawn when all are. Then the first one stays.
    """

    n: int = Field(default=4, ge=1)
    max_steps: int = Field(default=20, ge=1)
    at_most: dict[str, int] = Field(default={"Question": 0, "Answer:": 2})
    retries: int = Field(default=2, ge=0)

    async def solve(self, ctx: Context) -> Outcome:
        steps = self.steps(ctx)
        best = steps.root
        async with steps.reserving():
            for number in range(self.max_steps):
                candidates = await self._candidates(steps, number, best)
                if not candidates:
                    ctx.note_cut("budget")
                    break
                scores = await steps.score([step.chain for step in candidates])
                rated = map(Path, candidates, scores)
                best = max(rated, key=lambda path: path.score)  # the first of equals
                steps.offer(best)
                if best.step.complete:
                    break
        return await steps.conclude([], best, "best")

    async def _candidates(self, steps: Steps, number: int, path: Path) -> list[Step]:
        """The candidates for the next step; [] when the budget does not fit one."""
        dropped: list[Step] = []
        for attempt in range(1 + self.retries):
            fitting, n = steps.fit([path.chain], self.n)
            if not fitting:
                break
            # Draws that were not taken before; the first attempt's stand on the path itself.
            prefixes = [(path.chain, n)]
            if attempt:
                first = attempt * self.n
                prefixes = [(path.chain.drawn(first + index), 1) for index in range(n)]
            written = await steps.write(
                [
                    Ask(f"step-{number}.{attempt}.{index}", prefix, count)
                    for index, (prefix, count) in enumerate(prefixes)
                ]
            )
            found = [step for c in written for step in steps.read_all(path.chain, c)]
            fit = [step for step in found if not step.empty and self._allowed(step)]
            if fit:
                return fit
            dropped += found
        return dropped[:1] if dropped and steps.scorable([dropped[0].chain]) else []

    def _allowed(self, step: Step) -> bool:
        return all(step.text.count(phrase) <= most for phrase, most in self.at_most.items())
