"""The forward pass: a lean decoder for the Qwen3, Qwen2, Llama and Mistral families.

It reads Hugging Face weights and attends over KV slots: rows of one tensor per layer, written at
given positions. Keys are stored rotated at the position they were written at, and attention takes
its positions and mask as data; a layout of segments at other view positions (shared caches) needs
to change the query's rotation and the rows it reads, nothing stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from reasoning.engines.local.slots import Rows, Slots
from reasoning.errors import ModelError

FAMILIES = ("qwen3", "qwen2", "llama", "mistral")


class Decoder:
    """Weights of one model, and its forward pass. head: "lm" or "reward"."""

    def __init__(
        self, folder: Path, config: dict[str, Any], dtype: torch.dtype, device: torch.device
    ) -> None:
        family = config.get("model_type")
        if family not in FAMILIES:
            raise ModelError(
                f"{folder}: model_type {family!r} is not one of {', '.join(FAMILIES)}; serve it "
                f"with vllm/ or openai/"
            )
        self.layers: int = config["num_hidden_layers"]
        self.heads: int = config["num_attention_heads"]
        self.kv_heads: int = config.get("num_key_value_heads") or self.heads
        self.head_dim: int = config.get("head_dim") or config["hidden_size"] // self.heads
        self.epsilon: float = config["rms_norm_eps"]
        self.vocab_size: int = config["vocab_size"]
        self.dtype, self.device = dtype, device
        if config.get("sliding_window") and config.get("use_sliding_window"):
            raise ModelError(f"{folder}: sliding-window attention is not supported; use vllm/")
        weights = self._load(folder)
        self.bytes = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
        self._head = _reward_head(weights)
        self.head = "reward" if self._head else "lm"
        self._embedding = weights["model.embed_tokens.weight"]
        self._norm = weights["model.norm.weight"]
        if config.get("tie_word_embeddings") or "lm_head.weight" not in weights:
            self._output = self._embedding
        else:
            self._output = weights["lm_head.weight"]
        self._blocks = [_Block(weights, f"model.layers.{i}.") for i in range(self.layers)]
        self._inverse, self._rope_scale = _rope(config, self.head_dim, device)

    def _load(self, folder: Path) -> dict[str, Tensor]:
        weights: dict[str, Tensor] = {}
        for path in sorted(folder.glob("*.safetensors")):
            try:
                weights |= load_file(path, device=str(self.device))
            except SafetensorError as error:
                raise ModelError(f"{path} cannot be read: {error}") from None
        try:
            weights["model.embed_tokens.weight"], weights["model.norm.weight"]
        except KeyError as missing:
            raise ModelError(
                f"{folder}: weights lack {missing}; the download is incomplete"
            ) from None
        return {name: tensor.to(self.dtype) for name, tensor in weights.items()}

    def slots(self, rows: int, length: int) -> Slots:
        """Empty KV slots for this model."""
        shape = (self.layers, self.kv_heads, self.head_dim)
        return Slots(*shape, rows, length, self.dtype, self.device)

    @torch.inference_mode()
    def forward(self, ids: Tensor, parts: Sequence[Rows]) -> Tensor:
        """Hidden states [N, hidden] of `ids` [N]: the new tokens of all the rows, one row after
        the other, part by part. Their KV is written to the rows' slots."""
        groups = self.heads // self.kv_heads
        views = [_View.of(rows, groups, self.dtype, self.device) for rows in parts]
        sizes = [len(view.positions) for view in views]
        positions = torch.cat([view.positions for view in views])
        angles = positions[:, None].float() * self._inverse
        cos = (angles.cos() * self._rope_scale).to(self.dtype)[:, None]
        sin = (angles.sin() * self._rope_scale).to(self.dtype)[:, None]
        hidden = F.embedding(ids, self._embedding)
        for layer, block in enumerate(self._blocks):
            residual = hidden
            hidden = F.rms_norm(hidden, hidden.shape[-1:], block.input_norm, self.epsilon)
            qkv = F.linear(hidden, block.qkv, block.qkv_bias)
            qkv = qkv.view(len(ids), self.heads + 2 * self.kv_heads, self.head_dim)
            q, k, v = torch.split(qkv, [self.heads, self.kv_heads, self.kv_heads], dim=1)
            if block.q_norm is not None:
                q = F.rms_norm(q, (self.head_dim,), block.q_norm, self.epsilon)
                k = F.rms_norm(k, (self.head_dim,), block.k_norm, self.epsilon)
            q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
            pieces = zip(views, *(torch.split(x, sizes) for x in (q, k, v)), strict=True)
            attended = [view.attend(layer, *piece) for view, *piece in pieces]
            hidden = residual + F.linear(torch.cat(attended), block.output)
            residual = hidden
            hidden = F.rms_norm(hidden, hidden.shape[-1:], block.mlp_norm, self.epsilon)
            gate, up = F.linear(hidden, block.gate_up).chunk(2, dim=-1)
            hidden = residual + F.linear(F.silu(gate) * up, block.down)
        return F.rms_norm(hidden, hidden.shape[-1:], self._norm, self.epsilon)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocabulary] in fp32."""
        return F.linear(hidden, self._output).float()

    @torch.inference_mode()
    def rewards(self, hidden: Tensor) -> Tensor:
        """Rewards [...] in [0, 1]: the last label's, of one by sigmoid, of more by softmax."""
        for number, (weight, bias) in enumerate(self._head):
            hidden = F.linear(F.relu(hidden) if number else hidden, weight, bias)
        logits = hidden.float()
        if logits.shape[-1] == 1:
            return torch.sigmoid(logits[..., 0])
        return torch.softmax(logits, dim=-1)[..., -1]


