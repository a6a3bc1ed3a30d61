"""The low-rank parts as the products see them, and where their gradients go.

Linear layers that share an input share a product: A of q, k and v is one (3 R, D) matrix, and their B
is one block-diagonal ((H + 2 K) E, 3 R) matrix that already carries the scale. Layers that are not among
the adapter's targets have no part in them, and outputs before the first and after the last adapted one are
left out of the product.

Shapes: N packed tokens, R rank, P number of masters, D model width, n adapted layers of one product.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from metier.engine.attention import Buffers
from metier.engine.dora import Magnitudes
from metier.engine.gradients import Gradients
from metier.engine.products import Product, products
from metier.engine.weights import Adapter, LlamaShape, LlamaWeights

__all__ = ["LowRankGradients", "Pair", "Working", "forward"]


class Pair(NamedTuple):
    """The low-rank parts of one product, in its precision."""

    a: Tensor
    """(n R, in), n linear layers stacked."""
    b: Tensor
    """(outputs, n R), block-diagonal, times the scale."""
    columns: slice | None
    """The outputs that `b` reaches; None: all of them."""
    factor: Tensor | None
    """DoRA's magnitude over the norm, minus 1, of these outputs; None without DoRA."""

    def reached(self, y: Tensor) -> Tensor:
        """The part of the product's output that `b` reaches, as a view."""
        return y if self.columns is None else y[:, self.columns]

    def rescale(self, y: Tensor) -> None:
        """Bring outputs to DoRA's magnitudes, in place; near 1 a factor itself would lose digits in bf16."""
        if self.factor is not None:
            part = self.reached(y)
            torch.addcmul(part, part, self.factor, out=part)


class Working:
    """Low-rank parts in the precision of the products, copied from the fp32 masters by `refresh`."""

    def __init__(self, adapter: Adapter | None, weights: LlamaWeights, dtype: torch.dtype) -> None:
        self.adapter, self.dtype = adapter, dtype
        self.first_layer = weights.shape.num_layers if adapter is None else adapter.first_layer
        self.lowest: tuple[int, str] | None = None
        """The product with which the backward pass ends: nothing before it trains. None: it goes to the inputs."""
        self.pairs: list[dict[str, Pair]] = []
        self.magnitudes: Magnitudes | None = None
        if adapter is not None:
            self.products = products(adapter.targets, adapter.rank, weights.shape)
            self.lowest = (adapter.first_layer, next(iter(self.products)))
            self.pairs = [
                {name: _empty_pair(adapter, product, dtype) for name, product in self.products.items()}
                for _ in adapter.layers
            ]
            if adapter.method == "dora":
                self.magnitudes = Magnitudes(adapter, weights)
            self.refresh()

    def refresh(self) -> None:
        """Copy the masters; called after every change of them."""
        if self.adapter is None:
            return
        scale = self.adapter.scale
        for i, (layer, pairs) in enumerate(zip(self.adapter.layers, self.pairs, strict=True)):
            for name, product in self.products.items():
                pair = pairs[name]
                for part in product.parts:
                    low_rank = layer[part.name]
                    pair.a[part.low] = low_rank.a
                    pair.b[part.out, part.low] = low_rank.b * scale
                if self.magnitudes is not None and pair.factor is not None:
                    self.magnitudes.write_factor(i, name, pair.a, pair.b, pair.factor)

    def pair(self, layer: int, group: str) -> Pair | None:
        """The low-rank parts of one product, or None where it has none."""
        return self.pairs[layer - self.first_layer].get(group) if layer >= self.first_layer and self.pairs else None


def _empty_pair(adapter: Adapter, product: Product, dtype: torch.dtype) -> Pair:
    device, low = adapter.masters_P.device, len(product.parts) * adapter.rank
    return Pair(
        torch.zeros(low, product.width_in, dtype=dtype, device=device),
        torch.zeros(product.width, low, dtype=dtype, device=device),
        product.columns,
        torch.zeros(product.width, dtype=dtype, device=device) if adapter.method == "dora" else None,
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
        pair.reached(out).addmm_(torch.mm(x, pair.a.t(), out=h), pair.b.t())
        pair.rescale(out)
    return out


class LowRankGradients(Gradients):
    """Gradients of A and B, and of DoRA's magnitudes."""

    def __init__(self, adapter: Adapter, shape: LlamaShape, buffers: Buffers) -> None:
        super().__init__(adapter.masters_P)
        self.adapter, self.buffers = adapter, buffers
        self.products = products(adapter.targets, adapter.rank, shape)
        self.views = [
            {name: (self.view(low_rank.a), self.view(low_rank.b)) for name, low_rank in layer.items()}
            for layer in adapter.layers
        ]

    def linear(self, layer: int, group: str, x: Tensor, dy: Tensor, low: tuple[Tensor, Tensor] | None) -> None:
        """DA = (dy B)' x and dB = scale dy' (x A'), the latter on the diagonal blocks."""
        if low is None:
            return
        h, g = low
        product, views = self.products[group], self.views[layer - self.adapter.first_layer]
        if product.columns is not None:
            dy = dy[:, product.columns]
        da = torch.mm(g.t(), x, out=self.buffers.take("da", g.shape[1], x.shape[1], dtype=x.dtype))
        db = torch.mm(h.t(), dy, out=self.buffers.take("db", h.shape[1], dy.shape[1], dtype=x.dtype))
        for part in product.parts:
            grad_a, grad_b = views[part.name]
            grad_a.add_(da[part.low])
            grad_b.add_(db[part.low, part.out].t(), alpha=self.adapter.scale)

    def magnitude(self, layer: int, group: str, dy: Tensor, y: Tensor) -> None:
        """Dm = sum over tokens of dy y / m, as y is m times a vector that m does not change."""
        product, low_ranks = self.products[group], self.adapter.layers[layer - self.adapter.first_layer]
        if product.columns is not None:
            dy, y = dy[:, product.columns], y[:, product.columns]
        held = self.buffers.take("dm", *dy.shape, dtype=torch.float32)
        summed = held.copy_(dy).mul_(y).sum(0)
        for part in product.parts:
            magnitude = low_ranks[part.name].magnitude
            assert magnitude is not None, "only DoRA keeps the outputs"
            self.view(magnitude).add_(summed[part.out] / magnitude)
