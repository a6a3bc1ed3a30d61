"""Which linear layers share a product, and where each lies in it.

q, k and v read one input, so their matrices are one; gate and up likewise. A part is one adapted layer of
such a product: its rows of the stacked A, and its outputs.

Shapes: R rank, n adapted layers of one product.
"""

from __future__ import annotations

from typing import NamedTuple

from metier.engine.weights import LlamaShape, linear_widths

__all__ = ["GROUPS", "Part", "Product", "products"]

GROUPS = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "out": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
"""Which linear layers share a product, in the order of use."""


class Part(NamedTuple):
    """One adapted linear layer of a product."""

    name: str
    low: slice
    """Its rows of the stacked A, its columns of the stacked B."""
    out: slice
    """Its outputs, counted from the product's first adapted one."""


class Product(NamedTuple):
    """One product with its adapted layers."""

    parts: tuple[Part, ...]
    width_in: int
    width: int
    """Outputs from the first adapted one to the last."""
    columns: slice | None
    """These outputs among all of the product; None: they are all of it."""


def products(targets: tuple[str, ...], rank: int, shape: LlamaShape) -> dict[str, Product]:
    """The products with an adapted layer, in the order of use."""
    widths = linear_widths(shape)
    found: dict[str, Product] = {}
    for group, names in GROUPS.items():
        ends: dict[str, slice] = {}
        end = 0
        for name in names:
            ends[name] = slice(end, end + widths[name][1])
            end += widths[name][1]
        adapted = [name for name in names if name in targets]
        if not adapted:
            continue
        start, stop = ends[adapted[0]].start, ends[adapted[-1]].stop
        parts = tuple(
            Part(name, slice(j * rank, (j + 1) * rank), slice(ends[name].start - start, ends[name].stop - start))
            for j, name in enumerate(adapted)
        )
        columns = None if (start, stop) == (0, end) else slice(start, stop)
        found[group] = Product(parts, widths[names[0]][0], stop - start, columns)
    return found
