"""A policy that is a known tree, and rewards on it, for the tests of the searches.

A path is a tuple of draws: (0, 2) is the third continuation of the first continuation of the
prompt. A step says which draw it is, in `WIDTH` characters, so that a text is a path.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from reasoning import Budget, Problem, Solution, Solver
from reasoning.engines.base import Completion, SampleRequest, Sampling
from reasoning.engines.scripted import Line, ScriptedEngine
from reasoning.randomness import key

some = settings(max_examples=25)
SEEDS = st.integers(0, 10_000)

Draws = tuple[int, ...]

WIDTH = 3  # "s2\n" is a step, "A2\n" one with an answer, " 2\n" hardly says anything
DEPTH = 6
MOST = 4  # draws of one prefix that the tree knows

PROBLEM = Problem(
    "p",
    ({"role": "user", "content": "question"},),
    step="\n",
    extract=lambda text: text[text.rindex("A") + 1 :].strip() if "A" in text else None,
)


@cache
def paths(most: int = MOST, depth: int = DEPTH) -> dict[int, Draws]:
    """For each stream key the draws that lead to it, without trailing zeros."""
    found = {}
    for size in range(depth + 2):
        for draws in itertools.product(range(most), repeat=size):
            if not draws or draws[-1]:
                fork = tuple((i * WIDTH, draw) for i, draw in enumerate(draws) if draw)
                found[key(0, PROBLEM.id, 0, "", fork)] = draws
    return found


def chance(path: Draws, seed: int, what: str = "") -> float:
    """A number in [0, 1) that is a function of the path."""
    return int(hashlib.sha256(repr((path, seed, what)).encode()).hexdigest()[:8], 16) / 2**32


Says = Callable[[Draws], str]
Rewards = Callable[[Draws], float]


def ends_at_depth(depth: int) -> Says:
    """Every path of `depth` steps ends with an answer: its draws."""

    def says(path: Draws) -> str:
        return f"{'A' if len(path) == depth else 's'}{path[-1]}\n"

    return says


def path_of(text: str) -> Draws:
    """The draws that a text (with or without the prompt) was written by."""
    written = text.removeprefix("question\n")
    said = (written[i + 1] for i in range(0, len(written) - 1, WIDTH))
    return tuple(int(draw) if draw.isdigit() else 9 for draw in said)


def wild(seed: int) -> Says:
    """Steps, answers, ends without an answer and empty steps, wherever the seed puts them."""

    def says(path: Draws) -> str:
        at = chance(path, seed, "says")
        if len(path) >= 2 and at < 0.25:
            return f"A{path[-1]}\n"
        if at < 0.35:
            return f"E{path[-1]}\n"
        if at < 0.45:
            return "  \n"
        # Draws 0 and 1 often say the same.
        return "s0\n" if chance(path, seed, "twin") < 0.5 and path[-1] < 2 else f"s{path[-1]}\n"

    return says


class TreeEngine(ScriptedEngine):
    """Plays the tree. A path ends with the first step that `says` marks with A (and the model
    goes on with EOS) or E (EOS follows without an answer), or at the greatest depth. seconds: time
    a token takes on the path with these draws. At temperature 0 steps are marked g, not s.
    counts: it can end a step at its n-th separator."""

    def __init__(
        self,
        says: Says,
        rewards: Rewards | None = None,
        *,
        most: int = MOST,
        depth: int = DEPTH,
        seconds: Callable[[Draws], float] = lambda path: 0.0,
        counts: bool = False,
    ) -> None:
        known = paths(most, depth)

        def script(prompt: str, stream: int) -> Line:
            draws = known[stream]
            text = ""
            for size in range(1, depth + 1):
                path = (*draws, *(0,) * depth)[:size]
                text += says(path)
                if text[-WIDTH] in "AE":
                    break
            return Line(text.replace("s", "g") if self._greedy else text, seconds(draws))

        self._greedy = False

        super().__init__(
            script=script,
            rewards=None if rewards is None else lambda text: rewards(path_of(text)),
        )
        self.capabilities = replace(self.capabilities, nth_stop=counts)

    async def _chain(self, request: SampleRequest, *rest: Any) -> Completion:
        self._greedy = request.sampling.temperature == 0  # read before anything is awaited
        return await super()._chain(request, *rest)

    def steps_asked(self, *, greedy: bool = False) -> int:
        """Continuations that were asked of it."""
        return sum(r.n for r in self.totals.log if (r.sampling.temperature == 0) == greedy)


def search(
    strategy: str,
    says: Says | TreeEngine,
    rewards: Rewards = lambda path: 0.5,
    *,
    budget: Budget | None = None,
    verifier: Any = None,
    run: Any = None,
    problem: Problem = PROBLEM,
    sampling: Sampling | None = None,
    max_tokens: int | None = 100,
    **settings: Any,
) -> Solution:
    """The tree searched by a strategy, its solution with the trace."""
    engine = says if isinstance(says, TreeEngine) else TreeEngine(says, rewards)
    settings = {"step_tokens": WIDTH, **settings}
    solver = Solver(
        {"policy": engine, "prm": engine},
        strategy={"name": strategy, **settings},
        verifiers={"verifier": verifier or {"name": "prm", "model": "prm"}},
        budget=budget or Budget(),
        sampling=sampling,
        max_tokens=max_tokens,
        run=run,
    )
    return solver.solve(problem)


def plain(
    says: Says | TreeEngine, *, budget: Budget | None = None, max_tokens: int | None = 100
) -> Solution:
    """The one chain that plain decoding writes."""
    engine = says if isinstance(says, TreeEngine) else TreeEngine(says)
    return Solver(
        {"policy": engine}, strategy="single", budget=budget, max_tokens=max_tokens
    ).solve(PROBLEM)


def noisy(seed: int, grain: int = 10) -> Rewards:
    """Rewards that are a function of the path, in so many grades: with ties."""
    return lambda path: round(chance(path, seed) * grain) / grain


def keeps_to(budget: Budget, solution: Solution, engine: TreeEngine) -> None:
    """No cap is passed, and every token that was decoded is charged."""
    assert solution.status in ("ok", "budget"), solution.error
    usage = solution.usage
    assert usage.tokens == engine.totals.new, usage
    assert budget.tokens is None or usage.tokens <= budget.tokens, usage
    passes = budget.verifier_passes
    assert passes is None or usage.verifier_passes <= passes, usage


def tree(solution: Solution) -> list[dict[str, Any]]:
    """The tree in a solution's trace: a row for each node."""
    (event,) = solution.trace.of("tree")
    rows: list[dict[str, Any]] = event.data["nodes"]
    return rows
