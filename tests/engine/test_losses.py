"""Losses as data: gradients equal autograd's, however a step is cut, and groups of rows stay together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from metier.core.errors import ConfigError, DataError, ModelError
from metier.engine import (
    AdapterSpec,
    Batch,
    Clipped,
    Custom,
    Handle,
    Linear,
    RowLogps,
    close,
    forward_backward,
    load,
    logprobs,
    make_batch,
    optim_step,
)
from metier.engine.batch import split_rows
from metier.engine.form import Form
from metier.engine.loop import trainer_of
from metier.render import RenderedRow
from tests.engine.builders import random_rows, tiny_base

LENGTHS = [40, 25, 300, 31, 30, 5, 2, 200, 90, 91]


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


def loaded(base_dir: Path, *, threads: int = 2, micro_tokens: int = 1024) -> Handle:
    """A model whose adapter changes something, in fp32."""
    handle = load(base_dir, adapter=AdapterSpec(rank=3, alpha=6.0), dtype="fp32", threads=threads)
    handle.require_adapter("test").masters_P.normal_(0, 0.2, generator=torch.Generator().manual_seed(1))
    trainer_of(handle).publish()
    trainer_of(handle).micro_tokens = micro_tokens
    return handle


def gradient(handle: Handle) -> Tensor:
    """What the step has summed so far."""
    return torch.stack([grads.flat_P for grads in trainer_of(handle).grads]).sum(0)


def gradient_of_weights(base_dir: Path, batch: Batch, dlogp_T: Tensor) -> Tensor:
    """The gradient that a linear loss gives for these gradients by the log-probabilities."""
    handle = loaded(base_dir, threads=1)
    weighted = Batch(batch.tokens_T, -dlogp_T, batch.row_start_R, batch.row_id_R)
    forward_backward(handle, weighted, Linear(divide_by=1.0)).result()
    found = gradient(handle)
    close(handle)
    return found


def places_of(batch: Batch) -> Tensor:
    """Trained tokens of a batch, in its order."""
    is_first_T = torch.zeros(batch.num_tokens, dtype=torch.bool)
    is_first_T[list(batch.row_start_R[:-1])] = True
    return torch.nonzero((batch.weight_T != 0) & ~is_first_T)[:, 0]


def group_loss(shown: RowLogps, size: int) -> Tensor:
    """A loss no token can have alone: of each group, the log of the summed exponentials of its rows' mean logp."""
    row_P = shown.row_of_token()
    counts_R = torch.tensor(shown.start_R).diff()
    sums_R = torch.zeros(len(shown.rows)).index_add(0, row_P, shown.logp_P * shown.weight_P)
    number_R = torch.tensor(shown.rows, dtype=torch.float32) + 1
    return torch.logsumexp((sums_R / counts_R * number_R).view(-1, size), 1)


def by_autograd(shown: RowLogps, size: int) -> tuple[Tensor, Tensor]:
    """A custom loss with torch's own gradient."""
    with torch.enable_grad():
        logp_P = shown.logp_P.clone().requires_grad_()
        loss_G = group_loss(shown._replace(logp_P=logp_P), size)
        (dlogp_P,) = torch.autograd.grad(loss_G.sum(), logp_P)
    return loss_G.detach(), dlogp_P


@pytest.mark.parametrize(("threads", "micro_tokens"), [(1, 4096), (1, 64), (2, 64), (3, 200)])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_custom_loss_has_its_exact_gradient_however_the_step_is_cut(
    base_dir: Path, size: int, threads: int, micro_tokens: int
) -> None:
    batch = make_batch(random_rows(LENGTHS))
    handle = loaded(base_dir, threads=threads, micro_tokens=micro_tokens)
    loss = Custom(fn=lambda shown: by_autograd(shown, size), rows_together=size)
    stats = forward_backward(handle, batch, loss).result()

    logp_T = logprobs(handle, batch).result()
    place_P = places_of(batch)
    starts = torch.searchsorted(place_P, torch.tensor(batch.row_start_R)).tolist()
    whole = RowLogps(tuple(range(len(LENGTHS))), tuple(starts), logp_T[place_P], batch.weight_T[place_P])
    loss_G, dlogp_P = by_autograd(whole, size)
    dlogp_T = torch.zeros(batch.num_tokens)
    dlogp_T[place_P] = dlogp_P
    expected = gradient_of_weights(base_dir, batch, dlogp_T)

    assert stats.loss_nats == pytest.approx(float(loss_G.sum()), rel=1e-5)
    assert stats.logp_T is not None
    torch.testing.assert_close(stats.logp_T, logp_T, rtol=1e-5, atol=1e-5)
    assert float((gradient(handle) - expected).norm() / expected.norm()) < 1e-5
    close(handle)


