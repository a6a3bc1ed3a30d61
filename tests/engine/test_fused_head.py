"""The loss from a module's last hidden states: all but Liger's kernel, in whose place torch's own operators stand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from metier.core.errors import MissingExtra, ModelError
from metier.engine import AdapterSpec, Linear, close, forward_backward, load, logprobs, make_batch, module_backend
from metier.engine.fused_head import head_for, liger_kernel
from metier.engine.loop import trainer_of
from tests.engine.builders import random_rows
from tests.engine.family_builders import OTHERS, write_model

BATCH = make_batch(random_rows([20, 30, 8, 2]))
SCALED = {"model_type": "granite", "logits_scaling": 3.0}


def torch_kernel(hidden_PD: Tensor, head_VD: Tensor, target_P: Tensor, bias_V: Tensor | None) -> Tensor:
    logits_PV = torch.nn.functional.linear(hidden_PD, head_VD, bias_V).float()
    return torch.nn.functional.cross_entropy(logits_PV, target_P, reduction="none")


def trained(base_dir: Path) -> tuple[str, float, Tensor, Tensor]:
    """The head, the loss, every gradient, and log-probabilities."""
    handle = load(base_dir, adapter=AdapterSpec(rank=4, alpha=8.0), dtype="fp32", threads=1)
    handle.require_adapter("test").masters_P.normal_(generator=torch.Generator().manual_seed(0), std=0.1)
    loss = forward_backward(handle, BATCH, Linear()).result().loss_nats
    trainer = trainer_of(handle)
    found = trainer.trainee.head.name, loss, trainer.grads[0].flat_P.clone(), logprobs(handle, BATCH).result()
    close(handle)
    return found


@pytest.mark.parametrize("name", ["phi", "gemma3", "gpt_neox", "gpt2"])
def test_loss_and_gradients_are_those_of_the_modules_own_head(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base_dir = write_model(tmp_path / "base", OTHERS[name])
    own = trained(base_dir)
    monkeypatch.setattr(module_backend, "head_for", lambda module: head_for(module, kernel=torch_kernel))
    fused = trained(base_dir)
    assert (own[0], fused[0]) == ("transformers", "fused linear cross entropy")
    assert float(own[2].norm()) > 1e-3
    assert fused[1] == pytest.approx(own[1], rel=1e-6)
    for mine, theirs in zip(fused[2:], own[2:], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("settings", [OTHERS["gemma2"], SCALED], ids=["capped", "scaled"])
def test_logits_that_are_no_linear_map_keep_their_own_head_and_say_so(settings: dict, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    module = AutoModelForCausalLM.from_pretrained(write_model(tmp_path / "base", settings), local_files_only=True)
    fused, choice = head_for(module.eval(), kernel=torch_kernel)
    assert fused is None
    assert choice.name == "transformers" and "does more than a linear map between its last states" in choice.reason
    assert head_for(module).choice.reason == "on a CPU the module's own logits are taken"


def test_the_extra_that_brings_the_kernel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    with pytest.raises(MissingExtra, match=r"on CUDA needs 'liger_kernel': pip install 'metier\[cuda\]'"):
        liger_kernel()


def test_the_size_of_a_packed_matrix_is_that_of_its_layer(tmp_path: Path) -> None:
    handle = load(write_model(tmp_path / "base", OTHERS["phi"]), dtype="fp32", threads=1)
    backend = handle.backend
    assert isinstance(backend, module_backend.ModuleBackend)
    for path in backend._linear_paths(0):  # as bitsandbytes holds it: two weights a byte, in one column
        part = backend.module.get_submodule(path)
        packed = torch.zeros(part.weight.numel() // 2, 1, dtype=torch.uint8)
        part.weight = torch.nn.Parameter(packed, requires_grad=False)
    with pytest.raises(ModelError, match=r"rank 17 is larger than .* can use: its matrix is 16 x 48, so 16 is full"):
        backend.adapter(AdapterSpec(rank=17, alpha=8.0), seed=0)
    assert backend.adapter(AdapterSpec(rank=4, alpha=8.0), seed=0).rank == 4
    close(handle)
