"""vllm/: AsyncLLM (V1) in process, on a GPU or with vLLM's CPU build."""

from __future__ import annotations

from reasoning.engines.vllm.engine import VLLMEngine

__all__ = ["VLLMEngine"]
