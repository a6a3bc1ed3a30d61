"""Attention over packed rows by torch's variable-length kernel, where there is a GPU for it.

It reads rows end to end as they lie, so nothing is padded or gathered; the gradient is the kernel's own, from a second
forward instead of kept weights, as in the batched form. Rows that go on from a shared prefix take the batched form.
Written against torch's documented call; it has not been run on a GPU. All but the kernel is tested on a CPU.

Shapes: N packed tokens, B rows, H query heads, K key heads, E head width, W = (H + 2 K) E.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from metier.engine.attention import Attention, Buffers, Past
from metier.engine.batch import Group
from metier.engine.weights import LlamaShape

__all__ = ["Layout", "VarlenAttention", "attention_for", "row_layout"]


class Layout(NamedTuple):
    """Where rows lie in packed tokens, as kernels ask for it."""

    starts_B: Tensor
    """First token of every row, and the end of the last; int32 (B + 1)."""
    longest: int
    place_N: Tensor
    """Place of every token in its row."""


Kernel = Callable[[Tensor, Tensor, Tensor, Layout, float], Tensor]
"""(query_NHE, key_NKE, value_NKE, layout, scale) -> mixed values (N, H, E), causal within each row."""


def row_layout(groups: tuple[Group, ...], device: torch.device | str) -> Layout:
    """The rows of a micro-batch, group after group."""
    lengths = torch.tensor([length for group in groups for length in group.lengths])
    ends = lengths.cumsum(0)
    starts_B = torch.cat([torch.zeros(1, dtype=torch.int64), ends])
    place_N = torch.arange(int(ends[-1])) - torch.repeat_interleave(starts_B[:-1], lengths)
    return Layout(starts_B.to(device, torch.int32), int(lengths.max()), place_N.to(device))


def torch_kernel(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
    """Torch's own variable-length attention."""
    from torch.nn.attention.varlen import varlen_attn

    starts, longest = layout.starts_B, layout.longest
    found = varlen_attn(
        query, key, value, starts, starts, longest, longest, scale=scale, window_size=(-1, 0), enable_gqa=True
    )
    assert isinstance(found, Tensor), "no auxiliary output was asked for"
    return found


class VarlenAttention(Attention):
    """The same function as `Attention`, without padding."""

    def __init__(
        self, shape: LlamaShape, dtype: torch.dtype, buffers: Buffers, *, kernel: Kernel = torch_kernel
    ) -> None:
        super().__init__(shape, dtype, buffers)
        self.kernel = kernel
        self.layouts: tuple[tuple[Group, ...], Layout] | None = None

    def forward(
        self, qkv_NW: Tensor, groups: tuple[Group, ...], out_NHE: Tensor, *, keep: str = "", past: Past | None = None
    ) -> None:
        """Write attention's output; under a `keep` name rotated q, k and v stay for `backward`."""
        if past is not None:
            super().forward(qkv_NW, groups, out_NHE, keep=keep, past=past)
            return
        s, layout = self.shape, self._layout(groups)
        num = len(layout.place_N)
        full = qkv_NW[:num].view(num, s.num_heads + 2 * s.num_kv_heads, s.head_width)
        kept = self._packed(keep or "now", num)
        num_turned = s.num_heads + s.num_kv_heads
        kept[:, :num_turned] = self._turned(full[:, :num_turned], layout, sign=1)
        kept[:, num_turned:] = full[:, num_turned:]
        mixed = self.kernel(*self._split(kept), layout, self.scale)
        out_NHE[:num].copy_(mixed.reshape(num, -1))

    def backward(
        self,
        dout_NHE: Tensor,
        groups: tuple[Group, ...],
        dqkv_NW: Tensor,
        *,
        keep: str,
        past: Past | None = None,
        later: Past | None = None,
    ) -> None:
        """Write the gradient of q, k and v before rotation, from what `forward` kept under `keep`."""
        if past is not None or later is not None:
            super().backward(dout_NHE, groups, dqkv_NW, keep=keep, past=past, later=later)
            return
        s, layout = self.shape, self._layout(groups)
        num, num_turned = len(layout.place_N), s.num_heads + s.num_kv_heads
        parts = [part.detach().requires_grad_() for part in self._split(self._packed(keep, num))]
        with torch.enable_grad():
            mixed = self.kernel(parts[0], parts[1], parts[2], layout, self.scale)
            grads = torch.autograd.grad(mixed, parts, dout_NHE[:num].reshape(mixed.shape))
        full = dqkv_NW[:num].view(num, num_turned + s.num_kv_heads, s.head_width)
        full[:, :num_turned] = self._turned(torch.cat(grads[:2], 1), layout, sign=-1)
        full[:, num_turned:] = grads[2]

    def _layout(self, groups: tuple[Group, ...]) -> Layout:
        """Made once a micro-batch, not once a layer."""
        if self.layouts is None or self.layouts[0] is not groups:
            self.layouts = (groups, row_layout(groups, self.buffers.device))
        return self.layouts[1]

    def _packed(self, name: str, num: int) -> Tensor:
        s = self.shape
        return self.buffers.take(name, num, s.num_heads + 2 * s.num_kv_heads, s.head_width, dtype=self.dtype)

    def _split(self, full: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h, k = self.shape.num_heads, self.shape.num_kv_heads
        return full[:, :h], full[:, h : h + k], full[:, h + k :]

    def _turned(self, x_NHE: Tensor, layout: Layout, *, sign: int) -> Tensor:
        """Rotate every token by the angle of its place (sign 1) or back (sign -1), in fp32."""
        cos, sin = (table[layout.place_N] for table in self._table(layout.longest))
        half = x_NHE.shape[-1] // 2
        x = x_NHE.float()
        y = x * cos
        y[..., :half].addcmul_(x[..., half:], sin, value=-sign)
        y[..., half:].addcmul_(x[..., :half], sin, value=sign)
        return y


def attention_for(shape: LlamaShape, dtype: torch.dtype, buffers: Buffers) -> Attention:
    """The form for this device: the kernel takes bf16 and heads of at most 256, a multiple of 8, on CUDA."""
    is_taken = dtype == torch.bfloat16 and shape.head_width % 8 == 0 and shape.head_width <= 256
    if torch.device(buffers.device).type == "cuda" and is_taken:
        return VarlenAttention(shape, dtype, buffers)
    return Attention(shape, dtype, buffers)
