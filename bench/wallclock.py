"""How long a search takes beside best-of-N that decodes as many tokens: rounds wait, chains do not.

Best-of-N draws its N chains. The searches get the tokens that so many chains take, spend them all
where they can, and step by lines of the same cap. 256 chains of 30 problems are two million tokens:
`scale` makes N smaller, and the budget with it; fewer problems leave a search fewer others to wait
among, which is the harder case.
"""

from __future__ import annotations

from statistics import fmean

from bench import solving
from bench.pairs import alternate, longer, share
from bench.report import Row, Table, shown, verdict
from bench.solving import Again, Solved
from reasoning.budget import Budget, Usage
from reasoning.configuration import Configuration
from reasoning.engines.base import Engine
from reasoning.naming import Spec

FULL, WIDTH = 256, 4
PROBLEMS = 30  # at once, at most
GOAL = 2.0
BASELINE = "best_of_n"


def chains(scale: float) -> int:
    """N at a scale of the full one: a multiple of the beam's width."""
    return max(1, round(FULL * scale / WIDTH)) * WIDTH


def strategies(n: int, chain_tokens: int) -> dict[str, tuple[Spec, Budget]]:
    """The contenders, with what each may spend on a problem. chain_tokens: of a mean chain."""
    budget, steps = Budget(tokens=chain_tokens * n), {"step_tokens": 48, "reserve": 160}
    return {
        BASELINE: ({"name": "best_of_n", "n": n}, Budget()),
        "beam": ({"name": "beam", "n": n, "beam_width": WIDTH, **steps}, budget),
        # Eight states at once, and on past the first goal, for as long as there are tokens.
        "a_star": (
            {
                "name": "a_star",
                "k": WIDTH,
                "expand_batch": 8,
                "goal_mode": "collect_m",
                "m": n,
                **steps,
            },
            budget,
        ),
    }


async def run(
    policy: Engine,
    prm: Engine,
    rounds: int,
    scale: float,
    problems: int,
    max_tokens: int = solving.MAX_TOKENS,
) -> Table:
    n = chains(scale)
    table = Table(
        "wallclock",
        f"Searches against best-of-{n}, {policy.name}, {problems} problems at once, chains of at "
        f"most {max_tokens} tokens",
        (
            "strategy",
            "seconds",
            "tokens",
            "seconds / best-of-N [95 %]",
            "a token [95 %]",
            "policy cache hits",
            "verifier cache hits",
            f"goal: a token < {GOAL:g} at N = {FULL}",
        ),
    )
    async with solving.runner(problems) as runner:

        async def bound(strategy: Spec, budget: Budget) -> Configuration:
            made = solving.configuration(
                strategy, policy, prm, budget=budget, max_tokens=max_tokens
            )
            await runner.bind(made)
            return made

        four = await bound({"name": "best_of_n", "n": 4}, Budget())
        looked = await Again(runner, four, solving.dev(problems), cold=True)()
        contenders = {}
        for name, (strategy, budget) in strategies(n, looked.tokens // (4 * problems)).items():
            configuration = await bound(strategy, budget)
            contenders[name] = Again(runner, configuration, solving.dev(problems), cold=True)
        found = await alternate(contenders, rounds, warm_ups=0)  # `looked` was one
    for name, samples in found.items():
        table.add(_row(name, samples, found[BASELINE], n))
    return table


def _row(name: str, samples: list[Solved], base: list[Solved], n: int) -> Row:
    a_token = share(base, samples)
    spent = Usage.sum(s.usage for s in samples)
    goal = verdict(a_token.high < GOAL) if n == FULL else f"measured at {n}"
    compared = ("1", "1") if name == BASELINE else (shown(longer(samples, base)), shown(a_token))
    cells = (
        name,
        f"{fmean(s.seconds for s in samples):.1f}",
        f"{fmean(s.tokens for s in samples):,.0f}",
        *compared,
        hits(spent.cached, spent.prefill),
        hits(spent.verifier_cached, spent.verifier_prefill),
        "" if name == BASELINE else goal,
    )
    return Row(cells, {"samples": samples})


def hits(cached: int, computed: int) -> str:
    """The share of prompt tokens that came from a prefix cache."""
    read = cached + computed
    return f"{cached / read:.0%}" if read else "-"
