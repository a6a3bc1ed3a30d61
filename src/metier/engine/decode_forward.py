"""The forward pass of decoding: prompts once, then one token a row a step, without gradients.

Tokens of several rows lie flat in one (N, D) matrix, so no product sees padding; only attention knows rows.
A prefix shared by rows (`Trunk`) is one matrix product for all their queries.

Shapes: N tokens of all rows, B rows, D model width, H query heads, K key/value heads, G = H / K,
E head width, F feed-forward width, T positions of the longest row, P prefix positions, W = P + T, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from metier.engine.cache import KvCache, Trunk
from metier.engine.decode_model import DecodeModel
from metier.engine.weights import LlamaShape

__all__ = ["StepPlan", "TrunkRows", "decode_rows", "decode_run", "fill_trunk", "prefill_rows"]

QUERY_BLOCK = 256
"""Prompt tokens whose scores exist at once."""
Block = tuple[int, int, Tensor]
"""First token, end, and additive mask (1, tokens of the block times G, positions they may see at most), fp32."""
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, query_NHE, key_NKE, value_NKE) -> mixed values (N, H E)."""


def _layers(model: DecodeModel, token_N: Tensor, position_N: Tensor, attend: Attend, last_N: Tensor | None) -> Tensor:
    """Hidden states (N, D) after the final norm; with `last_N`, of these tokens only."""
    weights, shape = model.weights, model.weights.shape
    eps_1 = torch.full((1,), shape.norm_eps, device=token_N.device)
    rotation = _rotation(model, position_N)
    x_ND = F.embedding(token_N, weights.embed_VD)
    for i, layer in enumerate(model.layers):
        mixed = _attention(model, i, _norm(x_ND, layer.norm1_D, eps_1), rotation, attend)
        if last_N is not None and i == shape.num_layers - 1:
            x_ND, mixed = x_ND[last_N], mixed[last_N]
        x_ND = model.linear(i, "out", mixed, x_ND)
        gate, up = model.linear(i, "gate_up", _norm(x_ND, layer.norm2_D, eps_1)).chunk(2, -1)
        x_ND = model.linear(i, "down", F.silu(gate).mul_(up), x_ND)
    return _norm(x_ND, model.norm_D, eps_1)


def _norm(x_ND: Tensor, weight_D: Tensor, eps_1: Tensor) -> Tensor:
    """RMS norm computed in fp32: six operators where `F.rms_norm` takes eleven, which counts at one row a step."""
    length_N1 = torch.linalg.vector_norm(x_ND, dim=-1, keepdim=True, dtype=torch.float32)
    inverse_N1 = torch.addcmul(eps_1, length_N1, length_N1, value=1 / x_ND.shape[-1]).rsqrt_()
    return torch.mul(x_ND, inverse_N1).mul_(weight_D).to(x_ND.dtype)


def _rotation(model: DecodeModel, position_N: Tensor) -> Tensor:
    """Complex factors (N, H + K, E / 2); those of queries carry the 1 / sqrt(E) of the scores."""
    shape = model.weights.shape
    scale = torch.ones(shape.num_heads + shape.num_kv_heads, 1, device=position_N.device)
    scale[: shape.num_heads] = 1 / math.sqrt(shape.head_width)
    return model.rotation_TE[position_N][:, None] * scale


