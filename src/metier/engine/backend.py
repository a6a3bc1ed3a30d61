"""What a handle asks of the code that computes its base's numbers.

Two answer: `metier.engine.compact.CompactBackend`, the fast block of the Llama family, and
`metier.engine.module_backend.ModuleBackend`, transformers' own modules for any architecture. `load` chooses, says why,
and the choice is stored with a run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from metier.engine.weights import Adapter, LlamaShape, LlamaWeights

if TYPE_CHECKING:
    from metier.engine.batch import MicroBatch
    from metier.engine.decode_rows import Rows
    from metier.engine.form import Choice
    from metier.engine.handle import AdapterSpec

__all__ = ["Backend", "GradientSum", "Trainee", "Worker"]


class GradientSum(Protocol):
    """One worker's gradients of the masters."""

    @property
    def flat_P(self) -> Tensor:
        """In the masters' order, fp32."""
        ...


class Worker(Protocol):
    """One worker's forward and backward."""

    def score(self, micro: MicroBatch) -> Tensor:
        """Negative log-likelihood of every trained token, nats."""
        ...

    def train(
        self,
        micro: MicroBatch,
        grads: Any,  # Any: its own kind of gradients
        *,
        divide_by: float,
        weights: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """The same, adding the gradient of sum(weight * nll) / divide_by to `grads` unless a loss is not finite.

        The weights are the batch's, or what `weights` makes of the nll.
        """
        ...


class Trainee(Protocol):
    """A base with its adapter, as the training verbs see it."""

    max_workers: int
    """Workers that can compute at the same time; the others' cores help inside operators."""
    micro_tokens: int
    """Tokens a worker computes at a time."""

    takes_forms: bool
    """Whether its workers know shared prefixes, stored states, layouts and checkpointing."""

    head: Choice
    """What computes the loss from the last hidden states."""

    def worker(self) -> Any:  # Any: a `Worker`; shared prefixes ask for more
        """One more worker."""
        ...

    def gradients(self, worker: Any) -> GradientSum:  # Any: its own kind of worker
        """Where that worker's gradients are summed."""
        ...

    def publish(self) -> None:
        """Copy the masters to what the products read."""
        ...


class Backend(Protocol):
    """A base model in memory."""

    name: str
    """compact or transformers."""
    why: str
    """What decided for it."""

    @property
    def shape(self) -> LlamaShape:
        """The numbers that size its memory and time."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it is."""
        ...

    @property
    def weights(self) -> LlamaWeights:
        """The fused matrices; only of the compact block."""
        ...

    def adapter(self, wanted: AdapterSpec | Path, *, seed: int) -> Adapter:
        """A new adapter, or the one of a PEFT folder."""
        ...

    def form_of(self, wanted: AdapterSpec) -> list[object]:
        """The form an adapter of this spec has on this base."""
        ...

    def adapter_files(self, adapter: Adapter, *, base_name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and config as PEFT stores them."""
        ...  # Any: JSON values

    def trainee(self, trained: Any) -> Trainee:  # Any: an Adapter, of the compact block also FullMasters, or None
        """What the training verbs drive."""
        ...

    def rows(self, adapter: Adapter | None, *, max_batch: int, max_tokens_total: int) -> Rows:
        """What the decoder drives."""
        ...
