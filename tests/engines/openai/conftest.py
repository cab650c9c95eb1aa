"""A stub server and engines on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from reasoning.engines.openai import OpenAIEngine
from tests.engines.stub_server import ByteIds, Stub

MakeEngine = Callable[..., Any]


@pytest.fixture
async def stub() -> AsyncIterator[Stub]:
    async with Stub().serving() as stub:
        yield stub


@pytest.fixture
async def plain() -> AsyncIterator[Stub]:
    async with Stub(vllm=False).serving() as stub:
        yield stub


@pytest.fixture
async def connect(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MakeEngine]:
    """connect(stub, **settings): a started engine, closed after the test."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    async with AsyncExitStack() as stack:

        async def make(stub: Stub, **settings: Any) -> OpenAIEngine:
            given: dict[str, Any] = {"backoff": 0.01, "recovery_seconds": 5.0}
            if stub.vllm and settings.get("flavour") not in ("chat", "completions"):
                given["tokenizer"] = ByteIds()
            engine = OpenAIEngine("m", base_url=stub.url, **(given | settings))
            await stack.enter_async_context(engine)
            stub.bodies.clear()
            return engine

        yield make
