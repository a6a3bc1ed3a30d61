"""Training verbs: what they refuse, and that a refusal leaves the weights as they were."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from metier.core.errors import DataError, ModelError
from metier.engine import AdapterSpec, Linear, close, forward_backward, load, logprobs, make_batch, optim_step
from metier.render import RenderedRow
from tests.engine.builders import random_rows, tiny_base


@pytest.fixture
def base_dir(tmp_path: Path) -> Path:
    return tiny_base(tmp_path / "base")


SPEC = AdapterSpec(rank=2, alpha=4.0)


def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_step_and_row(base_dir: Path) -> None:
    handle = load(base_dir, adapter=SPEC, dtype="fp32", threads=2)
    rows = [RenderedRow(f"r{i}", [5, 6, 7, 8], [0.0, 0.0, 1.0, 1.0]) for i in range(3)]
    rows[1] = RenderedRow("r1", [5, 96, 7, 8], [0.0, 0.0, 1.0, 1.0])
    forward_backward(handle, make_batch([rows[0]]), Linear()).result()
    optim_step(handle, lr=1e-2).result()
    before = handle.fingerprint
    handle.weights.embed_VD[96] = float("nan")  # only r1 reads token 96; as a logit it would spoil every row
    handle.weights.head_VD = handle.weights.head_VD.clone()
    handle.weights.head_VD[96] = 0.0
    assert handle.trainer is not None
    with pytest.raises(
        ModelError, match=r"step 2: the loss is not finite in 1 of 3 rows \(r1\)\. The weights are those of step 1"
    ):
        forward_backward(handle, make_batch(rows), Linear()).result()
    assert handle.fingerprint == before
    with pytest.raises(ModelError, match="no gradient since the last step"):
        optim_step(handle, lr=1e-2).result()
    good = forward_backward(handle, make_batch([rows[0]]), Linear()).result()
    assert good.loss_nats < float("inf")
    optim_step(handle, lr=1e-2).result()
    assert torch.isfinite(handle.require_adapter("test").masters_P).all()
    close(handle)


def test_training_needs_an_adapter(base_dir: Path) -> None:
    handle = load(base_dir, dtype="fp32")
    with pytest.raises(ModelError, match="forward_backward: this model has no adapter; load it with adapter="):
        forward_backward(handle, make_batch(random_rows([5])), Linear()).result()
    close(handle)


def test_a_row_longer_than_the_base_reads_is_refused_by_name(base_dir: Path) -> None:
    handle = load(base_dir, adapter=SPEC, dtype="fp32")
    with pytest.raises(ModelError, match="row r1: 1025 tokens; the base reads at most 1024"):
        forward_backward(handle, make_batch(random_rows([5, 1025])), Linear()).result()
    close(handle)


def test_rows_without_trained_tokens_and_no_rows_are_refused() -> None:
    with pytest.raises(DataError, match="row x: no trained token among 3"):
        make_batch([RenderedRow("x", [1, 2, 3], [1.0, 0.0, 0.0])])
    with pytest.raises(DataError, match="batch: no rows"):
        make_batch([])
    with pytest.raises(DataError, match="row y: 2 tokens but 1 weights"):
        make_batch([RenderedRow("y", [1, 2], [1.0])])


def test_logprobs_are_zero_where_nothing_is_trained_and_log_uniform_for_equal_logits(base_dir: Path) -> None:
    handle = load(base_dir, dtype="fp32")
    handle.weights.head_VD = torch.zeros_like(handle.weights.head_VD)
    row = RenderedRow("r", [1, 2, 3, 4], [0.0, 0.0, 2.0, 0.0])
    logp_T = logprobs(handle, make_batch([row])).result()
    assert logp_T.tolist() == pytest.approx([0.0, 0.0, -4.574711, 0.0], abs=1e-5)  # -log 97
    close(handle)


def test_steps_lower_the_loss_and_scale_down_large_gradients(base_dir: Path) -> None:
    handle = load(base_dir, adapter=SPEC, dtype="fp32", threads=1)
    batch = make_batch(random_rows([30, 40, 50]))
    first = forward_backward(handle, batch, Linear()).result()
    moved = optim_step(handle, lr=0.0, max_grad_norm=1e-9).result()
    assert moved.step == 1 and moved.grad_norm > 1e-9
    for _ in range(15):
        last = forward_backward(handle, batch, Linear()).result()
        optim_step(handle, lr=2e-2).result()
    assert last.loss_nats < first.loss_nats - 0.1
    assert (first.num_tokens, first.num_trained) == (120, int((batch.weight_T > 0).sum()))
    close(handle)


def test_bf16_products_stay_close_to_fp32(base_dir: Path) -> None:
    batch = make_batch(random_rows([60, 70, 80]))
    losses = []
    for dtype in ("fp32", "bf16"):
        handle = load(base_dir, adapter=SPEC, dtype=dtype)  # type: ignore[arg-type]  # a str from a list of dtype names
        losses.append(forward_backward(handle, batch, Linear()).result().loss_nats)
        close(handle)
    assert losses[1] == pytest.approx(losses[0], rel=5e-3)
    assert losses[0] != losses[1]
