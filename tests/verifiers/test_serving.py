"""Reward models on vLLM, in process and over HTTP, against Transformers: the README's table."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the extra `local` is not installed")

from aiohttp import web

from reasoning.chain import Chain
from reasoning.engines.base import Engine, EngineUsage
from reasoning.engines.hf_tokenizer import HFTokenizer
from reasoning.engines.local import LocalEngine
from reasoning.engines.openai import OpenAIEngine
from reasoning.errors import CapabilityError, EngineReplyError
from reasoning.naming import build
from reasoning.problem import Problem
from reasoning.registry import verifiers
from reasoning.strategy import Rating
from tests import vllm_warnings
from tests.engines.stub_server import VOCABULARY, ByteIds, Stub
from tests.verifiers import references

QUESTION = "How many apples are left?"
STEPS = ["Step 1: 3 + 4 = 7", "Step 2: 7 - 2 = 5", "The answer is 5."]
PROBLEM = Problem("apples", ({"role": "user", "content": QUESTION},), step="\n\n")

vllm = [
    pytest.mark.vllm,
    vllm_warnings.ignored,
]


def on_vllm(test: Any) -> Any:
    for mark in vllm:
        test = mark(test)
    return test


@asynccontextmanager
async def in_process(folder: Path) -> AsyncIterator[Engine]:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    from reasoning.engines.vllm import VLLMEngine

    engine = VLLMEngine(str(folder), dtype="float32", max_model_len=512, block_size=32)
    async with engine as started:
        yield started


@asynccontextmanager
async def over_http(folder: Path, log: Path, *arguments: str) -> AsyncIterator[Engine]:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    from reasoning.engines.vllm.server import CPU_ARGUMENTS, serving

    settings = ("--dtype=float32", "--max-model-len=512", "--block-size=32", *CPU_ARGUMENTS)
    with serving(str(folder), *settings, *arguments, log=log, patience=900) as base_url:
        async with OpenAIEngine("", base_url=base_url) as started:
            yield started


async def rate(engine: Engine, name: str, count: int, **settings: Any) -> Rating:
    text = "\n\n".join(STEPS[:count]) + "\n\n"
    chain = Chain((1,), tuple(map(ord, text)), text, "stop", True)
    verifier = build(verifiers, {"name": name, **settings})
    (rating,) = await verifier.rate(PROBLEM, [chain], engine)
    return rating  # type: ignore[no-any-return]


async def agrees_stepwise(engine: Engine, name: str, folder: Path) -> None:
    for count in (1, 3):
        rating = await rate(engine, name, count)
        expected = references.STEPWISE[name](folder, QUESTION, STEPS[:count])
        assert rating.scores == pytest.approx(expected, abs=2e-3)
    whole = await rate(engine, name, 3, read="model")
    text = "\n\n".join(STEPS)
    assert whole.scores == pytest.approx(
        references.STEPWISE[name](folder, QUESTION, [text]), abs=2e-3
    )


@on_vllm
async def test_value_head_in_process_by_token_and_of_the_last(standin_folder: Path) -> None:
    """token_classify for all steps costs the whole length each time; classify on the last token
    reads the prefix cache; one engine does both, by what is asked."""
    folder = standin_folder / "value_head"
    async with in_process(folder) as engine:
        await agrees_stepwise(engine, "value_head", folder)
        steps = await rate(engine, "value_head", 3)
        assert steps.usage.cached == 0
        last = await rate(engine, "value_head", 2, read="last")
        grown = await rate(engine, "value_head", 3, read="last")
        expected = references.value_head(folder, QUESTION, STEPS)
        assert last.scores == pytest.approx(expected[1:2], abs=2e-3)
        assert grown.scores == pytest.approx(expected[2:], abs=2e-3)
        size = last.readings[0].size
        assert grown.usage.cached >= size // 32 * 32 > 0  # whole blocks
        assert grown.usage.prefill + grown.usage.cached == grown.readings[0].size


@on_vllm
async def test_qwen_prm_in_process(standin_folder: Path) -> None:
    async with in_process(standin_folder / "qwen_prm") as engine:
        await agrees_stepwise(engine, "qwen_prm", standin_folder / "qwen_prm")
        last = await rate(engine, "qwen_prm", 3, read="last")
        expected = references.qwen_prm(standin_folder / "qwen_prm", QUESTION, STEPS)
        assert last.scores == pytest.approx(expected[2:], abs=2e-3)


@on_vllm
async def test_rlhflow_prm_in_process(standin_folder: Path) -> None:
    folder = standin_folder / "rlhflow_prm"
    async with in_process(folder) as engine:
        await agrees_stepwise(engine, "rlhflow_prm", folder)
        rating = await rate(engine, "rlhflow_prm", 3)
        assert rating.usage.new == 3  # vLLM decodes a token to answer
        assert rating.usage.cached > 0


@on_vllm
async def test_math_shepherd_in_process(standin_folder: Path) -> None:
    folder = standin_folder / "math_shepherd"
    async with in_process(folder) as engine:
        await agrees_stepwise(engine, "math_shepherd", folder)


@on_vllm
@pytest.mark.parametrize("problem_type", [None, "regression"])
async def test_outcome_in_process(
    standin_folder: Path, tmp_path: Path, problem_type: str | None
) -> None:
    """vLLM's own activation of a regression head is none; local/ knows of no problem type."""
    folder = shutil.copytree(standin_folder / "outcome", tmp_path / "outcome")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"problem_type": problem_type}))
    async with in_process(folder) as engine, LocalEngine(str(folder), threads=1) as local:
        expected = references.outcome(folder, QUESTION, "\n\n".join(STEPS))
        for one in (engine, local):
            rating = await rate(one, "outcome", 3)
            assert rating.scores == pytest.approx([expected], abs=2e-3)


