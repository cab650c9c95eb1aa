"""Requests that the tests of this folder send."""

from __future__ import annotations

from typing import Any

from reasoning.engines.base import SampleRequest, Sampling, Stream


def ask(n: int = 1, *, max_tokens: int = 64, first: int = 1000, **sampling: Any) -> SampleRequest:
    """A request for n continuations of "2+2"."""
    streams = tuple(Stream(first + 17 * index) for index in range(n))
    return SampleRequest(tuple(b"2+2"), max_tokens, Sampling(**sampling), streams)


def chat(engine: Any, n: int = 1, *, max_tokens: int = 64, **sampling: Any) -> SampleRequest:
    """A request for n answers of a server spoken to in text."""
    prompt = engine.tokenizer.render([{"role": "user", "content": "hi"}])
    streams = tuple(Stream(1000 + index) for index in range(n))
    return SampleRequest(tuple(prompt), max_tokens, Sampling(**sampling), streams)
