"""What kind of server answers at a URL, and which model it serves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from reasoning.engines.base import Tokenizer
from reasoning.engines.openai.assembly import parsed
from reasoning.engines.openai.faults import Fault, Malformed
from reasoning.engines.openai.transport import Transport
from reasoning.errors import EngineUnavailable, ModelError

T = TypeVar("T")

START_ATTEMPTS = 3
SAMPLE_TEXT = "12+30=42"  # any vocabulary has it


@dataclass(frozen=True, slots=True)
class Server:
    """model: its name there. root: where the server loaded it from. context: tokens, if said."""

    vllm: bool
    version: str
    model: str
    served: tuple[str, ...]
    root: str | None
    context: int | None

    @property
    def folder(self) -> Path | None:
        """The model's folder, where it lies on this machine too."""
        if self.root is None or not (Path(self.root) / "config.json").is_file():
            return None
        return Path(self.root)


async def discover(transport: Transport, model: str) -> Server:
    """Ask the server what it serves.

    An empty model name means the only one. Raises Fault, EngineUnavailable for an answer that is
    none of an OpenAI-compatible server, ModelError for a model that is not served.
    """
    where = str(transport.url("/models"))
    models = await _patiently(transport, "/models", _models)
    if models is None:
        raise EngineUnavailable(
            f"{where} did not list models as an OpenAI-compatible server does; check `base_url` "
            f"(it ends in /v1 on most servers)"
        )
    served = tuple(models)
    if not model and len(served) == 1:
        (model,) = served
    if model not in models:
        raise ModelError(
            f"{where} does not serve {model!r}; it serves {', '.join(served) or 'nothing'}"
        )
    entry = models[model]
    vllm = entry.get("owned_by") == "vllm" and "max_model_len" in entry
    context, root = entry.get("max_model_len"), entry.get("root")
    return Server(
        vllm,
        await _version(transport),
        model,
        served,
        root if type(root) is str else None,
        context if type(context) is int and context > 0 else None,
    )


def _models(body: bytes) -> dict[str, dict[str, Any]] | None:
    """What a model list says of each model, by name; None where it is none."""
    try:
        models = {entry["id"]: entry for entry in parsed(body)["data"]}
    except (Malformed, KeyError, TypeError):
        return None
    return models if all(type(name) is str for name in models) else None


async def _patiently(transport: Transport, path: str, read: Callable[[bytes], T]) -> T:
    """A server that is just starting, or shakes off a connection, gets a second chance."""
    for attempt in range(START_ATTEMPTS):
        try:
            return await transport.get(path, read)
        except Fault as caught:
            fault = caught
        if not fault.retryable or attempt == START_ATTEMPTS - 1:
            break
        await asyncio.sleep(min(fault.retry_after or 0.2, 5.0) * (attempt + 1))
    raise fault


async def _version(transport: Transport) -> str:
    try:
        version = (await transport.get("//version", parsed)).get("version")
    except Fault:
        return ""
    return version if type(version) is str else ""


async def check_tokenizer(transport: Transport, model: str, tokenizer: Tokenizer) -> None:
    """Raise ModelError when the server's tokenizer gives other ids than ours."""
    ask = f'{{"model":{_quoted(model)},"prompt":"{SAMPLE_TEXT}","add_special_tokens":false}}'
    try:
        theirs = (await transport.post("//tokenize", ask.encode(), parsed, 30.0)).get("tokens")
    except Fault:
        return  # it does not offer this
    ours = tokenizer.encode(SAMPLE_TEXT)
    if theirs != ours:
        raise ModelError(
            f"the tokenizer given for {model!r} is not the server's: {SAMPLE_TEXT!r} is {ours} "
            f"here and {theirs} there; give the tokenizer of the served model"
        )


def read_metrics(text: str, model: str) -> dict[str, float]:
    """Totals of a vLLM /metrics page for one model: `new`, `prefill`, `cached` (tokens).

    A request for n continuations counts its prompt n times here, as vLLM computes it: n - 1 times
    mostly from its prefix cache.
    """
    names = {
        "vllm:generation_tokens_total": "new",
        "vllm:prompt_tokens_total": "prompt",
        "vllm:prefix_cache_hits_total": "cached",
    }
    totals = dict.fromkeys(names.values(), 0.0)
    label = f"model_name={_quoted(model)}"
    for line in text.splitlines():
        name = names.get(line.partition("{")[0])
        if name is None or label not in line:
            continue
        try:
            totals[name] += float(line.rpartition(" ")[2])
        except ValueError:
            continue
    return {
        "new": totals["new"],
        "prefill": totals["prompt"] - totals["cached"],
        "cached": totals["cached"],
    }


def _quoted(name: Any) -> str:
    escaped = str(name).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
