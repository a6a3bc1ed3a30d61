"""The low-rank parts of one product as a decode step reads them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from metier.engine.lowrank import Pair
from metier.engine.packed import Matrix

__all__ = ["LowRankStep"]


class LowRankStep(NamedTuple):
    """Stacked A, B filled up to all outputs of the product, and DoRA's factors."""

    a: Matrix
    b: Matrix
    """(out, n R): block-diagonal scale B, zero where an output is not adapted."""
    factor: Tensor | None
    """DoRA's factors minus 1, zero where an output is not adapted; None without DoRA."""

    @classmethod
    def of(cls, pair: Pair, width: int) -> LowRankStep:
        """The parts of a product of `width` outputs."""
        if pair.columns is None:
            return cls(Matrix(pair.a), Matrix(pair.b), pair.factor)
        b = torch.zeros(width, pair.b.shape[1], dtype=pair.b.dtype, device=pair.b.device)
        b[pair.columns] = pair.b
        if pair.factor is None:
            return cls(Matrix(pair.a), Matrix(b), None)
        factor = torch.zeros(width, dtype=pair.b.dtype, device=pair.b.device)
        factor[pair.columns] = pair.factor
        return cls(Matrix(pair.a), Matrix(b), factor)

    def linear(self, base: Matrix, x_NI: Tensor, plus: Tensor | None) -> Tensor:
        """The adapted product, plus a residual: under DoRA the residual comes after the outputs have their lengths."""
        h = self.a.times(x_NI)
        if self.factor is None:
            return self.b.times(h, base.times(x_NI, plus))
        y = self.b.times(h, base.times(x_NI))
        y = torch.addcmul(y, y, self.factor)
        return y if plus is None else y + plus
