"""What the framework costs over HTTP: a strategy against a raw aiohttp loop, on one server.

Both send the same bodies: prompts as token ids, `n` chains in one request, ids in the reply. The
strategy does all it does in a run: prompts, ledger, context, votes, and with a journal every reply
on disk. The raw loop's bodies are made beforehand. Connections are open before the clock starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path

import aiohttp

from bench import vllm_client
from bench.pairs import Measure, Sample, alternate, cpu_ms, mean_rate, share
from bench.report import Row, Table, shown, verdict
from reasoning.configuration import Configuration
from reasoning.engines import weights
from reasoning.engines.base import SampleRequest, Sampling, Stream
from reasoning.engines.openai import OpenAIEngine
from reasoning.engines.openai.token_ids import TokenIds
from reasoning.engines.openai.transport import KEEP_ALIVE_SECONDS
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

RAW, STRATEGY, JOURNAL, CLIENT = (
    "raw aiohttp",
    "strategy",
    "strategy, journal on disk",
    "vLLM's bench client",
)


class Raw:
    """The least a client can do: post, parse, count. `concurrency` requests at once."""

    def __init__(self, base_url: str, engine: OpenAIEngine, concurrency: int, size: int) -> None:
        self._url = base_url + "/completions"
        self._engine = engine
        self._concurrency, self._size = concurrency, size
        self._numbers = count()

    async def __call__(self) -> Sample:
        bodies = [self._body(next(self._numbers), TOKENS) for _ in range(self._size)]
        # As the engine's: the server closes what is idle for longer, just when it is used again.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS)
        headers = {"Content-Type": "application/json"}
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
            await self._send(session, [self._body(0, 1)] * self._concurrency)
            began, cpu = time.perf_counter(), time.process_time()
            tokens = await self._send(session, bodies)
            taken = time.perf_counter() - began, time.process_time() - cpu
        return Sample(tokens, self._size, *taken)

    async def _send(self, session: aiohttp.ClientSession, bodies: list[bytes]) -> int:
        """Tokens received."""
        waiting = iter(bodies)
        tokens = 0

        async def work() -> None:
            nonlocal tokens
            for body in waiting:
                async with session.post(self._url, data=body) as answer:
                    reply = json.loads(await answer.read())
                tokens += sum(len(choice["token_ids"]) for choice in reply["choices"])

        async with asyncio.TaskGroup() as group:
            for _ in range(self._concurrency):
                group.create_task(work())
        return tokens

    def _body(self, number: int, tokens: int) -> bytes:
        server = self._engine._server
        assert server is not None
        dialect = TokenIds(server.model, self._engine.tokenizer.vocab_size)
        return dialect.sample_body(_request(self._engine, number, tokens), False)


class Strategic:
    """The same through majority voting, with a runner. folder: where its replies are kept."""

    def __init__(
        self, engine: OpenAIEngine, concurrency: int, size: int, folder: Path | None
    ) -> None:
        self._engine = engine
        self._configuration = Configuration(
            strategy=Majority(n=CHAINS),
            policy=Plain(),
            engines={"policy": engine},
            sampling=SAMPLING,
            max_tokens=TOKENS,
        )
        self._concurrency, self._size, self._folder = concurrency, size, folder
        self._numbers = count()  # never the same problem twice: nothing comes from the store

    async def __call__(self) -> Sample:
        lanes = [
            [Job(_problem(number), self._configuration)]
            for number in (next(self._numbers) for _ in range(self._size))
        ]
        with contextlib.ExitStack() as stack:
            folder = None
            if self._folder is not None:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=self._folder)))
            runner = Runner(
                Session(),
                journal=Journal(folder / "journal.jsonl" if folder else None),
                store=ReplyStore(folder / "replies.sqlite" if folder else None),
                in_flight=self._concurrency,
            )
            stack.callback(runner.store.close)
            stack.callback(runner.journal.close)
            await runner.bind(self._configuration)
            least = _request(self._engine, 0, 1)
            await asyncio.gather(*(self._engine.sample(least) for _ in range(self._concurrency)))
            began, cpu = time.perf_counter(), time.process_time()
            tokens = 0
            async for _, solution in runner.solve_all(lanes):
                if solution.status != "ok":
                    raise RuntimeError(f"the benchmark failed: {solution.error}")
                tokens += solution.usage.tokens
            taken = time.perf_counter() - began, time.process_time() - cpu
        return Sample(tokens, self._size, *taken)


async def run(
    server: str,
    base_url: str,
    pairs: int,
    concurrency: tuple[int, ...],
    *,
    waves: int,
    least: int,
    with_vllm_client: bool = False,
) -> Table:
    """The table of one server. A measurement is `waves` times the concurrency in requests, and
    `least` at least."""
    table = Table(
        f"transport-{server.split()[0].lower()}",
        f"A strategy against a raw aiohttp loop, {server}: {CHAINS} chains of {TOKENS} tokens a "
        "request",
        (
            "requests at once",
            "what",
            "tokens/s",
            "share of raw [95 %]",
            *(["share of vLLM's client [95 %]"] if with_vllm_client else []),
            "CPU ms/request [95 %]",
            f"goal: share ≥ {GOAL_SHARE:.0%}, CPU ≤ {GOAL_MS} ms",
        ),
    )
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(_started(base_url))
        client = None
        if with_vllm_client:
            assert engine._server is not None
            client = await stack.enter_async_context(
                vllm_client.started(
                    base_url, engine._server.model, weights.resolve("countdown-policy")
                )
            )
        for many in concurrency:
            size = max(least, waves * many)
            with tempfile.TemporaryDirectory() as folder:
                contenders: dict[str, Measure] = {
                    RAW: Raw(base_url, engine, many, size),
                    STRATEGY: Strategic(engine, many, size, None),
                    JOURNAL: Strategic(engine, many, size, Path(folder)),
                }
                if client is not None:
                    contenders[CLIENT] = client.measure(many, size, CHAINS, TOKENS)
                    try:
                        await contenders[CLIENT]()
                    except RuntimeError as error:
                        table.notes.append(f"vLLM's bench client did not run here: {error}")
                        del contenders[CLIENT]
                        client = None
                found = await alternate(contenders, pairs)
            for name in found:
                table.add(_row(many, name, found, with_vllm_client))
    return table


def _row(many: int, name: str, found: dict[str, list[Sample]], with_vllm_client: bool) -> Row:
    samples = found[name]
    bases = [RAW, CLIENT] if with_vllm_client else [RAW]
    shares = [share(samples, found[base]) if base in found else None for base in bases]
    cpu = None if name == CLIENT else cpu_ms(samples)
    goal = ""
    if name in (STRATEGY, JOURNAL) and many == GOAL_AT and cpu is not None:
        reached = [
            f"of {base}: {verdict(s.low >= GOAL_SHARE)}"
            for base, s in zip(bases, shares, strict=True)
            if s
        ]
        goal = "; ".join([*reached, f"CPU: {verdict(cpu.high <= GOAL_MS)}"])
    cells = (
        f"{many:,}",
        name,
        f"{mean_rate(samples):,.0f}",
        *(
            "-" if s is None else "1" if base == name else shown(s)
            for base, s in zip(bases, shares, strict=True)
        ),
        "-" if cpu is None else shown(cpu, 3),
        goal,
    )
    return Row(cells, {"samples": samples})


@asynccontextmanager
async def _started(base_url: str) -> AsyncIterator[OpenAIEngine]:
    async with OpenAIEngine("", base_url=base_url) as engine:
        yield engine  # type: ignore[misc]


def question(number: int) -> str:
    return f"{number % 89 + 10} {number // 89 % 89 + 10} {number // 7921 + 10} 10 = 50"


def _problem(number: int) -> Problem:
    return Problem(f"q{number}", ({"role": "user", "content": question(number)},))


def _request(engine: OpenAIEngine, number: int, tokens: int) -> SampleRequest:
    ids = engine.tokenizer.render([{"role": "user", "content": question(number)}])
    streams = tuple(Stream(number * CHAINS + i) for i in range(CHAINS))
    return SampleRequest(tuple(ids), tokens, SAMPLING, streams)
