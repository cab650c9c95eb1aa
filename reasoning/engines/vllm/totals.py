"""vLLM's own token counters, read where it counts them: a stat logger of the engine."""

from __future__ import annotations

from typing import Any


def totals_logger(totals: dict[str, float]) -> Any:
    """A stat-logger factory that adds vLLM's per-step statistics up into `totals`."""
    from vllm.v1.metrics.loggers import StatLoggerBase

    class Totals(StatLoggerBase):  # type: ignore[misc]
        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
            pass

        def record(
            self,
            scheduler_stats: Any,
            iteration_stats: Any,
            mm_cache_stats: Any = None,
            engine_idx: int = 0,
        ) -> None:
            if iteration_stats is not None:
                prompt = iteration_stats.prompt_token_stats
                totals["new"] += iteration_stats.num_generation_tokens
                totals["prefill"] += prompt.computed
                totals["cached"] += prompt.total - prompt.computed

        def log_engine_initialized(self) -> None:
            pass

    return Totals
