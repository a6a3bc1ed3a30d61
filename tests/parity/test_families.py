"""Every family of the compact block beside transformers and PEFT, fp32: losses, adapter gradients, greedy replies.

Tolerance 1e-5 relative: both sides sum some hundred fp32 products in another order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from metier.engine import (
    AdapterSpec,
    Linear,
    SamplingParams,
    close,
    export_adapter,
    forward_backward,
    load,
    make_batch,
    sample,
)
from metier.engine.loop import trainer_of
from metier.engine.peft_files import tensor_name
from tests.engine.builders import random_rows
from tests.engine.family_builders import COMPACT, write_model
from tests.parity.test_compact_block import reference_loss
from tests.parity.test_decode_generate import NEAR_TIE, logits

pytestmark = [
    # PEFT reads a property that transformers renamed; it works, with a warning.
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),
]
LENGTHS = [5, 9, 300, 31, 30, 2, 600]  # padding, none, and rows longer than one and two query blocks
PROMPTS = [[5, 6, 7], [8], list(range(3, 90)), [9, 9, 9, 9, 4, 40, 41], list(range(90, 3, -1)) * 3]


@pytest.mark.parametrize("family", COMPACT)
def test_loss_and_adapter_gradients_equal_peft(tmp_path: Path, family: str) -> None:
    base_dir = write_model(tmp_path / "base", COMPACT[family])
    handle = load(base_dir, adapter=AdapterSpec(rank=4, alpha=6.0, first_layer=1), dtype="fp32", threads=2)
    assert handle.adapter is not None
    handle.adapter.masters_P.normal_(0, 0.2, generator=torch.Generator().manual_seed(1))
    export_adapter(handle, tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32)
    peer = PeftModel.from_pretrained(base, str(tmp_path / "adapter"), is_trainable=True)
    rows = random_rows(LENGTHS)

    expected = reference_loss(peer, rows)
    expected.backward()
    stats = forward_backward(handle, make_batch(rows), Linear()).result()

    assert stats.loss_nats == pytest.approx(float(expected.detach()), rel=1e-5)
    grad_by_name = {name: p.grad for name, p in peer.named_parameters() if p.grad is not None}
    assert len(grad_by_name) == 14 * 2
    trainer = trainer_of(handle)
    for offset, layer in enumerate(handle.adapter.layers):
        for name in layer:
            for side, index in (("A", 0), ("B", 1)):
                peer_name = tensor_name(1 + offset, name, side).replace(".weight", ".default.weight")
                mine = sum(grads.views[offset][name][index] for grads in trainer.grads)
                error = (grad_by_name[peer_name] - mine).norm() / mine.norm()
                assert error < 1e-5, (peer_name, float(error))
    close(handle)


@pytest.mark.parametrize("family", COMPACT)
def test_greedy_replies_are_those_of_generate(tmp_path: Path, family: str) -> None:
    base_dir = write_model(tmp_path / "base", COMPACT[family], std=0.25)
    handle = load(base_dir, adapter=AdapterSpec(rank=4, alpha=6.0), dtype="fp32", threads=1)
    assert handle.adapter is not None
    handle.adapter.masters_P.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    export_adapter(handle, tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32)
    peer = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    found = dict(sample(handle, PROMPTS, SamplingParams(max_tokens=16, stop_ids=frozenset({2}))))
    differing = 0
    for i, prompt in enumerate(PROMPTS):
        expected, own = generated(peer, prompt), list(found[i].tokens)
        if own != expected:
            same = next(t for t, pair in enumerate(zip(own, expected, strict=False)) if pair[0] != pair[1])
            high, low = logits(peer, prompt + expected[:same])[-1].topk(2).values.tolist()
            assert high - low < NEAR_TIE, f"prompt {i}, token {same}: {own} beside {expected}"
            differing += 1
    assert differing <= 1


def generated(model: Any, prompt: list[int]) -> list[int]:  # Any: the class is chosen by config
    """generate()'s greedy reply, stop token included."""
    with torch.inference_mode():
        out = model.generate(
            input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=16, do_sample=False, eos_token_id=[2], pad_token_id=0,
        )  # fmt: skip
    return out[0, len(prompt) :].tolist()
