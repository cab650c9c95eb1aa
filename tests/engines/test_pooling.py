"""Rewards of the shipped reward model: the embedded engine, vLLM's pooling, Transformers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from reasoning import Budget, Solver
from reasoning.configuration import Configuration
from reasoning.engines.base import Engine
from reasoning.errors import CapabilityError
from reasoning.naming import build
from reasoning.registry import chain_policies, strategies
from tests import vllm_warnings

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.vllm,
    vllm_warnings.ignored,
]

TEXTS = (
    "14 17 75 10 = 50\n75-10=65 : 14 17 65\n65-17=48 : 14 48\n",
    "14 17 75 10 = 50\n14*10=140 : 17 75 140\n75+17=92 : 140 92\n140-92=48 : 48\nwait 140 92\n",
    "3 7 25 50 = 79\n25+50=75 : 3 7 75\n",
)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["vllm", "openai"])
async def vllm_engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Engine]:
    """In process, then as a server."""
    pytest.importorskip("vllm", reason="vLLM is not installed")
    if request.param == "vllm":
        from reasoning.engines.vllm import VLLMEngine

        async with VLLMEngine("countdown-prm", dtype="float32", max_model_len=1024) as started:
            yield started
        return
    from reasoning.engines.openai import OpenAIEngine
    from reasoning.engines.vllm.server import CPU_ARGUMENTS, serving

    log = tmp_path_factory.mktemp("server") / "vllm.log"
    settings = ("--dtype=float32", "--max-model-len=1024", *CPU_ARGUMENTS)
    with serving("countdown-prm", *settings, log=log) as base_url:
        async with OpenAIEngine("", base_url=base_url) as started:
            yield started


def reference(ids: list[int]) -> list[float]:
    """Transformers' own forward pass and a sigmoid, at every position."""
    import torch
    from transformers import AutoModelForTokenClassification

    from reasoning.engines import weights

    model = AutoModelForTokenClassification.from_pretrained(
        weights.resolve("countdown-prm"), dtype=torch.float32
    )
    with torch.inference_mode():
        values: list[float] = torch.sigmoid(model(torch.tensor([ids])).logits[0, :, 0]).tolist()
    return values


async def test_three_ways_to_the_same_rewards(vllm_engine: Engine) -> None:
    from reasoning.engines.local import LocalEngine

    async with LocalEngine("countdown-prm", threads=1) as local:
        for text in TEXTS:
            ids = local.tokenizer.encode(text)
            ends = [i for i, token in enumerate(ids) if local.tokenizer.decode([token]) == "\n"]
            expected = [reference(ids)[end] for end in ends]
            for engine in (local, vllm_engine):
                reply = await engine.pool(ids, ends)
                assert reply.values == pytest.approx(expected, abs=1e-3), engine.name
                assert reply.usage.prefill + reply.usage.cached == len(ids)


async def test_a_growing_path_is_not_scored_from_its_start() -> None:
    from reasoning.engines.local import LocalEngine

    async with LocalEngine("countdown-prm", threads=1) as local:
        ids = local.tokenizer.encode(TEXTS[1])
        first = await local.pool(ids[:-20], [len(ids) - 21])
        grown = await local.pool(ids, [len(ids) - 1])
        assert first.usage.cached == 0
        assert grown.usage.cached >= len(ids) - 21


async def test_a_reward_model_writes_nothing(vllm_engine: Engine) -> None:
    # Not through a Solver: it would close the engine, and the next test would start it again.
    asked = Configuration(
        build(strategies, "single"), build(chain_policies, "plain"), {"policy": vllm_engine}
    )
    with pytest.raises(CapabilityError, match="sample"):
        asked.check_engines()


async def test_best_of_n_with_its_verifier_on_vllm(vllm_engine: Engine) -> None:
    """Policy on the embedded engine, rewards from vLLM: engines mix by role."""
    solver = Solver(
        {"policy": "local/countdown-policy", "prm": vllm_engine},
        verifiers={"verifier": {"name": "prm", "model": "prm"}},
        strategy={"name": "best_of_n", "n": 4},
        max_tokens=300,
        budget=Budget(tokens=1200, verifier_passes=4),
    )
    async with solver:
        solution = await solver.asolve("3 7 25 50 = 79")
    assert solution.usage.verifier_passes == 4 and solution.usage.tokens <= 1200
