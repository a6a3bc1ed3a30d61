"""transformers' own modules as a backend: any causal language model, slower than the compact block.

Adapters are PEFT's, injected by PEFT into the linear layers of the blocks; their matrices are views of one fp32 buffer,
as in the compact block, so the loop, the checkpoints and the export are the same.

What is not done here: DoRA and full tuning (refused), experts stored as one tensor (they carry no adapter), models
that keep a state instead of keys and values (they train and score, but are not decoded).
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from metier.core.errors import ModelError
from metier.core.seeds import generator
from metier.engine.fused_head import PLAIN, ModuleHead, head_for
from metier.engine.handle import AdapterSpec
from metier.engine.module_rows import ModuleRows
from metier.engine.module_stack import ModuleTrainee
from metier.engine.peft_files import refuse_other_forms
from metier.engine.weights import Adapter, LlamaShape, LlamaWeights, LowRank

__all__ = ["ModuleAdapter", "ModuleBackend", "load_module"]

PEFT_PREFIX = "base_model.model."
MAMBAS = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")
"""Model types that keep a state."""
READ_AROUND = (".out_proj", ".dt_proj")
"""Their layers whose weights are multiplied directly: an adapter on them would do nothing; the first PEFT refuses."""
INJECTED = "default"
"""PEFT's name of the one adapter."""
_BLOCK = re.compile(r"\.(\d+)\.")
"""The number of its block in the path of a layer."""


@dataclass(slots=True)
class ModuleAdapter(Adapter):
    """Low-rank parts inside a module; each dict of `layers` is keyed by the path within its block."""

    paths: dict[str, LowRank] = field(default_factory=dict)
    """By the full path of the adapted layer, in the order of the masters."""


