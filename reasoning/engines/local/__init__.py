"""local/: Hugging Face decoders in PyTorch, embedded in the process."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    # torch is imported when an engine is made, not when the package is looked at.
    if name == "LocalEngine":
        from reasoning.engines.local.engine import LocalEngine

        return LocalEngine
    raise AttributeError(name)