@on_vllm
async def test_qwen_prm_over_http_by_step(standin_folder: Path, tmp_path: Path) -> None:
    """As vLLM serves it by default: only the rows of the step token come back."""
    folder = standin_folder / "qwen_prm"
    marker = HFTokenizer(folder).encode("<extra_0>")[0]
    step = f'--pooler-config={{"tok_pooling_type": "STEP", "step_tag_id": {marker}}}'
    async with over_http(folder, tmp_path / "log", step) as engine:
        await agrees_stepwise(engine, "qwen_prm", folder)


@on_vllm
async def test_math_shepherd_over_http(standin_folder: Path, tmp_path: Path) -> None:
    folder = standin_folder / "math_shepherd"
    async with over_http(folder, tmp_path / "log") as engine:
        await agrees_stepwise(engine, "math_shepherd", folder)


@on_vllm
async def test_rlhflow_prm_over_http(standin_folder: Path, tmp_path: Path) -> None:
    folder = standin_folder / "rlhflow_prm"
    async with over_http(folder, tmp_path / "log") as engine:
        await agrees_stepwise(engine, "rlhflow_prm", folder)


@on_vllm
async def test_value_head_over_http_by_token(standin_folder: Path, tmp_path: Path) -> None:
    """As vLLM serves a token classifier by default."""
    folder = standin_folder / "value_head"
    async with over_http(folder, tmp_path / "log") as engine:
        await agrees_stepwise(engine, "value_head", folder)
        last = await rate(engine, "value_head", 3, read="last")
        expected = references.value_head(folder, QUESTION, STEPS)
        assert last.scores == pytest.approx(expected[2:], abs=2e-3)


