"""What `load` returns and every verb takes: weights, adapter, and what fixes the numbers they give."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from metier.core.config import nearest
from metier.core.errors import ModelError
from metier.core.hashing import value_hash
from metier.core.tune_config import Method, OptimizerName
from metier.engine.full import FullMasters
from metier.engine.model_bytes import model_sha256, tensor_bytes
from metier.engine.ranks import Ranks, current_ranks
from metier.engine.weights import LINEAR_NAMES, Adapter, LlamaShape, LlamaWeights, linear_widths

if TYPE_CHECKING:
    from metier.engine.backend import Backend
    from metier.engine.loop import Trainer

__all__ = ["AdapterSpec", "Handle"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterSpec:
    """What is to train: the form of a new adapter, or the weights themselves."""

    rank: int = 0
    """Rank of every low-rank part; 0 under full."""
    alpha: float = 0.0
    """The update is multiplied by alpha / rank, under rslora by alpha / sqrt(rank); 0 under full."""
    first_layer: int = 0
    """Lowest layer that trains; the layers below stay the base's."""
    method: Method = "lora"
    """lora, rslora, dora, or full."""
    targets: tuple[str, ...] = ()
    """Linear layers with low-rank parts, by PEFT's names; empty: all seven."""

    def require_fit(self, shape: LlamaShape) -> None:
        """Refuse what this base cannot carry, before its weights are read.

        Raises:
            ModelError: a layer the base does not have, or a rank above what a target can use.
        """
        if not 0 <= self.first_layer < shape.num_layers or (self.rank < 1 and self.method != "full"):
            raise ModelError(
                f"adapter: rank {self.rank}, first_layer {self.first_layer}; expected a rank of 1 or more and a layer "
                f"below {shape.num_layers}, the layers of this base."
            )
        if self.method == "full" and (self.rank or self.alpha or self.targets):
            raise ModelError(
                f"adapter: rank {self.rank}, alpha {self.alpha:g}, targets {list(self.targets)}, but method 'full' "
                "trains the weights themselves; leave the three out."
            )
        for name in self.targets:
            if name not in LINEAR_NAMES:
                raise ModelError(f"adapter: no linear layer is called {name!r}; {nearest(name, list(LINEAR_NAMES))}")
        widths = linear_widths(shape)
        name = min(self.named_targets, key=lambda target: min(widths[target]))
        if self.rank > min(widths[name]):
            raise ModelError(
                f"adapter: rank {self.rank} is larger than {name} can use: its matrix is {widths[name][1]} x "
                f"{widths[name][0]}, so {min(widths[name])} is full rank. Set tune.rank to at most that, or leave the "
                "layer out by tune.targets."
            )

    @property
    def scale(self) -> float:
        """What the update is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.method == "rslora" else self.rank)

    @property
    def named_targets(self) -> tuple[str, ...]:
        """The adapted linear layers in the order of use."""
        return tuple(name for name in LINEAR_NAMES if name in self.targets or not self.targets)


@dataclass(slots=True)
class Handle:
    """A loaded model: one base, at most one adapter or masters of its own weights, one precision, one thread count."""

    backend: Backend
    """The base in memory, and the code that computes its numbers."""
    adapter: Adapter | None
    dtype: torch.dtype
    """Precision of the matrix products, bf16 or fp32."""
    threads: int
    """Cores the verbs use; part of a run's identity, as sums depend on it."""
    base_dir: Path
    base_sha256: str
    """Of the weights' bytes."""
    config_sha256: str
    """Of the settings of config.json that say which function the weights are."""
    ranks: Ranks = field(default_factory=current_ranks)
    """This process among those that share each step."""
    trainer: Trainer | None = None
    """Gradients, moments and worker threads; made by the first training verb."""
    closers: list[Callable[[], None]] = field(default_factory=list)
    """What `close` calls: worker pools of the verbs."""
    optimizer: OptimizerName = "adamw"
    """What moves the masters."""
    full: FullMasters | None = None
    """Masters of the weights, where they train themselves."""

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
    def function_sha256(self) -> str:
        """SHA-256 of what the base computes: its weights under its config; 64 hex digits."""
        return value_hash([self.base_sha256, self.config_sha256])

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the base's weights and config and the adapter's bytes as they are now; 64 hex digits.

        Where the weights train themselves, that of the folder `export_model` would write.
        """
        if self.full is not None:
            weights = model_sha256(self.weights, base_sha256=self.full.tuned_from)
            return hashlib.sha256(value_hash([weights, self.config_sha256]).encode()).hexdigest()
        digest = hashlib.sha256(self.function_sha256.encode())
        if self.adapter is not None:
            method, rank, scale, first_layer, targets = self.adapter.form
            form = "" if (method, targets) == ("lora", list(LINEAR_NAMES)) else f" {method} {targets}"
            digest.update(f"{rank} {scale!r} {first_layer}{form}".encode())
            digest.update(tensor_bytes(self.adapter.masters_P))
        return digest.hexdigest()

    def require_trained(self, verb: str) -> Adapter | FullMasters:
        """What trains: the adapter, or the masters of the weights.

        Raises:
            ModelError: nothing does.
        """
        return self.full if self.full is not None else self.require_adapter(verb)

    def require_adapter(self, verb: str) -> Adapter:
        """The adapter, or an error that says how to load one.

        Raises:
            ModelError: the handle carries no adapter.
        """
        if self.adapter is None:
            raise ModelError(f"{verb}: this model has no adapter; load it with adapter=AdapterSpec(...) or a folder.")
        return self.adapter
