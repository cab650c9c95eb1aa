"""What the framework costs over HTTP: a strategy against a raw aiohttp loop, on one server.

Both send the same bodies: prompts as token ids, `n` chains in one request, ids in the reply. The
strategy does all it does in a run: ledger, context, votes, and with a journal every reply on disk.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from bench.pairs import Measure, Sample, alternate, mean_cpu_ms, mean_rate, share
from bench.report import Row, Table
from reasoning.configuration import Configuration
from reasoning.engines import weights
from reasoning.engines.base import SampleRequest, Sampling, Stream
from reasoning.engines.openai import OpenAIEngine
from reasoning.engines.openai.token_ids import TokenIds
from reasoning.journal import Journal
from reasoning.problem import Problem
from reasoning.replies import ReplyStore
from reasoning.runner import Job, Runner
from reasoning.session import Session
from reasoning.strategies.best_of_n import Majority
from reasoning.strategies.chains.plain import Plain

CONCURRENCY = (1, 32, 256, 1024)
CHAINS = 4  # in one request
TOKENS = 32  # of a chain
GOAL_SHARE, GOAL_MS, GOAL_AT = 0.97, 0.3, 256
SAMPLING = Sampling(ignore_eos=True)


def question(number: int) -> str:
    return f"{number % 89 + 10} {number // 89 % 89 + 10} {number // 7921 + 10} 10 = 50"


class Raw:
    """The least a client can do: post, parse, count. `concurrency` requests at once."""

    def __init__(self, base_url: str, engine: OpenAIEngine, concurrency: int, count: int) -> None:
        self._url = base_url + "/completions"
        self._engine = engine
        self._concurrency, self._count = concurrency, count
        self._numbers = _numbers()

    async def __call__(self) -> Sample:
        server = self._engine._server
        assert server is not None
        dialect = TokenIds(server.model, self._engine.tokenizer.vocab_size)
        bodies = []
        for _ in range(self._count):
            number = next(self._numbers)
            ids = self._engine.tokenizer.render([{"role": "user", "content": question(number)}])
            streams = tuple(Stream(number * CHAINS + i) for i in range(CHAINS))
            request = SampleRequest(tuple(ids), TOKENS, SAMPLING, streams)
            bodies.append(dialect.sample_body(request, False))
        waiting = iter(bodies)
        tokens = 0

        async def work(session: aiohttp.ClientSession) -> None:
            nonlocal tokens
            for body in waiting:
                async with session.post(self._url, data=body, headers=headers) as answer:
                    reply = json.loads(await answer.read())
                tokens += sum(len(choice["token_ids"]) for choice in reply["choices"])

        headers = {"Content-Type": "application/json"}
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            began, cpu = time.perf_counter(), time.process_time()
            async with asyncio.TaskGroup() as group:
                for _ in range(self._concurrency):
                    group.create_task(work(session))
            taken = time.perf_counter() - began, time.process_time() - cpu
        return Sample(tokens, self._count, *taken)


class Strategic:
    """The same through majority voting, with a runner; journal: its replies kept on disk."""

    def __init__(
        self, engine: OpenAIEngine, concurrency: int, count: int, folder: Path | None
    ) -> None:
        self._configuration = Configuration(
            strategy=Majority(n=CHAINS),
            policy=Plain(),
            engines={"policy": engine},
            sampling=SAMPLING,
            max_tokens=TOKENS,
        )
        self._concurrency, self._count, self._folder = concurrency, count, folder
        self._numbers = _numbers()
        self._session = Session()

    async def __call__(self) -> Sample:
        numbers = [next(self._numbers) for _ in range(self._count)]
        lanes = [[Job(_problem(number), self._configuration)] for number in numbers]
        with tempfile.TemporaryDirectory(dir=self._folder) as made:
            folder = Path(made) if self._folder else None
            runner = Runner(
                self._session,
                journal=Journal(folder / "journal.jsonl" if folder else None),
                store=ReplyStore(folder / "replies.sqlite" if folder else None),
                in_flight=self._concurrency,
            )
            await runner.bind(self._configuration)
            began, cpu = time.perf_counter(), time.process_time()
            tokens = 0
            async for _, solution in runner.solve_all(lanes):
                if solution.status != "ok":
                    raise RuntimeError(f"the benchmark failed: {solution.error}")
                tokens += solution.usage.tokens
            taken = time.perf_counter() - began, time.process_time() - cpu
            runner.journal.close()
            runner.store.close()
        return Sample(tokens, self._count, *taken)


async def run(
    server: str, base_url: str, pairs: int, concurrency: tuple[int, ...], least: int
) -> Table:
    """The table of one server. least: requests of a measurement, or twice the concurrency."""
    table = Table(
        f"transport-{server.split()[0].lower()}",
        f"A strategy against a raw aiohttp loop, {server}: {CHAINS} chains of {TOKENS} tokens a "
        f"request, {pairs} alternating pairs",
        ("requests at once", "what", "tokens/s", "share of raw [95 %]", "CPU ms/request", "goal"),
    )
    async with _started(base_url) as engine:
        for many in concurrency:
            count = max(least, 2 * many)
            with tempfile.TemporaryDirectory() as folder:
                contenders: dict[str, Measure] = {
                    "raw aiohttp": Raw(base_url, engine, many, count),
                    "strategy": Strategic(engine, many, count, None),
                    "strategy, journal on disk": Strategic(engine, many, count, Path(folder)),
                }
                found = await alternate(contenders, pairs)
            raw = found["raw aiohttp"]
            for name, samples in found.items():
                estimate = share(samples, raw)
                cpu = mean_cpu_ms(samples)
                goal = ""
                if name != "raw aiohttp" and many == GOAL_AT:
                    met = estimate.low >= GOAL_SHARE and cpu <= GOAL_MS
                    goal = f"≥ {GOAL_SHARE:.0%}, ≤ {GOAL_MS} ms: {'met' if met else 'not met'}"
                shown = "1" if name == "raw aiohttp" else table.estimate(estimate)
                cells = (f"{many:,}", name, f"{mean_rate(samples):,.0f}", shown, f"{cpu:.3f}", goal)
                table.add(Row(cells, {"samples": samples}))
    return table


async def vllm_client(base_url: str, rounds: int, concurrency: tuple[int, ...]) -> Table:
    """A strategy of one chain a request against vLLM's own benchmark client, same lengths."""
    table = Table(
        "transport-vllm-client",
        f"A strategy against vLLM's own benchmark client: 1 chain of {TOKENS} tokens a request, "
        f"{rounds} alternating pairs",
        ("requests at once", "tokens/s", "vLLM's client, tokens/s", "ratio [95 %]"),
    )
    async with _started(base_url) as engine:
        assert engine._server is not None
        model = engine._server.model
        for many in concurrency:
            count = max(64, 2 * many)
            ours = _Single(engine, many, count)
            theirs = _client(base_url, model, many, count)
            try:
                found = await alternate({"ours": ours, "theirs": theirs}, rounds)
            except RuntimeError as error:
                table.notes.append(f"vLLM's client did not run here: {error}")
                return table
            ratio = table.estimate(share(found["ours"], found["theirs"]))
            rates = [f"{mean_rate(found[name]):,.0f}" for name in ("ours", "theirs")]
            table.add(Row((f"{many:,}", *rates, ratio), dict(found)))
    return table


