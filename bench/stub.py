"""A server that answers at once, as vLLM would: what is left to measure is the client.

python -m bench.stub          prints its base URL, and serves until its input ends.

It reads just enough HTTP for that and costs 0.03 ms a request; a server made with a library costs
as much as the client that is measured, and would bound it. (The one that misbehaves is
tests/engines/stub_server.py.)
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from reasoning.engines import weights
from reasoning.engines.hf_tokenizer import HFTokenizer

MODEL = "countdown-policy"


@cache
def completions(n: int, tokens: int, prompt: int) -> bytes:
    """n chains of `tokens` digits."""
    choice = {"text": "1" * tokens, "token_ids": [5] * tokens, "finish_reason": "length"}
    choices = [choice | {"index": i, "stop_reason": None, "logprobs": None} for i in range(n)]
    usage = {"prompt_tokens": prompt, "completion_tokens": n * tokens}
    return _reply({"object": "text_completion", "choices": choices, "usage": usage})


def answer(path: str, body: Any) -> bytes:
    """The whole reply to a request: body is its JSON, None for a GET."""
    match path:
        case "/v1/completions":
            return completions(body.get("n", 1), body["max_tokens"], len(body["prompt"]))
        case "/tokenize":
            return _reply({"tokens": _tokenizer().encode(body["prompt"])})
        case "/v1/models":
            model = {"id": MODEL, "owned_by": "vllm", "max_model_len": 4096}
            root = str(weights.resolve(MODEL))
            return _reply({"object": "list", "data": [model | {"root": root}]})
        case "/version":
            return _reply({"version": "stub"})
    return _reply({"error": {"message": "Not Found"}}, "404 Not Found")


class Connection(asyncio.Protocol):
    """Requests of one client, one after the other."""

    def __init__(self) -> None:
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        while True:
            head, blank, rest = data.partition(b"\r\n\r\n")
            length = _content_length(head)
            if not blank or len(rest) < length:
                self._rest = data
                return
            body, data = rest[:length], rest[length:]
            path = head.split(b" ", 2)[1].decode()
            self._transport.write(answer(path, json.loads(body) if body else None))


def _content_length(head: bytes) -> int:
    found = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    return int(found or 0)


def _reply(value: dict[str, Any], status: str = "200 OK") -> bytes:
    body = json.dumps(value).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


@cache
def _tokenizer() -> HFTokenizer:
    return HFTokenizer(weights.resolve(MODEL))


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0, backlog=4096)
    async with server:
        print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
        await asyncio.to_thread(sys.stdin.read)


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
