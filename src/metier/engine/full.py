"""Full tuning: fp32 masters of the weights themselves, the copies that products read, and their gradients.

With `first_layer` above 0 the layers from there up train, the final norm, and the head where it is a matrix of
its own. Embeddings then stay the base's, and with them a head that shares their matrix: what enters the first
trained layer is what the base computes, so it can be computed once for all passes.

Under fp32 products the weights are views of the masters and nothing is copied.

Shapes: N packed tokens, P number of masters, D model width, V vocabulary.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from metier.engine.attention import Buffers
from metier.engine.gradients import Gradients, add_outer
from metier.engine.lowrank import Working
from metier.engine.weights import LayerWeights, LlamaWeights

__all__ = ["FullGradients", "FullMasters", "FullWorking", "take_over"]


@dataclass(slots=True)
class FullMasters:
    """All that trains of a model, in one fp32 buffer."""

    first_layer: int
    masters_P: Tensor
    num_decayed: int
    """Masters that weight decay pulls to zero: matrices. Norm weights and biases, which stand last, are left alone."""
    parts: dict[str, tuple[Tensor, Tensor]]
    """(master, what products read) by name: `<layer>.<matrix or norm>`, `<layer>.<matrix>.bias`, `<layer>.q_norm`,
    `<layer>.k_norm`, `norm_D`, `embed_VD`, `head_VD`."""
    tuned_from: str = ""
    """SHA-256 of the base these are tuned from."""
    base_fingerprint: str = ""
    """The fingerprint before the first step; the same one later would mean that nothing was trained."""

    @property
    def form(self) -> list[object]:
        """What two runs of one form have in common, as JSON values."""
        return ["full", self.first_layer, self.masters_P.numel()]


class _Place(NamedTuple):
    """One weight that trains."""

    found: Tensor
    """Its value, fp32."""
    put: Callable[[Tensor], None] | None
    """Sets what the products read instead; None where they read `shown`."""
    shown: Tensor | None = None
    """What the products read, already in their precision; the master is copied to each of its rows."""


def take_over(weights: LlamaWeights, *, first_layer: int, dtype: torch.dtype) -> FullMasters:
    """Masters of what trains in an fp32 model, whose tensors become what products read, in `dtype`."""
    places = dict(_places(weights, first_layer, dtype))
    order = sorted(places, key=lambda name: places[name].found.dim() == 1)  # stable: matrices first, then vectors
    sizes = {name: places[name].found.numel() for name in order}
    masters_P = torch.empty(sum(sizes.values()), dtype=torch.float32, device=weights.embed_VD.device)
    parts: dict[str, tuple[Tensor, Tensor]] = {}
    at = 0
    for name in order:
        place = places.pop(name)  # the last reference but one: memory holds most tensors once
        master = masters_P[at : at + sizes[name]].view(place.found.shape).copy_(place.found)
        at += sizes[name]
        read = place.shown
        if read is None:
            read = master if dtype == torch.float32 else place.found.to(dtype)
        if place.put is not None:
            place.put(read)
        parts[name] = (master, read)
    _narrow(weights, dtype)
    _return_freed()
    num_decayed = sum(size for name, size in sizes.items() if parts[name][0].dim() > 1)
    return FullMasters(first_layer, masters_P, num_decayed, parts)


def _places(weights: LlamaWeights, first_layer: int, dtype: torch.dtype) -> Iterator[tuple[str, _Place]]:
    """What trains, by name."""
    num = weights.shape.num_heads
    for i, layer in enumerate(weights.layers[first_layer:], start=first_layer):
        for name in ("norm1_D", "qkv", "out", "norm2_D", "gate_up", "down"):
            yield f"{i}.{name}", _Place(getattr(layer, name), partial(setattr, layer, name))  # getattr: a field
        for group, bias in layer.biases.items():
            yield f"{i}.{group}.bias", _Place(bias, partial(layer.biases.__setitem__, group))
        wide = layer.head_norm_HE
        if wide is not None:
            layer.head_norm_HE = narrow = wide.to(dtype)
            # All query heads have one weight, and all key heads one: two masters stand for as many rows as heads.
            yield f"{i}.q_norm", _Place(wide[0].clone(), None, narrow[:num])
            yield f"{i}.k_norm", _Place(wide[num].clone(), None, narrow[num:])
    outer = ["norm_D"] + ([] if first_layer else ["embed_VD"]) + ([] if weights.shape.tied_head else ["head_VD"])
    for name in outer:
        yield name, _Place(getattr(weights, name), partial(setattr, weights, name))  # getattr: a field


def _narrow(weights: LlamaWeights, dtype: torch.dtype) -> None:
    """Bring what does not train to the precision of the products too."""
    holders: list[LayerWeights | LlamaWeights] = [*weights.layers, weights]
    for holder in holders:
        for name in [f.name for f in fields(holder)]:
            found = getattr(holder, name)  # getattr: a field
            if isinstance(found, Tensor):
                setattr(holder, name, found.to(dtype))  # setattr: a field
    for layer in weights.layers:
        layer.biases = {group: bias.to(dtype) for group, bias in layer.biases.items()}
    if weights.shape.tied_head:
        weights.head_VD = weights.embed_VD


def _return_freed() -> None:
    """Give memory that was freed inside the heap back to the system.

    What was read only to be copied leaves holes there, 4 bytes a weight, that no later tensor fits.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # getattr: glibc alone has it
        if trim is not None:
            trim(0)


