"""The low-rank parts as the products see them, and where their gradients go.

Linear layers that share an input share a product: A of q, k and v is one (3 R, D) matrix, and their B
is one block-diagonal ((H + 2 K) E, 3 R) matrix that already carries the scale alpha / rank.

Shapes: N packed tokens, R rank, P number of masters, D model width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from metier.engine.attention import Buffers
from metier.engine.weights import Adapter, LowRank

__all__ = ["GROUPS", "Gradients", "Pair", "Working", "backward_input", "forward"]

GROUPS = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "out": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
"""Which linear layers share a product."""


class Pair(NamedTuple):
    """The low-rank parts of one product, in its precision."""

    a: Tensor
    """(n R, in), n linear layers stacked."""
    b: Tensor
    """(out, n R), block-diagonal, times the scale."""


class Working:
    """Low-rank parts in the precision of the products, copied from the fp32 masters by `refresh`."""

    def __init__(self, adapter: Adapter | None, num_layers: int, dtype: torch.dtype) -> None:
        self.adapter, self.dtype = adapter, dtype
        self.first_layer = num_layers if adapter is None else adapter.first_layer
        self.pairs: list[dict[str, Pair]] = []
        if adapter is not None:
            self.pairs = [
                {name: _empty_pair(layer, names, dtype) for name, names in GROUPS.items()} for layer in adapter.layers
            ]
            self.refresh()

    def refresh(self) -> None:
        """Copy the masters; called after every change of them."""
        if self.adapter is None:
            return
        rank, scale = self.adapter.rank, self.adapter.scale
        for layer, pairs in zip(self.adapter.layers, self.pairs, strict=True):
            for name, names in GROUPS.items():
                out_at = 0
                for j, linear in enumerate(names):
                    low_rank, width = layer[linear], layer[linear].b.shape[0]
                    at = slice(j * rank, (j + 1) * rank)
                    pairs[name].a[at] = low_rank.a
                    pairs[name].b[out_at : out_at + width, at] = low_rank.b * scale
                    out_at += width

    def pair(self, layer: int, group: str) -> Pair | None:
        """The low-rank parts of one product, or None below the first adapted layer."""
        return self.pairs[layer - self.first_layer][group] if layer >= self.first_layer else None


def _empty_pair(layer: dict[str, LowRank], names: tuple[str, ...], dtype: torch.dtype) -> Pair:
    parts = [layer[name] for name in names]
    rank, width_in = parts[0].a.shape
    out = sum(part.b.shape[0] for part in parts)
    device = parts[0].a.device
    return Pair(
        torch.zeros(len(names) * rank, width_in, dtype=dtype, device=device),
        torch.zeros(out, len(names) * rank, dtype=dtype, device=device),
    )


def forward(
    x: Tensor, weight: Tensor, pair: Pair | None, out: Tensor, h: Tensor | None, *, bias: Tensor | None = None
) -> Tensor:
    """X W' + bias + (x A') B' into `out`; `h` receives x A'."""
    if bias is None:
        torch.mm(x, weight.t(), out=out)
    else:
        torch.addmm(bias, x, weight.t(), out=out)
    if pair is not None and h is not None:
        out.addmm_(torch.mm(x, pair.a.t(), out=h), pair.b.t())
    return out


def backward_input(dy: Tensor, weight: Tensor, pair: Pair, out: Tensor, g: Tensor) -> Tensor:
    """The gradient of the input into `out`; `g` receives dy B, which the gradient of A needs too."""
    torch.mm(dy, weight, out=out)
    return out.addmm_(torch.mm(dy, pair.b, out=g), pair.a)


class Gradients:
    """One worker's gradients of the masters, in the masters' order, fp32."""

    def __init__(self, adapter: Adapter, buffers: Buffers) -> None:
        self.adapter, self.buffers = adapter, buffers
        self.flat_P = torch.zeros_like(adapter.masters_P)
        base = adapter.masters_P.data_ptr()
        self.views = [
            {
                name: tuple(self._view(master, base) for master in (low_rank.a, low_rank.b))
                for name, low_rank in layer.items()
            }
            for layer in adapter.layers
        ]

    def _view(self, master: Tensor, base: int) -> Tensor:
        """The place of a master's gradient: where the master lies in its own buffer."""
        at = (master.data_ptr() - base) // master.element_size()
        return self.flat_P[at : at + master.numel()].view(master.shape)

    def linear(self, layer: int, group: str, x: Tensor, dy: Tensor, low: tuple[Tensor, Tensor]) -> None:
        """DA = (dy B)' x and dB = scale dy' (x A'), the latter on the diagonal blocks; `low` is (x A', dy B)."""
        h, g = low
        rank, scale = self.adapter.rank, self.adapter.scale
        views = self.views[layer - self.adapter.first_layer]
        da = torch.mm(g.t(), x, out=self.buffers.take("da", g.shape[1], x.shape[1], dtype=x.dtype))
        db = torch.mm(h.t(), dy, out=self.buffers.take("db", h.shape[1], dy.shape[1], dtype=x.dtype))
        out_at = 0
        for j, name in enumerate(GROUPS[group]):
            grad_a, grad_b = views[name]
            at = slice(j * rank, (j + 1) * rank)
            grad_a.add_(da[at])
            grad_b.add_(db[at, out_at : out_at + grad_b.shape[0]].t(), alpha=scale)
            out_at += grad_b.shape[0]
