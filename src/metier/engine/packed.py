"""Frozen matrices in the order oneDNN multiplies fastest: packed once instead of at every product.

For the few rows of a decode step the packing of a plain matrix costs as much as the product; packed, bf16
products of 1-32 rows take 0.4-0.75 of the time, and give the same bits. The packed copy is as large as the matrix and
lives as long as it; a matrix changed in place (full tuning) is packed again.

Where oneDNN or the dtype is missing (another device), everything falls back to `torch.nn.functional.linear`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["Matrix"]

ROWS_HINT = 32
"""The row count a packing is chosen for; others work with it as well."""
_PACKED: Any = WeakTensorKeyDictionary()  # Any: torch leaves the class untyped; Tensor -> (version, packed Tensor)


class Matrix:
    """One frozen (out, in) matrix, packed where that helps."""

    def __init__(self, weight: Tensor) -> None:
        self.plain = weight
        self.packed = _pack(weight)

    def times(self, x_NI: Tensor, plus: Tensor | None = None) -> Tensor:
        """Product x W' (N, out), plus another (N, out) added before rounding where the kernel allows it."""
        if self.packed is None:
            y = F.linear(x_NI, self.plain)
            return y if plus is None else y + plus
        if len(x_NI) == 1 and x_NI.dtype == torch.float32:
            # One fp32 row takes a kernel that sums in another order (seen at 1,536 inputs); two rows do not, so a
            # row's result never depends on how many rows are beside it.
            return self.times(x_NI.expand(2, -1), None if plus is None else plus.expand(2, -1))[:1]
        ops: Any = torch.ops.mkldnn  # Any: operators are looked up by name at run time
        if plus is None:
            found: Tensor = ops._linear_pointwise(x_NI, self.packed, None, "none", [], "")
        else:
            found = ops._linear_pointwise.binary(x_NI, plus, self.packed, None, "add")
        return found


def _pack(weight: Tensor) -> Tensor | None:
    """The packed matrix, from memory when this very version was packed before; None where it cannot be."""
    if not _is_packable(weight):
        return None
    found = _PACKED.get(weight)
    if found is None or found[0] != weight._version:
        with torch.inference_mode(False), torch.no_grad():
            packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS_HINT)
        found = (weight._version, packed)
        _PACKED[weight] = found
    packed_weight: Tensor = found[1]
    return packed_weight


def _is_packable(weight: Tensor) -> bool:
    """Whether oneDNN multiplies this dtype on this machine."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # untyped in torch
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32
