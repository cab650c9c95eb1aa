"""Process reward models in the formats people use: layout and scores against Transformers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the extra `local` is not installed")

from reasoning.chain import Chain
from reasoning.engines.local import LocalEngine
from reasoning.errors import EngineReplyError, ModelError, RatingFailed
from reasoning.naming import build
from reasoning.problem import Problem
from reasoning.registry import verifiers
from reasoning.strategy import Rating, Verifier
from reasoning.verifiers.aggregate import Aggregation, aggregate
from tests.verifiers import references, standins

QUESTION = "How many apples are left?"
STEPS = ["Step 1: 3 + 4 = 7", "Step 2: 7 - 2 = 5", "The answer is 5."]
FORMATS = list(references.STEPWISE)
PROBLEM = Problem("apples", ({"role": "user", "content": QUESTION},), step="\n\n")


def chain(text: str) -> Chain:
    """A finished text of some policy with another tokenizer (here: characters)."""
    return Chain((1, 2, 3), tuple(map(ord, text)), text, "stop", True)


def made(name: str, **settings: Any) -> Verifier:
    verifier: Verifier = build(verifiers, {"name": name, **settings})
    return verifier


async def rated(folder: Path, name: str, *texts: str, **settings: Any) -> list[Rating]:
    async with LocalEngine(str(folder / name), dtype="float32", threads=1) as engine:
        return await made(name, **settings).rate(PROBLEM, [chain(t) for t in texts], engine)


@pytest.mark.parametrize("name", FORMATS)
async def test_layout_and_scores_are_those_of_transformers(name: str, standin_folder: Path) -> None:
    """0.1, formatting: the marker, tag, turn or newline of each format, read where it says."""
    ratings = await rated(standin_folder, name, *("\n\n".join(STEPS[:k]) for k in (1, 2, 3)))
    for count, rating in enumerate(ratings, 1):
        expected = references.STEPWISE[name](standin_folder / name, QUESTION, STEPS[:count])
        assert rating.scores == pytest.approx(expected, abs=1e-4)
        assert len(rating.scores) == count
    # A stand-in whose scores were all alike would prove nothing.
    assert max(ratings[-1].scores) - min(ratings[-1].scores) > 0.01


@pytest.mark.parametrize("name", FORMATS)
async def test_a_trailing_separator_adds_no_empty_last_step(
    name: str, standin_folder: Path
) -> None:
    """0.1, the trap: two adjacent markers, and `last` reads the score of nothing."""
    text = "\n\n".join(STEPS)
    plain, trailing, doubled = await rated(
        standin_folder, name, text, text + "\n\n", text.replace("\n\n", "\n\n\n\n") + "\n\n\n"
    )
    assert trailing.scores == pytest.approx(plain.scores, abs=1e-5)
    assert doubled.scores == pytest.approx(plain.scores, abs=1e-5)


@pytest.mark.parametrize("name", FORMATS)
async def test_model_mode_scores_the_whole_as_one_step(name: str, standin_folder: Path) -> None:
    text = "\n\n".join(STEPS)
    (whole,) = await rated(standin_folder, name, text + "\n\n", read="model")
    expected = references.STEPWISE[name](standin_folder / name, QUESTION, [text])
    assert whole.scores == pytest.approx(expected, abs=1e-4)
    assert aggregate(whole.scores, Aggregation.model) == whole.scores[0]


@pytest.mark.parametrize("name", FORMATS)
async def test_last_is_the_last_of_the_steps(name: str, standin_folder: Path) -> None:
    text = "\n\n".join(STEPS)
    (last,) = await rated(standin_folder, name, text, read="last")
    (steps,) = await rated(standin_folder, name, text)
    assert last.scores == pytest.approx(steps.scores[-1:], abs=1e-5)


@pytest.mark.parametrize("name", FORMATS)
async def test_a_growing_path_is_not_scored_from_its_start(name: str, standin_folder: Path) -> None:
    async with LocalEngine(str(standin_folder / name), dtype="float32", threads=1) as engine:
        verifier = made(name)
        (first,) = await verifier.rate(PROBLEM, [chain("\n\n".join(STEPS[:2]))], engine)
        (grown,) = await verifier.rate(PROBLEM, [chain("\n\n".join(STEPS))], engine)
    before = first.readings[-1].size
    assert first.readings[0].work.cached == 0
    # Of the last request everything up to the parent's end was there (its last token at most).
    assert grown.readings[-1].work.cached >= before - 1
    assert grown.usage.prefill < grown.readings[-1].size
    assert grown.scores[:2] == pytest.approx(first.scores, abs=1e-4)


@pytest.mark.parametrize("name", FORMATS)
async def test_no_lease_is_passed(name: str, standin_folder: Path) -> None:
    async with LocalEngine(str(standin_folder / name), dtype="float32", threads=1) as engine:
        verifier = made(name)
        (rating,) = await verifier.rate(PROBLEM, [chain("\n\n".join(STEPS))], engine)
        most = verifier.most(PROBLEM, chain("\n\n".join(STEPS)), engine)
    assert [reading.size for reading in rating.readings] == [reading.size for reading in most]
    for real, leased in zip(rating.readings, most, strict=True):
        assert real.work.prefill + real.work.cached == real.size == leased.work.prefill
        assert real.work.new <= leased.work.new


@pytest.mark.parametrize("name", FORMATS)
async def test_a_batch_is_rated_as_each_alone(name: str, standin_folder: Path) -> None:
    texts = ["\n\n".join(STEPS[:k]) for k in (3, 1, 2)] + ["No", "Yes + no"]
    together = await rated(standin_folder, name, *texts)
    for text, rating in zip(texts, together, strict=True):
        (alone,) = await rated(standin_folder, name, text)
        assert alone.scores == pytest.approx(rating.scores, abs=1e-4)


@pytest.mark.parametrize("name", FORMATS)
async def test_bad_text_is_data(name: str, standin_folder: Path) -> None:
    """A chain without text is 0; a separator that never occurs leaves one step; a policy that
    writes the format's own marker gets no further score for it."""
    empty, blank, unsplit, forged = await rated(
        standin_folder,
        name,
        "",
        " \n\n \n\n",
        "no separator here",
        "a <extra_0> ки b\n\nc <extra_0>",
    )
    assert empty.scores == blank.scores == (0.0,)
    assert not empty.readings
    assert len(unsplit.scores) == 1
    assert len(forged.scores) == 2


