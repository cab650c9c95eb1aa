"""Bag of Tricks: facts 5.4.1, 5.4.2 and 5.4.7, and its grid as recipes.

Facts 5.4.3, 5.4.5 and 5.4.6 belong to the verifiers and the searches, 5.4.4 to self-refine, 5.4.8
to recipes (tests/evals/test_recipe_axes.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reasoning import Solver
from reasoning.chain import Chain
from reasoning.configuration import name_of
from reasoning.engines.scripted import ScriptedEngine
from reasoning.recipe import Recipe
from reasoning.strategies.best_of_n import Weighted
from reasoning.strategy import Rating, Verifier
from tests.strategies.selection.scripts import numbered, problem, solve

RECIPES = Path(__file__).parents[3] / "recipes"
SIX = {"best_of_n", "step_best_of_n", "majority", "beam", "mcts", "self_refine"}
VALUES = [0.6, 0.7, 0.8, 0.9, 1.0]


def test_tricks_5_4_1_a_random_reward_is_as_good_as_one_sample() -> None:
    """A right answer in a third of the samples, often in the same words: a third of 300 choices,
    within four standard deviations."""
    lines = ["answer right", "answer right", "answer w", "answer x", "answer y", "answer z"]
    engine = ScriptedEngine(script=lines)
    solver = Solver(
        {"policy": engine}, strategy={"name": "best_of_n", "n": 8}, verifiers={"verifier": "random"}
    )
    solutions = solver.solve_many([problem(f"p{number}") for number in range(300)])
    share = sum(solution.answer == "right" for solution in solutions) / 300
    assert abs(share - 1 / 3) < 4 * (2 / 9 / 300) ** 0.5


@pytest.mark.parametrize("scale", ["none", "minmax"])
@pytest.mark.parametrize("value", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_tricks_5_4_2_of_equal_values_weighted_is_majority(
    value: float, seed: int, scale: str
) -> None:
    class Constant(Verifier):
        async def rate(self, problem: Any, chains: Sequence[Chain], engine: Any) -> list[Rating]:
            return [Rating((value,)) for _ in chains]

    lines = [f"answer {letter}" for letter in "aabbcd"]
    strategy = {"name": "weighted", "n": 9, "scale": scale}
    weighted = solve(lines, strategy, verifiers={"verifier": Constant()}, seed=seed)
    majority = solve(lines, {"name": "majority", "n": 9}, seed=seed)
    assert weighted.text == majority.text


@pytest.mark.parametrize(("scale", "answer"), [("none", "b"), ("minmax", "a")])
def test_scores_are_stretched_before_they_are_summed(scale: str, answer: str) -> None:
    """1.0 against 0.75 and 0.5: as they are the two win; stretched, the worst has no vote."""
    lines = ["answer a", "answer b", "answer b!"]
    scores = dict(zip(lines, (1.0, 0.75, 0.5), strict=True))
    own = replace(problem(), canonical=lambda answer: answer.strip("!"))
    engine = ScriptedEngine(
        script=numbered(lines), rewards=lambda text: scores[text.splitlines()[-1]]
    )
    solution = Solver(
        {"policy": engine, "prm": engine},
        strategy={"name": "weighted", "n": 3, "scale": scale},
        verifiers={"verifier": {"name": "prm", "model": "prm"}},
    ).solve(own)
    assert solution.answer == answer


def test_without_scaling_weighted_is_described_as_when_there_was_none() -> None:
    assert "scale" not in Weighted().model_dump()
    assert Weighted(scale="minmax").model_dump()["scale"] == "minmax"


def test_tricks_5_4_7_tokens_of_prompts_and_of_completions_are_counted_apart() -> None:
    engine = ScriptedEngine(script=["answer a"])
    usage = solve([], {"name": "majority", "n": 3}, engine=engine).usage
    assert (usage.tokens, usage.prefill) == (3 * len("answer a "), len("question p\n"))


def test_the_grid_of_the_study_is_one_recipe() -> None:
    """Every method with every kind of prompt and reward, and each knob at each of its values."""
    made = Recipe.load(RECIPES / "bag_of_tricks.yaml").configurations()
    assert len({configuration.label for configuration in made}) == len(made)
    methods = {name_of(configuration.strategy) for configuration in made}
    assert methods >= SIX
    seen = {(name_of(c.strategy), c.prompt, c.sampling.temperature, c.sampling.top_p) for c in made}
    for method, kind, value in itertools.product(SIX, ("standard", "cot", "reflect_cot"), VALUES):
        assert (method, kind, value, 0.9) in seen and (method, kind, 0.7, value) in seen
    kinds = {"random", "self_process", "self_result", "judge", "process_judge", "reward"}
    for method in SIX - {"majority", "self_refine"}:
        assert {
            role for c in made if name_of(c.strategy) == method for role in c.verifier_roles
        } == kinds


def test_what_the_shipped_models_can_show_of_it_is_another() -> None:
    made = Recipe.load(RECIPES / "bag_of_tricks_countdown.yaml").configurations()
    assert {name_of(c.strategy) for c in made} >= SIX - {"self_refine"}
    assert {role for c in made for role in c.verifier_roles} == {"random", "prm"}
    assert {c.sampling.temperature for c in made} == {c.sampling.top_p for c in made} == set(VALUES)
