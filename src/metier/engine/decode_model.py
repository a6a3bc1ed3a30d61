"""Weights as decoding reads them: packed matrices, low-rank parts beside them, rotation factors.

Low-rank parts stay beside the frozen matrices instead of being merged: in bf16 an update smaller than half
a step of its weight (2**-9 of it) would vanish in the merge, and the evaluated model would not be the
trained one; several adapters can then share one base.

Shapes: N tokens, D model width, H query heads, K key/value heads, E head width, F feed-forward width,
R adapter rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metier.engine.decode_lowrank import LowRankStep
from metier.engine.lowrank import Working
from metier.engine.packed import Matrix
from metier.engine.products import GROUPS
from metier.engine.rotary import rotary_frequencies
from metier.engine.weights import Adapter, LlamaShape, LlamaWeights

__all__ = ["DecodeModel"]


@dataclass(slots=True)
class DecodeLayer:
    """The four products of one block."""

    norm1_D: Tensor
    """fp32, as is the other norm."""
    norm2_D: Tensor
    matrices: dict[str, Matrix]
    """By the names of `GROUPS`."""
    low_rank: dict[str, LowRankStep]
    """By the same names; empty where the layer is not adapted."""
    biases: dict[str, Tensor]
    """By the same names; empty in most families."""
    head_norm_HE: Tensor | None
    """fp32; the norm of each head's queries and keys, where the family has one."""


@dataclass(slots=True)
class DecodeModel:
    """Frozen weights with the adapter as it was when the decoder was made, ready for wide products."""

    weights: LlamaWeights
    dtype: torch.dtype
    layers: list[DecodeLayer]
    norm_D: Tensor
    """fp32."""
    head: Matrix
    rotation_TE: Tensor
    """complex64 (max_positions, E / 2)."""

    @classmethod
    def from_weights(cls, weights: LlamaWeights, adapter: Adapter | None, *, dtype: torch.dtype) -> DecodeModel:
        """Copies the adapter (small); the base is packed once a handle."""
        shape, device = weights.shape, weights.embed_VD.device
        layers, working = [], Working(adapter, weights, dtype)
        for i, base in enumerate(weights.layers):
            pairs = {name: working.pair(i, name) for name in GROUPS}
            low_rank = {
                name: LowRankStep.of(pair, getattr(base, name).shape[0])  # getattr: a group is called as its matrix
                for name, pair in pairs.items()
                if pair is not None
            }
            matrices = {
                "qkv": Matrix(base.qkv), "out": Matrix(base.out),
                "gate_up": Matrix(base.gate_up), "down": Matrix(base.down),
            }  # fmt: skip
            head_norm_HE = None if base.head_norm_HE is None else base.head_norm_HE.float()
            norms = base.norm1_D.float(), base.norm2_D.float()
            layers.append(DecodeLayer(*norms, matrices, low_rank, base.biases, head_norm_HE))
        rotation = rotary_factors(shape, device)
        return cls(weights, dtype, layers, weights.norm_D.float(), Matrix(weights.head_VD), rotation)

    def linear(self, layer: int, name: str, x_ND: Tensor, plus: Tensor | None = None) -> Tensor:
        """Product x W' with the low-rank part of this matrix, if the layer has one, plus a residual."""
        found = self.layers[layer]
        bias = found.biases.get(name)
        if bias is not None:
            plus = bias.expand(len(x_ND), -1).contiguous() if plus is None else plus + bias
        part, matrix = found.low_rank.get(name), found.matrices[name]
        return matrix.times(x_ND, plus) if part is None else part.linear(matrix, x_ND, plus)

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """(N, V) in the model's dtype."""
        return self.head.times(hidden_ND)


def rotary_factors(shape: LlamaShape, device: torch.device) -> Tensor:
    """Complex factors of every position, complex64 (max_positions, E / 2)."""
    frequency = rotary_frequencies(shape.head_width, shape.rope_theta, shape.rope_scaling, device=device)
    angle = torch.outer(torch.arange(shape.max_positions, device=device).float(), frequency)
    length = shape.rope_scaling.attention_factor if shape.rope_scaling else 1.0
    return torch.polar(torch.full_like(angle, length), angle)
