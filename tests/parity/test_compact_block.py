"""The compact block beside transformers and PEFT, in fp32: same losses, logits and gradients.

Tolerance 1e-5 relative: both sides sum some hundred fp32 products in another order.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from metier.engine import AdapterSpec, Linear, close, export_adapter, forward_backward, load, logprobs, make_batch
from metier.engine.loop import trainer_of
from metier.engine.peft_files import tensor_name
from metier.engine.reference import verify_against_reference
from metier.render import RenderedRow
from tests.engine.builders import random_rows, tiny_base

# PEFT reads a property that transformers renamed; it works, with a warning.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

LENGTHS = [5, 9, 300, 31, 30, 5, 2, 600]  # padding, none, and rows longer than one and two query blocks


def reference_loss(model: torch.nn.Module, rows: list[RenderedRow]) -> torch.Tensor:
    """Weighted mean over all trained tokens, one row at a time, from the peer's logits."""
    total, weight_sum = torch.zeros(()), sum(sum(row.weight[1:]) for row in rows)
    for row in rows:
        ids = torch.tensor([row.tokens])
        logp_T = torch.log_softmax(model(ids).logits[0, :-1], -1).gather(1, ids[0, 1:, None])[:, 0]
        total = total - (logp_T * torch.tensor(row.weight[1:])).sum()
    return total / weight_sum


@pytest.mark.parametrize(("first_layer", "tied"), [(0, True), (2, True), (0, False)])
def test_loss_and_adapter_gradients_equal_peft(tmp_path: Path, first_layer: int, tied: bool) -> None:
    base_dir = tiny_base(tmp_path / "base", tied=tied)
    spec = AdapterSpec(rank=4, alpha=6.0, first_layer=first_layer)
    handle = load(base_dir, adapter=spec, dtype="fp32", threads=2)
    assert handle.adapter is not None
    handle.adapter.masters_P.normal_(0, 0.2, generator=torch.Generator().manual_seed(1))
    export_adapter(handle, tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32)
    peer = PeftModel.from_pretrained(base, str(tmp_path / "adapter"), is_trainable=True)
    rows = random_rows(LENGTHS)

    expected = reference_loss(peer, rows)
    expected.backward()
    stats = forward_backward(handle, make_batch(rows), Linear()).result()

    assert stats.loss_nats == pytest.approx(float(expected.detach()), rel=1e-6)
    grad_by_name = {name: p.grad for name, p in peer.named_parameters() if p.grad is not None}
    trainer = trainer_of(handle)
    num_seen = 0
    for offset in range(len(handle.adapter.layers)):
        for name in handle.adapter.layers[0]:
            for side, index in (("A", 0), ("B", 1)):
                peer_name = tensor_name(first_layer + offset, name, side).replace(".weight", ".default.weight")
                mine = sum(grads.views[offset][name][index] for grads in trainer.grads)
                error = (grad_by_name.pop(peer_name) - mine).norm() / mine.norm()
                assert error < 1e-5, (peer_name, float(error))
                num_seen += 1
    assert num_seen == 14 * (3 - first_layer)
    assert not grad_by_name, "PEFT trains something this engine does not"
    close(handle)


def test_exported_adapter_gives_the_same_logprobs_in_peft(tmp_path: Path) -> None:
    base_dir = tiny_base(tmp_path / "base")
    handle = load(base_dir, adapter=AdapterSpec(rank=4, alpha=6.0, first_layer=1), dtype="fp32")
    assert handle.adapter is not None
    handle.adapter.masters_P.normal_(0, 0.2, generator=torch.Generator().manual_seed(1))
    export_adapter(handle, tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32)
    peer = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    for name, tensor in peer.state_dict().items():
        if "lora_" in name:
            assert tensor.dtype == torch.float32
    row = random_rows([40])[0]
    ids = torch.tensor([row.tokens])
    with torch.no_grad():
        logp_T = torch.log_softmax(peer(ids).logits[0, :-1], -1).gather(1, ids[0, 1:, None])[:, 0]
    mine = logprobs(handle, make_batch([row])).result()[1:]
    trained = torch.tensor(row.weight[1:]) > 0
    torch.testing.assert_close(mine[trained], logp_T[trained], rtol=1e-5, atol=1e-5)
    reloaded = load(base_dir, adapter=tmp_path / "adapter", dtype="fp32")
    assert reloaded.fingerprint == handle.fingerprint
    close(handle)


def test_new_adapter_starts_as_peft_starts_one(tmp_path: Path) -> None:
    handle = load(tiny_base(tmp_path / "base"), adapter=AdapterSpec(rank=16, alpha=32.0), dtype="fp32")
    assert handle.adapter is not None
    low_rank = handle.adapter.layers[0]["down_proj"]
    assert not low_rank.b.any()
    # kaiming_uniform(a=sqrt(5)) of a (16, 80) matrix: uniform within 1/sqrt(80), so its sd is that over sqrt(3).
    assert float(low_rank.a.abs().max()) <= 80**-0.5
    assert float(low_rank.a.std()) == pytest.approx((80 * 3) ** -0.5, rel=0.03)


def test_reference_check_passes_on_the_model_it_was_loaded_from_and_fails_on_another(tmp_path: Path) -> None:
    from metier.core.errors import ModelError

    base_dir = tiny_base(tmp_path / "base")
    handle = load(base_dir, dtype="fp32")
    assert verify_against_reference(handle, base_dir) < 1e-5
    with pytest.raises(ModelError, match="differs from transformers' own forward by"):
        verify_against_reference(handle, tiny_base(tmp_path / "other", seed=1))