class FullWorking(Working):
    """The trained weights as the products read them; there are no low-rank parts."""

    def __init__(self, masters: FullMasters, weights: LlamaWeights, dtype: torch.dtype) -> None:
        super().__init__(None, weights, dtype)
        self.masters, self.first_layer = masters, masters.first_layer

    def refresh(self) -> None:
        """Copy the masters; called after every change of them."""
        for master, read in self.masters.parts.values():
            if read is not master:
                read.copy_(master)


class FullGradients(Gradients):
    """Gradients of all that trains."""

    def __init__(self, masters: FullMasters, buffers: Buffers) -> None:
        super().__init__(masters.masters_P)
        self.buffers = buffers
        self.views = {name: self.view(master) for name, (master, _) in masters.parts.items()}
        heads = {name: read for name, (_, read) in masters.parts.items() if name.endswith(("q_norm", "k_norm"))}
        self.heads = {
            name: torch.zeros(len(read) + len(heads[name.replace("q_", "k_")]), read.shape[1], device=read.device)
            for name, read in heads.items()
            if name.endswith("q_norm")
        }
        self.num_heads = {name: len(heads[name]) for name in self.heads}

    def linear(self, layer: int, group: str, x: Tensor, dy: Tensor, low: object) -> None:  # noqa: ARG002  # no low rank
        """DW = dy' x, and that of a bias, summed in fp32."""
        add_outer(self.views[f"{layer}.{group}"], dy, x, self.buffers)
        bias = self.views.get(f"{layer}.{group}.bias")
        if bias is not None:
            bias.add_(dy.sum(0, dtype=torch.float32))

    def norm(self, name: str) -> Tensor | None:
        """The place of a norm weight's gradient; that of all heads' rows is summed over them in `inputs`."""
        return self.heads[name.replace("head_norm_HE", "q_norm")] if name.endswith("_HE") else self.views[name]

    def head(self) -> Tensor | None:
        """The place of the head's gradient: that of the embeddings where the two are one matrix."""
        return self.views.get("head_VD", self.views.get("embed_VD"))

    def inputs(self, input_N: Tensor, dx_ND: Tensor) -> None:
        """Add each input's gradient to its token's row; the last call of a micro-batch."""
        if "embed_VD" in self.views:
            self.views["embed_VD"].index_add_(0, input_N, dx_ND)
        for name, rows in self.heads.items():
            num = self.num_heads[name]
            self.views[name].add_(rows[:num].sum(0))
            self.views[name.replace("q_", "k_")].add_(rows[num:].sum(0))
            rows.zero_()
