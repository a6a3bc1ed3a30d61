"""What `load` returns and every verb takes: weights, adapter, and what fixes the numbers they give."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from metier.core.errors import ModelError
from metier.engine.ranks import Ranks, current_ranks
from metier.engine.weights import Adapter, LlamaShape, LlamaWeights

if TYPE_CHECKING:
    from metier.engine.backend import Backend
    from metier.engine.loop import Trainer

__all__ = ["AdapterSpec", "Handle"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterSpec:
    """The form of a new adapter."""

    rank: int
    """Rank of every low-rank part."""
    alpha: float
    """The update is multiplied by alpha / rank."""
    first_layer: int = 0
    """Lowest adapted layer; the layers below stay the base's."""


@dataclass(slots=True)
class Handle:
    """A loaded model: one base, at most one adapter, one precision, one thread count."""

    backend: Backend
    """The base in memory, and the code that computes its numbers."""
    adapter: Adapter | None
    dtype: torch.dtype
    """Precision of the matrix products, bf16 or fp32."""
    threads: int
    """Cores the verbs use; part of a run's identity, as sums depend on it."""
    base_dir: Path
    base_sha256: str
    ranks: Ranks = field(default_factory=current_ranks)
    """This process among those that share each step."""
    trainer: Trainer | None = None
    """Gradients, moments and worker threads; made by the first training verb."""
    closers: list[Callable[[], None]] = field(default_factory=list)
    """What `close` calls: worker pools of the verbs."""

    @property
    def shape(self) -> LlamaShape:
        """The architecture."""
        return self.backend.shape

    @property
    def weights(self) -> LlamaWeights:
        """The fused matrices.

        Raises:
            ModelError: the base is computed by transformers' own modules.
        """
        return self.backend.weights

    @property
    def forward(self) -> str:
        """Which code computes the base, and why; stored with every run."""
        return f"{self.backend.name}: {self.backend.why}"

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the base's and the adapter's bytes as they are now; 64 hex digits."""
        digest = hashlib.sha256(self.base_sha256.encode())
        if self.adapter is not None:
            adapter = self.adapter
            digest.update(f"{adapter.rank} {adapter.scale!r} {adapter.first_layer}".encode())
            digest.update(tensor_bytes(adapter.masters_P))
        return digest.hexdigest()

    def require_adapter(self, verb: str) -> Adapter:
        """The adapter, or an error that says how to load one.

        Raises:
            ModelError: the handle carries no adapter.
        """
        if self.adapter is None:
            raise ModelError(f"{verb}: this model has no adapter; load it with adapter=AdapterSpec(...) or a folder.")
        return self.adapter


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, in row order."""
    return tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data
