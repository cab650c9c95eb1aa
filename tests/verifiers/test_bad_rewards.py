"""Reward models that answer wrongly, chains that hold nothing: errors that name the item, and no
cap passed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from reasoning import Budget, Problem, Solver
from reasoning.chain import Chain
from reasoning.engines.base import EngineUsage, PoolReply
from reasoning.engines.scripted import ScriptedEngine
from reasoning.errors import ConfigError, EngineReplyError, EngineUnavailable, RatingFailed
from reasoning.verifiers.prm import ProcessReward
from reasoning.verifiers.steps import question, step_ends, steps_of
from reasoning.verifiers.text_prm import ValueHead

PROBLEM = Problem("p", ({"role": "user", "content": "q"},), step="\n")


def chain(text: str, prompt: str = "q\n") -> Chain:
    return Chain(tuple(map(ord, prompt)), tuple(map(ord, text)), text, "stop", True)


class Broken(ScriptedEngine):
    """Gives the same rewards to everything, unless the text holds "fine"."""

    def __init__(self, *values: float, error: Exception | None = None) -> None:
        super().__init__(rewards=lambda text: 0.5)
        self.values, self.error = values, error

    async def pool(self, ids: Sequence[int], positions: Sequence[int]) -> PoolReply:
        if "fine" in self.tokenizer.decode(ids):
            return await super().pool(ids, positions)
        if self.error is not None:
            raise self.error
        return PoolReply(self.values, EngineUsage(prefill=len(ids)))


@pytest.mark.parametrize("verifier", [ProcessReward(), ValueHead()])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0.5, math.nan), "gave nan for step 1 of 2"),
        ((1.5, 0.5), "gave 1.5 for step 0 of 2"),
        ((0.5, -0.1), "gave -0.1 for step 1"),
        ((math.inf, 0.5), "gave inf for step 0"),
        ((0.5,), "gave 1 rewards for 2 steps"),
        ((0.5, 0.5, 0.5), "gave 3 rewards for 2 steps"),
    ],
)
async def test_rewards_that_cannot_be_right(
    verifier: ProcessReward, values: tuple[float, ...], message: str
) -> None:
    chains = [chain("fine\nfine"), chain("a\nb"), chain("fine")]
    with pytest.raises(RatingFailed) as failed:
        await verifier.rate(PROBLEM, chains, Broken(*values))
    assert message in str(failed.value)
    assert "chain 1 of 3" in str(failed.value) and "'p'" in str(failed.value)
    # The others were rated, and are not lost.
    first, broken, third = failed.value.ratings
    assert broken is None
    assert first.scores == (0.5, 0.5) and third.scores == (0.5,)


async def test_an_engine_that_died_ends_the_batch() -> None:
    died = EngineUnavailable("it died", retryable=True)
    with pytest.raises(EngineUnavailable):
        await ProcessReward().rate(PROBLEM, [chain("fine"), chain("a")], Broken(error=died))


async def test_no_model_is_a_configuration_error() -> None:
    for verifier in (ProcessReward(), ValueHead()):
        with pytest.raises(ConfigError, match="needs a"):
            await verifier.rate(PROBLEM, [chain("a")], None)


def failing(
    engine: ScriptedEngine,
    policy: Sequence[str] = ("fine\nfine", "a\nb", "fine again"),
    **settings: Any,
) -> Solver:
    return Solver(
        {"policy": ScriptedEngine(script=list(policy)), "prm": engine},
        strategy={"name": "best_of_n", "n": 8},
        verifiers={"verifier": {"name": "prm", "model": "prm"}},
        max_tokens=12,
        **settings,
    )


async def test_what_the_others_cost_is_charged_when_one_item_fails() -> None:
    """A verifier that fails for one item of a batch: the rest decides, no cap is passed, and what
    was rated is on the account."""
    async with failing(Broken(math.nan, 0.5), budget=Budget(verifier_passes=8)) as solver:
        solution = await solver.asolve(PROBLEM)
    assert solution.status == "ok" and "fine" in solution.text
    assert solution.usage.verifier_passes == 8 - solution.meta["failed_ratings"] < 8
    assert solution.usage.verifier_prefill > 0


async def test_a_verifier_that_fails_for_all_fails_the_problem_and_says_why() -> None:
    async with failing(Broken(math.nan, 0.5), policy=["a\nb"]) as solver:
        (solution,) = [solution async for solution in solver.asolve_many([PROBLEM])]
    assert solution.status == "failed" and "gave nan for step 0" in (solution.error or "")
    assert solution.answer is not None  # the majority, offered before


@pytest.mark.parametrize("passes", [0, 1, 3])
def test_verifier_passes_are_a_hard_cap(passes: int) -> None:
    engine = Broken(0.5, 0.5)
    solution = failing(engine, budget=Budget(verifier_passes=passes)).solve(PROBLEM)
    assert solution.usage.verifier_passes <= passes
    if passes == 0:
        assert solution.status == "budget" and engine.totals.prefill == 0


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("", []),
        ("\n", []),
        (" \n \n", []),
        ("a", ["a"]),
        ("a\n", ["a"]),
        ("a\n\n", ["a"]),
        ("a\n\nb\n", ["a", "b"]),
        ("\na\nb", ["a", "b"]),
        ("a\nb\n \n", ["a", "b"]),
    ],
)
def test_text_and_tokens_have_the_same_steps(text: str, steps: list[str]) -> None:
    """The empty last step, in text and in tokens."""
    assert steps_of(text, "\n") == steps
    tokenizer = ScriptedEngine().tokenizer
    ends = step_ends(chain(text), "\n", tokenizer)
    assert len(ends) == len(steps) and sorted(set(ends)) == ends
    for end, step in zip(ends, steps, strict=True):
        shown = tokenizer.decode(chain(text).all_ids[2 : end + 1])
        assert shown.rstrip().endswith(step)


def test_a_separator_that_never_occurs_leaves_one_step() -> None:
    assert steps_of("a\n\nb", "###") == ["a\n\nb"]
    assert len(step_ends(chain("a\n\nb"), "###", ScriptedEngine().tokenizer)) == 1


def test_an_end_of_sequence_ends_no_step() -> None:
    tokenizer = ScriptedEngine().tokenizer
    assert tokenizer.eos_id is not None
    done = Chain((1,), (ord("a"), ord("\n"), tokenizer.eos_id), "a\n", "stop", True)
    assert step_ends(done, "\n", tokenizer) == [2]


async def test_one_token_that_holds_two_steps_is_scored_once() -> None:
    class Words:
        eos_id, vocab_size = None, 10

        def decode(self, ids: Sequence[int]) -> str:
            return "".join(["", "a\nb", "c\n"][token] for token in ids)

    one = Chain((), (1,), "a\nb", "stop", True)
    assert step_ends(one, "\n", Words()) == [0]  # type: ignore[arg-type]
    assert step_ends(Chain((), (1, 2), "a\nbc\n"), "\n", Words()) == [0, 1]  # type: ignore[arg-type]


async def test_reading_the_last_step_only_asks_for_one_value() -> None:
    asked: list[int] = []

    class Counting(ScriptedEngine):
        async def pool(self, ids: Sequence[int], positions: Sequence[int]) -> PoolReply:
            asked.append(len(positions))
            return await super().pool(ids, positions)

    engine = Counting(rewards=lambda text: len(text) / 100)
    (steps,) = await ProcessReward().rate(PROBLEM, [chain("a\nb\nc")], engine)
    (last,) = await ProcessReward(read="last").rate(PROBLEM, [chain("a\nb\nc")], engine)
    (model,) = await ProcessReward(read="model").rate(PROBLEM, [chain("a\nb\nc")], engine)
    assert asked == [3, 1, 1]
    assert last.scores == model.scores == steps.scores[-1:]


def test_the_question_is_what_the_last_user_turn_asks() -> None:
    messages = (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "An example?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": " And now? "},
    )
    assert question(Problem("p", messages)) == "And now?"


async def test_fewer_ratings_than_chains_is_an_error_of_the_verifier() -> None:
    from reasoning.strategy import Rating, Verifier

    class Short(Verifier):
        async def rate(self, problem: Any, chains: Any, engine: Any) -> list[Rating]:
            return [Rating((1.0,))]

    solver = Solver(
        {"policy": ScriptedEngine(script=["a", "b"])},
        strategy={"name": "best_of_n", "n": 3},
        verifiers={"verifier": Short()},
        max_tokens=5,
    )
    with pytest.raises(EngineReplyError, match="rated 1 of 3"):
        await solver.asolve(PROBLEM)


@pytest.mark.parametrize("read", ["steps", "last", "model"])
def test_aggregation_model_needs_one_score_and_says_so_when_it_is_read(read: str) -> None:
    def made() -> Solver:
        return Solver(
            {"policy": ScriptedEngine(script=["a\nb"]), "prm": Broken(0.5)},
            strategy={"name": "best_of_n", "n": 2, "aggregate": "model"},
            verifiers={"verifier": {"name": "prm", "model": "prm", "read": read}},
        )

    if read == "steps":
        with pytest.raises(ConfigError, match="read: model"):
            made()
    else:
        assert made().solve(PROBLEM).status == "ok"
