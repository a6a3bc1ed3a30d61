"""From a folder of safetensors to a `Handle` with fused matrices.

    >>> handle = load(Path("base"), adapter=AdapterSpec(rank=16, alpha=32.0))  # doctest: +SKIP

Reads the Llama family only where the compact block is known to be the same function as
transformers' own module; anything else is refused with what was found. Fetches nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from safetensors import safe_open
from torch import Tensor

from metier.core.errors import ModelError
from metier.core.hashing import file_sha256
from metier.engine.handle import AdapterSpec, Handle
from metier.engine.peft_files import new_adapter, read_adapter
from metier.engine.weights import LayerWeights, LlamaShape, LlamaWeights

__all__ = ["close", "load", "read_shape"]

DtypeName = Literal["bf16", "fp32", "auto"]


class ModelFolder(Protocol):
    """What `metier.models.resolve` returns, as far as loading needs it."""

    @property
    def dir(self) -> Path:
        """Folder with config.json and safetensors."""
        ...


def load(
    base: ModelFolder | Path,
    *,
    adapter: AdapterSpec | Path | None = None,
    seed: int = 0,
    dtype: DtypeName = "auto",
    threads: int | None = None,
    device: str = "cpu",
) -> Handle:
    """Load a base model, with a new adapter (drawn from `seed`), one from a PEFT folder, or none.

    Raises:
        ModelError: a file is missing, the architecture is not one the compact block computes, or the
            adapter does not fit the base.
    """
    base_dir = base if isinstance(base, Path) else base.dir
    shape = read_shape(base_dir)
    use_dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}.get(dtype) or fastest_dtype(shape, device)
    paths = weight_paths(base_dir)
    weights = _read_weights(paths, shape, use_dtype, device)
    handle = Handle(
        weights=weights,
        adapter=None,
        dtype=use_dtype,
        threads=threads or len(os.sched_getaffinity(0)),
        base_dir=base_dir,
        base_sha256=_sha256_of(paths),
    )
    if isinstance(adapter, AdapterSpec):
        handle.adapter = new_adapter(shape, adapter, seed=seed, device=device)
    elif adapter is not None:
        handle.adapter = read_adapter(adapter, shape, device=device)
    return handle


def close(handle: Handle) -> None:
    """Stop the worker threads of the handle; its weights go when the last reference does."""
    while handle.closers:
        handle.closers.pop()()
    handle.trainer = None


def read_shape(base_dir: Path) -> LlamaShape:
    """The architecture a folder's config.json names.

    Raises:
        ModelError: no config.json, or an architecture the compact block does not compute.
    """
    config_path = base_dir / "config.json"
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise ModelError(
            f"{config_path}: not readable ({err}); expected a model folder with config.json and safetensors."
        ) from err
    _refuse_other_families(config, config_path)
    heads = int(config["num_attention_heads"])
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return LlamaShape(
        num_layers=int(config["num_hidden_layers"]),
        width=int(config["hidden_size"]),
        num_heads=heads,
        num_kv_heads=int(config.get("num_key_value_heads") or heads),
        head_width=int(config.get("head_dim") or config["hidden_size"] // heads),
        ff_width=int(config["intermediate_size"]),
        vocab=int(config["vocab_size"]),
        max_positions=int(config["max_position_embeddings"]),
        rope_theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0),
        norm_eps=float(config["rms_norm_eps"]),
        tied_head=bool(config.get("tie_word_embeddings", False)),
    )


def _refuse_other_families(config: Mapping[str, Any], config_path: Path) -> None:  # Any: JSON values
    """Raise `ModelError` unless the compact block is this architecture's own function."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    wrong = {
        "model_type": config.get("model_type") not in ("llama", "mistral"),
        "hidden_act": config.get("hidden_act", "silu") != "silu",
        "attention_bias": bool(config.get("attention_bias")),
        "mlp_bias": bool(config.get("mlp_bias")),
        "sliding_window": config.get("sliding_window") is not None,
        "rope_parameters": rope.get("rope_type", rope.get("type", "default")) != "default",
        "quantization_config": config.get("quantization_config") is not None,
    }
    for name in [name for name, is_wrong in wrong.items() if is_wrong]:
        raise ModelError(
            f"{config_path}: {name} is {config.get(name)!r}; this version computes Llama and Mistral without "
            "sliding windows, biases, scaled rotary positions or quantised weights. Choose such a base."
        )


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


