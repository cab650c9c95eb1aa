"""Finding out what a server is; settings; and the key, which is never shown."""

from __future__ import annotations

import asyncio
import logging
import traceback
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from reasoning.engines.openai import OpenAIEngine
from reasoning.errors import ConfigError, EngineUnavailable, ModelError, ReasoningError
from reasoning.evals import experiment
from reasoning.recipe import Recipe
from tests.engines import stub_server
from tests.engines.openai.asking import ask
from tests.engines.openai.conftest import MakeEngine
from tests.engines.stub_server import ByteIds, Stub

KEY = "sk-very-secret-1234567890"


async def test_an_empty_model_name_is_the_only_one(stub: Stub) -> None:
    async with OpenAIEngine(base_url=stub.url, tokenizer=ByteIds()) as engine:
        assert engine.identity()["model"] == "m"
        assert engine.context_length == 512
        assert (await engine.sample(ask())).completions


async def test_a_model_that_is_not_served(stub: Stub) -> None:
    engine = OpenAIEngine("other", base_url=stub.url)
    with pytest.raises(ModelError, match="does not serve 'other'; it serves m"):
        await engine.start()
    await engine.close()


async def test_a_tokenizer_of_another_model(stub: Stub) -> None:
    class Shifted(ByteIds):
        def encode(self, text: str) -> list[int]:
            return [byte + 1 for byte in text.encode()]

    engine = OpenAIEngine("m", base_url=stub.url, tokenizer=Shifted())
    with pytest.raises(ModelError, match="not the server's"):
        await engine.start()


async def test_a_server_that_only_says_it_is_vllm(stub: Stub) -> None:
    stub.lie = lambda reply: reply["choices"][0].pop("token_ids")
    engine = OpenAIEngine("m", base_url=stub.url, tokenizer=ByteIds())
    with pytest.raises(EngineUnavailable, match="does not return token ids"):
        await engine.start()


async def test_a_flavour_that_the_server_is_not(plain: Stub) -> None:
    with pytest.raises(EngineUnavailable, match="does not present itself as vLLM"):
        await OpenAIEngine("m", base_url=plain.url, flavour="vllm").start()
    with pytest.raises(ConfigError, match="tokenizer"):
        await OpenAIEngine("m", base_url=plain.url, tokenizer=ByteIds()).start()


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"data": 3}', b'{"data": [{"id": 3}]}'])
async def test_what_is_no_openai_server(body: bytes) -> None:
    async def anything(request: web.Request) -> web.Response:
        return web.Response(body=body)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", anything)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        engine = OpenAIEngine("m", base_url=f"http://127.0.0.1:{runner.addresses[0][1]}")
        with pytest.raises(EngineUnavailable, match="/v1/models did not list models"):
            await engine.start()
    finally:
        await runner.cleanup()


async def test_what_is_not_even_http() -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ReasoningError, match=f"127.0.0.1:{port}"):
            await OpenAIEngine("m", base_url=f"http://127.0.0.1:{port}").start()


@pytest.mark.parametrize(("seeding", "readings"), [("group", 1), ("stream", 4)])
async def test_it_says_whether_a_prompt_is_read_once(
    stub: Stub, connect: MakeEngine, seeding: str, readings: int
) -> None:
    engine = await connect(stub, seeding=seeding)
    reply = await engine.sample(ask(4))
    assert reply.usage.prefill == readings * len(ask().prompt_ids)
    assert engine.capabilities.one_prefill == (readings == 1)


async def test_starting_twice_and_closing_twice(stub: Stub, connect: MakeEngine) -> None:
    engine = await connect(stub)
    await engine.start()
    await engine.close()
    await engine.close()
    with pytest.raises(EngineUnavailable, match="not started"):
        await engine.sample(ask())
    await engine.start()
    assert (await engine.sample(ask())).completions


