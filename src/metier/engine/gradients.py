"""Where one worker's gradients go: a flat fp32 buffer in the order of the masters, and what each method adds to it.

The backward pass offers every gradient it has; a method takes those of what it trains.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metier.engine.attention import Buffers

__all__ = ["Gradients", "add_outer"]


class Gradients:
    """One worker's sums; `metier.engine.lowrank` and `metier.engine.full` say what is summed."""

    def __init__(self, masters_P: Tensor) -> None:
        self.flat_P = torch.zeros_like(masters_P)
        self.base = masters_P.data_ptr()

    def view(self, master: Tensor) -> Tensor:
        """The place of a master's gradient: where the master lies in its own buffer."""
        at = (master.data_ptr() - self.base) // master.element_size()
        return self.flat_P[at : at + master.numel()].view(master.shape)

    def linear(self, layer: int, group: str, x: Tensor, dy: Tensor, low: tuple[Tensor, Tensor] | None) -> None:
        """Of one product with input `x` and output gradient `dy`; `low` is (x A', dy B) where it is adapted."""

    def magnitude(self, layer: int, group: str, dy: Tensor, y: Tensor) -> None:
        """Of DoRA's magnitudes of one product, whose output was `y`."""

    def norm(self, name: str) -> Tensor | None:  # noqa: ARG002  # for the methods that train norms
        """The place of a norm weight's gradient (D,), or None where norms are frozen."""
        return None

    def head(self) -> Tensor | None:
        """The place of the head's gradient (V, D), or None where the head is frozen."""
        return None

    def inputs(self, input_N: Tensor, dx_ND: Tensor) -> None:
        """Of the embeddings of the input tokens."""


def add_outer(grad: Tensor, dy: Tensor, x: Tensor, buffers: Buffers) -> None:
    """Add dy' x to an fp32 gradient; the product is in the precision of its factors."""
    if x.dtype == torch.float32:
        grad.addmm_(dy.t(), x)
        return
    product = buffers.take("dw", *grad.shape, dtype=x.dtype)
    grad.add_(torch.mm(dy.t(), x, out=product))
