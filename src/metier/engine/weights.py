"""The weights of a Llama-family model, laid out for few, wide products.

q, k and v are one matrix, gate and up are one matrix, so a layer is four products instead of seven.
`Adapter` holds the low-rank parts in the PEFT order of names, each with fp32 masters.

Shapes: D model width, H query heads, K key/value heads, E head width, F feed-forward width,
V vocabulary, R adapter rank.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from metier.engine.rotary import RopeScaling

__all__ = ["LINEAR_NAMES", "Adapter", "LayerWeights", "LlamaShape", "LlamaWeights", "LowRank"]

LINEAR_NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of one block, in the order of use; adapters are named after them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LlamaShape:
    """The numbers that fix a Llama-family architecture."""

    num_layers: int
    width: int
    num_heads: int
    num_kv_heads: int
    head_width: int
    ff_width: int
    vocab: int
    max_positions: int
    rope_theta: float
    norm_eps: float
    tied_head: bool
    """Whether the output head is the embedding matrix."""
    rope_scaling: RopeScaling | None = None
    has_qkv_bias: bool = False
    has_out_bias: bool = False
    has_ff_bias: bool = False
    """Of gate, up and down."""
    has_head_norm: bool = False
    """Whether every head's queries and keys are normed before they are rotated (Qwen3)."""


@dataclass(slots=True)
class LayerWeights:
    """One block; matrices are (out, in) as in torch.nn.Linear."""

    norm1_D: Tensor
    qkv: Tensor
    """((H + 2 K) E, D): q rows, then k, then v."""
    out: Tensor
    """(D, H E)."""
    norm2_D: Tensor
    gate_up: Tensor
    """(2 F, D): gate rows, then up."""
    down: Tensor
    """(D, F)."""
    biases: dict[str, Tensor] = field(default_factory=dict)
    """By the names of the matrices; empty in most families."""
    head_norm_HE: Tensor | None = None
    """(H + K, E): the weight of each query head's norm, then of each key head's."""


@dataclass(slots=True)
class LlamaWeights:
    """A base model, frozen, in one dtype (bf16 or fp32)."""

    shape: LlamaShape
    embed_VD: Tensor
    layers: list[LayerWeights]
    norm_D: Tensor
    head_VD: Tensor
    """The embedding itself when the head is tied."""


@dataclass(slots=True)
class LowRank:
    """One adapted linear layer: y = x W' + scale (x A') B'."""

    a: Tensor
    """(R, in), fp32 master."""
    b: Tensor
    """(out, R), fp32 master."""


@dataclass(slots=True)
class Adapter:
    """LoRA on all linear layers of the top layers; layers below `first_layer` carry none."""

    rank: int
    scale: float
    """alpha / rank."""
    first_layer: int
    layers: list[dict[str, LowRank]] = field(default_factory=list)
    """One dict per adapted layer, from `first_layer` up, keyed by LINEAR_NAMES."""
    masters_P: Tensor = field(default_factory=lambda: torch.empty(0))
    """All masters in one fp32 buffer; every `a` and `b` is a view of it, so one step updates all."""
