"""The manifest beside a shipped checkpoint: how it was made, and what it was measured to do."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

FILE = "manifest.json"


def weights_hash(folder: Path) -> str:
    """sha256 of the folder's weights."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def write(folder: Path, **facts: Any) -> None:
    """Write the manifest; facts that are there already and not given are dropped."""
    packages = {name: version(name) for name in ("torch", "transformers", "tokenizers")}
    facts |= {"packages": packages, "sha256": weights_hash(folder)}
    (folder / FILE).write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")


def read(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / FILE).read_text())
    return manifest


def add(folder: Path, **facts: Any) -> None:
    """Add measured facts."""
    manifest = read(folder) | facts
    (folder / FILE).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
