"""Rotary positions and causal attention over packed rows, forward and backward, as batched products.

For the short rows of tuning, torch's own CPU attention spends most of its time outside its products
(measured in docs/tune.md); three batched products and a softmax are several times faster and give
the same numbers. Query blocks skip the part of the future they would only mask.

Shapes: N packed tokens, B rows of a group, T their padded length, K key heads, G query heads a key
head (H = K G), E head width, W = (H + 2 K) E.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from metier.engine.batch import Group
from metier.engine.rotary import rotary_frequencies
from metier.engine.weights import LlamaShape

__all__ = ["Attention", "Buffers"]

QUERY_BLOCK = 256
"""Queries of one block; below this length the whole row is one block."""


@dataclass(slots=True)
class Buffers:
    """Named memory that is reused: fresh large tensors would cost a page fault for every 4 KiB."""

    device: str | torch.device = "cpu"
    flat: dict[tuple[str, torch.dtype], Tensor] = field(default_factory=dict)

    def take(self, name: str, *shape: int, dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor; the same name gives the same memory again."""
        size = prod(shape)
        found = self.flat.get((name, dtype))
        if found is None or found.numel() < size:
            self.flat.pop((name, dtype), None)
            del found
            found = self._fresh(size, dtype)
            self.flat[name, dtype] = found
        return found[:size].view(shape)

    def _fresh(self, size: int, dtype: torch.dtype) -> Tensor:
        """New memory straight from the system, given back whole when it is outgrown.

        Through malloc, outgrown buffers stay behind as holes: a run of 27 steps held 5.1 GiB instead of 2.
        """
        size = -(-size // 65536) * 65536
        if torch.device(self.device).type != "cpu":
            return torch.empty(size, dtype=dtype, device=self.device)
        pages = mmap.mmap(-1, size * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return torch.frombuffer(pages, dtype=dtype)


class Attention:
    """Attention of one architecture in one precision; rotary tables and masks are made once per length."""

    def __init__(self, shape: LlamaShape, dtype: torch.dtype, buffers: Buffers) -> None:
        self.shape, self.dtype, self.buffers = shape, dtype, buffers
        self.tables: dict[int, tuple[Tensor, Tensor]] = {}
        self.masks: dict[tuple[int, int], Tensor] = {}
        self.scale = shape.head_width**-0.5

    def forward(self, qkv_NW: Tensor, groups: tuple[Group, ...], out_NHE: Tensor, *, keep: str = "") -> None:
        """Write attention's output; under a `keep` name q, k, v stay in the buffers for `backward`.

        The attention weights do not: they grow with the square of the row, and computing them again costs 2 % of
        a step.
        """
        s = self.shape
        num_k, per_k, e = s.num_kv_heads, s.num_heads // s.num_kv_heads, s.head_width
        for i, group in enumerate(groups):
            b, t = group.rows, group.length
            q, k, v = self._rotated(qkv_NW, groups, i, keep or "now")
            out = self.buffers.take("attention", b * num_k, t * per_k, e, dtype=self.dtype)
            for start in range(0, t, QUERY_BLOCK):
                stop = min(start + QUERY_BLOCK, t)
                p = self._weights(q, k, start, stop)
                torch.bmm(p, v[:, :stop], out=out[:, start * per_k : stop * per_k])
            out_BTKGE = out.view(b, num_k, t, per_k, e).permute(0, 2, 1, 3, 4)
            self._unpad(out_BTKGE, group, out_NHE)

    def backward(self, dout_NHE: Tensor, groups: tuple[Group, ...], dqkv_NW: Tensor, *, keep: str) -> None:
        """Write the gradient of q, k and v before rotation, from what `forward` kept under `keep`."""
        s = self.shape
        num_k, per_k, e = s.num_kv_heads, s.num_heads // s.num_kv_heads, s.head_width
        take = self.buffers.take
        for i, group in enumerate(groups):
            b, t = group.rows, group.length
            q, k, v = self._kept(groups, i, keep)
            dout = take("attention", b, num_k, t, per_k, e, dtype=self.dtype)
            padded = self._padded(dout_NHE, group, "dout", zero_pads=True)
            dout.copy_(padded.view(b, t, num_k, per_k, e).permute(0, 2, 1, 3, 4))
            dout = dout.view(b * num_k, t * per_k, e)
            dq = take("dq", b * num_k, t * per_k, e, dtype=self.dtype)
            dk = take("dk", b * num_k, t, e, dtype=self.dtype)
            dv = take("dv", b * num_k, t, e, dtype=self.dtype)
            for start in reversed(range(0, t, QUERY_BLOCK)):  # the last block reaches every key: it initialises dk, dv
                stop = min(start + QUERY_BLOCK, t)
                rows = slice(start * per_k, stop * per_k)
                p = self._weights(q, k, start, stop)
                dp = torch.bmm(dout[:, rows], v[:, :stop].transpose(1, 2), out=take("dp", *p.shape, dtype=self.dtype))
                ds = take("ds", *p.shape, dtype=self.dtype)
                torch.ops.aten._softmax_backward_data.out(dp, p, -1, self.dtype, grad_input=ds)
                torch.bmm(ds, k[:, :stop], out=dq[:, rows])
                if stop == t:
                    torch.bmm(p.transpose(1, 2), dout[:, rows], out=dv)
                    torch.bmm(ds.transpose(1, 2), q[:, rows], out=dk)
                else:
                    dv[:, :stop].baddbmm_(p.transpose(1, 2), dout[:, rows])
                    dk[:, :stop].baddbmm_(ds.transpose(1, 2), q[:, rows])
            self._unrotate(dq.mul_(self.scale), dk.mul_(self.scale), dv, group, dqkv_NW)

    def _weights(self, q: Tensor, k: Tensor, start: int, stop: int) -> Tensor:
        """Attention weights of one block of queries over the keys up to its end: (B K, block G, stop)."""
        per_k = q.shape[1] // k.shape[1]
        rows = slice(start * per_k, stop * per_k)
        size = (q.shape[0], (stop - start) * per_k, stop)
        p = self.buffers.take("weights", *size, dtype=self.dtype)
        torch.bmm(q[:, rows], k[:, :stop].transpose(1, 2), out=p)
        score = p.view(size[0], stop - start, per_k, stop)
        torch.add(self._mask(start, stop), score, alpha=self.scale, out=score)
        return torch.softmax(p, -1, out=p)

    def _kept(self, groups: tuple[Group, ...], index: int, name: str) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v of a group: its part of one buffer for all groups, so that memory follows the tokens."""
        s = self.shape
        num_k, per_k, e = s.num_kv_heads, s.num_heads // s.num_kv_heads, s.head_width
        group, last = groups[index], groups[-1]
        width = (s.num_heads + 2 * num_k) * e
        flat = self.buffers.take(name, last.padded_start + last.rows * last.length, width, dtype=self.dtype)
        part = flat[group.padded_start : group.padded_start + group.rows * group.length].view(-1)
        b, t = group.rows, group.length
        q, k, v = part.split_with_sizes([b * t * num_k * per_k * e, b * t * num_k * e, b * t * num_k * e])
        return q.view(b * num_k, t * per_k, e), k.view(b * num_k, t, e), v.view(b * num_k, t, e)

    def _rotated(
        self, qkv_NW: Tensor, groups: tuple[Group, ...], index: int, name: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        """q, k (rotated) and v of a group, heads before places."""
        s = self.shape
        num_q, num_k, e = s.num_heads, s.num_kv_heads, s.head_width
        group = groups[index]
        b, t = group.rows, group.length
        full = self._padded(qkv_NW, group, "padded", zero_pads=False).view(b, t, num_q + 2 * num_k, e)
        turned = self._turn(full[:, :, : num_q + num_k], t, sign=1)
        q, k, v = self._kept(groups, index, name)
        q_BTKGE = turned[:, :, :num_q].view(b, t, num_k, num_q // num_k, e)
        q.view(b, num_k, t, num_q // num_k, e).copy_(q_BTKGE.permute(0, 2, 1, 3, 4))
        k.view(b, num_k, t, e).copy_(turned[:, :, num_q:].permute(0, 2, 1, 3))
        v.view(b, num_k, t, e).copy_(full[:, :, num_q + num_k :].permute(0, 2, 1, 3))
        return q, k, v

    def _unrotate(self, dq: Tensor, dk: Tensor, dv: Tensor, group: Group, dqkv_NW: Tensor) -> None:
        s = self.shape
        num_q, num_k, e = s.num_heads, s.num_kv_heads, s.head_width
        b, t, per_k = group.rows, group.length, s.num_heads // s.num_kv_heads
        full = self.buffers.take("dturned", b, t, num_q + 2 * num_k, e, dtype=self.dtype)
        q_part = full[:, :, :num_q].view(b, t, num_k, per_k, e)
        q_part.copy_(dq.view(b, num_k, t, per_k, e).permute(0, 2, 1, 3, 4))
        full[:, :, num_q : num_q + num_k].copy_(dk.view(b, num_k, t, e).permute(0, 2, 1, 3))
        full[:, :, num_q + num_k :].copy_(dv.view(b, num_k, t, e).permute(0, 2, 1, 3))
        qk = full[:, :, : num_q + num_k]
        qk.copy_(self._turn(qk, t, sign=-1))
        self._unpad(full, group, dqkv_NW)

    def _turn(self, x_BTHE: Tensor, length: int, *, sign: int) -> Tensor:
        """Rotate by the angle of each place (sign 1) or back (sign -1), in fp32."""
        cos, sin = self._table(length)
        half = x_BTHE.shape[-1] // 2
        x = self.buffers.take("turn_in", *x_BTHE.shape, dtype=torch.float32).copy_(x_BTHE)
        y = torch.mul(x, cos, out=self.buffers.take("turn_out", *x_BTHE.shape, dtype=torch.float32))
        y[..., :half].addcmul_(x[..., half:], sin, value=-sign)
        y[..., half:].addcmul_(x[..., :half], sin, value=sign)
        return y

    def _table(self, length: int) -> tuple[Tensor, Tensor]:
        """Cos (T, 1, E) and sin (T, 1, E / 2) of places 0 to `length` - 1, fp32."""
        if length not in self.tables:
            s, device = self.shape, self.buffers.device
            frequency = rotary_frequencies(s.head_width, s.rope_theta, s.rope_scaling, device=device)
            angle = torch.arange(length, dtype=torch.float32, device=device)[:, None] * frequency
            factor = s.rope_scaling.attention_factor if s.rope_scaling else 1.0
            cos, sin = torch.cat([angle, angle], -1).cos() * factor, angle.sin() * factor
            self.tables[length] = (cos[:, None], sin[:, None])
        return self.tables[length]

    def _mask(self, start: int, stop: int) -> Tensor:
        """0 where a query of the block may look, minus infinity where it may not: (block, 1, stop)."""
        if (start, stop) not in self.masks:
            ahead = torch.full((stop - start, stop), float("-inf"), dtype=self.dtype, device=self.buffers.device)
            self.masks[start, stop] = ahead.triu(start + 1)[:, None]
        return self.masks[start, stop]

    def _padded(self, x_NC: Tensor, group: Group, name: str, *, zero_pads: bool) -> Tensor:
        """The group's rows padded to one length: (B T, C)."""
        part = x_NC[group.start : group.stop]
        if group.pad_from is None or group.pads is None:
            return part
        full = self.buffers.take(name, group.pad_from.numel(), part.shape[1], dtype=part.dtype)
        torch.index_select(part, 0, group.pad_from, out=full)
        return full.index_fill_(0, group.pads, 0) if zero_pads else full

    def _unpad(self, full: Tensor, group: Group, out_NC: Tensor) -> None:
        """Copy (B, T, ...) without its padding to the group's packed rows."""
        part = out_NC[group.start : group.stop]
        if group.real is None:
            part.view(full.shape).copy_(full)
            return
        flat = self.buffers.take("unpad", *full.shape, dtype=part.dtype).copy_(full)
        torch.index_select(flat.view(-1, part.shape[1]), 0, group.real, out=part)
