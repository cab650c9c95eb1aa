"""Particle filtering, entropic and Gibbs: facts 3.8.1 to 3.8.10, budgets, broken rewards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning import Budget, Solution, Solver
from reasoning.chain import Chain
from reasoning.engines.scripted import Line, ScriptedEngine
from reasoning.errors import ConfigError, RatingFailed
from reasoning.randomness import uniform
from reasoning.strategies.resampling import (
    Annealing,
    Resampling,
    Weight,
    annealed,
    effective_size,
    entropy,
    log_weight,
    resample,
    softmax,
)
from reasoning.strategy import Rating, Verifier
from tests.strategies.selection.scripts import reward, solve

REWARDS = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12)
UNIFORM = st.floats(0.0, 1.0, exclude_max=True)
LONGEST = 8


def walk(prompt: str, stream: int) -> Line:
    """Lines of nine characters: a step, or by chance an answer; at last an answer."""
    lines = []
    for place in range(LONGEST):
        chance, digit = uniform([stream, stream], [place, 100 + place])
        ends = chance < 0.2 or place == LONGEST - 1
        lines.append(f"{'answer ' if ends else 'step   '}{int(digit * 10)}\n")
    return Line("".join(lines))


def by_digit(text: str) -> float:
    """The reward of a path is the last digit in it, as tenths."""
    return int(text.strip()[-1]) / 10 + 0.05


def run(name: str = "particle_filtering", **settings: Any) -> Solution:
    of_solver = ("budget", "engine", "seed", "run", "verifiers")
    ours = {k: settings.pop(k) for k in list(settings) if k in of_solver}
    rewards = settings.pop("rewards", by_digit)
    strategy = {"name": name, "n": 4, "step_tokens": 20, **settings}
    return solve(walk, strategy, rewards=rewards, max_tokens=100, **ours)


def rounds(solution: Solution) -> list[dict[str, Any]]:
    return [event.data for event in solution.trace.of("resample")]


def made(solution: Solution) -> tuple[Any, ...]:
    """Everything a solution came to, but the names of its settings."""
    return (solution.answer, solution.text, solution.status, solution.usage, rounds(solution))


# Weights and draws.


@given(REWARDS, st.sampled_from(Weight))
def test_particles_3_8_3_no_reward_gives_an_infinite_weight(
    rewards: list[float], weight: Weight
) -> None:
    chances = softmax([log_weight(reward, weight) for reward in [*rewards, 0.0, 1.0]])
    assert all(math.isfinite(chance) for chance in chances)
    assert math.fsum(chances) == pytest.approx(1.0)
    assert log_weight(1.0, Weight.logit) == pytest.approx(16.118, abs=1e-3)
    assert log_weight(0.0, Weight.logit) == pytest.approx(-16.118, abs=1e-3)


@pytest.mark.parametrize(
    ("weight", "chances"),
    [
        (Weight.raw, (0.472, 0.316, 0.212)),
        (Weight.log, (0.600, 0.333, 0.067)),
        (Weight.logit, (0.890, 0.099, 0.011)),
    ],
)
def test_the_three_weights_of_one_population(weight: Weight, chances: tuple[float, ...]) -> None:
    found = softmax([log_weight(reward, weight) for reward in (0.9, 0.5, 0.1)])
    assert found == pytest.approx(chances, abs=1e-3)


@given(REWARDS)
def test_particles_3_8_7_weights_order_alike(rewards: list[float]) -> None:
    # Rewards that rounding cannot tell apart may tie in either.
    rewards = [round(reward, 6) for reward in rewards]
    orders = {
        tuple(sorted(range(len(rewards)), key=lambda i: -log_weight(rewards[i], weight)))
        for weight in (Weight.log, Weight.logit)
    }
    assert len(orders) == 1


@given(st.integers(1, 40), UNIFORM, st.floats(1e-6, 1e6))
def test_particles_3_8_2_equal_weights_give_each_once_in_order(
    n: int, offset: float, weight: float
) -> None:
    for how in (Resampling.systematic, Resampling.stratified):
        assert resample([weight] * n, n, how, [offset] * n) == list(range(n))
    assert resample([0.0] * n, n, Resampling.systematic, [offset]) == list(range(n))


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20), st.integers(1, 40), UNIFORM)
def test_particles_3_8_5_systematic_counts_are_floor_or_ceiling(
    weights: list[float], count: int, offset: float
) -> None:
    if not any(weights):
        weights = [1.0] * len(weights)
    total = math.fsum(weights)
    chosen = resample(weights, count, Resampling.systematic, [offset])
    for index, weight in enumerate(weights):
        expected = count * weight / total
        assert math.floor(expected - 1e-9) <= chosen.count(index) <= math.ceil(expected + 1e-9)
        assert weight or not chosen.count(index)


@pytest.mark.parametrize("how", Resampling)
def test_particles_3_8_5_means_are_n_p(how: Resampling) -> None:
    chances, n, seeds = [0.5, 0.3, 0.15, 0.05], 4, 1500
    counts = [0] * 4
    for seed in range(seeds):
        for index in resample(chances, n, how, list(uniform(seed, range(n)))):
            counts[index] += 1
    assert [count / seeds for count in counts] == pytest.approx([n * p for p in chances], abs=0.1)


@pytest.mark.parametrize("how", Resampling)
@given(st.integers(1, 12), st.integers(0, 11), st.lists(UNIFORM, min_size=12, max_size=12))
def test_particles_3_8_4_all_the_weight_takes_every_place(
    how: Resampling, n: int, heavy: int, uniforms: list[float]
) -> None:
    weights = [0.0] * n
    weights[heavy % n] = 1.0
    assert resample(weights, n, how, uniforms) == [heavy % n] * n


# Annealing.


@given(REWARDS, st.floats(0.0, 1.0), st.sampled_from(Annealing))
def test_particles_3_8_8_temperatures_are_1_or_more_and_spread(
    rewards: list[float], progress: float, kind: Annealing
) -> None:
    log_weights = [log_weight(reward, Weight.logit) for reward in rewards]
    cold = softmax(log_weights)
    temperature = annealed(kind, cold, progress)
    assert temperature >= 1.0 and (len(rewards) > 1 or temperature == 1.0)
    warm = softmax(log_weights, temperature)
    assert effective_size(warm) >= effective_size(cold) - 1e-9
    assert entropy(warm) >= entropy(cold) - 1e-9


def test_the_published_example_of_annealing() -> None:
    log_weights = [log_weight(reward, Weight.logit) for reward in (0.9, 0.5, 0.1)]
    chances = softmax(log_weights)
    assert effective_size(chances) == pytest.approx(1.247, abs=1e-3)
    assert entropy(chances) == pytest.approx(0.3477, abs=1e-4)
    assert annealed(Annealing.ess, chances, 0.1) == pytest.approx(2.166, abs=1e-3)
    assert annealed(Annealing.ess, chances, 0.3) == pytest.approx(1.685, abs=1e-3)
    warm = softmax(log_weights, annealed(Annealing.ess, chances, 0.1))
    assert warm == pytest.approx((0.669, 0.243, 0.088), abs=1e-3)
    assert annealed(Annealing.base, chances, 0.25) == 1.75
    from reasoning.strategies.particles import EntropicParticleFiltering

    filter = EntropicParticleFiltering(max_steps=10)
    assert filter.temperature(chances, 1) == pytest.approx(2.166, abs=1e-3)
    assert filter.temperature(chances, 6) == 1.0  # the late phase
    assert filter.temperature([1 / 3] * 3, 1) == 1.0  # all carry the weight


# Filters.


@pytest.mark.parametrize("seed", range(6))
def test_particles_3_8_1_one_particle_is_stepwise_sampling(seed: int) -> None:
    one = run(n=1, seed=seed)
    whole = solve(walk, {"name": "single"}, max_tokens=100, seed=seed)
    assert whole.text.startswith(one.text) and one.text.count("answer") == 1
    assert all(data["chosen"] == [0] for data in rounds(one))


@pytest.mark.parametrize("how", Resampling)
@pytest.mark.parametrize("seed", range(6))
def test_particles_3_8_6_and_3_8_10_the_finished_are_not_written_or_scored(
    how: Resampling, seed: int
) -> None:
    engine = ScriptedEngine(script=walk, rewards=by_digit)
    solution = run(resampling=how, seed=seed, engine=engine, resample_last=True, n=5)
    live, most = 5, 0
    for data in rounds(solution):
        assert len(data["scores"]) == len(data["complete"]) == len(data["chosen"]) == 5
        most += live
        live = sum(not data["complete"][index] for index in data["chosen"])
    # A pass for each live particle of each round, and nine tokens.
    assert live == 0
    assert solution.usage.verifier_passes == solution.meta["passes"] == most
    assert solution.usage.tokens == engine.totals.new == 9 * most


def test_particles_3_8_4_copies_go_their_own_ways() -> None:
    """All of the first population give way to copies of one; what each writes next is its own."""
    first = next(iter(run(n=8, max_steps=1).trace.of("sample")))
    steps = [chain.text.strip() for chain in first.data["chains"]]
    best = next(step for step in steps if step.startswith("step") and steps.count(step) == 1)
    texts: list[str] = []

    def rewards(text: str) -> float:
        _, *lines = text.splitlines()
        if len(lines) == 2:
            texts.append(text)
        return 1.0 if lines[0] == best else 0.0

    found = run(n=8, rewards=rewards, max_steps=2)
    assert found.usage.verifier_passes == 8 + 8
    assert len(texts) > 1 and {text.splitlines()[1] for text in texts} == {best}


@pytest.mark.parametrize("how", [Resampling.systematic, Resampling.multinomial])
@pytest.mark.parametrize("seed", range(4))
def test_particles_3_8_8_an_entropic_filter_without_a_threshold_is_a_filter(
    how: str, seed: int
) -> None:
    plain = run(resampling=how, seed=seed)
    cold = run("entropic_particle_filtering", resampling=how, ess_threshold=0.0, seed=seed)
    assert made(cold) == made(plain)


def test_an_entropic_filter_warms_early_rounds_only() -> None:
    def rewards(text: str) -> float:
        return 0.999 if by_digit(text) > 0.8 else 0.001

    temperatures = [
        data["temperature"]
        for seed in range(8)
        for data in rounds(run("entropic_particle_filtering", seed=seed, rewards=rewards, n=6))
    ]
    assert min(temperatures) == 1.0 and max(temperatures) > 2.0
    late = run("entropic_particle_filtering", rewards=rewards, n=6, early_phase=0.0)
    assert {data["temperature"] for data in rounds(late)} == {1.0}


@pytest.mark.parametrize("references", [0, 1])
@pytest.mark.parametrize("seed", range(4))
def test_particles_3_8_9_one_iteration_of_gibbs_is_a_filter(references: int, seed: int) -> None:
    gibbs = run("particle_gibbs", iterations=1, references=references, seed=seed)
    assert made(gibbs) == made(run(seed=seed))


def test_gibbs_weighs_a_reference_by_where_it_stood_then_and_others_branch_off_it() -> None:
    """Each chain has four steps, so that an iteration is weighed after one, two and three."""
    branched = []
    for seed in range(4):
        ends: list[list[str]] = []

        def rewards(text: str, ends: list[list[str]] = ends) -> float:
            _, *lines = text.splitlines()
            ends.extend([lines] if len(lines) == 4 else [])
            return reward(text)

        solution = run(
            "particle_gibbs",
            iterations=3,
            references=2,
            n=5,
            seed=seed,
            engine=ScriptedEngine(script=four_steps, rewards=rewards),
        )
        data = rounds(solution)
        # After the first iteration three of five are drawn anew.
        assert [len(round["chosen"]) for round in data] == [5] * 3 + [3] * 6
        assert [round["step"] for round in data] == [1, 2, 3] * 3
        stood = {
            tuple(reward("\n".join(["question p", *lines[:step], ""])) for step in (1, 2, 3))
            for lines in ends
        }
        for iteration in (data[3:6], data[6:9]):
            for reference in (0, 1):
                assert tuple(round["scores"][reference] for round in iteration) in stood
                assert not any(round["complete"][reference] for round in iteration)
        branched += [index for round in data[3:] for index in round["chosen"] if index < 2]
        assert solution.status == "ok" and solution.answer is not None
    assert set(branched) == {0, 1}


def four_steps(prompt: str, stream: int) -> Line:
    digits = [int(draw * 10) for draw in uniform(stream, range(4))]
    return Line("".join(f"step {digit}\n" for digit in digits[:3]) + f"answer {digits[3]}\n")


def test_gibbs_draws_no_chain_twice() -> None:
    engine = ScriptedEngine(script=walk, rewards=by_digit)
    run("particle_gibbs", iterations=4, n=4, engine=engine)
    asked = [(s.key, request.position) for request in engine.totals.log for s in request.streams]
    assert len(asked) == len(set(asked))


def test_a_gibbs_iteration_spends_on_free_particles_only() -> None:
    """With rewards that are all alike and chains of one step, iterations cost n, then n - 1."""
    one_step = ScriptedEngine(script=["answer 1\n"], rewards=by_digit)
    solution = run("particle_gibbs", iterations=3, n=4, engine=one_step)
    assert solution.usage.verifier_passes == 4 + 3 + 3


@pytest.mark.parametrize("select", ["best", "weighted", "majority", "sample"])
def test_every_selection_gives_a_complete_particle(select: str) -> None:
    for seed in range(3):
        solution = run(select=select, seed=seed)
        assert solution.answer is not None and solution.text.count("answer") == 1


def test_selection_by_majority_and_by_reward_differ() -> None:
    lines = ["answer 1\n", "answer 1\n", "answer 1\n", "answer 9\n"]
    for select, answer in (("best", "9"), ("majority", "1")):
        engine = ScriptedEngine(script=lines, rewards=by_digit)
        assert run(n=24, select=select, engine=engine).answer == answer


# Edges.


@pytest.mark.parametrize("tokens", [1, 2, 9, 19, 20, 27, 60, 100, 150, 400, 10_000])
@pytest.mark.parametrize("name", ["particle_filtering", "particle_gibbs"])
def test_the_budget_of_tokens_is_hard(name: str, tokens: int) -> None:
    engine = ScriptedEngine(script=walk, rewards=by_digit)
    solution = run(name, engine=engine, budget=Budget(tokens=tokens))
    assert solution.usage.tokens == engine.totals.new <= tokens
    if tokens <= 150 or tokens == 10_000:
        assert solution.status == ("ok" if tokens == 10_000 else "budget")
    assert len(solution.text) > 0
    if tokens >= 150:  # the reserve finishes the best path
        assert solution.answer is not None


@pytest.mark.parametrize("passes", [0, 1, 3, 4, 5, 9])
@pytest.mark.parametrize("name", ["particle_filtering", "entropic_particle_filtering"])
def test_the_budget_of_passes_is_hard_and_without_any_one_chain_is_written(
    name: str, passes: int
) -> None:
    solution = run(name, budget=Budget(verifier_passes=passes))
    assert solution.usage.verifier_passes <= passes
    assert solution.status == "budget" and solution.answer is not None
    if not passes:
        assert solution.text == solve(walk, {"name": "single"}, max_tokens=100).text


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.5, math.nan, -2.0, 7.0])
@pytest.mark.parametrize(
    "name", ["particle_filtering", "entropic_particle_filtering", "particle_gibbs"]
)
def test_rewards_alike_or_broken_lead_to_an_answer(name: str, reward: float) -> None:
    """What is outside [0, 1] counts as the nearest bound, and NaN as 0; both are counted."""
    for weight in Weight:
        solution = constant(name, reward, weight)
        assert solution.status == "ok" and solution.answer is not None
        broken = not 0.0 <= reward <= 1.0
        assert bool(solution.meta.get("clamped_rewards")) == broken


def constant(name: str, reward: float, weight: Weight) -> Solution:
    class Constant(Verifier):
        async def rate(self, problem: Any, chains: Sequence[Chain], engine: Any) -> list[Rating]:
            return [Rating((reward,)) for _ in chains]

    strategy = {"name": name, "n": 4, "step_tokens": 20, "weight": weight}
    return solve(walk, strategy, max_tokens=100, verifiers={"verifier": Constant()})


def test_ratings_that_failed_are_no_passes() -> None:
    class Ailing(Verifier):
        async def rate(self, problem: Any, chains: Sequence[Chain], engine: Any) -> list[Rating]:
            ratings = [Rating((0.5,)) if index else None for index, _ in enumerate(chains)]
            raise RatingFailed("the first could not be rated", ratings)

    verifiers = {"verifier": Ailing()}
    found = run(max_steps=1, verifiers=verifiers)
    assert found.meta["failed_ratings"] == 1
    assert found.meta["passes"] == found.usage.verifier_passes == 3


def test_a_separator_that_never_comes_is_searched_in_blocks() -> None:
    engine = ScriptedEngine(script=["answer " + "x" * 40], rewards=lambda text: 0.5)
    solution = run(engine=engine, step_tokens=10)
    assert solution.answer == "x" * 40 and solution.meta["rounds"] == 5


def test_rounds_end_at_the_most_steps() -> None:
    engine = ScriptedEngine(script=["step\n" * 50], rewards=lambda text: 0.5)
    solution = run(engine=engine, max_steps=3)
    assert len(rounds(solution)) == 3 and solution.usage.verifier_passes == 12


@pytest.mark.parametrize(
    "wrong",
    [{"n": 0}, {"max_steps": 0}, {"weight": "odds"}, {"resampling": "residual"}, {"select": "all"}],
)
def test_bad_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        run(**wrong)


def test_references_that_leave_none_free_are_refused() -> None:
    with pytest.raises(ConfigError, match="references=4 leave none of n=4"):
        run("particle_gibbs", references=4)


@pytest.mark.parametrize("name", ["particle_filtering", "particle_gibbs"])
def test_a_run_is_continued_with_the_same_asks(tmp_path: Path, name: str) -> None:
    engine = ScriptedEngine(script=walk, rewards=by_digit)
    first = run(name, engine=engine, run=tmp_path)
    asked = engine.totals.requests
    again = run(name, engine=engine, run=tmp_path)
    assert engine.totals.requests == asked
    assert (again.text, again.usage.tokens, rounds(again)) == (
        first.text,
        first.usage.tokens,
        rounds(first),
    )


def test_on_the_shipped_models_particles_find_answers() -> None:
    from reasoning.evals.tasks import Countdown

    solver = Solver(
        strategy={"name": "particle_filtering", "n": 4, "step_tokens": 40, "max_steps": 12},
        budget=Budget(tokens=1200),
        max_tokens=300,
    )
    solutions = solver.solve_many(Countdown(split="dev", numbers=3).problems(2))
    assert all(s.answer is not None for s in solutions)
    assert all(0 < s.usage.tokens <= 1200 and s.usage.verifier_passes for s in solutions)
