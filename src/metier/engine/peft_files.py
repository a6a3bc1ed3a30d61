"""Adapters in PEFT's file format, in and out, and new ones as PEFT would start them.

A folder holds `adapter_config.json` and `adapter_model.safetensors`; tensor names are
`base_model.model.model.layers.<i>.<self_attn|mlp>.<linear>.lora_<A|B>.weight`, under DoRA also
`...<linear>.lora_magnitude_vector`, fp32. The metadata of the file names the base it was tuned on, which
PEFT passes over. Per-layer ranks, biases, saved modules and whatever else would be another function are
refused, never dropped.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from metier.core.errors import ModelError
from metier.core.folders import storage_error, write_json, write_pieces
from metier.core.seeds import generator
from metier.engine.handle import AdapterSpec, Handle
from metier.engine.model_bytes import file_bytes
from metier.engine.products import GROUPS
from metier.engine.weights import LINEAR_NAMES, Adapter, LlamaShape, LowRank, linear_widths

__all__ = ["export_adapter", "new_adapter", "read_adapter", "refuse_other_base"]


def empty_adapter(shape: LlamaShape, spec: AdapterSpec, *, device: str = "cpu") -> Adapter:
    """An adapter of zeros: views of one fp32 buffer."""
    widths, targets = linear_widths(shape), spec.named_targets
    num_layers = shape.num_layers - spec.first_layer
    low_rank = num_layers * sum(spec.rank * sum(widths[name]) for name in targets)
    lengths = num_layers * sum(widths[name][1] for name in targets) if spec.method == "dora" else 0
    masters_P = torch.zeros(low_rank + lengths, dtype=torch.float32, device=device)
    layers: list[dict[str, LowRank]] = []
    at = 0

    def take(*size: int) -> Tensor:
        nonlocal at
        at += math.prod(size)
        return masters_P[at - math.prod(size) : at].view(size)

    for _ in range(num_layers):
        a: dict[str, Tensor] = {}
        b: dict[str, Tensor] = {}
        for group in GROUPS.values():
            adapted = [name for name in group if name in targets]
            # Masters of layers that share an input lie together, all A first.
            a |= {name: take(spec.rank, widths[name][0]) for name in adapted}
            b |= {name: take(widths[name][1], spec.rank) for name in adapted}
        layers.append({name: LowRank(a=a[name], b=b[name]) for name in targets})
    if lengths:
        for layer in layers:
            for name in targets:
                layer[name].magnitude = take(widths[name][1])
    return Adapter(
        rank=spec.rank,
        scale=spec.scale,
        first_layer=spec.first_layer,
        layers=layers,
        masters_P=masters_P,
        method=spec.method,
        alpha=spec.alpha,
        targets=targets,
        num_decayed=low_rank,
    )


def new_adapter(shape: LlamaShape, spec: AdapterSpec, *, seed: int, device: str = "cpu") -> Adapter:
    """An adapter that changes nothing yet: A uniform in +-1/sqrt(in) as PEFT draws it, B zero."""
    adapter = empty_adapter(shape, spec, device=device)
    rng = generator(seed, "adapter")
    for layer in adapter.layers:
        for low_rank in layer.values():
            a = low_rank.a
            bound = 1 / math.sqrt(a.shape[1])
            a.copy_(torch.from_numpy(rng.uniform(-bound, bound, size=tuple(a.shape)).astype(np.float32)))
    return adapter


def tensor_name(layer: int, linear: str, side: str) -> str:
    """The name PEFT gives one tensor of an adapter; `side` is A, B or magnitude."""
    block = "self_attn" if linear in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
    end = "lora_magnitude_vector" if side == "magnitude" else f"lora_{side}.weight"
    return f"base_model.model.model.layers.{layer}.{block}.{linear}.{end}"


def _sides(low_rank: LowRank) -> dict[str, Tensor]:
    """The tensors of one adapted layer, by side."""
    sides = {"A": low_rank.a, "B": low_rank.b}
    return sides if low_rank.magnitude is None else {**sides, "magnitude": low_rank.magnitude}


def export_adapter(handle: Handle, adapter_dir: Path) -> Path:
    """Write the adapter as PEFT files (fp32) into `adapter_dir`; returns the folder.

    Raises:
        ModelError: the handle has no adapter.
        StoreError: the folder cannot be written.
    """
    adapter = handle.require_adapter("export_adapter")
    tensors, config = handle.backend.adapter_files(adapter, base_name=handle.base_dir.name)
    tuned_on = {"base_sha256": handle.base_sha256, "base_config_sha256": handle.config_sha256}
    try:
        adapter_dir.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise storage_error(adapter_dir, err) from err
    write_pieces(adapter_dir / "adapter_model.safetensors", file_bytes(tensors, tuned_on=tuned_on))
    write_json(adapter_dir / "adapter_config.json", config)
    return adapter_dir


def adapter_tensors(adapter: Adapter) -> dict[str, Tensor]:
    """The matrices under PEFT's names, fp32."""
    tensors = {}
    for offset, layer in enumerate(adapter.layers):
        for name, low_rank in layer.items():
            for side, master in _sides(low_rank).items():
                tensors[tensor_name(adapter.first_layer + offset, name, side)] = master
    return tensors


