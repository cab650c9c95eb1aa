"""LocalEngine: the asyncio side of the embedded engine; one worker thread runs the model."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from reasoning.engines import weights
from reasoning.engines.base import (
    REWARDS_ONLY,
    Capabilities,
    ChooseReply,
    Completion,
    EmbedReply,
    Engine,
    EngineUsage,
    PoolReply,
    SampleReply,
    SampleRequest,
    ScoreReply,
    Sink,
    TokenLogprob,
)
from reasoning.engines.hf_tokenizer import HFTokenizer
from reasoning.engines.local.decoder import Decoder
from reasoning.engines.local.sampler import logprob
from reasoning.engines.local.scheduler import Scheduler
from reasoning.engines.local.threads import Threads
from reasoning.engines.local.work import Batch, Pass
from reasoning.errors import ConfigError, EngineUnavailable, PromptError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class LocalEngine(Engine):
    """Embedded: a decoder in PyTorch, in process, with continuous batching.

    `local/<model>`: a folder in Hugging Face format, or the name of a shipped model.

    dtype: float32, bfloat16, float16 or auto (float32 on the CPU, bfloat16 on a GPU).
    device: cpu, cuda or auto. max_batch: sequences decoded at once. max_context: caps the
    model's own context. prefix_cache: bytes of ended sequences' KV that are kept (0: none).
    threads: PyTorch's threads for this engine. None: its share of them, as long as others have
    work too, but one for a small model.
    """

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "auto",
        device: str = "auto",
        max_batch: int = 128,
        max_context: int | None = None,
        prefix_cache: int = 256 << 20,
        threads: int | None = None,
    ) -> None:
        if dtype not in ("auto", *_DTYPES):
            raise ConfigError(f"dtype {dtype!r} is not one of auto, {', '.join(_DTYPES)}")
        if device not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"device {device!r} is not one of auto, cpu, cuda")
        if max_batch < 1:
            raise ConfigError(f"max_batch={max_batch} must be at least 1")
        self.name = f"local/{model}"
        self._folder = weights.resolve(model)
        self._config = weights.config(self._folder)
        can = REWARDS_ONLY if weights.rewards(self._config, self._folder) else Capabilities()
        self.capabilities = replace(
            can, token_keyed=True, one_prefill=True, embed=True, nth_stop=True
        )
        own = int(self._config.get("max_position_embeddings", 4096))
        if self._config.get("model_type") == "mistral":
            # Its window always slides; up to the window's length that is plain attention.
            own = min(own, int(self._config.get("sliding_window") or own))
        self.context_length = min(own, max_context or own)
        self._device = torch.device(
            device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        )
        self._dtype = dtype
        if dtype == "auto":
            self._dtype = "float32" if self._device.type == "cpu" else "bfloat16"
        self._max_batch = max_batch
        self._prefix_bytes = prefix_cache
        self._threads = threads
        self.tokenizer: HFTokenizer = HFTokenizer(self._folder)
        self._eos_ids = self._read_eos()
        self._worker: _Worker | None = None

    def _read_eos(self) -> tuple[int, ...]:
        eos = self._config.get("eos_token_id")
        found = eos if isinstance(eos, list) else [eos, self.tokenizer.eos_id]
        return tuple(dict.fromkeys(token for token in found if token is not None))

    async def start(self) -> None:
        if self._worker is not None and self._worker.error is None:
            return
        decoder = await asyncio.to_thread(
            Decoder, self._folder, self._config, _DTYPES[self._dtype], self._device
        )
        scheduler = Scheduler(
            decoder, self.tokenizer, self._eos_ids, self._max_batch, self._prefix_bytes
        )
        threads = Threads(self._threads, decoder.bytes)
        self._worker = _Worker(self.name, scheduler, threads, asyncio.get_running_loop())

    async def close(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            await asyncio.to_thread(worker.close)

    def identity(self) -> dict[str, Any]:
        return {
            "engine": "local",
            "weights": weights.content_hash(self._folder),
            "dtype": self._dtype,
            "device": self._device.type,
            "torch": torch.__version__,
        }

    def model_config(self) -> dict[str, Any] | None:
        return self._config

    async def counters(self) -> dict[str, float]:
        return dict(self._running().scheduler.counters)

    async def sample(self, request: SampleRequest, sink: Sink | None = None) -> SampleReply:
        self.capabilities.require(("sample",), engine=self.name, who="sampling")
        if request.max_tokens < 1:
            raise ConfigError(f"max_tokens={request.max_tokens} must be at least 1")
        limit = min(request.max_tokens, self._room(request.prompt_ids))
        worker = self._running()
        answer: asyncio.Future[tuple[list[Completion], int, int]] = worker.future()
        handed = [0] * request.n
        batch: Batch

        def hand_over(index: int, token: int, piece: str, value: TokenLogprob | None) -> None:
            if sink is None or batch.cancelled or batch.sequences[index].stopped:
                return
            handed[index] += 1
            if sink(index, [token], piece, () if value is None else (value,)):
                batch.sequences[index].stopped = True

        batch = Batch(
            request,
            enders=(*self._eos_ids, *request.sampling.stop_ids),
            limit=limit,
            done=lambda *result: worker.tell(_resolve, answer, result),
            failed=lambda error: worker.tell(_fail, answer, error),
            sink=partial(worker.tell, hand_over) if sink is not None else None,
        )
        worker.add(batch)
        try:
            completions, prefill, cached = await answer
        except asyncio.CancelledError:
            batch.cancelled = True
            raise
        abandoned = 0
        if sink is not None:
            for index, completion in enumerate(completions):
                extra = len(completion.ids) - handed[index]
                if batch.sequences[index].stopped and extra:
                    ids = completion.ids[: handed[index]]
                    text = self.tokenizer.decode(ids)
                    logprobs = completion.logprobs and completion.logprobs[: handed[index]]
                    completions[index] = Completion(ids, text, "abort", None, logprobs)
                    abandoned += extra
        new = sum(len(c.ids) for c in completions)
        return SampleReply(tuple(completions), EngineUsage(prefill, cached, new, abandoned))

    async def score(
        self, prefix_ids: Sequence[int], continuation_ids: Sequence[int], top: int = 0
    ) -> ScoreReply:
        self.capabilities.require(("score",), engine=self.name, who="scoring")
        ids = (*prefix_ids, *continuation_ids)
        first = len(prefix_ids) - 1
        if first < 0:
            raise PromptError("scoring needs a prefix of at least one token")

        def read(outputs: Tensor) -> Any:
            values = torch.log_softmax(outputs, dim=-1)
            return tuple(logprob(values[i], t, top) for i, t in enumerate(continuation_ids))

        scores, usage = await self._pass(ids, first, read)
        return ScoreReply(scores, usage)

    async def choose(self, prefix_ids: Sequence[int], option_ids: Sequence[int]) -> ChooseReply:
        self.capabilities.require(("choose",), engine=self.name, who="choosing")
        if not option_ids:
            raise ConfigError("choosing needs at least one option")

        def read(outputs: Tensor) -> Any:
            return torch.softmax(outputs[-1], dim=-1)[list(option_ids)].tolist()

        chances, usage = await self._pass(tuple(prefix_ids), len(prefix_ids) - 1, read)
        mass = sum(chances)
        shares = tuple(c / mass for c in chances) if mass else (1 / len(chances),) * len(chances)
        return ChooseReply(shares, mass, usage)

    async def pool(self, ids: Sequence[int], positions: Sequence[int]) -> PoolReply:
        self.capabilities.require(("pool",), engine=self.name, who="a reward")
        if not positions:
            return PoolReply((), EngineUsage())
        first = min(positions)

        def read(outputs: Tensor) -> Any:
            return tuple(outputs[[p - first for p in positions], 0].tolist())

        values, usage = await self._pass(tuple(ids), first, read)
        return PoolReply(values, usage)

    async def embed(self, ids: Sequence[int], first: int) -> EmbedReply:
        if not 0 <= first < len(ids):
            raise PromptError(f"{self.name}: no token from {first} on in {len(ids)} to embed")

        def read(outputs: Tensor) -> Any:
            return tuple(outputs.mean(dim=0).tolist())

        values, usage = await self._pass(tuple(ids), first, read, hidden=True)
        return EmbedReply(values, usage)

    async def _pass(
        self,
        ids: tuple[int, ...],
        needed: int,
        read: Callable[[Tensor], Any],
        *,
        hidden: bool = False,
    ) -> tuple[Any, EngineUsage]:
        self._room(ids, spare=0)
        worker = self._running()
        answer: asyncio.Future[tuple[Any, int]] = worker.future()

        def done(outputs: Tensor, cached: int) -> None:
            worker.tell(_resolve, answer, (read(outputs), cached))

        failed = lambda error: worker.tell(_fail, answer, error)  # noqa: E731
        work = Pass(ids, needed, done, failed, hidden)
        worker.add(work)
        try:
            value, cached = await answer
        except asyncio.CancelledError:
            work.cancelled = True
            raise
        return value, EngineUsage(prefill=len(ids) - cached, cached=cached)

    def _room(self, ids: Sequence[int], spare: int = 1) -> int:
        return self.room(ids, int(self._config["vocab_size"]), spare)

    def _running(self) -> _Worker:
        if self._worker is None:
            raise EngineUnavailable(f"{self.name} is not started; use it as `async with engine:`")
        if self._worker.error is not None:
            raise self._worker.error
        if self._worker.loop is not asyncio.get_running_loop():
            raise EngineUnavailable(
                f"{self.name} was started in another event loop; close it first"
            )
        return self._worker


class _Worker:
    """The thread that steps the scheduler, and the mailboxes to and from it."""

    def __init__(
        self,
        name: str,
        scheduler: Scheduler,
        threads: Threads,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.name = name
        self.scheduler = scheduler
        self.threads = threads
        self.loop = loop
        self.error: EngineUnavailable | None = None  # why it steps no more
        self._ending = threading.Lock()
        self._inbox: deque[Batch | Pass] = deque()
        self._outbox: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def future(self) -> asyncio.Future[Any]:
        return self.loop.create_future()

    def add(self, work: Batch | Pass) -> None:
        """Called in the loop's thread."""
        with self._ending:
            if self.error is not None:
                raise self.error
            self._inbox.append(work)
        self._wake.set()

    def tell(self, call: Callable[..., None], *arguments: Any) -> None:
        """Called in the worker: run `call` in the loop, after this step."""
        self._outbox.append((call, arguments))

    def close(self) -> None:
        self._closing = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._closing:
                while self._inbox:
                    self.scheduler.add(self._inbox.popleft())
                if self.scheduler.idle:
                    self.threads.leave()
                    self._wake.wait()
                    self._wake.clear()
                    continue
                self.threads.take()
                self.scheduler.step()
                self._flush()
            self._end(EngineUnavailable(f"{self.name} was closed"))
        except Exception as error:
            message = f"{self.name} died: {type(error).__name__}: {error}"
            self._end(EngineUnavailable(message, retryable=True))

    def _end(self, error: EngineUnavailable) -> None:
        """Fail what is open; what this step answered before is handed over first."""
        self.threads.leave()
        with self._ending:
            self.error = error
        for work in (*self.scheduler.open_work(), *self._inbox):
            work.failed(error)
        self._flush()

    def _flush(self) -> None:
        if self._outbox and not self.loop.is_closed():
            calls, self._outbox = self._outbox, []
            self.loop.call_soon_threadsafe(_call_all, calls)


def _call_all(calls: list[tuple[Callable[..., None], tuple[Any, ...]]]) -> None:
    for call, arguments in calls:
        call(*arguments)


def _resolve(answer: asyncio.Future[Any], result: Any) -> None:
    if not answer.done():
        answer.set_result(result)


def _fail(answer: asyncio.Future[Any], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
