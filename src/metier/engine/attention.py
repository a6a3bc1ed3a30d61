"""Rotary positions and causal attention over packed rows, forward and backward, as batched products.

For the short rows of tuning, torch's own CPU attention spends most of its time outside its products
(measured in docs/tune.md); three batched products and a softmax are several times faster and give
the same numbers. Query blocks skip the part of the future they would only mask.

Rows may go on after tokens they share (`Past`): these have keys and values already, and come first.

Shapes: N packed tokens, B rows of a group, T their padded length, S shared tokens before them, K key heads, G query
heads a key head (H = K G), E head width, W = (H + 2 K) E.
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

__all__ = ["Attention", "Buffers", "Past"]

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


@dataclass(slots=True)
class Past:
    """What rows see of the tokens they all start with, in one layer: places 0 to S - 1."""

    k: Tensor
    """(K, S, E), rotated."""
    v: Tensor
    dk: Tensor | None = None
    """(K, S, E) fp32; `Attention.backward` adds the gradients here, that of k before the scale."""
    dv: Tensor | None = None


class Attention:
    """Attention of one architecture in one precision; rotary tables and masks are made once per length."""

    def __init__(self, shape: LlamaShape, dtype: torch.dtype, buffers: Buffers) -> None:
        self.shape, self.dtype, self.buffers = shape, dtype, buffers
        self.tables: dict[int, tuple[Tensor, Tensor]] = {}
        self.masks: dict[tuple[int, int, int], Tensor] = {}
        self.scale = shape.head_width**-0.5

    def forward(
        self, qkv_NW: Tensor, groups: tuple[Group, ...], out_NHE: Tensor, *, keep: str = "", past: Past | None = None
    ) -> None:
        """Write attention's output; under a `keep` name q, k, v stay in the buffers for `backward`.

        The attention weights do not: they grow with the square of the row, and computing them again costs 2 % of
        a step.
        """
        s = self.shape
        num_k, per_k, e = s.num_kv_heads, s.num_heads // s.num_kv_heads, s.head_width
        before = _length(past)
        for i, group in enumerate(groups):
            b, t = group.rows, group.length
            q, k, v = self._rotated(qkv_NW, groups, i, keep or "now", past)
            out = self.buffers.take("attention", b * num_k, t * per_k, e, dtype=self.dtype)
            for start in range(0, t, QUERY_BLOCK):
                stop = min(start + QUERY_BLOCK, t)
                p = self._weights(q, k, start, stop, before)
                torch.bmm(p, v[:, : before + stop], out=out[:, start * per_k : stop * per_k])
            out_BTKGE = out.view(b, num_k, t, per_k, e).permute(0, 2, 1, 3, 4)
            self._unpad(out_BTKGE, group, out_NHE)

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
        """Write the gradient of q, k and v before rotation, from what `forward` kept under `keep`.

        `past` is what forward had. `later` holds what rows that went on after these tokens (one row) have
        summed of the gradients of its k and v.
        """
        s = self.shape
        num_k, per_k, e = s.num_kv_heads, s.num_heads // s.num_kv_heads, s.head_width
        take, before = self.buffers.take, _length(past)
        for i, group in enumerate(groups):
            b, t = group.rows, group.length
            q, k, v = self._kept(groups, i, keep, before)
            dout = take("attention", b, num_k, t, per_k, e, dtype=self.dtype)
            padded = self._padded(dout_NHE, group, "dout", zero_pads=True)
            dout.copy_(padded.view(b, t, num_k, per_k, e).permute(0, 2, 1, 3, 4))
            dout = dout.view(b * num_k, t * per_k, e)
            dq = take("dq", b * num_k, t * per_k, e, dtype=self.dtype)
            dk = take("dk", b * num_k, before + t, e, dtype=self.dtype)
            dv = take("dv", b * num_k, before + t, e, dtype=self.dtype)
            for start in reversed(range(0, t, QUERY_BLOCK)):  # the last block reaches every key: it initialises dk, dv
                stop = min(start + QUERY_BLOCK, t)
                rows, keys = slice(start * per_k, stop * per_k), slice(0, before + stop)
                p = self._weights(q, k, start, stop, before)
                dp = torch.bmm(dout[:, rows], v[:, keys].transpose(1, 2), out=take("dp", *p.shape, dtype=self.dtype))
                ds = take("ds", *p.shape, dtype=self.dtype)
                torch.ops.aten._softmax_backward_data.out(dp, p, -1, self.dtype, grad_input=ds)
                torch.bmm(ds, k[:, keys], out=dq[:, rows])
                if stop == t:
                    torch.bmm(p.transpose(1, 2), dout[:, rows], out=dv)
                    torch.bmm(ds.transpose(1, 2), q[:, rows], out=dk)
                else:
                    dv[:, keys].baddbmm_(p.transpose(1, 2), dout[:, rows])
                    dk[:, keys].baddbmm_(ds.transpose(1, 2), q[:, rows])
            if past is not None and past.dk is not None and past.dv is not None:
                for total, d in ((past.dk, dk), (past.dv, dv)):
                    total.add_(d.view(b, num_k, before + t, e)[:, :, :before].sum(0, dtype=torch.float32))
            _add_later(dk, dv, later)
            self._unrotate(dq.mul_(self.scale), dk.mul_(self.scale), dv, group, dqkv_NW, before)

    def keys(self, qkv_NW: Tensor, groups: tuple[Group, ...], *, keep: str) -> None:
        """As `forward` where nobody needs the output: only k and v are kept."""
        for i in range(len(groups)):
            self._rotated(qkv_NW, groups, i, keep, None)

    def keys_backward(self, groups: tuple[Group, ...], dqkv_NW: Tensor, *, later: Past) -> None:
        """The gradient of q (none), k and v of one row before rotation, from what later tokens summed."""
        s, (group,) = self.shape, groups
        size = (s.num_kv_heads, group.length, s.head_width)
        dq = self.buffers.take("dq", s.num_heads, group.length, s.head_width, dtype=self.dtype).zero_()
        dk, dv = (self.buffers.take(name, *size, dtype=self.dtype).zero_() for name in ("dk", "dv"))
        _add_later(dk, dv, later)
        self._unrotate(dq, dk.mul_(self.scale), dv, group, dqkv_NW, 0)

    def kept_keys(self, groups: tuple[Group, ...], num_tokens: int, *, keep: str) -> Past:
        """K and v of one row, as `forward` or `keys` kept them."""
        _, k, v = self._kept(groups, 0, keep, 0)
        return Past(k[:, :num_tokens], v[:, :num_tokens])

    def _weights(self, q: Tensor, k: Tensor, start: int, stop: int, before: int) -> Tensor:
        """Attention weights of one block of queries over the keys up to its end: (B K, block G, S + stop)."""
        per_k = self.shape.num_heads // self.shape.num_kv_heads
        rows = slice(start * per_k, stop * per_k)
        size = (q.shape[0], (stop - start) * per_k, before + stop)
        p = self.buffers.take("weights", *size, dtype=self.dtype)
        torch.bmm(q[:, rows], k[:, : before + stop].transpose(1, 2), out=p)
        score = p.view(size[0], stop - start, per_k, before + stop)
        torch.add(self._mask(start, stop, before), score, alpha=self.scale, out=score)
        return torch.softmax(p, -1, out=p)

    def _kept(self, groups: tuple[Group, ...], index: int, name: str, before: int) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v of a group: its part of one buffer for all groups, so that memory follows the tokens."""
        s = self.shape
        num_k, e = s.num_kv_heads, s.head_width
        per_row = 2 * num_k * before * e
        sizes = [g.rows * (g.length * (s.num_heads + 2 * num_k) * e + per_row) for g in groups]
        start = sum(sizes[:index])
        part = self.buffers.take(name, sum(sizes), dtype=self.dtype)[start : start + sizes[index]]
        b, t = groups[index].rows, groups[index].length
        num_keys = b * num_k * (before + t) * e
        q, k, v = part.split_with_sizes([b * t * s.num_heads * e, num_keys, num_keys])
        keys = (b * num_k, before + t, e)
        return q.view(b * num_k, t * s.num_heads // num_k, e), k.view(keys), v.view(keys)

    def _rotated(
        self, qkv_NW: Tensor, groups: tuple[Group, ...], index: int, name: str, past: Past | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """q, k (rotated) and v of a group, heads before places; the past's k and v come first."""
        s = self.shape
        num_q, num_k, e = s.num_heads, s.num_kv_heads, s.head_width
        group, before = groups[index], _length(past)
        b, t = group.rows, group.length
        full = self._padded(qkv_NW, group, "padded", zero_pads=False).view(b, t, num_q + 2 * num_k, e)
        turned = self._turn(full[:, :, : num_q + num_k], before, before + t, sign=1)
        q, k, v = self._kept(groups, index, name, before)
        q_BTKGE = turned[:, :, :num_q].view(b, t, num_k, num_q // num_k, e)
        q.view(b, num_k, t, num_q // num_k, e).copy_(q_BTKGE.permute(0, 2, 1, 3, 4))
        k_BKTE, v_BKTE = (keys.view(b, num_k, before + t, e) for keys in (k, v))
        k_BKTE[:, :, before:].copy_(turned[:, :, num_q:].permute(0, 2, 1, 3))
        v_BKTE[:, :, before:].copy_(full[:, :, num_q + num_k :].permute(0, 2, 1, 3))
        if past is not None:
            k_BKTE[:, :, :before] = past.k
            v_BKTE[:, :, :before] = past.v
        return q, k, v

    def _unrotate(self, dq: Tensor, dk: Tensor, dv: Tensor, group: Group, dqkv_NW: Tensor, before: int) -> None:
        s = self.shape
        num_q, num_k, e = s.num_heads, s.num_kv_heads, s.head_width
        b, t, per_k = group.rows, group.length, s.num_heads // s.num_kv_heads
        full = self.buffers.take("dturned", b, t, num_q + 2 * num_k, e, dtype=self.dtype)
        q_part = full[:, :, :num_q].view(b, t, num_k, per_k, e)
        q_part.copy_(dq.view(b, num_k, t, per_k, e).permute(0, 2, 1, 3, 4))
        dk_BKTE, dv_BKTE = (d.view(b, num_k, before + t, e)[:, :, before:] for d in (dk, dv))
        full[:, :, num_q : num_q + num_k].copy_(dk_BKTE.permute(0, 2, 1, 3))
        full[:, :, num_q + num_k :].copy_(dv_BKTE.permute(0, 2, 1, 3))
        qk = full[:, :, : num_q + num_k]
        qk.copy_(self._turn(qk, before, before + t, sign=-1))
        self._unpad(full, group, dqkv_NW)

    def _turn(self, x_BTHE: Tensor, start: int, stop: int, *, sign: int) -> Tensor:
        """Rotate by the angle of each place, `start` to `stop` (sign 1), or back (sign -1), in fp32."""
        cos, sin = (table[start:] for table in self._table(stop))
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

    def _mask(self, start: int, stop: int, before: int) -> Tensor:
        """0 where a query of the block may look, minus infinity where it may not: (block, 1, S + stop)."""
        if (start, stop, before) not in self.masks:
            size = (stop - start, before + stop)
            ahead = torch.full(size, float("-inf"), dtype=self.dtype, device=self.buffers.device)
            self.masks[start, stop, before] = ahead.triu(before + start + 1)[:, None]
        return self.masks[start, stop, before]

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


def _length(past: Past | None) -> int:
    return 0 if past is None else past.k.shape[1]


def _add_later(dk: Tensor, dv: Tensor, later: Past | None) -> None:
    """Add what later tokens summed of the gradients of one row's k and v."""
    if later is not None and later.dk is not None and later.dv is not None:
        num_tokens = later.dk.shape[1]
        dk[:, :num_tokens] += later.dk
        dv[:, :num_tokens] += later.dv
