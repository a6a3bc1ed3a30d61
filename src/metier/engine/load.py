"""From a folder of safetensors to a `Handle` with fused matrices.

    >>> handle = load(Path("base"), adapter=AdapterSpec(rank=16, alpha=32.0))  # doctest: +SKIP

The architectures are those of `metier.engine.families`; anything else is refused with what was found. Fetches nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

import torch
from safetensors import safe_open
from torch import Tensor

from metier.core.errors import ModelError
from metier.core.hashing import file_sha256
from metier.engine.families import read_shape
from metier.engine.handle import AdapterSpec, Handle
from metier.engine.peft_files import new_adapter, read_adapter
from metier.engine.weights import LayerWeights, LlamaShape, LlamaWeights

__all__ = ["close", "load"]

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
