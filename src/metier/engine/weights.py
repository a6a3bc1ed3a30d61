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

from metier.core.tune_config import LINEAR_NAMES, Method
from metier.engine.rotary import RopeScaling

__all__ = ["LINEAR_NAMES", "Adapter", "LayerWeights", "LlamaShape", "LlamaWeights", "LowRank", "linear_widths"]


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


def linear_widths(shape: LlamaShape) -> dict[str, tuple[int, int]]:
    """(in, out) of every linear layer of a block, by name."""
    q_width, kv_width = shape.num_heads * shape.head_width, shape.num_kv_heads * shape.head_width
    return {
        "q_proj": (shape.width, q_width),
        "k_proj": (shape.width, kv_width),
        "v_proj": (shape.width, kv_width),
        "o_proj": (q_width, shape.width),
        "gate_proj": (shape.width, shape.ff_width),
        "up_proj": (shape.width, shape.ff_width),
        "down_proj": (shape.ff_width, shape.width),
    }


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
    """One adapted linear layer: y = x W' + scale (x A') B', under DoRA each output brought to its magnitude."""

    a: Tensor
    """(R, in), fp32 master."""
    b: Tensor
    """(out, R), fp32 master."""
    magnitude: Tensor | None = None
    """(out,), fp32 master; of DoRA alone."""


@dataclass(slots=True)
class Adapter:
    """Low-rank parts on linear layers of the top layers; layers below `first_layer` carry none."""

    rank: int
    scale: float
    """alpha / rank, under rsLoRA alpha / sqrt(rank)."""
    first_layer: int
    layers: list[dict[str, LowRank]] = field(default_factory=list)
    """One dict per adapted layer, from `first_layer` up, keyed by the `targets`."""
    masters_P: Tensor = field(default_factory=lambda: torch.empty(0))
    """All masters in one fp32 buffer; every `a`, `b` and `magnitude` is a view of it, so one step updates all."""
    method: Method = "lora"
    alpha: float = 0.0
    targets: tuple[str, ...] = LINEAR_NAMES
    """The adapted linear layers, in the order of LINEAR_NAMES."""
    num_decayed: int = 0
    """Masters that weight decay pulls to zero: all but DoRA's magnitudes, which stand last."""

    @property
    def form(self) -> list[object]:
        """What two adapters of one form have in common, as JSON values."""
        return [self.method, self.rank, self.scale, self.first_layer, list(self.targets)]