@pytest.mark.parametrize("spoil", [False, True], ids=["finite", "not finite"])
@pytest.mark.parametrize("form", [{"layout": "padded"}, {"checkpointing": True}, {"prefix": True}])
def test_a_custom_loss_has_its_gradient_in_every_form_of_a_step(base_dir: Path, form: Any, spoil: bool) -> None:
    head = [(7 * place) % 89 for place in range(48)]
    rows = [
        RenderedRow(row.row_id, head + row.tokens, [0.0] * len(head) + row.weight)
        for row in random_rows([30, 17, 60, 61, 90, 200])
    ]
    chosen = Form(**form | ({"prefix": tuple(head)} if "prefix" in form else {}))

    def fn(shown: RowLogps) -> tuple[Tensor, Tensor]:
        loss_G, dlogp_P = by_autograd(shown, 2)
        return (loss_G * float("nan") if spoil and 2 in shown.rows else loss_G), dlogp_P

    found = []
    for taken in (Form(), chosen):
        handle = loaded(base_dir, micro_tokens=128)
        trainer_of(handle).take_form(taken)
        step = forward_backward(handle, make_batch(rows), Custom(fn=fn, rows_together=2))
        if spoil:
            with pytest.raises(ModelError, match=r"the loss is not finite in .* rows \(.*r2, r3"):
                step.result()
            assert not gradient(handle).any(), "what the step had summed is gone"
        else:
            found.append((step.result().loss_nats, gradient(handle)))
        close(handle)
    if not spoil:
        (loss, grad_P), (other_loss, other_P) = found
        assert other_loss == pytest.approx(loss, rel=1e-5)
        assert float((grad_P - other_P).norm() / grad_P.norm()) < 1e-5


def test_a_clipped_loss_equals_autograd_on_both_sides_of_both_bounds(base_dir: Path) -> None:
    batch = make_batch(random_rows([40, 25, 300, 31]))
    handle = loaded(base_dir)
    logp_T = logprobs(handle, batch).result()
    rng = torch.Generator().manual_seed(3)
    old_T = logp_T + torch.randn(batch.num_tokens, generator=rng) * 0.4
    adv_T = torch.randn(batch.num_tokens, generator=rng)
    trained_T = logp_T != 0
    ratio_T = (logp_T - old_T).exp()
    for cut_T in (ratio_T > 1.3, ratio_T < 0.8):
        for side_T in (adv_T > 0, adv_T < 0):
            assert (cut_T & side_T & trained_T).any(), "every case of the clipping is there"

    free_T = logp_T.clone().requires_grad_()
    ratio_T = torch.exp(free_T - old_T)
    gain_T = torch.minimum(ratio_T * adv_T, torch.clamp(ratio_T, 0.8, 1.3) * adv_T)
    weight_T = batch.weight_T * trained_T
    expected = -(gain_T * weight_T).sum() / 7.0
    (dlogp_T,) = torch.autograd.grad(expected, free_T)
    expected_P = gradient_of_weights(base_dir, batch, dlogp_T)

    loss = Clipped(old_logp_T=old_T, adv_T=adv_T, low=0.8, high=1.3, divide_by=7.0)
    stats = forward_backward(handle, batch, loss).result()
    assert stats.loss_nats == pytest.approx(float(expected.detach()), rel=1e-5)
    assert float((gradient(handle) - expected_P).norm() / expected_P.norm()) < 1e-5
    close(handle)