class _Single(Strategic):
    """One chain a request."""

    def __init__(self, engine: OpenAIEngine, concurrency: int, count: int) -> None:
        super().__init__(engine, concurrency, count, None)
        self._configuration = Configuration(
            strategy=Majority(n=1),
            policy=Plain(),
            engines={"policy": engine},
            sampling=SAMPLING,
            max_tokens=TOKENS,
        )


def _client(
    base_url: str, model: str, concurrency: int, count: int
) -> Callable[[], Awaitable[Sample]]:
    """vLLM's `bench serve`, through its module: the `vllm` command fails in CPU wheels."""
    code = (
        "import argparse, asyncio;"
        "from vllm.benchmarks.serve import add_cli_args, main_async;"
        "p = argparse.ArgumentParser(); add_cli_args(p); asyncio.run(main_async(p.parse_args()))"
    )
    command = [
        *(sys.executable, "-c", code),
        *("--base-url", base_url.removesuffix("/v1"), "--model", model),
        *("--tokenizer", str(weights.resolve("countdown-policy"))),
        *("--dataset-name", "random", "--random-input-len", "16", "--random-output-len"),
        *(str(TOKENS), "--ignore-eos", "--num-prompts", str(count)),
        *("--max-concurrency", str(concurrency), "--disable-tqdm"),
    ]

    async def measure() -> Sample:
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
        found = re.search(r"Output token throughput \(tok/s\):\s+([\d.]+)", done.stdout)
        if done.returncode or found is None:
            raise RuntimeError(
                " ".join(done.stderr.split())[-300:] or "no throughput in its output"
            )
        tokens = count * TOKENS
        return Sample(tokens, count, tokens / float(found[1]), 0.0)

    return measure


@asynccontextmanager
async def _started(base_url: str) -> AsyncIterator[OpenAIEngine]:
    async with OpenAIEngine("", base_url=base_url) as engine:
        yield engine  # type: ignore[misc]


def _problem(number: int) -> Problem:
    return Problem(f"q{number}", ({"role": "user", "content": question(number)},))


def _numbers() -> Iterator[int]:
    """Never the same prompt twice, so that no reply comes from a cache of ours."""
    number = 0
    while True:
        number += 1
        yield number
