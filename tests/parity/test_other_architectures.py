"""transformers' own modules as a base: losses, gradients, exported adapters and replies are those of PEFT and generate().

Tolerance 1e-5 relative: the peer computes one row at a time without padding, this engine padded groups of rows.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from metier.core.errors import ModelError
from metier.engine import (
    AdapterSpec,
    Clipped,
    Custom,
    Decoder,
    Handle,
    Linear,
    Request,
    SamplingParams,
    close,
    export_adapter,
    forward_backward,
    load,
    load_state,
    logprobs,
    make_batch,
    optim_step,
    sample,
    save_state,
)
from metier.engine.loop import trainer_of
from tests.engine.builders import random_rows
from tests.engine.family_builders import COMPACT, KEEPS_STATE, OTHERS, write_model
from tests.engine.test_losses import by_autograd
from tests.parity.test_compact_block import reference_loss
from tests.parity.test_decode_generate import NEAR_TIE, logits
from tests.parity.test_families import PROMPTS, generated

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
LENGTHS = [5, 9, 60, 31, 30, 2, 120]


def tuned(tmp_path: Path, family: str, *, first_layer: int = 1, std: float = 0.15) -> tuple[Handle, torch.nn.Module]:
    """A handle with a random adapter, and PEFT's model of its exported files."""
    base_dir = write_model(tmp_path / "base", {**OTHERS, **KEEPS_STATE}[family], std=std)
    handle = load(base_dir, adapter=AdapterSpec(rank=4, alpha=6.0, first_layer=first_layer), dtype="fp32", threads=2)
    assert handle.adapter is not None
    handle.adapter.masters_P.normal_(0, 0.2, generator=torch.Generator().manual_seed(1))
    export_adapter(handle, tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32)
    return handle, PeftModel.from_pretrained(base, str(tmp_path / "adapter"), is_trainable=True).eval()


@pytest.mark.parametrize("family", [*OTHERS, *KEEPS_STATE])
def test_loss_and_adapter_gradients_equal_peft(tmp_path: Path, family: str) -> None:
    handle, peer = tuned(tmp_path, family)
    rows = random_rows(LENGTHS)
    expected = reference_loss(peer, rows)
    expected.backward()
    stats = forward_backward(handle, make_batch(rows), Linear()).result()
    assert stats.loss_nats == pytest.approx(float(expected.detach()), rel=1e-5)
    grad_by_name = {name: p.grad for name, p in peer.named_parameters() if p.grad is not None}
    (grads,) = trainer_of(handle).grads
    assert handle.adapter is not None
    at = 0
    for path, low_rank in handle.adapter.paths.items():
        for side, master in (("A", low_rank.a), ("B", low_rank.b)):
            mine = grads.flat_P[at : at + master.numel()].view(master.shape)
            theirs = grad_by_name.pop(f"base_model.model.{path}.lora_{side}.default.weight")
            assert (theirs - mine).norm() / mine.norm() < 1e-5, (path, side)
            at += master.numel()
    assert not grad_by_name, "PEFT trains something this engine does not"
    close(handle)


@pytest.mark.parametrize("family", OTHERS)
def test_logprobs_and_greedy_replies_are_those_of_the_exported_adapter(tmp_path: Path, family: str) -> None:
    handle, peer = tuned(tmp_path, family, std=0.25)
    row = random_rows([40])[0]
    ids = torch.tensor([row.tokens])
    with torch.no_grad():
        logp_T = torch.log_softmax(peer(ids).logits[0, :-1], -1).gather(1, ids[0, 1:, None])[:, 0]
    trained = torch.tensor(row.weight[1:]) > 0
    mine = logprobs(handle, make_batch([row])).result()[1:]
    torch.testing.assert_close(mine[trained], logp_T[trained], rtol=1e-5, atol=1e-5)
    params = SamplingParams(max_tokens=16, stop_ids=frozenset({2}), max_batch=3)  # rows leave while others enter
    found, differing = dict(sample(handle, PROMPTS, params)), 0
    for i, prompt in enumerate(PROMPTS):
        expected, own = generated(peer, prompt), list(found[i].tokens)
        if own != expected:
            same = next(t for t, pair in enumerate(zip(own, expected, strict=False)) if pair[0] != pair[1])
            high, low = logits(peer, prompt + expected[:same])[-1].topk(2).values.tolist()
            assert high - low < NEAR_TIE, f"prompt {i}, token {same}: {own} beside {expected}"
            differing += 1
    assert differing <= 1
    reloaded = load(tmp_path / "base", adapter=tmp_path / "adapter", dtype="fp32")
    assert reloaded.fingerprint == handle.fingerprint
    torch.testing.assert_close(logprobs(reloaded, make_batch([row])).result()[1:], mine, rtol=1e-6, atol=1e-6)
    close(reloaded)
    close(handle)


