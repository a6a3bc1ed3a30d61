"""Adapters in PEFT's file format, in and out, and new ones as PEFT would start them.

A folder holds `adapter_config.json` and `adapter_model.safetensors`; tensor names are
`base_model.model.model.layers.<i>.<self_attn|mlp>.<linear>.lora_<A|B>.weight`, fp32.
DoRA, per-layer ranks, biases and saved modules are refused, never dropped.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from metier.core.errors import ModelError
from metier.core.folders import storage_error, write_bytes, write_json
from metier.core.seeds import generator
from metier.engine.handle import AdapterSpec, Handle
from metier.engine.weights import LINEAR_NAMES, Adapter, LlamaShape, LowRank

__all__ = ["export_adapter", "linear_widths", "new_adapter", "read_adapter"]

# Masters of layers that share an input lie together, all A first, so that one product takes them as one view.
MASTER_GROUPS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))


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


def empty_adapter(shape: LlamaShape, spec: AdapterSpec, *, device: str = "cpu") -> Adapter:
    """An adapter of zeros: views of one fp32 buffer.

    Raises:
        ModelError: the rank or the first layer does not fit the base.
    """
    if not 0 <= spec.first_layer < shape.num_layers or spec.rank < 1:
        raise ModelError(
            f"adapter: rank {spec.rank}, first_layer {spec.first_layer}; expected a rank of 1 or more and a layer "
            f"below {shape.num_layers}, the layers of this base."
        )
    widths = linear_widths(shape)
    num_layers = shape.num_layers - spec.first_layer
    per_layer = sum(spec.rank * (width_in + width_out) for width_in, width_out in widths.values())
    masters_P = torch.zeros(num_layers * per_layer, dtype=torch.float32, device=device)
    layers: list[dict[str, LowRank]] = []
    at = 0
    for _ in range(num_layers):
        a: dict[str, Tensor] = {}
        b: dict[str, Tensor] = {}
        for group in MASTER_GROUPS:
            for part, side in ((a, 0), (b, 1)):
                for name in group:
                    width = widths[name][side]
                    view = masters_P[at : at + spec.rank * width]
                    part[name] = view.view(spec.rank, width) if side == 0 else view.view(width, spec.rank)
                    at += spec.rank * width
        layers.append({name: LowRank(a=a[name], b=b[name]) for name in LINEAR_NAMES})
    return Adapter(
        rank=spec.rank,
        scale=spec.alpha / spec.rank,
        first_layer=spec.first_layer,
        layers=layers,
        masters_P=masters_P,
    )


def new_adapter(shape: LlamaShape, spec: AdapterSpec, *, seed: int, device: str = "cpu") -> Adapter:
    """An adapter that changes nothing yet: A uniform in +-1/sqrt(in) as PEFT draws it, B zero."""
    adapter = empty_adapter(shape, spec, device=device)
    rng = generator(seed, "adapter")
    for layer in adapter.layers:
        for name in LINEAR_NAMES:
            a = layer[name].a
            bound = 1 / math.sqrt(a.shape[1])
            a.copy_(torch.from_numpy(rng.uniform(-bound, bound, size=tuple(a.shape)).astype(np.float32)))
    return adapter


def tensor_name(layer: int, linear: str, side: str) -> str:
    """The name PEFT gives one matrix of an adapter; `side` is A or B."""
    block = "self_attn" if linear in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
    return f"base_model.model.model.layers.{layer}.{block}.{linear}.lora_{side}.weight"


def export_adapter(handle: Handle, adapter_dir: Path) -> Path:
    """Write the adapter as PEFT files (fp32) into `adapter_dir`; returns the folder.

    Raises:
        ModelError: the handle has no adapter.
        StoreError: the folder cannot be written.
    """
    adapter = handle.require_adapter("export_adapter")
    tensors, config = handle.backend.adapter_files(adapter, base_name=handle.base_dir.name)
    try:
        adapter_dir.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise storage_error(adapter_dir, err) from err
    # Not safetensors' own save_file: on a full disk that raises an error of its own, which is no OSError.
    write_bytes(adapter_dir / "adapter_model.safetensors", save(tensors, metadata={"format": "pt"}))
    write_json(adapter_dir / "adapter_config.json", config)
    return adapter_dir


def adapter_tensors(adapter: Adapter) -> dict[str, Tensor]:
    """The matrices under PEFT's names, fp32."""
    tensors = {}
    for offset, layer in enumerate(adapter.layers):
        for name, low_rank in layer.items():
            at = adapter.first_layer + offset
            # clone: views of one buffer, which safetensors refuses to write
            tensors[tensor_name(at, name, "A")] = low_rank.a.detach().cpu().clone()
            tensors[tensor_name(at, name, "B")] = low_rank.b.detach().cpu().clone()
    return tensors


