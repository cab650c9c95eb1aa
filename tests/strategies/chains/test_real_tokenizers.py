"""Verdicts and digits of a model with a tokenizer of its own: what is asked, against a forward pass
by Transformers over the same text, on a stand-in with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from test_trimr import chain_of
from transformers import AutoModelForCausalLM, AutoTokenizer
from writing import Line, Written, problem

from reasoning import Sampling, Solver
from reasoning.engines.base import ChooseReply, SampleReply, SampleRequest, Sink
from reasoning.engines.local import LocalEngine
from reasoning.engines.scripted import ScriptedEngine
from reasoning.strategies.chains import rating
from reasoning.strategies.chains.answers import NO, YES
from tests.verifiers import standins


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose likeliest tokens are digits, so that it has ratings to give."""
    made = tmp_path_factory.mktemp("llama")
    standins.rlhflow_prm(made)
    model = AutoModelForCausalLM.from_pretrained(made)
    with torch.no_grad():
        for token in AutoTokenizer.from_pretrained(made).convert_tokens_to_ids([*"0123456789"]):
            model.lm_head.weight[token] *= 2.5
    model.save_pretrained(made)
    return made


@torch.inference_mode()
def logits(folder: Path, ids: Sequence[int]) -> torch.Tensor:
    """Of the token behind these."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    out: torch.Tensor = model(torch.tensor([list(ids)])).logits[0, -1]
    return out


class Watched(LocalEngine):
    """Keeps what it was asked and what it said."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder), threads=1, dtype="float32")
        self.chosen: list[tuple[list[int], list[int], ChooseReply]] = []
        self.sampled: list[tuple[SampleRequest, SampleReply]] = []

    async def choose(self, prefix_ids: Sequence[int], option_ids: Sequence[int]) -> ChooseReply:
        reply = await super().choose(prefix_ids, option_ids)
        self.chosen.append((list(prefix_ids), list(option_ids), reply))
        return reply

    async def sample(self, request: SampleRequest, sink: Sink | None = None) -> SampleReply:
        reply = await super().sample(request, sink)
        self.sampled.append((request, reply))
        return reply


def test_trimr_1_3_verdicts_are_those_of_a_forward_pass(folder: Path) -> None:
    verifier, tokenizer = Watched(folder), AutoTokenizer.from_pretrained(folder)
    # Slow enough that verdicts come before the chain has ended.
    policy = ScriptedEngine(script=[Line(chain_of("AAAA"), seconds=0.02)])
    spec = {"name": "trimr", "n_send": 20, "r_thres": 2.0, "repetition": False}
    solution = Solver(
        {"policy": policy, "verifier": verifier}, strategy=Written(), chain_policy=spec
    ).solve(problem())
    assert verifier.chosen and solution.usage.verifier_tokens == 0
    assert not list(solution.trace.of("verifier_lost"))
    for ids, options, reply in verifier.chosen:
        words = [tokenizer.decode([token]) for token in options]
        split = next(place for place, word in enumerate(words) if word in NO)
        assert set(words[:split]) <= set(YES) and set(words[split:]) <= set(NO) and split
        # The template's own text around the question, BOS once.
        said = tokenizer.decode(ids)
        asked = said.partition("<|end_header_id|>\n\n")[2].rpartition("<|eot_id|>")[0]
        assert "question p" in asked and "so the answer is A" in asked
        turn = [{"role": "user", "content": asked}]
        whole = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        assert ids == tokenizer.encode(whole, add_special_tokens=False)
        shares = logits(folder, ids)[options].softmax(-1).tolist()
        assert list(reply.probabilities) == pytest.approx(shares, abs=1e-4)


@pytest.mark.parametrize("reading", ["greedy", "average"])
def test_2_8_5_digits_are_those_of_a_forward_pass_and_the_chain_is_in_the_cache(
    folder: Path, reading: str
) -> None:
    base, tokenizer = Watched(folder), AutoTokenizer.from_pretrained(folder)
    policy = {"name": "spec_reason", "rating": "digits", "reading": reading}
    solution = Solver(
        {"policy": base, "draft": f"local/{folder}"},
        strategy="single",
        chain_policy={**policy, "threshold": 5, "step_tokens": 20},
        sampling=Sampling(temperature=1.0),
        max_tokens=100,
    ).solve(problem(closing=None, step="\n"))
    assert solution.status == "ok", solution.error
    rated = [
        (list(request.prompt_ids), reply)
        for request, reply in base.sampled
        if tokenizer.decode(request.prompt_ids).endswith(rating.LEAD)
    ]
    decided = [event.data for event in solution.trace.of("decision")]
    drafted = [e.data for e in solution.trace.of("sample") if e.data["role"] == "draft"]
    assert len(rated) == len(decided) == len(drafted) > 2
    asked = [{"role": "user", "content": rating.INSTRUCTION}]
    tail = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    question = tokenizer.encode("<|eot_id|>" + tail.removeprefix(tokenizer.bos_token) + rating.LEAD)
    scores = set()
    for number, ((ids, reply), decision) in enumerate(zip(rated, decided, strict=True)):
        chain, (step,) = drafted[number]["prefix"], drafted[number]["chains"]
        assert tokenizer.decode(ids[len(step.all_ids) :]) == tokenizer.decode(question)
        assert ids[: len(step.all_ids)] == list(step.all_ids)
        chances = logits(folder, ids).log_softmax(-1)
        top = chances.topk(10)
        says = [tokenizer.decode([token]).strip() for token in top.indices.tolist()]
        digits = {
            float(word): p
            for word, p in zip(says, top.values.exp().tolist(), strict=True)
            if len(word) == 1 and word.isdigit()
        }
        mean = sum(d * p for d, p in digits.items()) / (sum(digits.values()) or 1)
        best = float(says[0]) if says[0].isdigit() and len(says[0]) == 1 else 0.0
        assert decision["score"] == pytest.approx(best if reading == "greedy" else mean, abs=1e-3)
        scores.add(decision["score"])
        if number:  # before the first rating the base has read nothing
            size, candidate = len(ids), len(step.ids) - len(chain.ids)
            assert reply.usage.cached >= size - len(question) - candidate - 1
    assert scores != {0.0} and any(score % 1 for score in scores) == (reading == "average")


def test_2_8_5_the_question_is_of_about_seventy_tokens() -> None:
    tekken = pytest.importorskip("mistral_common.tokens.tokenizers.tekken", reason="no tokenizer")
    import mistral_common

    file = Path(mistral_common.__file__).parent / "data" / "tekken_240911.json"
    asked: Any = tekken.Tekkenizer.from_file(file)
    assert len(asked.encode(rating.INSTRUCTION + rating.LEAD, False, False)) <= 75
