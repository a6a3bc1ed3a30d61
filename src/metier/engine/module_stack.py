"""Training and scoring through transformers' own modules: right-padded rows, autograd, logits only where trained.

Shapes: B rows of a group, T their padded length, N packed input tokens, P trained ones, U places of a row where any row
of the group is trained, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metier.engine.batch import Group, MicroBatch
from metier.engine.fused_head import FusedHead, ModuleHead
from metier.engine.weights import Adapter

__all__ = ["ModuleGradients", "ModuleStack", "ModuleTrainee"]

LOGITS_AT_ONCE = 1 << 27
"""Numbers of one micro-batch's logits: half a gibibyte in fp32, and as much again for their gradient."""
TOKENS_RANGE = (64, 1024)
"""Tokens of a micro-batch."""


class ModuleTrainee:
    """One module and its adapter; autograd sums into one buffer, so there is one worker."""

    max_workers = 1
    takes_forms = False

    def __init__(
        self,
        module: Any,  # Any: the class is by config
        adapter: Adapter | None,
        head: ModuleHead,
        *,
        vocab: int,
    ) -> None:
        self.module, self.low_rank, self.fused, self.head = module, adapter, head.fused, head.choice
        low, high = TOKENS_RANGE
        self.micro_tokens = high if self.fused else max(low, min(high, LOGITS_AT_ONCE // vocab))

    def worker(self) -> ModuleStack:
        """The module itself."""
        return ModuleStack(self.module, self.fused)

    def gradients(self, worker: ModuleStack) -> ModuleGradients:  # noqa: ARG002  # there is one
        """Gradients of the adapter's matrices, as views of one buffer."""
        assert self.low_rank is not None, "the verbs ask for an adapter first"
        return ModuleGradients(self.module, self.low_rank)

    def publish(self) -> None:
        """Nothing to copy: the products read the masters."""


class ModuleGradients:
    """Each adapter matrix's `.grad` is a view of `flat_P`, in the masters' order; autograd adds in place."""

    def __init__(self, module: Any, adapter: Adapter) -> None:  # Any: as above
        masters_P = adapter.masters_P
        self.flat_P = torch.zeros_like(masters_P)
        first, size = masters_P.data_ptr(), masters_P.element_size()
        last = first + masters_P.numel() * size
        for parameter in module.parameters():
            at = parameter.data_ptr()
            if parameter.numel() and parameter.dtype == torch.float32 and first <= at < last:
                parameter.requires_grad_(True)
                start = (at - first) // size
                parameter.grad = self.flat_P[start : start + parameter.numel()].view(parameter.shape)


class ModuleStack:
    """Forward and backward of one module."""

    def __init__(self, module: Any, fused: FusedHead | None = None) -> None:  # Any: as above
        self.module, self.fused = module, fused
        self.takes_places = "logits_to_keep" in inspect.signature(module.forward).parameters

    def score(self, micro: MicroBatch) -> Tensor:
        """Negative log-likelihood of every trained token, nats."""
        with torch.no_grad():
            return self._nll(micro)

    def train(
        self,
        micro: MicroBatch,
        grads: ModuleGradients,  # noqa: ARG002  # autograd writes there
        *,
        divide_by: float,
        weights: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """nll_P; adds the gradient of sum(weight * nll) / divide_by unless a loss is not finite.

        The weights are the batch's, or what `weights` makes of nll_P.
        """
        with torch.enable_grad():
            nll_P = self._nll(micro)
            found_P = nll_P.detach()
            if not bool(torch.isfinite(found_P).all()):
                return found_P
            weight_P = micro.weight_M[: len(nll_P)] if weights is None else weights(found_P)
            if bool(torch.isfinite(weight_P).all()):
                ((nll_P * weight_P).sum() / divide_by).backward()  # type: ignore[no-untyped-call]  # untyped in torch
        return found_P

    def _nll(self, micro: MicroBatch) -> Tensor:
        """nll_P in the order of `place_P`."""
        num = len(micro.place_P)
        select_P, target_P = micro.select_M[:num], micro.target_M[:num]
        parts = []
        for group in micro.groups:
            is_here = (select_P >= group.start) & (select_P < group.stop)
            if bool(is_here.any()):
                parts.append(self._group_nll(micro, group, select_P[is_here] - group.start, target_P[is_here]))
        return torch.cat(parts)

    def _group_nll(self, micro: MicroBatch, group: Group, at_P: Tensor, target_P: Tensor) -> Tensor:
        """Of one group's rows, padded to one length on the right; `at_P` counts its input tokens."""
        input_N = micro.input_N[group.start : group.stop]
        place_N = torch.arange(len(input_N), device=input_N.device) if group.real is None else group.real
        size = group.rows * group.length
        ids = torch.zeros(size, dtype=torch.long, device=input_N.device).index_copy_(0, place_N, input_N)
        mask = torch.zeros_like(ids).index_fill_(0, place_N, 1)
        place_P = place_N[at_P]
        row_P, column_P = place_P // group.length, place_P % group.length
        given = {"input_ids": ids.view(group.rows, -1), "attention_mask": mask.view(group.rows, -1)}
        if self.fused is not None:
            hidden_BTD = self.fused.body(**given, use_cache=False)[0]
            return self.fused.nll(hidden_BTD[row_P, column_P], target_P)
        if self.takes_places:
            columns_U, column_P = torch.unique(column_P, return_inverse=True)
            given["logits_to_keep"] = columns_U
        logits_PV = self.module(**given, use_cache=False).logits[row_P, column_P].float()
        return torch.nn.functional.cross_entropy(logits_PV, target_P, reduction="none")
