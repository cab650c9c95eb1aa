"""A server that answers at once, as vLLM would: what is left to measure is the client.

python -m bench.stub          prints its base URL, and serves until its input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from aiohttp import web

from reasoning.engines import weights

MODEL = "countdown-policy"


def reply(n: int, tokens: int, prompt: int) -> bytes:
    """n chains of `tokens` digits."""
    choice = {"text": "1" * tokens, "token_ids": [5] * tokens, "finish_reason": "length"}
    choices = [choice | {"index": i, "stop_reason": None, "logprobs": None} for i in range(n)]
    usage = {"prompt_tokens": prompt, "completion_tokens": n * tokens}
    return json.dumps({"object": "text_completion", "choices": choices, "usage": usage}).encode()


async def main() -> None:
    replies: dict[tuple[int, int, int], bytes] = {}

    async def generate(request: web.Request) -> web.Response:
        body = await request.json()
        shape = (body.get("n", 1), body["max_tokens"], len(body["prompt"]))
        if shape not in replies:
            replies[shape] = reply(*shape)
        return web.Response(body=replies[shape], content_type="application/json")

    async def models(request: web.Request) -> web.Response:
        model = {"id": MODEL, "owned_by": "vllm", "max_model_len": 4096}
        model["root"] = str(weights.resolve(MODEL))
        return web.json_response({"object": "list", "data": [model]})

    async def version(request: web.Request) -> web.Response:
        return web.json_response({"version": "stub"})

    async def tokenize(request: web.Request) -> web.Response:
        from reasoning.engines.hf_tokenizer import HFTokenizer

        text = (await request.json())["prompt"]
        ids = HFTokenizer(weights.resolve(MODEL)).encode(text)
        return web.json_response({"tokens": ids})

    app = web.Application(client_max_size=1 << 26)
    app.router.add_get("/v1/models", models)
    app.router.add_get("/version", version)
    app.router.add_post("/tokenize", tokenize)
    app.router.add_post("/v1/completions", generate)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=2048).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """The stub in a process of its own; gives its base URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.stub"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


if __name__ == "__main__":
    asyncio.run(main())
