"""Tensors as the bytes of one safetensors file, and a model's weights named as transformers names them.

The bytes come tensor by tensor, so writing or hashing a model holds no second copy of it. The same tensors give
the same bytes: safetensors' own writer puts the metadata in another order every time.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from metier.engine.weights import LlamaWeights

__all__ = ["file_bytes", "model_bytes", "model_sha256", "named_tensors", "tensor_bytes"]

DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16"}


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, in row order."""
    return tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data


def named_tensors(weights: LlamaWeights) -> Iterator[tuple[str, Tensor]]:
    """Every tensor under transformers' name, fused matrices cut into their layers; a tied head is left out."""
    s = weights.shape
    q_width, kv_width = s.num_heads * s.head_width, s.num_kv_heads * s.head_width
    yield "model.embed_tokens.weight", weights.embed_VD
    for i, layer in enumerate(weights.layers):
        at = f"model.layers.{i}."
        yield at + "input_layernorm.weight", layer.norm1_D
        yield at + "post_attention_layernorm.weight", layer.norm2_D
        fused = {
            "qkv": {"self_attn.q": q_width, "self_attn.k": kv_width, "self_attn.v": kv_width},
            "out": {"self_attn.o": s.width},
            "gate_up": {"mlp.gate": s.ff_width, "mlp.up": s.ff_width},
            "down": {"mlp.down": s.width},
        }
        for group, parts in fused.items():
            matrix: Tensor = getattr(layer, group)  # getattr: a group is called as its matrix
            for part, rows in zip(parts, torch.split(matrix, list(parts.values())), strict=True):
                yield f"{at}{part}_proj.weight", rows
            if group in layer.biases:
                for part, values in zip(parts, torch.split(layer.biases[group], list(parts.values())), strict=True):
                    yield f"{at}{part}_proj.bias", values
        if layer.head_norm_HE is not None:
            yield at + "self_attn.q_norm.weight", layer.head_norm_HE[0]
            yield at + "self_attn.k_norm.weight", layer.head_norm_HE[s.num_heads]
    yield "model.norm.weight", weights.norm_D
    if not s.tied_head:
        yield "lm_head.weight", weights.head_VD


def file_bytes(tensors: Mapping[str, Tensor], *, tuned_on: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """A safetensors file in pieces; its metadata names the base that its tensors were tuned on, by its hashes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt", **tuned_on}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format wants tensors to start at a multiple of 8
    yield struct.pack("<Q", len(text)) + text
    for tensor in tensors.values():
        yield tensor_bytes(tensor)


def model_bytes(weights: LlamaWeights, *, base_sha256: str) -> Iterator[bytes | memoryview]:
    """A model as a safetensors file in pieces."""
    return file_bytes(dict(named_tensors(weights)), tuned_on={"base_sha256": base_sha256})


def model_sha256(weights: LlamaWeights, *, base_sha256: str) -> str:
    """SHA-256 of the file that `model_bytes` makes."""
    digest = hashlib.sha256()
    for piece in model_bytes(weights, base_sha256=base_sha256):
        digest.update(piece)
    return digest.hexdigest()