@on_vllm
async def test_value_head_over_http_of_the_last_token(standin_folder: Path, tmp_path: Path) -> None:
    """/pooling tells no cached tokens, but the server counts them."""
    folder = standin_folder / "value_head"
    task = '--pooler-config={"task": "classify"}'
    async with over_http(folder, tmp_path / "log", task) as engine:
        expected = references.value_head(folder, QUESTION, STEPS)
        read_before = 0
        for count in (1, 2, 3):
            before = await engine.counters()
            rating = await rate(engine, "value_head", count, read="last")
            assert rating.scores == pytest.approx(expected[count - 1 : count], abs=2e-3)
            await asyncio.sleep(0.2)  # vLLM counts a step after it has answered
            after = await engine.counters()
            assert after["cached"] - before["cached"] == read_before // 32 * 32  # whole blocks
            read_before = rating.readings[0].size
        with pytest.raises(CapabilityError, match="read: last"):
            await rate(engine, "value_head", 3)


@on_vllm
async def test_outcome_over_http(standin_folder: Path, tmp_path: Path) -> None:
    """As vLLM serves a sequence classifier by default: task classify, one row."""
    folder = standin_folder / "outcome"
    async with over_http(folder, tmp_path / "log") as engine:
        for count in (1, 3):
            rating = await rate(engine, "outcome", count)
            expected = references.outcome(folder, QUESTION, "\n\n".join(STEPS[:count]))
            assert rating.scores == pytest.approx([expected], abs=2e-3)


class LastOnly(Stub):
    """A server of a reward model that scores sequences; refuses scores by token, as vLLM does."""

    async def pool(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["task"] != "classify":
            said = "Try switching the model's pooling_task via --pooler-config.task token_classify."
            return web.json_response({"error": {"message": said, "code": 400}}, status=400)
        (ids,) = body["input"]
        reply = {"data": [{"index": 0, "data": [1 - ids[-1] / VOCABULARY, ids[-1] / VOCABULARY]}]}
        if self.lie is not None:
            self.lie(reply)
        return web.json_response(reply)


async def test_a_server_that_scores_the_last_token_only() -> None:
    stub = LastOnly()
    stub.rewards = True
    async with stub.serving(), OpenAIEngine("m", base_url=stub.url, tokenizer=ByteIds()) as engine:
        assert engine.capabilities.pool and not engine.capabilities.sample
        reply = await engine.pool([64, 128, 192], [2])
        assert reply.values == pytest.approx([1 / (1 + math.exp(0.25 - 0.75))])
        assert reply.usage == EngineUsage(prefill=3)
        for positions in ([0], [0, 2]):
            with pytest.raises(CapabilityError, match="read: last"):
                await engine.pool([64, 128, 192], positions)
        for lie in (
            lambda reply: reply["data"].clear(),
            lambda reply: reply["data"][0].__setitem__("data", [0.5, float("nan")]),
            lambda reply: reply["data"][0].__setitem__("data", [0.5, math.inf]),
            lambda reply: reply["data"][0].__setitem__("data", []),
        ):
            stub.lie = lie
            with pytest.raises(EngineReplyError, match="scores"):
                await engine.pool([64], [0])


class StepsOnly(Stub):
    """A server that returns the rows of its step token only: token 9."""

    async def pool(self, request: web.Request) -> web.Response:
        (ids,) = (await request.json())["input"]
        rows = [[0.5, place / 10] for place, token in enumerate(ids) if token == 9]
        return web.json_response({"data": [{"index": 0, "data": rows}]})


async def test_a_server_that_pools_by_step() -> None:
    stub = StepsOnly()
    stub.rewards = True
    async with stub.serving(), OpenAIEngine("m", base_url=stub.url, tokenizer=ByteIds()) as engine:
        reply = await engine.pool([1, 9, 2, 3, 9], [1, 4])
        expected = [1 / (1 + math.exp(0.5 - score)) for score in (0.1, 0.4)]
        assert reply.values == pytest.approx(expected) and reply.usage == EngineUsage(prefill=5)
        with pytest.raises(EngineReplyError, match="tok_pooling_type ALL"):
            await engine.pool([1, 9, 2, 3, 9], [4])