def peft_config(adapter: Adapter, shape: LlamaShape, *, base_name: str) -> dict[str, Any]:  # Any: JSON values
    """What PEFT and servers need to load the adapter."""
    adapted = list(range(adapter.first_layer, shape.num_layers))
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "use_rslora": adapter.method == "rslora",
        "use_dora": adapter.method == "dora",
        "modules_to_save": None,
        "target_modules": list(adapter.targets),
        # None means every layer; the list is written only where layers are left out.
        "layers_to_transform": adapted if adapter.first_layer else None,
        "layers_pattern": None,
        "rank_pattern": {},
        "alpha_pattern": {},
    }


def refuse_other_base(adapter_dir: Path, handle: Handle) -> None:
    """Refuse an adapter whose file names other weights, or another config, than those it was loaded onto.

    Raises:
        ModelError: it does.
    """
    tensor_path = adapter_dir / "adapter_model.safetensors"
    with safe_open(str(tensor_path), framework="pt") as file:
        named = file.metadata() or {}
    for key, here, what in (
        ("base_sha256", handle.base_sha256, "base"),
        ("base_config_sha256", handle.config_sha256, "config.json"),
    ):
        tuned_on = named.get(key, here)  # files of other makers name neither
        if tuned_on != here:
            raise ModelError(
                f"{tensor_path}: tuned on {what} {tuned_on[:12]}, but this {what} is {here[:12]}; its outputs would "
                "be of no model that was ever measured. Load it onto its own base, or tune again."
            )


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
            "adapter_model.safetensors, both whole. Restore them from a copy, or delete the folder and tune again."
        ) from err
    refuse_other_forms(config, config_path)
    adapter = empty_adapter(shape, _spec_of(config, tensors, shape, tensor_path), device=device)
    _fill(adapter, tensors, shape, tensor_path)
    return adapter


def _spec_of(
    config: dict[str, Any], tensors: dict[str, Tensor], shape: LlamaShape, tensor_path: Path
) -> AdapterSpec:  # Any: JSON values
    """The form of an adapter, from its config and the names of its tensors."""
    found = [name.split(".") for name in tensors if ".layers." in name and ".lora_A." in name]
    layers = sorted({int(parts[parts.index("layers") + 1]) for parts in found})
    targets = {parts[parts.index("lora_A") - 1] for parts in found} & set(LINEAR_NAMES)
    if not layers or layers[0] >= shape.num_layers or not targets:
        raise ModelError(f"{tensor_path}: no adapted layer that this base has. Is it another's adapter?")
    return AdapterSpec(
        rank=int(config["r"]),
        alpha=float(config["lora_alpha"]),
        first_layer=layers[0],
        method="dora" if config.get("use_dora") else "rslora" if config.get("use_rslora") else "lora",
        targets=tuple(name for name in LINEAR_NAMES if name in targets),
    )


def _fill(adapter: Adapter, tensors: dict[str, Tensor], shape: LlamaShape, tensor_path: Path) -> None:
    """Copy the tensors of a file to their places; every place and every tensor must have its other."""
    for at, layer in enumerate(adapter.layers, start=adapter.first_layer):
        for name, low_rank in layer.items():
            for side, master in _sides(low_rank).items():
                key = tensor_name(at, name, side)
                found = tensors.pop(key, None)
                if found is None or found.shape != master.shape:
                    is_what = "is missing" if found is None else f"has shape {tuple(found.shape)}"
                    raise ModelError(
                        f"{tensor_path}: {key} {is_what}; expected {tuple(master.shape)}. Layers "
                        f"{adapter.first_layer} to {shape.num_layers - 1} must be adapted alike, in "
                        f"{', '.join(adapter.targets)}. Is it another base's adapter?"
                    )
                master.copy_(found)
    if tensors:
        raise ModelError(f"{tensor_path}: {sorted(tensors)[0]} has no place in this base. Is it another's adapter?")


PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "modules_to_save": (None, []),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "fan_in_fan_out": (None, False),
    "lora_bias": (None, False),
    "trainable_token_indices": (None, [], {}),
    "target_parameters": (None, []),
    "layer_replication": (None, []),
    "use_qalora": (None, False),
    "use_bdlora": (None, False),
    "alora_invocation_tokens": (None, []),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "monteclora_config": (None,),
    "velora_config": (None,),
    # Other starts (PiSSA, OLoRA, CorDA, LoftQ) also change the base's weights.
    "init_lora_weights": (None, True, False, "gaussian", "orthogonal", "eva"),
}
"""Settings of PEFT under which LoRA, rsLoRA and DoRA are the functions computed here."""  # Any: JSON values


def refuse_other_forms(config: dict[str, Any], config_path: Path) -> None:  # Any: JSON values
    """Raise `ModelError` for adapter forms that would be computed wrongly here."""
    for key, accepted in PLAIN.items():
        if config.get(key, accepted[0]) not in accepted:
            raise ModelError(
                f"{config_path}: {key} is {config[key]!r}; this version computes plain LoRA, rsLoRA and DoRA on linear "
                f"layers ({key} = {accepted[0]!r})."
            )
    if config.get("use_dora") and config.get("use_rslora"):
        raise ModelError(f"{config_path}: use_dora and use_rslora are both true; this version computes one of them.")
