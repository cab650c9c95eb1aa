"""The Kinetics cost model (arXiv 2506.05333, section 2, equations 1 to 4) per request.

Units: `kv_elements` (the paper's D) counts KV *elements* a token over all layers,
2 x KV heads x head size x layers; with 2 bytes an element KV bytes a token are 2 D.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Peak FLOP/s and bytes/s. Vendor figures; dense 16-bit unless said. H100 as in LLM-Viewer's table
# would be 3072 GB/s; NVIDIA states 3350. B200 follows Kinetics, whose 4500 TFLOP/s is the FP8 peak.
HARDWARE: dict[str, tuple[float, float]] = {
    "A100-80G": (312e12, 2039e9),
    "H100-SXM": (989.5e12, 3350e9),
    "H200": (989.5e12, 4800e9),
    "B200": (4500e12, 8000e9),
}


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What the cost model needs of a model.

    parameters: weights that take part in decoding one token (lm_head counted, embedding lookup
    not; for mixtures of experts the active ones). gqa: query heads per KV head (the paper's r).
    """

    parameters: float
    kv_elements: float
    gqa: float

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ModelShape:
        """From a Hugging Face config.json. Raises KeyError for a field that is missing."""
        hidden, layers = config["hidden_size"], config["num_hidden_layers"]
        heads = config["num_attention_heads"]
        kv_heads = config.get("num_key_value_heads") or heads
        size = config.get("head_dim") or hidden // heads
        attention = 2 * hidden * heads * size + 2 * hidden * kv_heads * size
        experts = config.get("num_experts") or config.get("num_local_experts") or 0
        if experts:
            width = config.get("moe_intermediate_size") or config["intermediate_size"]
            mlp = config["num_experts_per_tok"] * 3 * hidden * width + hidden * experts
        else:
            mlp = 3 * hidden * config["intermediate_size"]
        return cls(
            parameters=layers * (attention + mlp) + config["vocab_size"] * hidden,
            kv_elements=2 * kv_heads * size * layers,
            gqa=heads / kv_heads,
        )

    def flops(self, start: float, end: float) -> float:
        """Of the tokens from position `start` to `end`, prefilled or decoded.

        Attention over a context of c costs 2 r D c a token (r D from equation 1).
        """
        attention = self.gqa * self.kv_elements
        return 2 * self.parameters * (end - start) + attention * (end**2 - start**2)


@dataclass(frozen=True, slots=True)
class CostModel:
    """Prices one model's work. intensity: the paper's I = peak FLOP/s over bytes/s.

    prefill_price, cached_price, token_price: money for a token of each sort.
    """

    shape: ModelShape | None = None
    intensity: float = 562.5  # B200, the paper's constant
    prefill_price: float = 0.0
    cached_price: float = 0.0
    token_price: float = 0.0

    def flops(self, context: int, new: int, prefill: int) -> float:
        """FLOPs to prefill the last `prefill` of `context` tokens and then decode `new` more."""
        return 0.0 if self.shape is None else self.shape.flops(context - prefill, context + new)

    def eflops(self, context: int, new: int, prefill: int, *, shared: int = 0) -> float:
        """Kinetics eFLOPs: compute plus intensity times the KV bytes that decoding reads.

        `shared` tokens of the context are read together with another chain of the same request
        and not counted again. Prefill is compute only, as in the paper weights are amortised.
        """
        if self.shape is None:
            return 0.0
        read = self.shape.kv_elements * (2 * (context - shared) * new + new**2)
        return self.flops(context, new, prefill) + self.intensity * read

    @property
    def priced(self) -> bool:
        return any((self.prefill_price, self.cached_price, self.token_price))

    def money(self, new: int, prefill: int, cached: int) -> float:
        return self.token_price * new + self.prefill_price * prefill + self.cached_price * cached
