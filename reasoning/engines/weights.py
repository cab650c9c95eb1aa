"""Model folders: where a name points, whether the folder can be loaded, what it holds."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from reasoning.errors import ModelError

MAX_HEADER = 100_000_000  # bytes; safetensors' own limit
SHIPPED = Path(__file__).parents[1] / "models"
_HUB = re.compile(r"\w[\w.-]*/\w[\w.-]*")
# What is downloaded: weights that cannot run code, configs, tokenizers and their templates.
_FILES = ("*.safetensors", "*.json", "tokenizer.model", "merges.txt", "vocab.txt", "*.jinja")
# Folders hold other formats; `consolidated` files the same weights under other names.
_OTHERS = ("*/*", "consolidated*")


def resolve(model: str) -> Path:
    """The folder of a path, of a shipped model's name, or of a name on the Hugging Face hub, which
    is downloaded unless it is there. Raises ModelError when it cannot load."""
    folder = SHIPPED / model
    if not folder.is_dir() or "/" in model:
        folder = Path(model).expanduser()
    if not folder.is_dir() and _HUB.fullmatch(model):
        folder = _downloaded(model)
    if not folder.is_dir():
        shipped = ", ".join(sorted(p.name for p in SHIPPED.iterdir())) if SHIPPED.exists() else ""
        raise ModelError(
            f"model {model!r}: no such folder, and not a shipped model ({shipped or 'none here'}); "
            f"give the path of a folder with config.json and *.safetensors, or a name on the hub "
            f"such as Qwen/Qwen3-0.6B"
        )
    config(folder)
    if not list(folder.glob("*.safetensors")):
        pickled = [p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".pkl")]
        if pickled:
            raise ModelError(
                f"{folder} holds pickled weights ({pickled[0]}), which can run code when they are "
                f"read; convert them to safetensors"
            )
        raise ModelError(f"{folder} holds no *.safetensors; download the model's weights into it")
    if not any((folder / n).exists() for n in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ModelError(f"{folder} holds no tokenizer; copy the model's tokenizer files into it")
    return folder


def _downloaded(model: str) -> Path:
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.snapshot_download(
                model, allow_patterns=list(_FILES), ignore_patterns=list(_OTHERS)
            )
        )
    except Exception as error:  # the hub's own, those of its HTTP library, a full disk
        if huggingface_hub.is_offline_mode():
            why = "HF_HUB_OFFLINE is set"
        else:
            why = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(
            f"model {model!r}: no such folder, not in the Hugging Face cache, and the hub did not "
            f"give it: {why}. Give the path of a folder, or check the name, the network and, for "
            f"a gated model, HF_TOKEN"
        ) from None


def config(folder: Path) -> dict[str, Any]:
    """The folder's config.json. Raises ModelError when it is missing or not JSON."""
    path = folder / "config.json"
    try:
        loaded: dict[str, Any] = json.loads(path.read_text())
    except OSError:
        raise ModelError(f"{folder} holds no config.json; it is not a Hugging Face model") from None
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from None
    return loaded


# Architectures whose head scores tokens or sequences (the end of the class's name).
_SCORING = ("TokenClassification", "SequenceClassification", "RewardModel", "PrmModel")


def rewards(config: dict[str, Any], folder: Path | None = None) -> bool:
    """Whether the model has a reward head instead of a vocabulary, by its architecture, or (with a
    folder) by a value head among its weights."""
    if (config.get("architectures") or [""])[0].endswith(_SCORING):
        return True
    return folder is not None and any(name.startswith("v_head.") for name in names(folder))


def names(folder: Path) -> list[str]:
    """The names of the folder's tensors, from the headers of its files. Raises ModelError."""
    found: list[str] = []
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > MAX_HEADER:
                raise ModelError(f"{path} cannot be read: its header is damaged")
            try:
                found += json.loads(file.read(size))
            except ValueError as error:
                raise ModelError(f"{path} cannot be read: {error}") from None
    return [name for name in found if name != "__metadata__"]


def content_hash(folder: Path) -> str:
    """sha256 over weights, config and tokenizer; remembered while the files do not change."""
    files = sorted(
        p for p in folder.iterdir() if p.suffix in (".safetensors", ".json", ".model", ".jinja")
    )
    files = [p for p in files if p.name not in ("manifest.json", "generation_config.json")]
    return _hash(tuple((p, p.stat().st_mtime_ns, p.stat().st_size) for p in files))


def file_hash(path: Path) -> str:
    """sha256 of one file; remembered while it does not change."""
    stat = path.stat()
    return _hash(((path, stat.st_mtime_ns, stat.st_size),))


@functools.lru_cache(maxsize=64)
def _hash(files: tuple[tuple[Path, int, int], ...]) -> str:
    total = hashlib.sha256()
    for path, _, _ in files:
        with path.open("rb") as file:
            total.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
