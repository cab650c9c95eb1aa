"""From logits to tokens, with vLLM's meaning of every parameter.

A token is drawn by inverting the distribution's CDF at one uniform number, which is a function of
(stream key, token index): the token does not depend on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reasoning.engines.base import Sampling, TokenLogprob
from reasoning.randomness import uniform


@dataclass(frozen=True, slots=True)
class Row:
    """What decides one row's token. index: the chain's token index. banned: ids not allowed now."""

    sampling: Sampling
    key: int
    index: int
    banned: tuple[int, ...] = ()


@torch.inference_mode()
def sample(logits: Tensor, rows: Sequence[Row]) -> tuple[list[int], list[TokenLogprob | None]]:
    """Tokens for logits [B, V] (fp32), and log-probabilities for the rows that ask for them."""
    raw = logits
    masked = _masked(logits, rows)
    temperatures = torch.tensor(
        [row.sampling.temperature for row in rows], device=logits.device, dtype=torch.float32
    )
    greedy = temperatures == 0
    scaled = masked / torch.where(greedy, 1.0, temperatures)[:, None]
    probabilities = _truncated(torch.softmax(scaled.double(), dim=-1), rows)
    cdf = probabilities.cumsum(dim=-1)
    draws = uniform([row.key for row in rows], [row.index for row in rows])
    points = torch.from_numpy(np.asarray(draws)).to(logits.device)[:, None] * cdf[:, -1:]
    drawn = torch.searchsorted(cdf, points, right=True)[:, 0].clamp(max=cdf.shape[1] - 1)
    tokens = torch.where(greedy, masked.argmax(dim=-1), drawn).tolist()
    return tokens, _logprobs(raw, rows, tokens)


def logprob(log_probabilities: Tensor, token: int, top: int) -> TokenLogprob:
    """Of one token, and of the `top` likeliest besides; log_probabilities [V]."""
    best: dict[int, float] = {}
    if top:
        values, ids = log_probabilities.topk(min(top, len(log_probabilities)))
        best = dict(zip(ids.tolist(), values.tolist(), strict=True))
    return TokenLogprob(float(log_probabilities[token]), best)


def _masked(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    if not any(row.banned or row.sampling.allowed_ids for row in rows):
        return logits
    masked = logits.clone()
    for index, row in enumerate(rows):
        if row.sampling.allowed_ids:
            allowed = list(row.sampling.allowed_ids)
            kept = masked[index, allowed].clone()
            masked[index] = -torch.inf
            masked[index, allowed] = kept
        if row.banned:
            masked[index, list(row.banned)] = -torch.inf
    return masked


def _truncated(probabilities: Tensor, rows: Sequence[Row]) -> Tensor:
    """Zero what top-k, min-p and top-p leave out (renormalising between, as vLLM does)."""
    vocabulary = probabilities.shape[1]
    top_k = [s.top_k if 0 < s.top_k < vocabulary else vocabulary for s in _samplings(rows)]
    if min(top_k) < vocabulary:
        ordered = probabilities.sort(dim=-1, descending=True).values
        last = torch.tensor(top_k, device=probabilities.device)[:, None] - 1
        probabilities = probabilities.where(probabilities >= ordered.gather(1, last), 0.0)
        probabilities = probabilities / probabilities.sum(dim=-1, keepdim=True)
    min_p = [s.min_p for s in _samplings(rows)]
    if max(min_p) > 0:
        floor = torch.tensor(min_p, device=probabilities.device)[:, None]
        least = floor * probabilities.max(dim=-1, keepdim=True).values
        probabilities = probabilities.where(probabilities >= least, 0.0)
        probabilities = probabilities / probabilities.sum(dim=-1, keepdim=True)
    top_p = [s.top_p for s in _samplings(rows)]
    if min(top_p) < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        # A token stays when the mass before it is below top_p: the first one always does.
        before = ordered.cumsum(dim=-1) - ordered
        kept = before < torch.tensor(top_p, device=probabilities.device)[:, None]
        kept = torch.zeros_like(kept).scatter(1, order, kept)
        probabilities = probabilities.where(kept, 0.0)
    return probabilities


def _samplings(rows: Sequence[Row]) -> list[Sampling]:
    return [row.sampling for row in rows]


def _logprobs(raw: Tensor, rows: Sequence[Row], tokens: list[int]) -> list[TokenLogprob | None]:
    if all(row.sampling.logprobs is None for row in rows):
        return [None] * len(rows)
    values = torch.log_softmax(raw, dim=-1)
    return [
        None
        if row.sampling.logprobs is None
        else logprob(values[index], tokens[index], row.sampling.logprobs)
        for index, row in enumerate(rows)
    ]
