"""The embedded engine against vLLM and Transformers in process: the same requests, one run."""

from __future__ import annotations

import asyncio
import contextlib
import io
import time
from contextlib import AsyncExitStack
from typing import Any

from bench.pairs import Measure, Sample, alternate, mean_rate, share
from bench.report import Row, Table, shown
from reasoning.engines import weights
from reasoning.engines.base import Engine, SampleRequest, Sampling, Stream
from reasoning.errors import ReasoningError

MODEL = "countdown-policy"
TOKENS = 96
CONCURRENCY = (1, 16, 128)
# Lengths differ, as they do in reasoning: request i decodes this many tokens.
LENGTHS = tuple(TOKENS // 4 + (37 * i) % (3 * TOKENS // 2) for i in range(256))


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
    """`generate_batch` (continuous batching) where it runs, else static `generate`."""

    def __init__(self, engine: Engine) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._torch = torch
        self._engine = engine
        self.model: Any = AutoModelForCausalLM.from_pretrained(
            weights.resolve(MODEL), dtype=torch.float32
        ).eval()
        self.how = "generate_batch"
        self.why = ""
        try:
            self._batched(2)
        except Exception as error:
            self.how = "static generate"
            self.why = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            self.model = AutoModelForCausalLM.from_pretrained(
                weights.resolve(MODEL), dtype=torch.float32
            ).eval()

    def measure(self, count: int) -> Measure:
        async def measured() -> Sample:
            began, cpu = time.perf_counter(), time.process_time()
            made = self._batched if self.how == "generate_batch" else self._static
            tokens = await asyncio.to_thread(made, count)
            taken = time.perf_counter() - began, time.process_time() - cpu
            return Sample(tokens, count, *taken)

        return measured

    def _batched(self, count: int) -> int:
        # It takes one length for all: the mean of what the others decode.
        length = sum(LENGTHS[:count]) // count
        ids = [list(i) for i in prompts(self._engine, count, 0)]
        with contextlib.redirect_stdout(io.StringIO()):
            made = self.model.generate_batch(inputs=ids, generation_config=self._settings(length))
        tokens = sum(len(output.generated_tokens) for output in made.values())
        if tokens < count * length // 2:
            raise RuntimeError(f"it made {tokens} tokens of {count * length}")
        return tokens

    def _static(self, count: int) -> int:
        """All in one batch, until the longest is done; only what was asked for counts."""
        torch = self._torch
        ids = prompts(self._engine, count, 0)
        width = max(map(len, ids))
        padded = torch.tensor([[0] * (width - len(i)) + list(i) for i in ids])
        mask = torch.tensor([[0] * (width - len(i)) + [1] * len(i) for i in ids])
        with torch.inference_mode():
            self.model.generate(
                padded,
                attention_mask=mask,
                generation_config=self._settings(max(LENGTHS[:count])),
            )
        return sum(LENGTHS[:count])

    def _settings(self, length: int) -> Any:
        from transformers import GenerationConfig

        return GenerationConfig(
            max_new_tokens=length,
            min_new_tokens=length,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            pad_token_id=0,
            eos_token_id=1,
        )


async def run(rounds: int, concurrency: tuple[int, ...] = CONCURRENCY) -> Table:
    """fp32 everywhere. vLLM's worker runs in processes of its own, pinned to a core each."""
    from reasoning.engines.local import LocalEngine
    from reasoning.engines.vllm import VLLMEngine

    table = Table(
        "embedded",
        f"The embedded engine, tokens/s on the same requests, {rounds} alternating rounds",
        (
            "requests at once",
            "embedded",
            "vLLM",
            "embedded / vLLM",
            "Transformers",
            "embedded / T.",
        ),
    )
    async with AsyncExitStack() as stack:
        local: Engine = await stack.enter_async_context(LocalEngine(MODEL, dtype="float32"))
        vllm: Engine | None = None
        try:
            vllm = await stack.enter_async_context(
                VLLMEngine(MODEL, dtype="float32", max_model_len=1024)
            )
        except ReasoningError as error:
            table.notes.append(f"vLLM did not run here: {error}")
        static = await asyncio.to_thread(Transformers, local)
        table.notes.append(
            f"Transformers: {static.how}" + (f" ({static.why})" if static.why else "")
        )
        for many in concurrency:
            contenders: dict[str, Measure] = {
                "embedded": through(local, many),
                "transformers": static.measure(many),
            }
            if vllm is not None:
                contenders["vllm"] = through(vllm, many)
            found = await alternate(contenders, rounds)
            ours = found["embedded"]
            cells = [f"{many:,}", f"{mean_rate(ours):,.0f}"]
            for name in ("vllm", "transformers"):
                other = found.get(name)
                cells += (
                    [f"{mean_rate(other):,.0f}", shown(share(ours, other))] if other else ["-", "-"]
                )
            table.add(Row(tuple(cells), dict(found)))
    return table
