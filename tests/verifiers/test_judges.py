"""Verifiers without a reward model: judge, self-evaluation, agreement, random."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from reasoning import Budget, Problem, Solver
from reasoning.chain import Chain
from reasoning.costs.kinetics import CostModel, ModelShape
from reasoning.engines.base import ChooseReply, EngineUsage
from reasoning.engines.scripted import Line, ScriptedEngine
from reasoning.errors import ConfigError, EngineError, ModelError, RatingFailed
from reasoning.naming import build
from reasoning.registry import verifiers
from reasoning.strategy import Rating, Verifier
from reasoning.verifiers.judge import Judge
from reasoning.verifiers.self_evaluation import SelfEvaluation, value_of

ANSWERS = ["so answer b", "answer a", "answer a again", "no idea"]


def problem(name: str = "p") -> Problem:
    return Problem(
        name,
        ({"role": "user", "content": "2 {x} 2?"},),
        extract=lambda text: (text.partition("answer ")[2].split() or [None])[0],
        check=lambda answer: answer == "b",
        step="\n",
    )


def chain(text: str, **settings: Any) -> Chain:
    return Chain(tuple(map(ord, "q\n")), tuple(map(ord, text)), text, "stop", True, **settings)


class Chooser(ScriptedEngine):
    """Chances of the options from the prompt's text. Decodes one token to answer, as servers do."""

    def __init__(self, chances: Callable[[str], Sequence[float]]) -> None:
        super().__init__()
        self.chances = chances
        self.prompts: list[str] = []

    async def choose(self, prefix_ids: Sequence[int], option_ids: Sequence[int]) -> ChooseReply:
        prompt = self.tokenizer.decode(prefix_ids)
        self.prompts.append(prompt)
        await asyncio.sleep(0)
        shares = tuple(self.chances(prompt))
        assert len(shares) == len(option_ids)
        return ChooseReply(shares, 1.0, EngineUsage(prefill=len(prefix_ids), new=1))


LETTERS = {"yes": "Y", "no": "N"}  # one token each where tokens are characters


async def test_a_judge_is_read_as_the_chance_of_yes() -> None:
    engine = Chooser(lambda prompt: (0.8, 0.2) if "good" in prompt else (0.1, 0.9))
    good, bad, empty = await Judge(**LETTERS).rate(
        problem(), [chain("good {question}"), chain("bad"), chain(" ")], engine
    )
    assert good.scores == (0.8,) and bad.scores == (0.1,) and empty.scores == (0.0,)
    assert len(engine.prompts) == 2 and not empty.readings
    # Braces in a question or a solution are text.
    assert "2 {x} 2?" in engine.prompts[0] and "good {question}" in engine.prompts[0]


async def test_a_judge_of_digits_gives_the_expected_digit_over_nine() -> None:
    sure = Chooser(lambda prompt: (0.0,) * 9 + (1.0,))
    even = Chooser(lambda prompt: (0.1,) * 10)
    (nine,) = await Judge(scale="digits").rate(problem(), [chain("a")], sure)
    (mean,) = await Judge(scale="digits").rate(problem(), [chain("a")], even)
    assert nine.scores == (1.0,) and mean.scores == pytest.approx((0.5,))


