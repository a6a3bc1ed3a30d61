"""RMS norm over the last dimension and its gradient, in fp32 whatever the products use.

Shapes: N tokens (or N tokens of H heads), D model (or head) width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metier.engine.attention import Buffers

__all__ = ["rms_norm", "rms_norm_backward"]


def rms_norm(x_ND: Tensor, weight_D: Tensor, eps: float, buffers: Buffers, *, name: str, dtype: torch.dtype) -> Tensor:
    """X / rms(x) * weight in `dtype`, under `name`; the inverse rms stays under `name`.inv."""
    inverse = buffers.take(f"{name}.inv", *x_ND.shape[:-1], 1, dtype=torch.float32)
    torch.linalg.vector_norm(x_ND, dim=-1, keepdim=True, out=inverse)
    inverse.square_().div_(x_ND.shape[-1]).add_(eps).rsqrt_()
    scaled = torch.mul(x_ND, inverse, out=buffers.take("norm", *x_ND.shape, dtype=torch.float32))
    return buffers.take(name, *x_ND.shape, dtype=dtype).copy_(scaled.mul_(weight_D.float()))


def rms_norm_backward(
    x_ND: Tensor,
    dnormed_ND: Tensor,
    dx_ND: Tensor,
    weight_D: Tensor,
    buffers: Buffers,
    *,
    name: str,
    grad_D: Tensor | None = None,
) -> Tensor:
    """Add the gradient through the norm to `dx_ND`, in place, and that of the norm's own weight to `grad_D`."""
    inverse = buffers.take(f"{name}.inv", *x_ND.shape[:-1], 1, dtype=torch.float32)
    d = buffers.take("norm", *x_ND.shape, dtype=torch.float32).copy_(dnormed_ND)
    product = buffers.take("norm_product", *x_ND.shape, dtype=torch.float32)
    if grad_D is not None:
        grad_D.add_(torch.mul(d, x_ND, out=product).mul_(inverse).sum(0))
    d.mul_(weight_D.float())
    pull = torch.mul(d, x_ND, out=product).sum(-1, keepdim=True)
    pull.mul_(inverse.pow(3)).div_(x_ND.shape[-1])
    dx_ND.addcmul_(d, inverse)
    return dx_ND.addcmul_(x_ND, pull, value=-1)
