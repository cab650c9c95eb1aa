"""vLLM's own benchmark client (`vllm bench serve`), kept in a process of its own.

python -m bench.vllm_client   reads one JSON object a line (`arguments` of the client), and
                              answers each with the tokens received and the seconds they took.

It is called through its module: the `vllm` command looks up a distribution that CPU wheels lack.
Its import takes half a minute on a small machine, so one process serves all rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from bench.pairs import Measure, Sample


class Client:
    """Its requests have the shape of the others': `chains` of `tokens` tokens in one request.

    It asks for event streams and for text, which is its way; prompts are random.
    """

    def __init__(self, process: asyncio.subprocess.Process, common: list[str]) -> None:
        self._process, self._common = process, common
        self._seed = 0

    def measure(self, concurrency: int, count: int, chains: int, tokens: int) -> Measure:
        """A contender. Raises RuntimeError, with the reason, where the client cannot run."""

        async def measured() -> Sample:
            self._seed += 1
            made = await self._ask(
                [
                    *self._common,
                    *("--num-prompts", str(count), "--max-concurrency", str(concurrency)),
                    *("--random-output-len", str(tokens), "--seed", str(self._seed)),
                    *("--extra-body", json.dumps({"n": chains})),
                ]
            )
            wanted = count * chains * tokens
            if made["tokens"] != wanted:
                raise RuntimeError(f"it received {made['tokens']} tokens of {wanted}")
            return Sample(wanted, count, made["seconds"], 0.0)

        return measured

    async def _ask(self, arguments: list[str]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"arguments": arguments}).encode() + b"\n")
        line = await self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "its process ended"}
        if "error" in answer:
            raise RuntimeError(str(answer["error"]))
        return answer


@contextlib.asynccontextmanager
async def started(base_url: str, model: str, tokenizer: Path) -> AsyncIterator[Client]:
    """The client's process, for one server."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.vllm_client"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[1],
    )
    common = [
        *("--base-url", base_url.removesuffix("/v1"), "--model", model),
        *("--tokenizer", str(tokenizer), "--temperature", "1", "--ignore-eos", "--disable-tqdm"),
        *("--dataset-name", "random", "--random-input-len", "16", "--ready-check-timeout-sec", "0"),
    ]
    try:
        yield Client(process, common)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 20)
        except TimeoutError:
            process.kill()
            await process.wait()


def main() -> None:
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        for line in sys.stdin:
            try:
                answer = _run(json.loads(line)["arguments"])
            except (Exception, SystemExit) as error:
                said = " ".join(str(error).split())[:200]
                answer = {"error": f"{type(error).__name__}: {said}"}
            print(json.dumps(answer), file=out, flush=True)


def _run(arguments: list[str]) -> dict[str, Any]:
    from vllm.benchmarks.serve import add_cli_args, main_async

    parser = argparse.ArgumentParser()
    add_cli_args(parser)
    result = asyncio.run(main_async(parser.parse_args(arguments)))
    if result["failed"]:
        return {"error": f"{result['failed']} of its requests failed"}
    return {"tokens": result["total_output_tokens"], "seconds": result["duration"]}


if __name__ == "__main__":
    main()