@dataclass(frozen=True, slots=True)
class _View:
    """Rows that attend together, as tensors: R rows, T new tokens in each, L positions at most.

    numbers, positions [R x T]: of the rows and places that are written. mask [R, 1, queries, L],
    added to the scores: the query heads of one KV head are its queries, head by head, so that no
    key is repeated.
    """

    rows: Rows
    numbers: Tensor
    positions: Tensor
    mask: Tensor

    @staticmethod
    def of(rows: Rows, groups: int, dtype: torch.dtype, device: torch.device) -> _View:
        """groups: query heads of one KV head."""
        count = len(rows.starts)
        numbers = rows.first + torch.arange(count, device=device)
        starts = torch.tensor(rows.starts, device=device)
        positions = starts[:, None] + torch.arange(rows.width, device=device)
        later = torch.arange(rows.length, device=device) > positions[..., None]
        mask = torch.zeros(later.shape, dtype=dtype, device=device).masked_fill_(later, -torch.inf)
        mask = mask[:, None].repeat(1, 1, groups, 1)
        return _View(rows, numbers.repeat_interleave(rows.width), positions.flatten(), mask)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[R x T, heads x D] of q [R x T, heads, D] and k, v [R x T, KV heads, D], which are
        stored first."""
        slots, first, width = self.rows.slots, self.rows.first, self.rows.width
        slots.write(layer, self.numbers, self.positions, k, v)
        count, *_, length = self.mask.shape
        keys = slots.keys[layer, first : first + count, :, :length]
        values = slots.values[layer, first : first + count, :, :length]
        _, kv_heads, head_dim = k.shape
        q = q.view(count, width, kv_heads, -1, head_dim).permute(0, 2, 3, 1, 4)
        q = q.reshape(count, kv_heads, -1, head_dim)
        out = F.scaled_dot_product_attention(q, keys, values, attn_mask=self.mask)
        out = out.view(count, kv_heads, -1, width, head_dim).permute(0, 3, 1, 2, 4)
        return out.reshape(count * width, -1)


class _Block:
    """One layer's weights; q, k, v and gate, up are joined."""

    def __init__(self, weights: dict[str, Tensor], prefix: str) -> None:
        def get(name: str) -> Tensor:
            try:
                return weights[prefix + name]
            except KeyError:
                raise ModelError(f"weights lack {prefix + name}; the model is incomplete") from None

        heads = [f"self_attn.{name}_proj" for name in "qkv"]
        self.qkv = torch.cat([get(f"{name}.weight") for name in heads])
        biased = prefix + heads[0] + ".bias" in weights
        self.qkv_bias = torch.cat([get(f"{name}.bias") for name in heads]) if biased else None
        self.q_norm = weights.get(prefix + "self_attn.q_norm.weight")
        self.k_norm = weights.get(prefix + "self_attn.k_norm.weight")
        self.output = get("self_attn.o_proj.weight")
        self.gate_up = torch.cat([get("mlp.gate_proj.weight"), get("mlp.up_proj.weight")])
        self.down = get("mlp.down_proj.weight")
        self.input_norm = get("input_layernorm.weight")
        self.mlp_norm = get("post_attention_layernorm.weight")


def _reward_head(weights: dict[str, Tensor]) -> list[tuple[Tensor, Tensor | None]]:
    """Weight and bias of each layer of the reward head, ReLU between them; [] where there is none.

    `score`: token and sequence classifiers; `score.0`, `score.2`: Qwen2.5-Math-PRM and -RM;
    `v_head.summary`: a value head beside the vocabulary (TRL, Skywork-o1-Open-PRM).
    """
    for layers in (("score",), ("score.0", "score.2"), ("v_head.summary",)):
        if all(f"{name}.weight" in weights for name in layers):
            return [(weights[f"{n}.weight"], weights.get(f"{n}.bias")) for n in layers]
    return []


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding, half-split pairing; x [N, heads, D], cos and sin [N, 1, D / 2]."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _rope(config: dict[str, Any], head_dim: int, device: torch.device) -> tuple[Tensor, float]:
    """Inverse frequencies [D / 2] in fp32 and the scale on cos and sin."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    theta = rope.get("rope_theta") or config.get("rope_theta") or 10_000.0
    if kind != "default":
        from transformers import AutoConfig
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        if kind == "dynamic" or kind not in ROPE_INIT_FUNCTIONS:
            raise ModelError(f"rope type {kind!r} is not supported; use vllm/")
        model_type = config["model_type"]
        made = AutoConfig.for_model(**{**config, "model_type": model_type})
        inverse, scale = ROPE_INIT_FUNCTIONS[kind](made, device)
        return inverse.float(), float(scale)
    exponents = torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim
    return 1.0 / theta**exponents, 1.0
