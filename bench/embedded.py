"""The embedded engine against vLLM and Transformers: the same requests in one run, fp32.

All three decode with as many threads as there are cores but one (vLLM keeps one free). vLLM's
worker runs in a process of its own, pinned to its cores.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from bench import bounds
from bench.pairs import Measure, Sample, alternate, mean_rate, share
from bench.report import Row, Table, shown
from reasoning.engines import weights
from reasoning.engines.base import Engine, SampleRequest, Sampling, Stream
from reasoning.errors import ReasoningError

MODEL = "countdown-policy"
CONCURRENCY = (1, 16, 128)
# Lengths differ, as they do in reasoning: request i decodes this many tokens (24 to 167).
LENGTHS = tuple(24 + (72 + 37 * i) % 144 for i in range(max(CONCURRENCY)))
OURS, VLLM, TRANSFORMERS = "embedded", "vLLM", "Transformers"


def prompts(engine: Engine, count: int, offset: int) -> list[tuple[int, ...]]:
    texts = (f"{i % 89 + 10} {(i + offset) % 97 + 2} {i % 13 + 3} 25 = 50" for i in range(count))
    return [tuple(engine.tokenizer.render([{"role": "user", "content": t}])) for t in texts]


def through(engine: Engine, count: int) -> Measure:
    """`count` requests at once, each a chain of its own length."""
    rounds = 0

    async def measure() -> Sample:
        nonlocal rounds
        rounds += 1
        requests = [
            SampleRequest(ids, LENGTHS[i], Sampling(ignore_eos=True), (Stream(i),))
            for i, ids in enumerate(prompts(engine, count, rounds))
        ]
        began, cpu = time.perf_counter(), time.process_time()
        replies = await asyncio.gather(*map(engine.sample, requests))
        taken = time.perf_counter() - began, time.process_time() - cpu
        return Sample(sum(reply.usage.new for reply in replies), count, *taken)

    return measure


class Transformers:
    """Its continuous batching (what `generate_batch` runs) where it works, else `generate`.

    The KV cache is given a size: left alone it takes most of the memory, and a minute to fill it.
    """

    def __init__(self, model: Any, manager: Any, why_static: str) -> None:
        self._model, self._manager = model, manager
        self.how = "continuous batching" if manager is not None else f"generate ({why_static})"

    def measure(self, engine: Engine, count: int) -> Measure:
        rounds = 0

        async def measured() -> Sample:
            nonlocal rounds
            rounds += 1
            ids = prompts(engine, count, rounds)
            began, cpu = time.perf_counter(), time.process_time()
            await asyncio.to_thread(self._static if self._manager is None else self._batched, ids)
            taken = time.perf_counter() - began, time.process_time() - cpu
            return Sample(sum(LENGTHS[:count]), count, *taken)

        return measured

    def _batched(self, ids: list[tuple[int, ...]]) -> None:
        """Raises RuntimeError when not every chain comes back, or not whole."""
        lengths = {
            self._manager.add_request(list(prompt), max_new_tokens=length): length
            for prompt, length in zip(ids, LENGTHS, strict=False)
        }
        while lengths:
            result = self._manager.get_result(timeout=1)
            if result is None and not self._manager.is_running():
                raise RuntimeError("its generation thread ended")
            if result is None or not result.is_finished():
                continue
            if len(result.generated_tokens) != lengths.pop(result.request_id):
                raise RuntimeError(f"a chain is not whole ({result.error})")

    def _static(self, ids: list[tuple[int, ...]]) -> None:
        """All in one batch, until the longest is done."""
        import torch

        width = max(map(len, ids))
        padded = torch.tensor([[0] * (width - len(i)) + list(i) for i in ids])
        mask = torch.tensor([[0] * (width - len(i)) + [1] * len(i) for i in ids])
        settings = _settings(max(LENGTHS[: len(ids)]))
        with torch.inference_mode():
            self._model.generate(padded, attention_mask=mask, generation_config=settings)


@asynccontextmanager
async def _transformers(engine: Engine) -> AsyncIterator[Transformers]:
    import torch
    from transformers import AutoModelForCausalLM

    def load() -> Any:
        folder = weights.resolve(MODEL)
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    async with AsyncExitStack() as stack:
        try:
            from transformers import ContinuousBatchingConfig

            manager = stack.enter_context(
                load().continuous_batching_context_manager(
                    generation_config=_settings(max(LENGTHS)),
                    continuous_batching_config=ContinuousBatchingConfig(
                        num_blocks=1024,
                        page_size=64,
                        max_batch_tokens=4096,
                        max_requests_per_batch=max(CONCURRENCY),
                    ),
                    timeout=30,
                )
            )
            made = Transformers(None, manager, "")
            await made.measure(engine, 2)()
        except Exception as error:
            said = " ".join(str(error).split())[:160]
            made = Transformers(
                load(), None, f"continuous batching: {type(error).__name__}: {said}"
            )
        yield made


def _settings(length: int) -> Any:
    from transformers import GenerationConfig

    return GenerationConfig(
        max_new_tokens=length,
        min_new_tokens=length,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        pad_token_id=0,
        eos_token_id=-1,
    )


async def run(rounds: int, concurrency: tuple[int, ...] = CONCURRENCY) -> Table:
    from reasoning.engines.local import LocalEngine
    from reasoning.engines.vllm import VLLMEngine

    threads = max(1, len(os.sched_getaffinity(0)) - 1)
    table = Table(
        "embedded",
        f"The embedded engine on the same requests as vLLM and Transformers, fp32, threads: "
        f"{threads}",
        (
            "requests at once",
            "engine",
            "tokens/s",
            "embedded / this [95 %]",
            "ms/step",
            "where the time goes",
        ),
    )
    async with AsyncExitStack() as stack:
        vllm: Engine | None = None
        try:
            vllm = await stack.enter_async_context(
                VLLMEngine(MODEL, dtype="float32", max_model_len=1024)
            )
        except ReasoningError as error:
            table.notes.append(f"vLLM did not run here: {error}")
        local: Engine = await stack.enter_async_context(
            LocalEngine(MODEL, dtype="float32", threads=threads)
        )
        transformers = await stack.enter_async_context(_transformers(local))
        table.notes.append(f"Transformers: {transformers.how}.")
        for many in concurrency:
            contenders: dict[str, Measure] = {
                OURS: through(local, many),
                TRANSFORMERS: transformers.measure(local, many),
            }
            if vllm is not None:
                contenders[VLLM] = through(vllm, many)
            found = await alternate(contenders, rounds)
            for name, samples in found.items():
                if name == VLLM:
                    busy = sum(s.cpu for s in samples) / sum(s.seconds for s in samples)
                    where = f"front end, in this process {busy:.0%}; the rest is in its worker"
                else:
                    where = bounds.described(await bounds.profiled(contenders[name]))
                table.add(_row(many, name, found, where))
    return table


def _row(many: int, name: str, found: dict[str, list[Sample]], where: str) -> Row:
    samples = found[name]
    steps = max(LENGTHS[:many])  # all decode at once, until the longest is done
    step = 1000 * sum(s.seconds for s in samples) / len(samples) / steps
    ratio = "1" if name == OURS else shown(share(found[OURS], samples))
    cells = (f"{many:,}", name, f"{mean_rate(samples):,.0f}", ratio, f"{step:.2f}", where)
    return Row(cells, {"samples": samples})