def _read_weights(paths: list[Path], shape: LlamaShape, dtype: torch.dtype, device: str) -> LlamaWeights:
    """All matrices in one dtype, q/k/v and gate/up fused."""
    found: dict[str, Tensor] = {}
    for path in paths:
        with safe_open(str(path), framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # a safetensors file is not a mapping
                found[name] = file.get_tensor(name)

    def take(name: str, *size: int) -> Tensor:
        tensor = found.pop(name, None)
        if tensor is None or tuple(tensor.shape) != size:
            is_what = "is missing" if tensor is None else f"has shape {tuple(tensor.shape)}"
            raise ModelError(f"{paths[0].parent}: weight {name} {is_what}; config.json says {size}.")
        return tensor.to(device=device, dtype=dtype)

    s = shape
    q_width, kv_width = s.num_heads * s.head_width, s.num_kv_heads * s.head_width
    layers = []
    for i in range(s.num_layers):
        at = f"model.layers.{i}."
        attn, ff = at + "self_attn.", at + "mlp."
        qkv = [
            take(f"{attn}{part}_proj.weight", width, s.width)
            for part, width in (("q", q_width), ("k", kv_width), ("v", kv_width))
        ]
        layers.append(
            LayerWeights(
                norm1_D=take(at + "input_layernorm.weight", s.width),
                qkv=torch.cat(qkv),
                out=take(attn + "o_proj.weight", s.width, q_width),
                norm2_D=take(at + "post_attention_layernorm.weight", s.width),
                gate_up=torch.cat([take(f"{ff}{part}_proj.weight", s.ff_width, s.width) for part in ("gate", "up")]),
                down=take(ff + "down_proj.weight", s.width, s.ff_width),
            )
        )
    embed_VD = take("model.embed_tokens.weight", s.vocab, s.width)
    head_VD = embed_VD if s.tied_head else take("lm_head.weight", s.vocab, s.width)
    return LlamaWeights(
        shape=s, embed_VD=embed_VD, layers=layers, norm_D=take("model.norm.weight", s.width), head_VD=head_VD
    )


def _sha256_of(paths: list[Path]) -> str:
    """SHA-256 of one file's bytes, or of the hashes of several."""
    if len(paths) == 1:
        return file_sha256(paths[0])
    return hashlib.sha256("".join(file_sha256(path) for path in paths).encode()).hexdigest()


def fastest_dtype(shape: LlamaShape, device: str = "cpu", *, rows: int = 256) -> torch.dtype:
    """bf16 or fp32, whichever multiplies faster here; bf16 on an accelerator.

    Two CPUs of one price differ fourfold in this, so it is measured (some 30 milliseconds, best of 15,
    alternating) and fp32 is kept unless bf16 is at least 1.2 times as fast.
    """
    if device != "cpu":
        return torch.bfloat16
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    pairs = {
        dtype: (torch.ones(rows, shape.width, dtype=dtype), torch.ones(shape.ff_width, shape.width, dtype=dtype))
        for dtype in best
    }
    for _ in range(15):
        for dtype, (x, w) in pairs.items():
            start = time.perf_counter()
            torch.nn.functional.linear(x, w)
            best[dtype] = min(best[dtype], time.perf_counter() - start)
    return torch.bfloat16 if best[torch.bfloat16] * 1.2 < best[torch.float32] else torch.float32