async def test_a_judge_of_steps_sees_each_with_those_before() -> None:
    engine = Chooser(lambda prompt: (1.0, 0.0) if "two" not in prompt else (0.0, 1.0))
    (rating,) = await Judge(steps=True, prompt="{solution}|", **LETTERS).rate(
        problem(), [chain("one\ntwo\nthree\n")], engine
    )
    assert rating.scores == (1.0, 0.0, 0.0)
    assert [p.strip() for p in engine.prompts] == ["one|", "one\ntwo|", "one\ntwo\nthree|"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": "Is it right?"}, "must hold {solution}"),
        ({"scale": "stars"}, "yes_no"),
        ({"yes": ""}, "at least 1 character"),
        ({"unknown": 1}, "unknown setting"),
    ],
)
def test_settings_of_a_judge_are_checked_when_read(settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(verifiers, {"name": "judge", **settings})


async def test_a_verdict_must_be_one_token() -> None:
    with pytest.raises(ModelError, match="'Yes' is 3 tokens"):
        await Judge().rate(problem(), [chain("a")], Chooser(lambda prompt: (0.5, 0.5)))
    with pytest.raises(ConfigError, match="not different"):
        await Judge(yes="Y", no="Y").rate(
            problem(), [chain("a")], Chooser(lambda prompt: (0.5, 0.5))
        )


@pytest.mark.parametrize(
    ("texts", "value"),
    [
        (["Sure of the first line. Likely right."], 0.75),  # 5.4.3
        (["no keyword at all"], 0.0),  # 5.4.3
        (["sure", "impossible", "LIKELY"], 0.5),
        (["sure sure", "impossible"], 2 / 3),  # all matches in all evaluations, not per evaluation
        (["unlikely, unsure, surely"], 0.0),
        ([], 0.0),
    ],
)
def test_bag_of_tricks_5_4_3_value_words(texts: list[str], value: float) -> None:
    assert value_of(texts) == pytest.approx(value)


async def test_self_evaluation_averages_what_it_wrote() -> None:
    keys: list[int] = []

    def script(prompt: str, key: int) -> Line:
        keys.append(key)
        return Line("Sure." if len(set(keys)) % 2 else "Impossible.")

    engine = ScriptedEngine(script=script)
    verifier = SelfEvaluation(n=4, max_tokens=20)
    (rating,) = await verifier.rate(problem(), [chain("x = 2")], engine)
    assert rating.scores == (0.5,)
    assert len(set(keys)) == 4 and rating.usage.new == engine.totals.new
    again = list(keys)
    keys.clear()
    await verifier.rate(problem(), [chain("x = 2")], engine)
    assert sorted(keys) == sorted(again)  # the same chain is asked with the same streams
    keys.clear()
    await verifier.rate(problem("other"), [chain("x = 2")], engine)
    assert not set(keys) & set(again)


async def test_self_evaluation_of_results_sees_the_answer_only() -> None:
    engine = ScriptedEngine(script=["Likely"])
    with_answer, without = await SelfEvaluation(kind="result").rate(
        problem(), [chain("long reasoning, answer b"), chain("long reasoning")], engine
    )
    assert with_answer.scores == (0.5,) and without.scores == (0.0,)
    (request,) = engine.totals.log
    prompt = engine.tokenizer.decode(request.prompt_ids)
    assert "long reasoning" not in prompt and "\nb\n" in prompt


async def test_an_evaluation_that_fails_names_its_chain() -> None:
    def script(prompt: str, key: int) -> Line:
        return Line("Sure", fault=EngineError("broken pipe") if "bad" in prompt else None)

    engine = ScriptedEngine(script=script)
    with pytest.raises(EngineError):  # an engine's own trouble is not the chain's
        await SelfEvaluation().rate(problem(), [chain("fine"), chain("bad")], engine)


async def test_agreement_is_the_share_that_gives_the_answer() -> None:
    texts = ["answer a", "answer a again", "answer b", "no idea"]
    ratings = await build(verifiers, "agreement").rate(problem(), list(map(chain, texts)), None)
    assert [r.scores for r in ratings] == [(0.5,), (0.5,), (0.25,), (0.0,)]


def solved(name: str, verifier: Any, engine: ScriptedEngine, n: int = 8, **settings: Any) -> Any:
    return Solver(
        {"policy": engine},
        strategy={"name": "best_of_n", "n": n},
        verifiers={"verifier": verifier},
        max_tokens=30,
        **settings,
    ).solve(problem(name))


def test_best_of_n_by_agreement_is_majority_voting() -> None:
    for number in range(20):
        engine = ScriptedEngine(script=ANSWERS)
        voted = Solver({"policy": engine}, strategy={"name": "majority", "n": 8}, max_tokens=30)
        chosen = solved(f"p{number}", "agreement", engine)
        assert chosen.answer == voted.solve(problem(f"p{number}")).answer


def test_bag_of_tricks_5_4_1_random_is_as_good_as_one_chain() -> None:
    """In expectation over problems: 1 of 4 lines is right; 4 standard errors are allowed."""

    async def rights() -> int:
        solver = Solver(
            {"policy": ScriptedEngine(script=["answer b", "answer a"] + ["answer c"] * 2)},
            strategy={"name": "best_of_n", "n": 8},
            verifiers={"verifier": "random"},
        )
        problems = [problem(f"p{number}") for number in range(800)]
        async with solver:
            return sum([s.answer == "b" async for s in solver.asolve_many(problems)])

    right = asyncio.run(rights())
    assert abs(right / 800 - 0.25) < 4 * (0.25 * 0.75 / 800) ** 0.5


async def test_random_is_uniform_and_stable() -> None:
    rate = build(verifiers, "random").rate
    chains = [chain(f"c{number}") for number in range(2000)]
    scores = [rating.scores[0] for rating in await rate(problem(), chains, None)]
    assert scores == [rating.scores[0] for rating in await rate(problem(), chains, None)]
    assert all(0 <= score < 1 for score in scores)
    for low in (0.0, 0.25, 0.5, 0.75):
        assert abs(sum(low <= s < low + 0.25 for s in scores) / 2000 - 0.25) < 0.04
    reseeded = build(verifiers, {"name": "random", "seed": 1}).rate
    assert scores[0] != (await reseeded(problem(), chains, None))[0].scores[0]
    twins = await rate(problem(), [chain("same"), chain("same")], None)
    assert twins[0] != twins[1]


def test_bag_of_tricks_5_4_2_equal_values_make_weighted_voting_majority_voting() -> None:
    class Even(Verifier):
        async def rate(self, problem: Any, chains: Any, engine: Any) -> list[Rating]:
            return [Rating((0.5,)) for _ in chains]

    for number in range(20):
        engine = ScriptedEngine(script=ANSWERS)
        weighted = Solver(
            {"policy": engine},
            strategy={"name": "weighted", "n": 8},
            verifiers={"verifier": Even()},
            max_tokens=30,
        ).solve(problem(f"p{number}"))
        majority = Solver({"policy": engine}, strategy={"name": "majority", "n": 8}, max_tokens=30)
        assert weighted.answer == majority.solve(problem(f"p{number}")).answer


# What verifiers decode is charged.


def self_evaluating(engine: ScriptedEngine, **settings: Any) -> Solver:
    return Solver(
        {"policy": engine, "judge": ScriptedEngine(script=["It is Sure to be right."])},
        strategy={"name": "best_of_n", "n": 4},
        verifiers={"verifier": {"name": "self_evaluation", "model": "judge", "max_tokens": 10}},
        max_tokens=20,
        **settings,
    )


def test_written_evaluations_count_in_the_dial() -> None:
    engine = ScriptedEngine(script=ANSWERS)
    solution = self_evaluating(engine).solve(problem())
    assert solution.usage.verifier_tokens == 4 * 10
    assert solution.usage.tokens == engine.totals.new + 4 * 10
    assert solution.usage.verifier_passes == 4


@pytest.mark.parametrize("tokens", [1, 30, 60, 80, 100, 119, 120, 121, 400])
def test_no_evaluation_is_asked_for_that_a_token_cap_could_not_pay(tokens: int) -> None:
    engine = ScriptedEngine(script=ANSWERS)
    solution = self_evaluating(engine, budget=Budget(tokens=tokens)).solve(problem())
    assert solution.usage.tokens <= tokens
    assert solution.status in ("ok", "budget")


@pytest.mark.parametrize("unit", ["flops", "eflops", "money"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 0.99, 1.0])
def test_priced_caps_hold_for_verifiers_that_read_and_write(unit: str, share: float) -> None:
    """Whatever the cap, what a verifier of many requests costs never passes it."""
    model = CostModel(
        ModelShape(1e3, 16, 2), prefill_price=1e-3, cached_price=5e-3, token_price=1e-2
    )
    for verifier in (
        {"name": "self_evaluation", "model": "judge", "n": 2, "max_tokens": 10},
        {"name": "judge", "model": "judge", "steps": True, **LETTERS},
    ):

        class Both(Chooser):
            def __init__(self) -> None:
                super().__init__(lambda prompt: (0.5, 0.5))
                self._script = lambda prompt, key: Line("Likely right.")

        def solver(budget: Budget, verifier: Any = verifier) -> Solver:
            return Solver(
                {
                    "policy": ScriptedEngine(script=["a\nanswer b", "c\nd\nanswer a"]),
                    "judge": Both(),
                },
                strategy={"name": "best_of_n", "n": 3},
                verifiers={"verifier": verifier},
                max_tokens=20,
                costs={"policy": model, "judge": model},
                budget=budget,
            )

        whole = getattr(solver(Budget()).solve(problem()).usage, unit)
        assert whole > 0
        solution = solver(Budget(**{unit: whole * share})).solve(problem())
        assert getattr(solution.usage, unit) <= whole * share * (1 + 1e-9)


def test_a_token_decoded_to_read_a_verdict_is_not_in_the_dial() -> None:
    engine = ScriptedEngine(script=ANSWERS)
    solution = Solver(
        {"policy": engine, "judge": Chooser(lambda prompt: (0.5, 0.5))},
        strategy={"name": "best_of_n", "n": 4},
        verifiers={"verifier": {"name": "judge", "model": "judge", **LETTERS}},
        max_tokens=20,
    ).solve(problem())
    assert solution.usage.tokens == engine.totals.new
    assert solution.usage.verifier_tokens == 4


async def test_a_failing_verdict_names_its_chain() -> None:
    engine = Chooser(lambda prompt: (float("nan"), 0.5) if "bad" in prompt else (0.5, 0.5))
    with pytest.raises(RatingFailed, match="chain 1 of 2") as failed:
        await Judge(**LETTERS).rate(problem(), [chain("fine"), chain("bad")], engine)
    assert failed.value.ratings[0].scores == (0.5,)


@pytest.mark.parametrize("strategy", ["majority", "weighted"])
def test_shared_0_2_votes_group_by_canonical_form_and_keep_the_first_wording(strategy: str) -> None:
    """1/2 and 0.5 vote together against 7; the solution is worded as it was seen first."""
    halves = {"0.5": "1/2", "1/2": "1/2", "7": "7"}
    asked = Problem(
        "p",
        ({"role": "user", "content": "half?"},),
        extract=lambda text: text.partition("answer ")[2] or None,
        canonical=lambda answer: halves[answer],
    )
    seen: list[str] = []

    def script(prompt: str, key: int) -> Line:
        seen.append(["answer 7", "answer 0.5", "answer 1/2", "answer 7", "answer 0.5"][len(seen)])
        return Line(seen[-1])

    solution = Solver(
        {"policy": ScriptedEngine(script=script)},
        strategy={"name": strategy, "n": 5},
        verifiers={"verifier": "agreement"},
    ).solve(asked)
    assert solution.answer == "0.5"
