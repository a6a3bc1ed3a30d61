"""The variable-length form on a CPU: its layout by hand, and all of it but the kernel beside the batched form."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from metier.core.errors import MissingExtra, ModelError
from metier.engine import load, make_batch
from metier.engine.attention import Attention, Buffers
from metier.engine.batch import micro_batch
from metier.engine.cuda import check_device, four_bit
from metier.engine.families import read_shape
from metier.engine.varlen import Layout, VarlenAttention, attention_for, row_layout
from tests.engine.builders import random_rows, tiny_base


def by_rows(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
    """What the kernel computes, row by row, by torch's plain attention."""
    starts = layout.starts_B.tolist()
    parts = []
    for start, stop in pairwise(starts):
        q, k, v = (x[start:stop].transpose(0, 1)[None] for x in (query, key, value))
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
        parts.append(mixed[0].transpose(0, 1))
    return torch.cat(parts)


def test_the_layout_names_where_each_row_starts_and_every_place() -> None:
    batch = make_batch(random_rows([4, 3, 40]))
    batch.weight_T[:] = 1.0  # every row is read up to its last token but one: 3, 2 and 39 tokens, shortest first
    layout = row_layout(micro_batch(batch, range(3)).groups, "cpu")
    assert layout.starts_B.tolist() == [0, 2, 5, 44]
    assert layout.starts_B.dtype == torch.int32
    assert layout.longest == 39
    assert layout.place_N.tolist() == [0, 1, 0, 1, 2, *range(39)]


@pytest.mark.parametrize("padded", [False, True])
def test_all_but_the_kernel_equals_the_batched_form(tmp_path: Path, padded: bool) -> None:
    shape = read_shape(tiny_base(tmp_path))
    batch = make_batch(random_rows([5, 9, 300, 31, 30, 2]))
    micro = micro_batch(batch, range(6), padded=padded)
    draw = torch.Generator().manual_seed(0)
    num, width = len(micro.input_N), (6 + 2 * 2) * 8
    qkv_NW, dout = torch.randn(num, width, generator=draw), torch.randn(num, 48, generator=draw)
    is_real = torch.zeros(num, dtype=torch.bool)
    for at, length in zip(micro.row_at, micro.lengths, strict=True):
        is_real[at : at + length] = True
    dout[~is_real] = 0  # no loss sees padding
    found = []
    for one in (
        Attention(shape, torch.float32, Buffers()),
        VarlenAttention(shape, torch.float32, Buffers(), kernel=by_rows),
    ):
        out, dqkv = torch.zeros(num, 48), torch.zeros(num, width)
        one.forward(qkv_NW, micro.groups, out, keep="a")
        one.backward(dout, micro.groups, dqkv, keep="a")
        found.append((out[is_real], dqkv[is_real]))
    for mine, theirs in zip(*found, strict=True):
        assert float(mine.norm()) > 1
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_the_kernel_is_taken_on_cuda_in_bf16_alone(tmp_path: Path) -> None:
    shape = read_shape(tiny_base(tmp_path))  # heads of 8
    assert type(attention_for(shape, torch.bfloat16, Buffers("cuda"))) is VarlenAttention
    assert type(attention_for(shape, torch.float32, Buffers("cuda"))) is Attention
    assert type(attention_for(shape, torch.bfloat16, Buffers("cpu"))) is Attention


def test_what_needs_a_gpu_is_refused_without_one(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"base_bits is 4 on cpu: 4-bit weights need CUDA; load with device='cuda'"):
        load(tiny_base(tmp_path), base_bits=4)
    with pytest.raises(ModelError, match="base_bits is 8; expected 16, or 4 on CUDA"):
        check_device("cpu", base_bits=8)
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match=r"device is 'cuda:0', but torch .* finds no CUDA GPU here"):
            load(tiny_base(tmp_path), device="cuda:0")


def test_the_extra_that_brings_4_bit_weights_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtra, match=r"4 bits needs 'bitsandbytes': pip install 'metier\[cuda\]'"):
        four_bit(torch.bfloat16, "cuda")