def test_a_model_that_keeps_a_state_scores_as_its_own_forward_does_and_is_not_decoded(tmp_path: Path) -> None:
    handle, peer = tuned(tmp_path, "mamba")
    rows = random_rows(LENGTHS)
    scored = logprobs(handle, make_batch(rows)).result()
    loss = -float(sum((scored * torch.tensor([w for row in rows for w in row.weight])).double()))
    trained = sum(sum(row.weight[1:]) for row in rows)
    assert loss / trained == pytest.approx(float(reference_loss(peer, rows).detach()), rel=1e-5)
    with pytest.raises(ModelError, match="MambaForCausalLM keeps a state instead of keys and values; it trains"):
        list(sample(handle, PROMPTS, SamplingParams(max_tokens=3, stop_ids=frozenset({2}))))
    close(handle)


def test_a_cancelled_row_leaves_the_others_as_they_were(tmp_path: Path) -> None:
    handle, _ = tuned(tmp_path, "gemma3", std=0.25)
    params = SamplingParams(max_tokens=12, stop_ids=frozenset({2}), temperature=0.8)
    requests = [Request(prompt, params, seed=i) for i, prompt in enumerate(PROMPTS)]
    alone = Decoder(handle, max_batch=1)
    decoder = Decoder(handle)
    done = {}
    for each in (alone, decoder):
        ids = [each.add(request) for request in requests]
        each.step()
        if each is decoder:
            assert each.cancel(ids[1])
        while each.num_active or each.num_waiting:
            for event in each.step():
                if event.finished is not None:
                    done[each is decoder, event.id] = event.finished
    for i in range(len(PROMPTS)):
        if i != 1:
            assert done[True, i].tokens == done[False, i].tokens
            assert done[True, i].logprob == pytest.approx(done[False, i].logprob, abs=1e-3)
    assert (True, 1) not in done


def test_steps_learn_and_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    base_dir = write_model(tmp_path / "base", OTHERS["phi"])
    batch = make_batch(random_rows([20, 30, 8]))

    def steps(handle: Handle, num: int) -> list[float]:
        losses = []
        for _ in range(num):
            losses.append(forward_backward(handle, batch, Linear()).result().loss_nats)
            optim_step(handle, lr=1e-2).result()
        return losses

    spec = AdapterSpec(rank=4, alpha=8.0)
    whole = load(base_dir, adapter=spec, seed=3, dtype="fp32", threads=1)
    losses = steps(whole, 6)
    assert losses[-1] < losses[0] - 0.2
    first = load(base_dir, adapter=spec, seed=3, dtype="fp32", threads=1)
    assert steps(first, 3) == losses[:3]
    save_state(first, tmp_path / "state")
    second = load(base_dir, adapter=spec, seed=4, dtype="fp32", threads=1)
    load_state(second, tmp_path / "state")
    assert steps(second, 3) == losses[3:]
    assert torch.equal(second.adapter.masters_P, whole.adapter.masters_P)
    for handle in (whole, first, second):
        close(handle)


def test_both_forwards_give_one_llama_the_same_steps_under_every_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base_dir = write_model(tmp_path / "base", COMPACT["qwen3"])
    compact = load(base_dir, adapter=AdapterSpec(rank=4, alpha=6.0, first_layer=1), dtype="fp32", threads=1)
    assert compact.adapter is not None
    compact.adapter.masters_P.normal_(0, 0.2, generator=torch.Generator().manual_seed(1))
    export_adapter(compact, tmp_path / "adapter")
    loading = import_module("metier.engine.load")  # `metier.engine.load` is the verb
    monkeypatch.setattr(loading, "why_not_compact", lambda config: "a test asks for it")
    module = load(base_dir, adapter=tmp_path / "adapter", dtype="fp32", threads=1)
    assert (compact.backend.name, module.backend.name) == ("compact", "transformers")
    batch = make_batch(random_rows([5, 9, 60, 31, 30, 40]))
    old_T = -2.0 - torch.rand(batch.num_tokens, generator=torch.Generator().manual_seed(2))
    adv_T = torch.randn(batch.num_tokens, generator=torch.Generator().manual_seed(3))
    losses = [
        Linear(),
        Clipped(old_logp_T=old_T, adv_T=adv_T),
        Custom(fn=lambda shown: by_autograd(shown, 2), rows_together=2),
    ]
    for loss in losses:
        found = []
        for handle in (compact, module):
            stats = forward_backward(handle, batch, loss).result()
            found.append((stats.loss_nats, optim_step(handle, lr=0.0, max_grad_norm=1e9).result().grad_norm))
        assert found[0] == pytest.approx(found[1], rel=1e-5), loss
    close(compact)
    close(module)