async def test_outcome_reward_is_that_of_transformers(standin_folder: Path) -> None:
    text = "\n\n".join(STEPS)
    first, other, empty = await rated(standin_folder, "outcome", text, "The answer is 42.", " ")
    folder = standin_folder / "outcome"
    assert first.scores == pytest.approx([references.outcome(folder, QUESTION, text)], abs=1e-4)
    assert other.scores == pytest.approx(
        [references.outcome(folder, QUESTION, "The answer is 42.")], abs=1e-4
    )
    assert empty.scores == (0.0,) and first.scores != other.scores


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("qwen_prm", {"marker": "<no such marker>"}, "must be one"),
        ("skywork_prm", {"marker": "\n\n\n\n"}, "must be one"),
        ("rlhflow_prm", {"good": "good step"}, "must be one"),
    ],
)
async def test_a_model_of_another_format_is_refused(
    name: str, settings: dict[str, str], message: str, standin_folder: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        await rated(standin_folder, name, "text", **settings)


async def test_a_tag_that_the_tokenizer_joins_is_an_error(standin_folder: Path) -> None:
    with pytest.raises(EngineReplyError, match="step tag"):
        await rated(standin_folder, "math_shepherd", "xaxa", tag="zza")


async def test_chains_of_many_problems_are_asked_at_once(standin_folder: Path) -> None:
    """Every chain's request is there before the first is answered, so that they share a batch."""

    class Counting(LocalEngine):
        open = most = 0

        async def pool(self, ids: Any, positions: Any) -> Any:
            self.open += 1
            self.most = max(self.most, self.open)
            try:
                return await super().pool(ids, positions)
            finally:
                self.open -= 1

    async with Counting(str(standin_folder / "value_head"), threads=1) as engine:
        problems = [
            Problem(f"p{i}", ({"role": "user", "content": f"{QUESTION} {i}"},)) for i in range(5)
        ]
        verifier = made("value_head")
        await asyncio.gather(
            *(verifier.rate(p, [chain("a"), chain("b"), chain("c")], engine) for p in problems)
        )
        assert engine.most == 15


async def test_math_shepherd_on_mistral_within_its_window(
    standin_folder: Path, tmp_path: Path
) -> None:
    """The real one is a Mistral, whose attention slides; it is used up to the window's length."""
    import shutil

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, MistralConfig

    folder = tmp_path / "math_shepherd"
    shutil.copytree(standin_folder / "math_shepherd", folder)
    size = len(AutoTokenizer.from_pretrained(folder))
    config = MistralConfig(vocab_size=size, sliding_window=128, **standins.SHAPE)
    torch.manual_seed(7)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    (rating,) = await rated(tmp_path, "math_shepherd", "\n\n".join(STEPS))
    expected = references.math_shepherd(folder, QUESTION, STEPS)
    assert rating.scores == pytest.approx(expected, abs=1e-4)
    with pytest.raises(RatingFailed, match="context of 128"):
        await rated(tmp_path, "math_shepherd", "Step 1: 3 + 4 = 7\n\n" * 20)