def _attention(model: DecodeModel, i: int, x_ND: Tensor, rotation: Tensor, attend: Attend) -> Tensor:
    """Attention of one block up to, not including, its output product: (N, H E)."""
    s = model.weights.shape
    num_rotated = s.num_heads + s.num_kv_heads
    qkv = model.linear(i, "qkv", x_ND)
    heads = qkv[:, : num_rotated * s.head_width].float().view(-1, num_rotated, s.head_width)
    norm_HE = model.layers[i].head_norm_HE
    if norm_HE is not None:
        heads = _norm(heads, norm_HE, torch.full((1,), s.norm_eps, device=heads.device))
    halves = heads.view(-1, num_rotated, 2, s.head_width // 2)
    # The halves leave as interleaved pairs; queries and keys are permuted alike, so their products are the same.
    turned = torch.view_as_real(torch.complex(halves[:, :, 0], halves[:, :, 1]) * rotation).flatten(-2)
    value = qkv[:, num_rotated * s.head_width :].view(-1, s.num_kv_heads, s.head_width)
    return attend(i, turned[:, : s.num_heads], turned[:, s.num_heads :], value)


@dataclass(slots=True)
class NewRow:
    """One prompt entering: its tokens after the trunk, and where they go."""

    tokens: list[int]
    trunk: Trunk | None
    slot: int
    at: int = 0
    """The first position they take in the slot."""


def prefill_rows(model: DecodeModel, cache: KvCache, rows: list[NewRow]) -> Tensor:
    """Read the prompts into their slots; returns hidden states (B, D) of each prompt's last token."""
    device = model.weights.embed_VD.device
    starts = [row.trunk.length if row.trunk else 0 for row in rows]
    length = [len(row.tokens) for row in rows]
    bounds = list(pairwise([sum(length[:i]) for i in range(len(rows) + 1)]))
    token_N = torch.tensor([token for row in rows for token in row.tokens], device=device)
    place_N = torch.cat([torch.arange(n, device=device) for n in length])
    length_B = torch.tensor(length, device=device)
    start_N = torch.tensor(starts, device=device).repeat_interleave(length_B)
    slot_N = torch.tensor([row.slot for row in rows], device=device).repeat_interleave(length_B)
    at_N = torch.tensor([row.at for row in rows], device=device).repeat_interleave(length_B)
    index = cache.row_index(slot_N, at_N + place_N)
    blocks = [_causal_blocks(n, start, model.weights.shape, device) for n, start in zip(length, starts, strict=True)]

    def attend(i: int, query_NHE: Tensor, key_NKE: Tensor, value_NKE: Tensor) -> Tensor:
        cache.write(i, index, key_NKE, value_NKE)
        mixed = torch.empty(query_NHE.shape, dtype=model.dtype, device=device)
        for row, (low, high), block in zip(rows, bounds, blocks, strict=True):
            part = (query_NHE[low:high], key_NKE[low:high], value_NKE[low:high])
            mixed[low:high] = _attend_prompt(*part, row.trunk, i, block)
        return mixed.flatten(1)

    return _layers(model, token_N, start_N + place_N, attend, length_B.cumsum(0) - 1)


def _attend_prompt(
    query_NHE: Tensor, key_NKE: Tensor, value_NKE: Tensor, trunk: Trunk | None, layer: int, blocks: list[Block]
) -> Tensor:
    """Causal attention of one prompt's tokens over its trunk and itself; scores in fp32, as in decode steps.

    Two batched products and a softmax: torch's own attention takes half as long again for prompts of 100 tokens.
    """
    num, heads, width = query_NHE.shape
    key_KNE, value_KNE = key_NKE.transpose(0, 1), value_NKE.transpose(0, 1)
    if trunk is not None:
        key_KNE = torch.cat([trunk.key_LKPE[layer], key_KNE], 1)
        value_KNE = torch.cat([trunk.value_LKPE[layer], value_KNE], 1)
    kv = len(key_KNE)
    group = heads // kv
    query_NKGE = query_NHE.reshape(num, kv, group, width)
    mixed_NKGE = torch.empty(query_NKGE.shape, dtype=value_NKE.dtype, device=value_NKE.device)
    for start, stop, mask_1QW in blocks:
        query = query_NKGE[start:stop].transpose(0, 1).reshape(kv, (stop - start) * group, width)
        seen = mask_1QW.shape[2]
        score = torch.baddbmm(mask_1QW, query, key_KNE[:, :seen].transpose(1, 2))
        mixed = torch.bmm(torch.softmax(score, -1).to(value_KNE.dtype), value_KNE[:, :seen])
        mixed_NKGE[start:stop] = mixed.view(kv, stop - start, group, width).transpose(0, 1)
    return mixed_NKGE.view(num, heads, width)


def _causal_blocks(num_own: int, num_before: int, shape: LlamaShape, device: torch.device) -> list[Block]:
    """Blocks of a prompt's tokens and what each may look at: memory grows with the prompt, not with its square."""
    group = shape.num_heads // shape.num_kv_heads
    blocks: list[Block] = []
    for start in range(0, num_own, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, num_own)
        full = torch.full((stop - start, num_before + stop), -torch.inf, device=device)
        blocks.append((start, stop, full.triu_(num_before + start + 1).repeat_interleave(group, 0)[None]))
    return blocks


def fill_trunk(model: DecodeModel, trunk: Trunk, parent: Trunk | None, num_shared: int) -> None:
    """Compute a trunk's keys and values; its first `num_shared` positions are taken from `parent`."""
    s, device = model.weights.shape, model.weights.embed_VD.device
    size = (s.num_layers, s.num_kv_heads, trunk.length, s.head_width)
    key, value = torch.empty(size, device=device), torch.empty(size, dtype=model.dtype, device=device)
    prefix: Trunk | None = None
    if parent is not None and num_shared > 0:
        prefix = Trunk(trunk.tokens[:num_shared])
        prefix.key_LKPE = parent.key_LKPE[:, :, :num_shared]
        prefix.value_LKPE = parent.value_LKPE[:, :, :num_shared]
        key[:, :, :num_shared], value[:, :, :num_shared] = prefix.key_LKPE, prefix.value_LKPE
    start = prefix.length if prefix else 0
    if start < trunk.length:
        blocks = _causal_blocks(trunk.length - start, start, s, device)

        def attend(i: int, query_NHE: Tensor, key_NKE: Tensor, value_NKE: Tensor) -> Tensor:
            key[i, :, start:], value[i, :, start:] = key_NKE.transpose(0, 1), value_NKE.transpose(0, 1)
            return _attend_prompt(query_NHE, key_NKE, value_NKE, prefix, i, blocks).flatten(1)

        token_N = torch.tensor(trunk.tokens[start:], device=device)
        position_N = torch.arange(start, trunk.length, device=device)
        _layers(model, token_N, position_N, attend, torch.tensor([0], device=device))
    trunk.key_LKPE, trunk.value_LKPE, trunk.is_ready = key, value, True


@dataclass(slots=True)
class TrunkRows:
    """The rows of a step that share one trunk."""

    trunk: Trunk
    row_B: Tensor | None
    """Their slots; None when they are all rows."""


@dataclass(slots=True)
class StepPlan:
    """What a decode step reads; rebuilt only when rows enter or leave."""

    trunks: list[TrunkRows]
    start_B: Tensor
    """Trunk length of each row."""
    num_start: int
    """The longest of them."""


def decode_rows(model: DecodeModel, cache: KvCache, plan: StepPlan, token_B: Tensor, own_B: Tensor) -> Tensor:
    """One token further for every row: hidden states (B, D).

    `own_B` counts the positions each row already has after its trunk; the new token goes there.
    """
    shape, num_rows = model.weights.shape, len(token_B)
    num_own = _read_width(int(own_B.max()) + 1, cache.capacity)
    index = cache.row_index(torch.arange(num_rows, device=token_B.device), own_B)
    mask_BW = _step_mask(plan, own_B, num_own)
    if not plan.trunks:
        mask_BW = mask_BW.repeat_interleave(shape.num_kv_heads, 0)[:, None]

    def attend(i: int, query_BHE: Tensor, key_BKE: Tensor, value_BKE: Tensor) -> Tensor:
        cache.write(i, index, key_BKE, value_BKE)
        key = cache.key(i)[:num_rows, :, :num_own]
        value = cache.value(i)[:num_rows, :, :num_own]
        if not plan.trunks:
            return _attend_own(query_BHE, key, value, mask_BW)
        return _attend_step(shape, plan, i, query_BHE, key, value, mask_BW).to(model.dtype)

    return _layers(model, token_B, own_B + plan.start_B, attend, None)


def decode_run(model: DecodeModel, cache: KvCache, token_N: Tensor, num_own: int) -> Tensor:
    """Several tokens of the row in slot 0 read in one step, each seeing those before it: hidden states (N, D)."""
    shape, num, device = model.weights.shape, len(token_N), token_N.device
    kv, group = shape.num_kv_heads, shape.num_heads // shape.num_kv_heads
    position_N = torch.arange(num_own, num_own + num, device=device)
    width = _read_width(num_own + num, cache.capacity)
    index = cache.row_index(torch.zeros_like(position_N), position_N)
    is_ahead_NT = torch.arange(width, device=device) > position_N[:, None]
    mask_T = torch.zeros(is_ahead_NT.shape, device=device).masked_fill_(is_ahead_NT, -torch.inf)
    mask_1QT = mask_T.repeat_interleave(group, 0)[None]

    def attend(i: int, query_NHE: Tensor, key_NKE: Tensor, value_NKE: Tensor) -> Tensor:
        cache.write(i, index, key_NKE, value_NKE)
        key, value = cache.key(i)[0, :, :width], cache.value(i)[0, :, :width]
        query = query_NHE.reshape(num, kv, group, -1).transpose(0, 1).reshape(kv, num * group, -1)
        weight = torch.softmax(torch.baddbmm(mask_1QT, query, key.transpose(1, 2)), -1).to(value.dtype)
        return torch.bmm(weight, value).view(kv, num, group, -1).transpose(0, 1).reshape(num, -1)

    return _layers(model, token_N, position_N, attend, None)


def _read_width(num_own: int, capacity: int) -> int:
    """Positions of the slots a step reads: few shapes, for every new one a product is compiled anew.

    From three quarters of the capacity up all of it is read: whole slots lie end to end, and a bf16 product of part
    of each would copy them first, which costs as much as the product.
    """
    return capacity if 4 * num_own >= 3 * capacity else (num_own + 15) // 16 * 16


def _step_mask(plan: StepPlan, own_B: Tensor, num_own: int) -> Tensor:
    """Additive mask (B, P + T) in fp32."""
    column_W = torch.arange(plan.num_start + num_own, device=own_B.device) - plan.num_start
    is_trunk_BW = (column_W < 0) & (column_W + plan.num_start < plan.start_B[:, None])
    is_own_BW = (column_W >= 0) & (column_W <= own_B[:, None])
    zero = torch.zeros((), device=own_B.device)
    return torch.where(is_trunk_BW | is_own_BW, zero, -torch.inf)


def _attend_own(query_BHE: Tensor, key_BKTE: Tensor, value_BKTE: Tensor, mask_B1T: Tensor) -> Tensor:
    """Attention of one new token a row where no trunk is read: (B, H E); the mask has a line a row and key head."""
    num_rows, kv, _, width = key_BKTE.shape
    query = query_BHE.reshape(num_rows * kv, -1, width)
    score = torch.baddbmm(mask_B1T, query, key_BKTE.flatten(0, 1).transpose(1, 2))
    weight = torch.softmax(score, -1).to(value_BKTE.dtype)
    return torch.bmm(weight, value_BKTE.flatten(0, 1)).view(num_rows, -1)


def _attend_step(
    shape: LlamaShape,
    plan: StepPlan,
    layer: int,
    query_BHE: Tensor,
    key_BKTE: Tensor,
    value_BKTE: Tensor,
    mask_BW: Tensor,
) -> Tensor:
    """Attention of one new token a row over its trunk and its own positions: (B, H E)."""
    num_rows, num_own, start = len(query_BHE), key_BKTE.shape[2], plan.num_start
    kv, group, width = shape.num_kv_heads, shape.num_heads // shape.num_kv_heads, shape.head_width
    query = query_BHE.reshape(num_rows, kv, group, width)
    score = mask_BW[:, None, None, :].expand(-1, kv, group, -1).contiguous()
    # Keys times queries, not queries times keys: twice as fast at three queries a head.
    own = torch.bmm(key_BKTE.flatten(0, 1), query.flatten(0, 1).transpose(1, 2))
    score[..., start:] += own.view(num_rows, kv, num_own, group).transpose(2, 3)
    for part in plan.trunks:
        _score_trunk(part, layer, query, score)
    weight = torch.softmax(score, -1)
    own_weight = weight[..., start:].to(value_BKTE.dtype).reshape(num_rows * kv, group, num_own)
    mixed = torch.bmm(own_weight, value_BKTE.flatten(0, 1)).view(num_rows, kv, group, width)
    for part in plan.trunks:
        _mix_trunk(part, layer, weight, mixed)
    return mixed.flatten(1)


def _score_trunk(part: TrunkRows, layer: int, query: Tensor, score: Tensor) -> None:
    """Add the scores of a trunk's rows over the trunk, in place."""
    rows = query if part.row_B is None else query[part.row_B]
    num_rows, kv, group, width = rows.shape
    flat = rows.transpose(0, 1).reshape(kv, num_rows * group, width)
    found = torch.bmm(flat, part.trunk.key_LKPE[layer].transpose(1, 2))
    found = found.view(kv, num_rows, group, part.trunk.length).transpose(0, 1)
    if part.row_B is None:
        score[..., : part.trunk.length] += found
    else:
        score[part.row_B, :, :, : part.trunk.length] += found


def _mix_trunk(part: TrunkRows, layer: int, weight: Tensor, mixed: Tensor) -> None:
    """Add a trunk's values to its rows, in place."""
    value_KPE = part.trunk.value_LKPE[layer]
    rows = weight if part.row_B is None else weight[part.row_B]
    num_rows, kv, group, _ = rows.shape
    flat = rows[..., : part.trunk.length].transpose(0, 1).to(value_KPE.dtype)
    added = torch.bmm(flat.reshape(kv, num_rows * group, part.trunk.length), value_KPE)
    added = added.view(kv, num_rows, group, -1).transpose(0, 1)
    if part.row_B is None:
        mixed += added
    else:
        mixed[part.row_B] += added
