"""On a GPU: the same numbers as on the CPU, within what bf16 rounds; skips itself where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from metier.core.errors import ModelError
from metier.core.tune_config import TuneConfig
from metier.engine import (
    AdapterSpec,
    Handle,
    Linear,
    SamplingParams,
    close,
    export_adapter,
    forward_backward,
    load,
    load_state,
    make_batch,
    optim_step,
    sample,
    save_state,
)
from metier.engine.attention import Attention, Buffers
from metier.engine.batch import micro_batch
from metier.engine.cuda import CONTEXT_GIB, device_peak_gib
from metier.engine.families import read_shape
from metier.engine.fused_head import head_for
from metier.engine.optimizer import moments_of
from metier.engine.varlen import VarlenAttention
from metier.tune import tune
from tests.engine.builders import pattern_rows, random_rows, tiny_base
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
        pytest.importorskip("liger_kernel")
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


def test_moments_in_8_bits_are_saved_and_go_on_to_the_same_bits(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    base_dir, batch = tiny_base(tmp_path / "base"), make_batch(random_rows([20, 30, 8]))

    def loaded(seed: int) -> Handle:
        spec = AdapterSpec(rank=4, alpha=8.0)
        return load(base_dir, adapter=spec, seed=seed, dtype="bf16", device="cuda", optimizer="adamw8bit")

    def steps(handle: Handle, count: int) -> list[float]:
        losses = []
        for _ in range(count):
            losses.append(forward_backward(handle, batch, Linear()).result().loss_nats)
            optim_step(handle, lr=1e-2).result()
        return losses

    first, again = loaded(0), loaded(1)
    losses = steps(first, 4)
    assert first.trainer is not None and first.trainer.optimizer is not None
    assert moments_of(first.trainer.optimizer).tensors["state1"].dtype == torch.uint8
    save_state(first, tmp_path / "state")
    load_state(again, tmp_path / "state")
    more = steps(first, 4)
    assert steps(again, 4) == pytest.approx(more, rel=1e-3)  # the backward pass of attention adds in any order
    assert more[-1] < losses[0] - 0.2
    for handle in (first, again):
        close(handle)


def test_an_adapter_of_weights_in_4_bits_is_refused_on_the_plain_base(tmp_path: Path) -> None:
    for module in ("bitsandbytes", "liger_kernel"):
        pytest.importorskip(module)
    base_dir, spec = tiny_base(tmp_path / "base"), AdapterSpec(rank=4, alpha=8.0)
    handle = load(base_dir, adapter=spec, dtype="bf16", device="cuda", base_bits=4)
    handle.require_adapter("test").masters_P.normal_(std=0.1)
    export_adapter(handle, tmp_path / "adapter")
    again = load(base_dir, adapter=tmp_path / "adapter", dtype="bf16", device="cuda", base_bits=4)
    assert again.fingerprint == handle.fingerprint
    with pytest.raises(ModelError, match="base"):
        load(base_dir, adapter=tmp_path / "adapter", dtype="bf16", device="cuda")
    for each in (handle, again):
        close(each)


def test_the_fused_loss_is_that_of_the_modules_own_head(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    module = AutoModelForCausalLM.from_pretrained(write_model(tmp_path / "base", OTHERS["phi"]), local_files_only=True)
    module.eval().requires_grad_(False).to("cuda", torch.bfloat16)
    fused, choice = head_for(module)
    assert fused is not None, choice.reason
    draw = torch.Generator("cuda").manual_seed(0)
    hidden = torch.randn(200, 48, generator=draw, device="cuda").to(torch.bfloat16)
    target, weight = (torch.randint(0, top, (200,), generator=draw, device="cuda") for top in (97, 5))
    found = []
    for nll in (fused.nll, lambda x, y: cross_entropy(fused.linear(x).float(), y, reduction="none")):
        x = hidden.clone().requires_grad_()
        nll_P = nll(x, target)
        (nll_P * weight).sum().backward()  # another weight for every token
        found.append((nll_P.detach(), x.grad.float()))
    for mine, theirs in zip(*found, strict=True):
        assert (mine - theirs).norm() < 0.02 * theirs.norm()


@pytest.mark.parametrize(
    "settings", [{}, {"base_bits": 4}, {"optimizer": "adamw8bit"}, {"method": "full", "lr": 0.003}]
)
def test_a_run_of_the_settings_ends_with_a_lower_dev_loss(tmp_path: Path, settings: dict[str, Any]) -> None:
    for module in ("bitsandbytes", "liger_kernel"):
        pytest.importorskip(module)
    of_adapters = {} if settings.get("method") == "full" else {"rank": 4, "alpha": 8.0}
    config = TuneConfig(**{"device": "cuda", "passes": 6.0, "step_tokens": 128, "lr": 0.02, **of_adapters, **settings})
    done = tune(
        pattern_rows(12, seed=1), pattern_rows(4, seed=2), config,
        base=tiny_base(tmp_path / "base"), out_dir=tmp_path / "tune", seed=0,
    )  # fmt: skip
    assert done.execution.device.name.startswith("cuda")
    assert done.execution.optimizer.name == config.optimizer
    assert done.dev_curve[-1][1] < done.dev_curve[0][1]
    assert device_peak_gib() > CONTEXT_GIB
