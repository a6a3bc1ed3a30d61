"""DoRA's magnitudes: what brings each output of an adapted layer to its own length.

An adapted layer computes (m / ||W + s B A||) (W + s B A) x, the norm taken over each row. As in PEFT the norm
counts as a constant in the backward pass (section 4.3 of arXiv:2402.09353). It is computed again after every
step, not from the summed matrix: ||W||^2 is kept, and the rest is two products of the width of the rank,

    ||W + s B A||^2 = ||W||^2 + 2 s B . (W A') + (s B A A') . s B        (. : summed over each row)

Source: Liu et al. 2024, arXiv:2402.09353; unlike PEFT, which computes the norm in every forward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metier.core.errors import ModelError
from metier.engine.products import products
from metier.engine.weights import Adapter, LlamaWeights

__all__ = ["Magnitudes", "start_magnitudes"]


class Magnitudes:
    """The factors m / ||W + s B A|| - 1 of every adapted product."""

    def __init__(self, adapter: Adapter, weights: LlamaWeights) -> None:
        self.adapter, self.weights = adapter, weights
        self.products = products(adapter.targets, adapter.rank, weights.shape)
        self.squares = [
            {group: _row_squares(self._base(i, group)) for group in self.products} for i in range(len(adapter.layers))
        ]

    def write_factor(self, index: int, group: str, a: Tensor, b: Tensor, factor: Tensor) -> None:
        """Write the factor of one product of the `index`-th adapted layer, from its stacked A and scaled B."""
        cross = torch.mm(self._base(index, group), a.t()).float()
        b, gram = b.float(), torch.mm(a.float(), a.float().t())
        square = (2 * cross).add_(torch.mm(b, gram)).mul_(b).sum(1).add_(self.squares[index][group])
        norm = square.sqrt_()
        factor.zero_()
        for part in self.products[group].parts:
            magnitude = self.adapter.layers[index][part.name].magnitude
            assert magnitude is not None, "every adapted layer of DoRA has magnitudes"
            factor[part.out] = magnitude / norm[part.out] - 1

    def _base(self, index: int, group: str) -> Tensor:
        """The rows of a frozen matrix that are adapted."""
        layer = self.weights.layers[self.adapter.first_layer + index]
        weight: Tensor = getattr(layer, group)  # getattr: a group is called as its matrix
        columns = self.products[group].columns
        return weight if columns is None else weight[columns]


def _row_squares(weight: Tensor) -> Tensor:
    """Squared length of every row, fp32."""
    return weight.float().square_().sum(1) if weight.dtype != torch.float32 else weight.square().sum(1)


def start_magnitudes(adapter: Adapter, weights: LlamaWeights) -> None:
    """Set the magnitudes of a new adapter to the lengths of the rows they belong to, so that nothing changes yet.

    Raises:
        ModelError: a row is all zero; DoRA divides by its length.
    """
    magnitudes = Magnitudes(adapter, weights)
    for i, layer in enumerate(adapter.layers):
        for group, product in magnitudes.products.items():
            norm = magnitudes.squares[i][group].sqrt()
            for part in product.parts:
                num_zero = int((norm[part.out] == 0).sum())
                if num_zero:
                    raise ModelError(
                        f"layer {adapter.first_layer + i}, {part.name}: {num_zero} of {len(norm[part.out])} rows of "
                        "the base are all zero, and DoRA divides by their length. Leave the layer out by "
                        "tune.targets, or set tune.method = 'lora'."
                    )
                magnitude = layer[part.name].magnitude
                assert magnitude is not None, "an adapter of DoRA is made with magnitudes"
                magnitude.copy_(norm[part.out])
