"""Names on the Hugging Face hub: what is downloaded, and what is said when it is not there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.utils import filter_repo_objects

from reasoning.engines import weights
from reasoning.errors import ModelError
from reasoning.solver import engine

WANTED = [
    "config.json",
    "generation_config.json",
    "model-00001-of-00002.safetensors",
    "model.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
]
UNWANTED = [
    "pytorch_model.bin",
    "model.pt",
    "optimizer.pth",
    "rng_state.pkl",
    "modeling_custom.py",
    "README.md",
    "model.gguf",
    "original/model.safetensors",
    "onnx/config.json",
    "consolidated.safetensors",
    "consolidated.00.pth",
]


@pytest.mark.parametrize("kind", ["local", "vllm"])
def test_a_hub_name_is_downloaded_without_pickles_and_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    asked: list[str] = []

    def download(name: str, *, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        asked.append(name)
        kept = filter_repo_objects(
            [*WANTED, *UNWANTED], allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        )
        assert list(kept) == WANTED
        shutil.copytree(weights.resolve("countdown-draft"), tmp_path, dirs_exist_ok=True)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    made = engine(f"{kind}/Some-Org/A_model.v2-0.6B")
    assert asked == ["Some-Org/A_model.v2-0.6B"] and made.capabilities.sample
    assert made.model_config() == weights.config(weights.resolve("countdown-draft"))


def test_a_hub_name_offline_is_looked_for_in_the_cache_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"not in the Hugging Face cache.*HF_HUB_OFFLINE is set"):
        weights.resolve("org/name")


@pytest.mark.parametrize(
    "raised", [ConnectionError("no\nroute"), ValueError("no\nroute"), RuntimeError("no\nroute")]
)
def test_a_hub_that_does_not_answer_is_one_line(
    monkeypatch: pytest.MonkeyPatch, raised: Exception
) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise raised

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ModelError, match=r"did not give it: no route. .*HF_TOKEN") as caught:
        weights.resolve("org/name")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere", "a/b/c", "../b", "/a/b", "~/b", "a/.b"])
def test_what_cannot_be_a_hub_name_is_a_path(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail(name))
    with pytest.raises(ModelError, match="no such folder, and not a shipped model"):
        weights.resolve(name)