def peft_config(adapter: Adapter, shape: LlamaShape, *, base_name: str) -> dict[str, Any]:  # Any: JSON values
    """What PEFT and servers need to load the adapter."""
    adapted = list(range(adapter.first_layer, shape.num_layers))
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": adapter.rank,
        "lora_alpha": adapter.scale * adapter.rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        "target_modules": list(LINEAR_NAMES),
        # None means every layer; the list is written only where layers are left out.
        "layers_to_transform": adapted if adapter.first_layer else None,
        "layers_pattern": None,
        "rank_pattern": {},
        "alpha_pattern": {},
    }


def read_adapter(adapter_dir: Path, shape: LlamaShape, *, device: str = "cpu") -> Adapter:
    """The adapter of a PEFT folder.

    Raises:
        ModelError: a file is missing or unreadable, or the adapter is of a form that is not computed here.
    """
    config_path, tensor_path = adapter_dir / "adapter_config.json", adapter_dir / "adapter_model.safetensors"
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
        tensors = load_file(str(tensor_path))
    except (OSError, ValueError, SafetensorError) as err:
        raise ModelError(
            f"{adapter_dir}: not readable as an adapter ({err}); expected PEFT's adapter_config.json and "
            "adapter_model.safetensors."
        ) from err
    refuse_other_forms(config, config_path)
    layers = sorted({int(name.split(".layers.")[1].split(".")[0]) for name in tensors if ".layers." in name})
    first_layer = layers[0] if layers else 0
    rank = int(config["r"])
    alpha = float(config["lora_alpha"]) * (math.sqrt(rank) if config.get("use_rslora") else 1.0)
    spec = AdapterSpec(rank=rank, alpha=alpha, first_layer=first_layer)
    adapter = empty_adapter(shape, spec, device=device)
    for offset, layer in enumerate(adapter.layers):
        for name, low_rank in layer.items():
            for side, master in (("A", low_rank.a), ("B", low_rank.b)):
                key = tensor_name(first_layer + offset, name, side)
                found = tensors.pop(key, None)
                if found is None or found.shape != master.shape:
                    is_what = "is missing" if found is None else f"has shape {tuple(found.shape)}"
                    raise ModelError(
                        f"{tensor_path}: {key} {is_what}; expected {tuple(master.shape)}. All seven linear layers of "
                        f"layers {first_layer} to {shape.num_layers - 1} must be adapted."
                    )
                master.copy_(found)
    if tensors:
        raise ModelError(f"{tensor_path}: {sorted(tensors)[0]} has no place in this base. Is it another's adapter?")
    return adapter


def refuse_other_forms(config: dict[str, Any], config_path: Path) -> None:  # Any: JSON values
    """Raise `ModelError` for adapter forms that would be computed wrongly here."""
    plain: dict[str, tuple[Any, ...]] = {
        "peft_type": ("LORA",),
        "bias": ("none",),
        "use_dora": (None, False),
        "modules_to_save": (None, []),
        "rank_pattern": (None, {}),
        "alpha_pattern": (None, {}),
        "fan_in_fan_out": (None, False),
        "lora_bias": (None, False),
        "trainable_token_indices": (None, [], {}),
        "target_parameters": (None, []),
    }
    for key, accepted in plain.items():
        if config.get(key, accepted[0]) not in accepted:
            raise ModelError(
                f"{config_path}: {key} is {config[key]!r}; this version computes plain LoRA on linear layers "
                f"({key} = {accepted[0]!r})."
            )
