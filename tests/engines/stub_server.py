"""A server that speaks completions and chat, with and without SSE, and misbehaves on request.

`Stub.plan` holds faults: each generation request takes one, in order, and answers with it; without
any it answers well. What a chain says is a function of (seed + index), so that a repeated request
gets the same chains, as on vLLM.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

EOS = 3
VOCABULARY = 256
Handler = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


class ByteIds:
    """The tokenizer of the stub's model: bytes; 3 ends a text."""

    eos_id: int | None = EOS
    vocab_size = VOCABULARY

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i for i in ids if i != EOS).decode("utf-8", "replace")

    def render(self, messages: Sequence[dict[str, str]]) -> list[int]:
        return self.encode("".join(m["content"] for m in messages))


class Stub:
    """vllm: presents itself as vLLM and speaks ids. texts: what a plain server says, by index."""

    def __init__(self, *, vllm: bool = True, texts: Sequence[str] = ("hello world",)) -> None:
        self.vllm = vllm
        self.texts = texts
        self.rewards = False  # serve a reward model: it pools, and does not decode
        self.key: str | None = None
        self.endpoints = {"completions", "chat"}
        self.plan: list[Handler] = []
        self.always: Handler | None = None
        self.bodies: list[dict[str, Any]] = []
        self.arrivals: list[float] = []
        self.disconnects = 0
        self.open = 0
        self.most_open = 0
        self.token_seconds = 0.0
        self.capacity = 1 << 30  # more at once is a 429
        self.chunk_bytes = 0  # cut event streams into pieces of so many bytes
        self.lie: Callable[[dict[str, Any]], None] | None = None  # changes a good reply
        self.totals = {"generation_tokens": 0, "prompt_tokens": 0, "prefix_cache_hits": 0}
        self.url = ""

    @property
    def generations(self) -> list[dict[str, Any]]:
        """Bodies of generation requests, without the probes of one token."""
        return [b for b in self.bodies if b.get("max_tokens") != 1]

    # HTTP.

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator[Stub]:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/version", self.version)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_post("/tokenize", self.tokenize)
        app.router.add_post("/pooling", self.pool)
        app.router.add_post("/v1/completions", self.generate)
        app.router.add_post("/v1/chat/completions", self.generate)
        runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1
        )
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def models(self, request: web.Request) -> web.Response:
        if self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}":
            said = request.headers.get("Authorization", "")
            return _error(401, f"Incorrect API key provided: {said.removeprefix('Bearer ')}")
        model: dict[str, Any] = {"id": "m", "object": "model", "owned_by": "someone"}
        if self.vllm:
            model |= {"owned_by": "vllm", "root": "org/m", "max_model_len": 512}
        return web.json_response({"object": "list", "data": [model]})

    async def version(self, request: web.Request) -> web.Response:
        if not self.vllm:
            return _error(404, "Not Found")
        return web.json_response({"version": "0.32.0"})

    async def metrics(self, request: web.Request) -> web.Response:
        lines = [
            f'vllm:{name}_total{{engine="0",model_name="m"}} {float(value)}'
            for name, value in self.totals.items()
        ]
        return web.Response(text="# HELP\n" + "\n".join(lines) + "\n")

    async def tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        return web.json_response({"tokens": list(body["prompt"].encode())})

    async def pool(self, request: web.Request) -> web.Response:
        body = await request.json()
        if not self.rewards:
            return _error(404, "Not Found")
        (ids,) = body["input"]
        reply = {"data": [{"index": 0, "data": [[token / VOCABULARY] for token in ids]}]}
        if self.lie is not None:
            self.lie(reply)
        return web.json_response(reply)

    async def generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        chat = request.path.endswith("chat/completions")
        if ("chat" if chat else "completions") not in self.endpoints:
            return _error(404, "Not Found")
        if self.rewards:
            return _error(400, "The model does not support Completions API")
        if body["model"] != "m":
            return _error(404, f"The model `{body['model']}` does not exist.")
        self.bodies.append(body)
        self.arrivals.append(asyncio.get_running_loop().time())
        self.open += 1
        self.most_open = max(self.open, self.most_open)
        try:
            if self.open > self.capacity:
                return _error(429, "too many", {"Retry-After": "0"})
            handler = self.plan.pop(0) if self.plan else self.always
            if handler is not None:
                return await handler(request, body)
            return await self.answer(request, body)
        except (asyncio.CancelledError, ConnectionResetError):
            self.disconnects += 1
            raise
        finally:
            self.open -= 1

    # Good answers.

    async def answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        chat = request.path.endswith("chat/completions")
        chains = [self.chain(body, index) for index in range(body.get("n", 1))]
        if body.get("stream"):
            return await self.stream(request, body, chains, chat)
        await asyncio.sleep(self.token_seconds * max(len(pieces) for pieces, _ in chains))
        reply = {
            "object": "chat.completion" if chat else "text_completion",
            "choices": [
                self.choice(body, index, pieces, finish, "message" if chat else "")
                for index, (pieces, finish) in enumerate(chains)
            ],
            "usage": self.usage(body, chains),
        }
        if self.lie is not None:
            self.lie(reply)
        return web.json_response(reply)

    async def stream(
        self, request: web.Request, body: dict[str, Any], chains: list[Any], chat: bool
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        longest = max(len(pieces) for pieces, _ in chains)
        for step in range(longest):
            for index, (pieces, finish) in enumerate(chains):
                if step >= len(pieces):
                    continue
                end = finish if step == len(pieces) - 1 else None
                part = self.choice(
                    body, index, pieces[step : step + 1], end, "delta" if chat else ""
                )
                await self.event(response, {"choices": [part]})
            await asyncio.sleep(self.token_seconds)
        if body.get("stream_options", {}).get("include_usage"):
            await self.event(response, {"choices": [], "usage": self.usage(body, chains)})
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def event(self, response: web.StreamResponse, event: dict[str, Any]) -> None:
        if self.lie is not None:
            self.lie(event)
        data = b": keep-alive\n\ndata: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n"
        if not self.chunk_bytes:
            await response.write(data)
        for start in range(0, len(data) if self.chunk_bytes else 0, self.chunk_bytes or 1):
            await response.write(data[start : start + self.chunk_bytes])
            await asyncio.sleep(0)

    def chain(self, body: dict[str, Any], index: int) -> tuple[list[Any], str]:
        """Pieces (ids, or texts of a plain server) of continuation `index`, and why it ended."""
        cap = body.get("max_tokens", body.get("max_completion_tokens", 16))
        pieces: list[Any]
        if body.get("return_token_ids"):
            source = random.Random((body.get("seed") or 0) + index)
            length = cap if body.get("ignore_eos") else source.randint(4, 40)
            pieces = [source.randint(97, 122) for _ in range(length)]
            pieces = pieces if body.get("ignore_eos") else [*pieces, EOS]
        else:
            text = self.texts[index % len(self.texts)]
            pieces = [text[i : i + 3] for i in range(0, len(text), 3)]
        return (pieces, "stop") if len(pieces) <= cap else (pieces[:cap], "length")

    def choice(
        self, body: dict[str, Any], index: int, pieces: list[Any], finish: str | None, message: str
    ) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": index, "finish_reason": finish}
        if not body.get("return_token_ids"):
            text = "".join(pieces)
            return choice | ({message: {"content": text}} if message else {"text": text})
        choice |= {"token_ids": pieces, "text": ByteIds().decode(pieces), "stop_reason": None}
        if (top := body.get("logprobs")) is not None:
            asked = body.get("logprob_token_ids")
            rows = [
                {
                    f"token_id:{t}": -1.0 - k
                    for k, t in enumerate(asked or [p, *range(65, 65 + top)])
                }
                for p in pieces
            ]
            choice["logprobs"] = {"token_logprobs": [-1.0] * len(pieces), "top_logprobs": rows}
        if (top := body.get("prompt_logprobs")) is not None:
            rows_of_prompt = [
                {str(t): {"logprob": -0.5 - k} for k, t in enumerate([p, *range(65, 65 + top)])}
                for p in body["prompt"]
            ]
            choice["prompt_logprobs"] = [None, *rows_of_prompt[1:]]
        return choice

    def usage(self, body: dict[str, Any], chains: list[Any]) -> dict[str, int]:
        prompt = len(body["prompt"]) if "prompt" in body else 7
        new = sum(len(pieces) for pieces, _ in chains)
        self.totals["generation_tokens"] += new
        self.totals["prompt_tokens"] += prompt
        return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


# Faults.


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    body = {"error": {"message": message, "code": status}}
    return web.json_response(body, status=status, headers=headers)


def status(code: int, message: str = "no", **headers: str) -> Handler:
    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return _error(code, message, {k.replace("_", "-"): v for k, v in headers.items()})

    return handler


def raw(data: bytes, content_type: str = "application/json") -> Handler:
    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.Response(body=data, content_type=content_type)

    return handler


def silent(seconds: float) -> Handler:
    """Nothing for so long, not even a status line."""

    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(seconds)
        return _error(500, "late")

    return handler


def stalls(data: bytes, seconds: float) -> Handler:
    """A 200, some of the body, then nothing for so long."""

    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(data)
        await asyncio.sleep(seconds)
        return response

    return handler


def resets(data: bytes | None = None) -> Handler:
    """The connection is torn down: before the status line, or after some of the body."""

    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100000"})
        if data is not None:
            await response.prepare(request)
            await response.write(data)
            await asyncio.sleep(0.02)
        assert request.transport is not None
        request.transport.abort()
        return response

    return handler


def endless() -> Handler:
    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 65536)
            await asyncio.sleep(0)

    return handler


def breaks_after(stub: Stub, tokens: int) -> Handler:
    """A good event stream of one continuation that breaks after so many tokens."""

    async def handler(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        pieces, _ = stub.chain(body, 0)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces[:tokens]:
            await stub.event(response, {"choices": [stub.choice(body, 0, [piece], None, "")]})
        await asyncio.sleep(0.02)
        assert request.transport is not None
        request.transport.abort()
        return response

    return handler
