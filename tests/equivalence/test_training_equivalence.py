"""Ways to the same numbers: accumulation, packing, workers, resuming."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from metier.core.errors import ModelError
from metier.engine import (
    AdapterSpec,
    Handle,
    Linear,
    close,
    forward_backward,
    load,
    load_state,
    make_batch,
    optim_step,
    save_state,
)
from metier.engine.load import DtypeName
from metier.engine.loop import Trainer, trainer_of
from metier.render import RenderedRow
from tests.engine.builders import random_rows, tiny_base


@pytest.fixture
def base_dir(tmp_path: Path) -> Path:
    return tiny_base(tmp_path / "base")


def loaded(base_dir: Path, *, threads: int = 2, micro_tokens: int = 1024) -> Handle:
    handle = load(base_dir, adapter=AdapterSpec(rank=4, alpha=8.0), seed=3, dtype="fp32", threads=threads)
    assert handle.adapter is not None
    handle.adapter.masters_P.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    handle.trainer = Trainer(handle, micro_tokens=micro_tokens)
    return handle


def gradient(handle: Handle, batches: list[list[RenderedRow]]) -> tuple[float, torch.Tensor]:
    """Loss and gradient of one step given as several batches."""
    total = sum(make_batch(rows).total_weight for rows in batches)
    loss = sum(
        forward_backward(handle, make_batch(rows), Linear(divide_by=total)).result().loss_nats for rows in batches
    )
    return loss, sum(grads.flat_P.clone() for grads in trainer_of(handle).grads)  # type: ignore[return-value]  # sum of tensors is typed as int


def test_one_batch_of_eight_equals_eight_of_one_with_weights_that_differ(base_dir: Path) -> None:
    rows = random_rows([20, 33, 7, 50, 12, 300, 4, 28])
    loss, expected = gradient(loaded(base_dir), [rows])
    loss_each, grad_each = gradient(loaded(base_dir), [[row] for row in rows])
    assert loss_each == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(grad_each, expected, rtol=1e-4, atol=1e-7)


def test_a_short_last_window_counts_by_its_tokens_not_as_a_whole_window(base_dir: Path) -> None:
    rows = random_rows([60, 40, 10])
    loss, expected = gradient(loaded(base_dir), [rows])
    loss_windows, grad_windows = gradient(loaded(base_dir), [rows[:2], rows[2:]])
    assert loss_windows == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(grad_windows, expected, rtol=1e-4, atol=1e-7)
    mean_of_means = sum(gradient(loaded(base_dir), [part])[0] for part in (rows[:2], rows[2:])) / 2
    assert abs(mean_of_means - loss) > 1e-4, "the windows must differ for this test to mean anything"


def test_packed_and_padded_rows_equal_rows_alone(base_dir: Path) -> None:
    rows = random_rows([31, 30, 29, 31, 8, 7])
    loss, expected = gradient(loaded(base_dir, threads=1), [rows])
    parts = [gradient(loaded(base_dir, threads=1), [[row]]) for row in rows]
    weights = [sum(row.weight) for row in rows]
    alone = sum(part[0] * weight for part, weight in zip(parts, weights, strict=True)) / sum(weights)
    grad = sum(part[1] * weight for part, weight in zip(parts, weights, strict=True)) / sum(weights)
    assert loss == pytest.approx(alone, rel=1e-6)
    torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-7)


def test_micro_batch_size_does_not_change_the_gradient(base_dir: Path) -> None:
    rows = random_rows([100, 90, 80, 70, 60])
    loss, expected = gradient(loaded(base_dir), [rows])
    small_loss, small = gradient(loaded(base_dir, micro_tokens=64), [rows])
    assert small_loss == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(small, expected, rtol=1e-4, atol=1e-7)


def test_the_same_threads_give_the_same_bits(base_dir: Path) -> None:
    rows = random_rows([200, 190, 180, 170, 160, 150])
    results = [gradient(loaded(base_dir, threads=2), [rows]) for _ in range(3)]
    assert all(torch.equal(results[0][1], grad) and results[0][0] == loss for loss, grad in results[1:])


FORMS = [
    AdapterSpec(rank=4, alpha=8.0),
    AdapterSpec(rank=4, alpha=8.0, method="rslora", targets=("v_proj", "down_proj")),
    AdapterSpec(rank=4, alpha=8.0, method="dora"),
    AdapterSpec(method="full"),
    AdapterSpec(method="full", first_layer=2),
]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("spec", FORMS, ids=lambda spec: f"{spec.method}-{spec.first_layer}")
def test_a_saved_and_loaded_run_goes_on_with_the_same_bits(
    base_dir: Path, tmp_path: Path, spec: AdapterSpec, dtype: DtypeName
) -> None:
    steps = [random_rows([30, 20, 40], seed=seed) for seed in range(6)]

    def start(seed: int = 3) -> Handle:
        return load(base_dir, adapter=spec, seed=seed, dtype=dtype, threads=2)

    def take(handle: Handle, rows: list[RenderedRow]) -> float:
        stats = forward_backward(handle, make_batch(rows), Linear()).result()
        optim_step(handle, lr=1e-2, weight_decay=0.1).result()
        return stats.loss_nats

    whole = start()
    losses = [take(whole, rows) for rows in steps]
    for stop in (0, 1, 3):
        first = start()
        for rows in steps[:stop]:
            take(first, rows)
        save_state(first, tmp_path / f"state{stop}", facts={"at": stop})
        second = start(seed=99)
        assert load_state(second, tmp_path / f"state{stop}") == {"at": stop}
        assert [take(second, rows) for rows in steps[stop:]] == losses[stop:]
        assert second.fingerprint == whole.fingerprint
        close(first)
        close(second)
    close(whole)


@pytest.mark.parametrize("spec", FORMS, ids=lambda spec: f"{spec.method}-{spec.first_layer}")
def test_a_checkpoint_of_one_method_is_refused_by_every_other(
    base_dir: Path, tmp_path: Path, spec: AdapterSpec
) -> None:
    handle = load(base_dir, adapter=spec, dtype="fp32", threads=1)
    save_state(handle, tmp_path / "state")
    close(handle)
    for other in (form for form in FORMS if form != spec):
        handle = load(base_dir, adapter=other, dtype="fp32", threads=1)
        with pytest.raises(ModelError, match="the checkpoint was made with adapter = "):
            load_state(handle, tmp_path / "state")
        close(handle)


@pytest.mark.parametrize("spec", FORMS[2:], ids=lambda spec: f"{spec.method}-{spec.first_layer}")
def test_weight_decay_pulls_matrices_and_neither_lengths_nor_norms(base_dir: Path, spec: AdapterSpec) -> None:
    moved = []
    for weight_decay in (0.0, 0.5):
        handle = load(base_dir, adapter=spec, dtype="fp32", threads=1)
        forward_backward(handle, make_batch(random_rows([30, 20])), Linear()).result()
        optim_step(handle, lr=1e-2, weight_decay=weight_decay).result()
        moved.append(handle.require_trained("test").masters_P.clone())
        num = handle.require_trained("test").num_decayed
        close(handle)
    assert 0 < num < len(moved[0])
    assert torch.equal(moved[0][num:], moved[1][num:])
    start = load(base_dir, adapter=spec, dtype="fp32", threads=1).require_trained("test").masters_P[:num]
    # AdamW: the decay 1e-2 x 0.5 of what was there comes on top of the same step.
    torch.testing.assert_close(moved[0][:num] - moved[1][:num], start * 5e-3, rtol=1e-3, atol=1e-6)


def test_depth_below_the_first_adapted_layer_changes_no_gradient_above(base_dir: Path) -> None:
    rows = random_rows([40, 50])
    whole = loaded(base_dir)
    assert whole.adapter is not None
    for low_rank in whole.adapter.layers[0].values():
        low_rank.b.zero_()
    trainer_of(whole).publish()
    _, full = gradient(whole, [rows])
    top = load(base_dir, adapter=AdapterSpec(rank=4, alpha=8.0, first_layer=1), dtype="fp32", threads=2)
    assert top.adapter is not None
    skipped = full.numel() - top.adapter.masters_P.numel()
    top.adapter.masters_P.copy_(whole.adapter.masters_P[skipped:])
    _, partial = gradient(top, [rows])
    torch.testing.assert_close(partial, full[skipped:], rtol=1e-4, atol=1e-7)