def test_a_clipped_loss_at_the_sampled_weights_is_the_linear_one(base_dir: Path) -> None:
    batch = make_batch(random_rows([40, 25]))
    handle = loaded(base_dir, threads=1)
    old_T = logprobs(handle, batch).result()
    forward_backward(handle, batch, Clipped(old_logp_T=old_T, adv_T=torch.ones(batch.num_tokens))).result()
    clipped_P = gradient(handle).clone()
    trainer_of(handle).discard()
    forward_backward(handle, batch, Linear()).result()
    assert float((gradient(handle) - clipped_P).norm() / clipped_P.norm()) < 1e-5
    close(handle)


def test_rows_that_belong_together_share_a_micro_batch() -> None:
    bins = split_rows([9, 1, 1, 1, 5, 5, 30, 2], num_workers=2, micro_tokens=10, rows_together=2)
    assert sorted(row for rows in bins for row in rows) == list(range(8))
    assert len(bins) > 2
    for rows in bins:
        assert all(row ^ 1 in rows for row in rows)


@pytest.mark.parametrize("spoil", ["loss", "gradient"])
def test_a_custom_loss_that_is_not_finite_names_the_rows_of_its_group(base_dir: Path, spoil: str) -> None:
    handle = loaded(base_dir)

    def fn(shown: RowLogps) -> tuple[Tensor, Tensor]:
        loss_G, dlogp_P = by_autograd(shown, 2)
        if 4 in shown.rows:
            if spoil == "loss":
                loss_G[shown.rows.index(4) // 2] = float("nan")
            else:
                dlogp_P[shown.start_R[shown.rows.index(4)]] = float("inf")
        return loss_G, dlogp_P

    named = r"2 of 8 rows \(r4, r5\)" if spoil == "loss" else r"1 of 8 rows \(r4\)"
    with pytest.raises(
        ModelError, match=rf"step 1: the loss is not finite in {named}\. The weights are those of step 0"
    ):
        forward_backward(handle, make_batch(random_rows([30] * 8)), Custom(fn=fn, rows_together=2)).result()
    with pytest.raises(ModelError, match="no gradient since the last step"):
        optim_step(handle, lr=1e-2).result()
    close(handle)


def test_a_clipped_loss_that_is_not_finite_names_the_row(base_dir: Path) -> None:
    handle = loaded(base_dir)
    batch = make_batch([RenderedRow(f"r{i}", [5, 6, 7], [0.0, 0.0, 1.0]) for i in range(3)])
    old_T = torch.zeros(9)
    old_T[5] = -200.0  # e to the 200th is beyond fp32
    with pytest.raises(ModelError, match=r"not finite in 1 of 3 rows \(r1\)"):
        forward_backward(handle, batch, Clipped(old_logp_T=old_T, adv_T=-torch.ones(9))).result()
    close(handle)


def test_losses_that_do_not_fit_the_batch_are_refused(base_dir: Path) -> None:
    handle, batch = loaded(base_dir), make_batch(random_rows([30, 20, 10]))
    with pytest.raises(DataError, match="3 rows in the batch, 2 belong together; expected whole groups"):
        forward_backward(handle, batch, Custom(fn=lambda shown: by_autograd(shown, 2), rows_together=2)).result()
    with pytest.raises(DataError, match=r"returned shapes \(1,\) and \(\d+,\); expected \(3,\), one loss a group"):
        whole = Custom(fn=lambda shown: (group_loss(shown, 3), shown.logp_P))
        trainer_of(handle).micro_tokens = 4096
        forward_backward(handle, batch, whole).result()
    with pytest.raises(DataError, match=r"adv_T has shape \(3,\), the batch 60 tokens"):
        forward_backward(handle, batch, Clipped(old_logp_T=torch.zeros(60), adv_T=torch.zeros(3))).result()
    with pytest.raises(ConfigError, match="low is 1.5, high is 1.2; expected 0 <= low <= 1 <= high"):
        Clipped(old_logp_T=torch.zeros(1), adv_T=torch.zeros(1), low=1.5)
    with pytest.raises(ConfigError, match="rows_together is 0; expected 1 or more"):
        Custom(fn=lambda shown: by_autograd(shown, 1), rows_together=0)
    close(handle)
