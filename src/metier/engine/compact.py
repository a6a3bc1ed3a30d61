"""The compact block of the Llama family as a backend: fused weights, one stack a worker, slots for decoding."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metier.engine.decode_model import DecodeModel
from metier.engine.decode_rows import CompactRows
from metier.engine.dora import start_magnitudes
from metier.engine.form import Choice
from metier.engine.full import FullGradients, FullMasters, FullWorking
from metier.engine.gradients import Gradients
from metier.engine.handle import AdapterSpec
from metier.engine.head import CHUNK, TRAINED_CHUNK
from metier.engine.llama import Stack
from metier.engine.lowrank import LowRankGradients, Working
from metier.engine.peft_files import adapter_tensors, new_adapter, peft_config, read_adapter
from metier.engine.weights import Adapter, LlamaShape, LlamaWeights

__all__ = ["CompactBackend"]

MICRO_TOKENS = 1024
"""Tokens a worker computes at a time; larger is not faster (docs/tune.md) and costs memory."""
GPU_MICRO_TOKENS = 8192
"""The same on a GPU; not measured."""


@dataclass(slots=True)
class CompactBackend:
    """Fused weights in one precision."""

    weights: LlamaWeights
    dtype: torch.dtype
    why: str
    name: str = "compact"

    @property
    def shape(self) -> LlamaShape:
        """The architecture."""
        return self.weights.shape

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.weights.embed_VD.device

    def adapter(self, wanted: AdapterSpec | Path, *, seed: int) -> Adapter:
        """A new adapter drawn from `seed`, or the one of a PEFT folder."""
        if isinstance(wanted, AdapterSpec):
            adapter = new_adapter(self.shape, wanted, seed=seed, device=str(self.device))
            if wanted.method == "dora":
                start_magnitudes(adapter, self.weights)
            return adapter
        return read_adapter(wanted, self.shape, device=str(self.device))

    def form_of(self, wanted: AdapterSpec) -> list[object]:
        """The form an adapter of this spec has."""
        return [wanted.method, wanted.rank, wanted.scale, wanted.first_layer, list(wanted.named_targets)]

    def adapter_files(self, adapter: Adapter, *, base_name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and config as PEFT stores them."""  # Any: JSON values
        return adapter_tensors(adapter), peft_config(adapter, self.shape, base_name=base_name)

    def trainee(self, trained: Adapter | FullMasters | None) -> CompactTrainee:
        """What trains, ready for the products."""
        return CompactTrainee(self, trained)

    def rows(self, adapter: Adapter | None, *, max_batch: int, max_tokens_total: int) -> CompactRows:
        """Packed matrices and slots."""
        model = DecodeModel.from_weights(self.weights, adapter, dtype=self.dtype)
        return CompactRows(model, max_batch=max_batch, max_tokens_total=max_tokens_total)


class CompactTrainee:
    """Stacks over one base and what trains of it; each worker has its own."""

    takes_forms = True
    head = Choice(name="compact", reason=f"logits of {CHUNK} trained tokens at a time, {TRAINED_CHUNK} where it trains")

    def __init__(self, backend: CompactBackend, trained: Adapter | FullMasters | None) -> None:
        self.backend, self.trained = backend, trained
        is_cpu = backend.device.type == "cpu"
        # A GPU takes one batch at a time, and wide ones; on a CPU each core has its own.
        self.max_workers = 1 << 16 if is_cpu else 1
        self.micro_tokens = MICRO_TOKENS if is_cpu else GPU_MICRO_TOKENS
        self.working = (
            FullWorking(trained, backend.weights, backend.dtype)
            if isinstance(trained, FullMasters)
            else Working(trained, backend.weights, backend.dtype)
        )

    def worker(self) -> Stack:
        """A stack with memory of its own."""
        return Stack(self.backend.weights, self.backend.dtype, self.working)

    def gradients(self, worker: Stack) -> Gradients:
        """In the worker's memory."""
        assert self.trained is not None, "the verbs ask for what trains first"
        if isinstance(self.trained, FullMasters):
            return FullGradients(self.trained, worker.buffers)
        return LowRankGradients(self.trained, self.backend.shape, worker.buffers)

    def publish(self) -> None:
        """Copy the masters."""
        self.working.refresh()
