"""On a GPU: the same numbers as on the CPU, within what bf16 rounds; skips itself where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from metier.engine import (
    AdapterSpec,
    Linear,
    SamplingParams,
    close,
    forward_backward,
    load,
    make_batch,
    optim_step,
    sample,
)
from metier.engine.attention import Attention, Buffers
from metier.engine.batch import micro_batch
from metier.engine.families import read_shape
from metier.engine.varlen import VarlenAttention
from tests.engine.builders import random_rows, tiny_base
from tests.engine.family_builders import OTHERS, write_model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


def test_the_kernel_gives_the_batched_forms_numbers(tmp_path: Path) -> None:
    shape = read_shape(tiny_base(tmp_path))
    micro = micro_batch(make_batch(random_rows([5, 9, 300, 31])), range(4), device="cuda")
    draw = torch.Generator().manual_seed(0)
    num, width = len(micro.input_N), (6 + 2 * 2) * 8
    qkv_NW = torch.randn(num, width, generator=draw).to("cuda", torch.bfloat16)
    dout = torch.randn(num, 48, generator=draw).to("cuda", torch.bfloat16)
    found = []
    for form in (Attention, VarlenAttention):
        one = form(shape, torch.bfloat16, Buffers("cuda"))
        out, dqkv = torch.zeros_like(dout), torch.zeros_like(qkv_NW)
        one.forward(qkv_NW, micro.groups, out, keep="a")
        one.backward(dout, micro.groups, dqkv, keep="a")
        found.append((out[: micro.num_inputs], dqkv[: micro.num_inputs]))
    for mine, theirs in zip(*found, strict=True):
        assert (mine.float() - theirs.float()).norm() < 0.02 * theirs.float().norm()


@pytest.mark.parametrize("base_bits", [16, 4])
def test_a_base_trains_and_answers(tmp_path: Path, base_bits: int) -> None:
    if base_bits == 4:
        pytest.importorskip("bitsandbytes")
    base_dir = tiny_base(tmp_path / "base") if base_bits == 16 else write_model(tmp_path / "base", OTHERS["phi"])
    handle = load(base_dir, adapter=AdapterSpec(rank=4, alpha=8.0), dtype="bf16", device="cuda", base_bits=base_bits)
    batch = make_batch(random_rows([20, 30, 8]))
    losses = []
    for _ in range(8):
        losses.append(forward_backward(handle, batch, Linear()).result().loss_nats)
        optim_step(handle, lr=1e-2).result()
    assert losses[-1] < losses[0] - 0.2
    (one,) = dict(sample(handle, [[5, 6, 7]], SamplingParams(max_tokens=4, stop_ids=frozenset()))).values()
    assert len(one.tokens) == 4
    close(handle)
