"""The matrices of a model folder's safetensors, fused as the compact block multiplies them."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from metier.core.errors import ModelError
from metier.engine.weights import LayerWeights, LlamaShape, LlamaWeights

__all__ = ["num_weights", "read_weights", "weight_paths"]


def weight_paths(base_dir: Path) -> list[Path]:
    """The safetensors files of a model folder, in a fixed order.

    Raises:
        ModelError: the folder has none (pickled weights are never read).
    """
    index_path = base_dir / "model.safetensors.index.json"
    if index_path.exists():
        names = sorted(set(json.loads(index_path.read_text(encoding="utf-8"))["weight_map"].values()))
        return [base_dir / name for name in names]
    path = base_dir / "model.safetensors"
    if not path.exists():
        raise ModelError(f"{base_dir}: expected model.safetensors, found none; only safetensors are read.")
    return [path]


def num_weights(base_dir: Path) -> int:
    """How many numbers a model folder's safetensors hold: its size, whatever it computes.

    Raises:
        ModelError: the folder has no safetensors.
    """
    total = 0
    for path in weight_paths(base_dir):
        with safe_open(str(path), framework="pt") as file:
            total += sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118  # no mapping
    return total


def read_weights(paths: list[Path], shape: LlamaShape, dtype: torch.dtype, device: str) -> LlamaWeights:
    """All matrices in one dtype, q/k/v and gate/up fused; the first `shape.num_layers` layers of the file.

    Raises:
        ModelError: a weight is missing or has another shape than the config says.
    """
    files: list[Any] = [safe_open(str(path), framework="pt") for path in paths]  # Any: its methods are untyped
    file_of = {name: file for file in files for name in file.keys()}  # noqa: SIM118  # not a mapping

    def take(name: str, *size: int) -> Tensor:
        found = tuple(file_of[name].get_slice(name).get_shape()) if name in file_of else None
        if found != size:
            is_what = "is missing" if found is None else f"has shape {found}"
            raise ModelError(f"{paths[0].parent}: weight {name} {is_what}; config.json says {size}.")
        tensor: Tensor = file_of[name].get_tensor(name)
        return tensor.to(device=device, dtype=dtype)

    s = shape
    embed_VD = take("model.embed_tokens.weight", s.vocab, s.width)
    return LlamaWeights(
        shape=s,
        embed_VD=embed_VD,
        layers=[_read_layer(take, f"model.layers.{i}.", s) for i in range(s.num_layers)],
        norm_D=take("model.norm.weight", s.width),
        head_VD=embed_VD if s.tied_head else take("lm_head.weight", s.vocab, s.width),
    )


def _read_layer(take: Callable[..., Tensor], at: str, s: LlamaShape) -> LayerWeights:
    """One block; matrices with one input are fused, and so are their biases."""
    q_width, kv_width = s.num_heads * s.head_width, s.num_kv_heads * s.head_width
    fused = {
        "qkv": (s.has_qkv_bias, s.width, {"self_attn.q": q_width, "self_attn.k": kv_width, "self_attn.v": kv_width}),
        "out": (s.has_out_bias, q_width, {"self_attn.o": s.width}),
        "gate_up": (s.has_ff_bias, s.width, {"mlp.gate": s.ff_width, "mlp.up": s.ff_width}),
        "down": (s.has_ff_bias, s.ff_width, {"mlp.down": s.width}),
    }
    matrices, biases = {}, {}
    for name, (has_bias, width_in, parts) in fused.items():
        taken = [take(f"{at}{part}_proj.weight", out, width_in) for part, out in parts.items()]
        matrices[name] = torch.cat(taken) if len(taken) > 1 else taken[0]
        if has_bias:
            biases[name] = torch.cat([take(f"{at}{part}_proj.bias", out) for part, out in parts.items()])
    head_norm_HE = None
    if s.has_head_norm:
        parts = {"q": s.num_heads, "k": s.num_kv_heads}
        norms = [take(f"{at}self_attn.{part}_norm.weight", s.head_width).expand(n, -1) for part, n in parts.items()]
        head_norm_HE = torch.cat(norms)
    return LayerWeights(
        norm1_D=take(at + "input_layernorm.weight", s.width),
        norm2_D=take(at + "post_attention_layernorm.weight", s.width),
        biases=biases,
        head_norm_HE=head_norm_HE,
        **matrices,
    )
