"""The searches on the shipped Countdown models: two problems each, all in one session."""

from pathlib import Path
from typing import Any

import pytest

import reasoning
from reasoning import Budget, Solution
from reasoning.configuration import Configuration
from reasoning.evals.tasks import Countdown
from reasoning.naming import build
from reasoning.recipe import Recipe
from reasoning.registry import chain_policies, strategies, verifiers
from reasoning.runner import Job, Runner
from reasoning.session import Session

RECIPES = Path(reasoning.__file__).parents[1] / "recipes"
PROBLEMS = Countdown(split="dev").problems(2)
BUDGET = Budget(tokens=400, verifier_passes=40)
PROMPT = 24  # tokens of a prompt with four numbers, at most

STEPS: dict[str, Any] = {"step_tokens": 48}
SEARCHES: dict[str, dict[str, Any]] = {
    "a_star": {"name": "a_star"},
    "a_star in batches": {"name": "a_star", "expand_batch": 2, "speculate": 1},
    "beam": {"name": "beam", "n": 4, "beam_width": 2},
    "lookahead": {"name": "lookahead", "n": 4, "beam_width": 2},
    "dvts": {"name": "dvts", "n": 4, "beam_width": 2},
    "mcts": {"name": "mcts", "n": 3, "simulations": 3},
    "mcts by rollouts": {"name": "mcts", "n": 2, "simulations": 3, "reward": "rollout"},
    "step_best_of_n": {"name": "step_best_of_n", "n": 3},
    "rebase": {"name": "rebase", "n": 4},
    "dora": {"name": "dora", "n": 4},
    "a_star, k=1": {"name": "a_star", "k": 1},
    "a_star, k=1, two lines a step": {"name": "a_star", "k": 1, "separators": 2},
    "step_best_of_n, n=1": {"name": "step_best_of_n", "n": 1, "max_steps": 100},
}


@pytest.fixture(scope="module")
def solutions() -> dict[str, list[Solution]]:
    """By search; `single` is plain decoding."""
    import asyncio

    from reasoning.engines.local import LocalEngine

    engines = {
        "policy": LocalEngine("countdown-policy", threads=1),
        "prm": LocalEngine("countdown-prm", threads=1),
    }
    prm = build(verifiers, "prm")

    def configuration(spec: Any) -> Configuration:
        return Configuration(
            strategy=build(strategies, spec),
            policy=build(chain_policies, "plain"),
            engines=dict(engines),
            verifiers={"verifier": (prm, "prm")},
            budget=BUDGET,
            max_tokens=200,
        )

    specs = {"single": "single"} | {name: {**s, **STEPS} for name, s in SEARCHES.items()}
    jobs = {
        name: [Job(problem, configuration(spec)) for problem in PROBLEMS]
        for name, spec in specs.items()
    }

    async def run() -> dict[str, list[Solution]]:
        session = Session()
        runner = Runner(session)

        async def solved(name: str) -> list[Solution]:
            return list(await asyncio.gather(*map(runner.solve, jobs[name])))

        try:
            await session.start(list(engines.values()))
            found = await asyncio.gather(*map(solved, jobs))
            return dict(zip(jobs, found, strict=True))
        finally:
            await session.close()

    return asyncio.run(run())


def test_a_star_1_6_1_on_a_real_model(solutions: dict[str, list[Solution]]) -> None:
    """A chain written step by step, scored at each, is the chain that plain decoding writes."""
    plain = [solution.text for solution in solutions["single"]]
    for name in ("a_star, k=1", "a_star, k=1, two lines a step", "step_best_of_n, n=1"):
        assert [solution.text for solution in solutions[name]] == plain
    asks = [
        [len(list(solution.trace.of("sample"))) for solution in solutions[name]]
        for name in ("a_star, k=1", "a_star, k=1, two lines a step")
    ]
    assert all(two < one for one, two in zip(*asks, strict=True))  # one for a step, not for a line


@pytest.mark.parametrize("name", SEARCHES)
def test_every_search_answers_within_its_budget(
    solutions: dict[str, list[Solution]], name: str
) -> None:
    for solution in solutions[name]:
        assert solution.status in ("ok", "budget"), solution.error
        assert solution.usage.tokens <= 400 and solution.usage.verifier_passes <= 40
    assert any(solution.answer is not None for solution in solutions[name])


@pytest.mark.parametrize("name", ["a_star", "beam", "dvts", "mcts", "rebase"])
def test_a_deeper_search_prefills_nothing_again(
    solutions: dict[str, list[Solution]], name: str
) -> None:
    """Prefixes come from the cache of the policy, and of the reward model: they read each new
    token once, and the prompt as often as it is first scored."""
    for solution in solutions[name]:
        usage = solution.usage
        asks = len(list(solution.trace.of("sample")))
        # The engine computes the last token of a prefix again: its logits are wanted.
        assert usage.prefill <= PROMPT + 2 * asks
        assert usage.verifier_prefill <= usage.tokens + 4 * PROMPT + usage.verifier_passes


def test_the_recipe_of_the_search_table_is_right() -> None:
    configurations = Recipe.load(RECIPES / "countdown_search.yaml").configurations()
    names = {configuration.describe()["strategy"]["name"] for configuration in configurations}
    assert {
        "best_of_n",
        "weighted",
        "majority",
        "a_star",
        "beam",
        "dvts",
        "particle_filtering",
        "mcts",
    } <= names
    assert all(configuration.budget.caps() for configuration in configurations)
    assert not any(configuration.oracle for configuration in configurations)