class ModuleBackend:
    """A model class of transformers, frozen, in evaluation mode."""

    name = "transformers"

    def __init__(
        self,
        module: Any,  # Any: by config
        shape: LlamaShape,
        dtype: torch.dtype,
        *,
        why: str,
        head: ModuleHead = PLAIN,
    ) -> None:
        self.module, self._shape, self.dtype, self.why, self.head = module, shape, dtype, why, head

    @property
    def shape(self) -> LlamaShape:
        """The numbers that size its memory and time, as near as a Llama has them."""
        return self._shape

    @property
    def device(self) -> torch.device:
        """Where its embedding is."""
        device: torch.device = self.module.get_input_embeddings().weight.device
        return device

    @property
    def weights(self) -> LlamaWeights:
        """Never there.

        Raises:
            ModelError: always; what asks for fused matrices works on the compact block alone.
        """
        raise ModelError(
            f"this base is computed by transformers' own modules ({self.why}); what was asked for needs the compact "
            "block. Leave it out, or choose a Llama, Mistral, Qwen2 or Qwen3 base."
        )

    def adapter(self, wanted: AdapterSpec | Path, *, seed: int) -> Adapter:
        """A new adapter drawn from `seed` on all linear layers of the blocks, or the one of a PEFT folder.

        Raises:
            ModelError: it does not fit the base.
        """
        if isinstance(wanted, AdapterSpec):
            if wanted.method in ("dora", "full"):
                raise ModelError(
                    f"method {wanted.method!r} needs the compact block, but this base is computed by transformers' own "
                    f"modules ({self.why}). Set tune.method to 'lora' or 'rslora', or choose another base."
                )
            paths = self._wanted_paths(wanted)
            self._require_fit(wanted, paths)
            adapter = self._inject(wanted, paths)
            _draw(adapter, seed)
            return adapter
        return self._read(wanted)

    def form_of(self, wanted: AdapterSpec) -> list[object]:
        """The form an adapter of this spec has: which layers it names depends on the module."""
        paths = self._wanted_paths(wanted)
        return [wanted.method, wanted.rank, wanted.scale, min(map(_layer_of, paths)), _last_names(paths)]

    def adapter_files(self, adapter: Adapter, *, base_name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and config as PEFT stores them."""  # Any: JSON values
        assert isinstance(adapter, ModuleAdapter), "made by this backend"
        tensors = {}
        for path, low_rank in adapter.paths.items():
            tensors[f"{PEFT_PREFIX}{path}.lora_A.weight"] = low_rank.a.detach().cpu().clone()
            tensors[f"{PEFT_PREFIX}{path}.lora_B.weight"] = low_rank.b.detach().cpu().clone()
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base_name,
            "r": adapter.rank,
            "lora_alpha": adapter.alpha,
            "use_rslora": adapter.method == "rslora",
            "lora_dropout": 0.0,
            "bias": "none",
            "inference_mode": True,
            "target_modules": _targets(list(adapter.paths), self._linear_paths(0)),
            "fan_in_fan_out": self._is_transposed(),
        }
        return tensors, config

    def trainee(self, trained: Adapter | None) -> ModuleTrainee:
        """One worker through autograd; all cores work inside its operators."""
        return ModuleTrainee(self.module, trained, self.head, vocab=self.shape.vocab)

    def rows(self, adapter: Adapter | None, *, max_batch: int, max_tokens_total: int) -> ModuleRows:  # noqa: ARG002  # the decoder bounds the batch
        """Rows in transformers' own cache; the adapter is inside the module."""
        return ModuleRows(self.module)

    def _wanted_paths(self, spec: AdapterSpec) -> list[str]:
        """Paths of the linear layers that a spec names."""
        paths = self._linear_paths(spec.first_layer)
        if spec.targets:
            paths = [path for path in paths if path.rpartition(".")[2] in spec.targets]
        if not paths:
            raise ModelError(
                f"adapter: this base has no linear layer called {' or '.join(spec.targets)}; it has "
                f"{', '.join(_last_names(self._linear_paths(0)))}. Leave tune.targets out: it adapts them all."
            )
        return paths

    def _require_fit(self, spec: AdapterSpec, paths: Sequence[str]) -> None:
        """Raise `ModelError` for a rank above what one of the layers can use."""
        sizes = {path: _sizes(self.module.get_submodule(path)) for path in paths}
        path = min(sizes, key=lambda each: min(sizes[each]))
        if spec.rank > min(sizes[path]):
            raise ModelError(
                f"adapter: rank {spec.rank} is larger than {path} can use: its matrix is {sizes[path][0]} x "
                f"{sizes[path][1]}, so {min(sizes[path])} is full rank. Set tune.rank to at most that, or leave the "
                "layer out by tune.targets."
            )

    def _linear_paths(self, first_layer: int) -> list[str]:
        """Paths of the linear layers of the blocks from `first_layer` up; not those of an adapter inside them."""
        from transformers.pytorch_utils import Conv1D

        found = []
        for path, part in self.module.named_modules():
            number = _BLOCK.search(path)
            is_low_rank = ".lora_" in path or self._is_read_around(path)
            if (
                number
                and not is_low_rank
                and isinstance(part, torch.nn.Linear | Conv1D)
                and int(number[1]) >= first_layer
            ):
                found.append(path.removesuffix(".base_layer"))
        if not found:
            raise ModelError(
                f"adapter: {type(self.module).__name__} has no linear layer in a block from {first_layer} up; it "
                "cannot carry a low-rank adapter. Choose another base."
            )
        return found

    def _is_read_around(self, path: str) -> bool:
        """Whether a model that keeps a state multiplies with this layer's weights without calling the layer."""
        return self.module.config.model_type in MAMBAS and path.removesuffix(".base_layer").endswith(READ_AROUND)

    def _is_transposed(self) -> bool:
        """Whether the blocks' layers are GPT-2's Conv1D, whose weights are (in, out)."""
        from transformers.pytorch_utils import Conv1D

        return any(isinstance(part, Conv1D) for part in self.module.modules())

    def _inject(self, spec: AdapterSpec, paths: Sequence[str]) -> ModuleAdapter:
        """PEFT's layers around these paths, zero, as views of one buffer."""
        from peft import LoraConfig, inject_adapter_in_model

        if not 0 <= spec.first_layer < self.shape.num_layers or spec.rank < 1:
            raise ModelError(
                f"adapter: rank {spec.rank}, first_layer {spec.first_layer}; expected a rank of 1 or more and a layer "
                f"below {self.shape.num_layers}, the layers of this base."
            )
        config = LoraConfig(
            r=spec.rank, lora_alpha=spec.alpha, target_modules=list(paths), fan_in_fan_out=self._is_transposed(),
            use_rslora=spec.method == "rslora",
        )  # fmt: skip
        inject_adapter_in_model(config, self.module)
        self.module.requires_grad_(False)
        adapter = ModuleAdapter(
            rank=spec.rank, scale=spec.scale, first_layer=min(map(_layer_of, paths)), method=spec.method,
            alpha=spec.alpha, targets=tuple(_last_names(paths)),
        )  # fmt: skip
        adapter.layers = [{} for _ in range(self.shape.num_layers - adapter.first_layer)]
        parts = {path: self.module.get_submodule(path) for path in paths}
        # getattr: PEFT names the two matrices alike, as attributes of the layer.
        sizes = [getattr(part, side)[INJECTED].weight.shape for part in parts.values() for side in ("lora_A", "lora_B")]
        adapter.masters_P = torch.zeros(sum(math.prod(size) for size in sizes), device=self.device)
        adapter.num_decayed = adapter.masters_P.numel()
        at = 0
        for path, part in parts.items():
            views = []
            for side in ("lora_A", "lora_B"):
                linear = getattr(part, side)[INJECTED]  # getattr: PEFT names the two alike
                size = linear.weight.shape
                views.append(adapter.masters_P[at : at + math.prod(size)].view(size))
                linear.weight = torch.nn.Parameter(views[-1])
                at += math.prod(size)
            adapter.paths[path] = LowRank(*views)
            adapter.layers[_layer_of(path) - adapter.first_layer][_BLOCK.split(path, maxsplit=1)[2]] = adapter.paths[
                path
            ]
        return adapter

    def _read(self, adapter_dir: Path) -> ModuleAdapter:
        """The adapter of a PEFT folder, its layers named by its tensors."""
        config_path, tensor_path = adapter_dir / "adapter_config.json", adapter_dir / "adapter_model.safetensors"
        try:
            config = json.loads(config_path.read_text(encoding="utf-8"))
            tensors = load_file(str(tensor_path))
        except (OSError, ValueError, SafetensorError) as err:
            raise ModelError(
                f"{adapter_dir}: not readable as an adapter ({err}); expected PEFT's adapter_config.json and "
                "adapter_model.safetensors."
            ) from err
        refuse_other_forms({**config, "fan_in_fan_out": False}, config_path)
        if config.get("use_dora"):
            raise ModelError(
                f"{config_path}: use_dora is true, which needs the compact block, but this base is computed by "
                f"transformers' own modules ({self.why}). Choose another base, or an adapter without it."
            )
        suffix = ".lora_A.weight"
        named = {name.removeprefix(PEFT_PREFIX).removesuffix(suffix) for name in tensors if name.endswith(suffix)}
        paths = [path for path in self._linear_paths(0) if path in named]
        foreign = sorted(named - set(paths))
        if foreign or not paths:
            raise ModelError(f"{tensor_path}: {(foreign or ['no layer'])[0]} has no place in this base.")
        adapter = self._inject(AdapterSpec(
            rank=int(config["r"]), alpha=float(config["lora_alpha"]), first_layer=min(map(_layer_of, paths)),
            method="rslora" if config.get("use_rslora") else "lora",
        ), paths)  # fmt: skip
        for path, low_rank in adapter.paths.items():
            for side, master in (("A", low_rank.a), ("B", low_rank.b)):
                found = tensors.get(f"{PEFT_PREFIX}{path}.lora_{side}.weight")
                if found is None or found.shape != master.shape:
                    is_what = "is missing" if found is None else f"has shape {tuple(found.shape)}"
                    raise ModelError(
                        f"{tensor_path}: {path}.lora_{side}.weight {is_what}; expected {tuple(master.shape)}."
                    )
                master.copy_(found)
        return adapter


def _sizes(part: Any) -> tuple[int, int]:  # Any: a linear layer of torch, transformers or bitsandbytes
    """Rows and columns of a layer's matrix; in 4 bits its tensor is packed and does not say."""
    if isinstance(part, torch.nn.Linear):
        return part.out_features, part.in_features
    rows, columns = part.weight.shape
    return rows, columns


def _layer_of(path: str) -> int:
    """The block that a layer is in."""
    number = _BLOCK.search(path)
    assert number is not None, "only layers of blocks are adapted"
    return int(number[1])


def _last_names(paths: Sequence[str]) -> list[str]:
    """The names of layers within their blocks, each once."""
    return sorted({path.rpartition(".")[2] for path in paths})


def _draw(adapter: ModuleAdapter, seed: int) -> None:
    """A uniform in +-1/sqrt(in), as PEFT draws it, B zero."""
    rng = generator(seed, "adapter")
    for low_rank in adapter.paths.values():
        bound = 1 / math.sqrt(low_rank.a.shape[1])
        low_rank.a.copy_(torch.from_numpy(rng.uniform(-bound, bound, tuple(low_rank.a.shape)).astype(np.float32)))


def _targets(paths: list[str], linear: list[str]) -> list[str]:
    """PEFT's `target_modules`: last names where they name exactly these layers, full paths otherwise."""
    names = _last_names(paths)
    meant = [path for path in linear if path.rpartition(".")[2] in names]
    return names if len(meant) == len(paths) else sorted(paths)


def load_module(
    base_dir: Path,
    shape: LlamaShape,
    dtype: torch.dtype,
    device: str,
    *,
    why: str,
    settings: Mapping[str, Any] | None = None,  # Any: transformers' keywords
) -> ModuleBackend:
    """The base as transformers reads it, frozen.

    Raises:
        ModelError: transformers has no causal language model for this config, or cannot read the files.
    """
    from transformers import AutoModelForCausalLM

    try:
        with redirect_stderr(io.StringIO()):  # transformers draws a progress bar there; a library stays silent
            module = AutoModelForCausalLM.from_pretrained(
                base_dir, dtype=dtype, local_files_only=True, **(settings or {})
            )
    except (ValueError, KeyError, OSError, RuntimeError, ImportError) as err:
        raise ModelError(f"{base_dir}: transformers cannot load it ({err}). Choose another base.") from err
    module.eval().requires_grad_(False)
    placed = module if settings else module.to(device)
    return ModuleBackend(placed, shape, dtype, why=why, head=head_for(placed))