def test_settings_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ConfigError, match="needs `base_url`"):
        OpenAIEngine("m")
    with pytest.raises(ConfigError, match="unknown setting `tempo`"):
        OpenAIEngine("m", base_url="http://h", tempo=3)
    with pytest.raises(ConfigError, match="flavour"):
        OpenAIEngine("m", base_url="http://h", flavour="sour")
    with pytest.raises(ConfigError, match=r"http\(s\)"):
        OpenAIEngine("m", base_url="ftp://h")
    with pytest.raises(ConfigError, match="max_concurrency"):
        OpenAIEngine("m", base_url="http://h", max_concurrency=0)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://elsewhere:1/v1/")
    assert OpenAIEngine("m").base_url == "http://elsewhere:1/v1"
    assert OpenAIEngine("m", base_url="http://h:2").base_url == "http://h:2/v1"


def test_secrets_in_the_wrong_place_are_refused_without_being_shown() -> None:
    for arguments in (
        {"base_url": f"http://user:{KEY}@h/v1"},
        {"base_url": f"http://h/v1?key={KEY}"},
        {"base_url": "http://h/v1", "api_key": KEY},
    ):
        with pytest.raises(ConfigError) as caught:
            OpenAIEngine("m", **arguments)
        assert KEY not in "".join(traceback.format_exception(caught.value))


async def test_a_key_that_no_header_can_hold(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", f"{KEY}\nX: y")
    engine = OpenAIEngine("m", base_url=stub.url, api_key_env="MY_KEY")
    with pytest.raises(ConfigError, match="MY_KEY") as caught:
        await engine.start()
    assert KEY not in str(caught.value)


async def test_the_key_is_sent_and_never_shown(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MY_KEY", KEY)
    stub.key = KEY
    engine = OpenAIEngine(
        "m",
        base_url=stub.url,
        api_key_env="MY_KEY",
        tokenizer=ByteIds(),
        backoff=0.01,
        attempts=2,
        recovery_seconds=0.2,
    )
    async with engine:
        shown = [repr(engine), str(engine.identity()), repr(engine._transport)]
        for fault in (
            stub_server.status(401, f"Incorrect API key {KEY}"),
            stub_server.status(500, f"Bearer {KEY}"),
            stub_server.status(400, KEY),
            stub_server.resets(),
            stub_server.resets(b"{"),
            stub_server.raw(b"not json"),
            stub_server.raw(KEY.encode()),
            stub_server.raw(
                f'{{"choices": [{{"index": 0, "text": "", "token_ids": [],'
                f'"finish_reason": "{KEY}"}}]}}'.encode()
            ),
        ):
            stub.always = fault
            with pytest.raises(ReasoningError) as caught:
                await engine.sample(ask())
            shown += _everything(caught.value)
    stub.key = "another"
    stub.always = None
    fresh = OpenAIEngine("m", base_url=stub.url, api_key_env="MY_KEY")
    with pytest.raises(EngineUnavailable, match="environment variable MY_KEY") as refused:
        await fresh.start()
    shown += [*_everything(refused.value), caplog.text]
    assert not [text for text in shown if KEY in text]


async def test_the_key_is_not_in_a_run_folder(
    plain: Stub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Header, journal, results and store of a run that meets a server that echoes the key."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    plain.key = KEY
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: keyless\n"
        "task: {name: countdown, split: dev, numbers: 3, count: 2}\n"
        f"models: {{policy: {{model: openai/m, base_url: {plain.url}}}}}\n"
        "sampling: {max_tokens: 20}\n"
        "strategies: [{name: majority, n: 2}]\n"
    )
    await experiment.run(Recipe.load(recipe), tmp_path / "good")

    async def echo(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if body["max_tokens"] == 1:  # the probe at the start
            return await plain.answer(request, body)
        return await stub_server.status(400, f"Bearer {KEY}")(request, body)

    plain.always = echo
    await experiment.run(Recipe.load(recipe), tmp_path / "bad" / "run")
    texts = contents(tmp_path)
    assert any(b"hello world" in text for text in texts.values())
    assert any(b"HTTP 400" in text for text in texts.values())
    assert not [path for path, text in texts.items() if KEY.encode() in text]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _everything(error: BaseException) -> list[str]:
    """An exception's text, its traceback, and the values of all exceptions behind it."""
    texts = ["".join(traceback.format_exception(error))]
    chain: list[Any] = [error]
    while chain:
        one = chain.pop()
        texts += [repr(one), str(getattr(one, "args", "")), str(vars(one))]
        chain += [other for other in (one.__cause__, one.__context__) if other is not None]
    return texts
