"""Chain policies on a real vLLM: switched off they are plain decoding (number 5.1), and token-level
speculation beneath SpecReason changes no token (2.8.8). Two starts of vLLM for the whole file."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from test_matrix import OFF
from writing import CHAINS, Written

from reasoning import Sampling
from reasoning.chain import Chain
from reasoning.configuration import Configuration
from reasoning.engines.base import Engine
from reasoning.engines.local import LocalEngine
from reasoning.evals.tasks import Countdown
from reasoning.naming import build
from reasoning.registry import chain_policies
from reasoning.runner import Job, Runner
from reasoning.session import Session
from tests import vllm_warnings

SPECULATIVE = {"model": "countdown-draft", "num_speculative_tokens": 5, "method": "draft_model"}
SPEC_REASON = {"name": "spec_reason", "threshold": 7.0, "step_tokens": 48}
# The draft is the policy itself where a policy at its limit writes with the draft alone.
OFF_WITH_A_DRAFT: list[dict[str, Any]] = [
    {"name": "spec_reason", "threshold": 10.0},
    {"name": "atts", "rho": 0.0},
    {"name": "atts_sync", "rho": 0.0},
]

pytestmark = [
    pytest.mark.vllm,
    vllm_warnings.ignored,
]


def vllm(**settings: Any) -> Engine:
    try:
        import vllm  # noqa: F401
    except ImportError as error:
        if os.environ.get("REASONING_REQUIRE_VLLM"):
            raise
        pytest.skip(f"vLLM is not installed ({error.name})")
    from reasoning.engines.vllm import VLLMEngine

    return VLLMEngine("countdown-policy", dtype="float32", max_model_len=512, **settings)


def written(policy: Engine, asked: Mapping[str, tuple[Any, Engine, float]]) -> dict[str, Any]:
    """Chains by name, of (chain policy, draft, temperature), in one start of the engines."""

    async def run() -> dict[str, list[Chain]]:
        session, found = Session(), {}
        runner = Runner(session)
        try:
            await session.start([policy, *{draft for _, draft, _ in asked.values()} - {policy}])
            for name, (spec, draft, temperature) in asked.items():
                configuration = Configuration(
                    strategy=Written(n=2),
                    policy=build(chain_policies, spec),
                    engines={"policy": policy, "draft": draft},
                    verifiers={},
                    sampling=Sampling(temperature=temperature),
                    max_tokens=100,
                )
                (problem,) = Countdown(split="dev", numbers=4).problems(1)
                solution = await runner.solve(Job(problem, configuration))
                assert solution.status == "ok", solution.error
                found[name] = CHAINS.pop(problem.id)
        finally:
            await session.close()
        return found

    return asyncio.run(run())


GREEDY = ("greedy plain", "greedy SpecReason")


def greedily() -> dict[str, tuple[Any, Engine, float]]:
    draft = LocalEngine("countdown-draft", threads=1)
    return dict(zip(GREEDY, [("plain", draft, 0.0), (SPEC_REASON, draft, 0.0)], strict=True))


@pytest.fixture(scope="module")
def chains() -> dict[str, list[Chain]]:
    engine = vllm()
    off = {spec["name"]: (spec, engine, 1.0) for spec in OFF + OFF_WITH_A_DRAFT}
    return written(engine, {"plain": ("plain", engine, 1.0), **off, **greedily()})


@pytest.mark.parametrize("name", [spec["name"] for spec in OFF + OFF_WITH_A_DRAFT])
def test_5_1_every_policy_switched_off_is_plain(chains: dict[str, list[Chain]], name: str) -> None:
    plain, ours = chains["plain"], chains[name]
    assert len({chain.ids for chain in plain}) == 2
    assert [(c.ids, c.text, c.finish) for c in ours] == [(c.ids, c.text, c.finish) for c in plain]


def test_2_8_8_speculation_of_tokens_changes_none(chains: dict[str, list[Chain]]) -> None:
    with_drafts = written(vllm(speculative_config=SPECULATIVE), greedily())
    for name in GREEDY:
        ours, without = with_drafts[name], chains[name]
        assert [(c.ids, c.text) for c in ours] == [(c.ids, c.text) for c in without], name


def test_another_speculative_draft_is_another_model(tmp_path: Path) -> None:
    from reasoning.engines import weights

    def identity(model: str) -> dict[str, Any]:
        told: dict[str, Any] = vllm(speculative_config={**SPECULATIVE, "model": model}).identity()
        return {name: value for name, value in told.items() if name != "arguments"}

    assert "draft" not in vllm().identity()
    shutil.copytree(weights.resolve("countdown-draft"), tmp_path / "copy")
    assert identity(str(tmp_path / "copy")) == identity("countdown-draft")
    (tmp_path / "copy" / "config.json").write_text("{}")
    assert identity(str(tmp_path / "copy")) != identity("countdown-draft")
