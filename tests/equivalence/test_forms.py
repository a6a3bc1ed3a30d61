"""A step in another form is the same step: shared prefix, padded layout, checkpointing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metier.engine import AdapterSpec, Handle, Linear, close, forward_backward, load, logprobs, make_batch, optim_step
from metier.engine.form import Form
from metier.engine.loop import Trainer, trainer_of
from metier.engine.prefix import common_prefix, starts_with
from metier.render import RenderedRow
from tests.engine.builders import VOCAB, random_row, random_rows, tiny_base
from tests.engine.family_builders import COMPACT, write_model

SHORT, LONG = [9, 14, 3, 40, 22, 31, 5], [300, 520, 8, 260]


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"), num_layers=4)


def loaded(base_dir: Path, form: Form, *, threads: int = 1, first_layer: int = 0, dtype: Any = "fp32") -> Handle:
    spec = AdapterSpec(rank=4, alpha=8.0, first_layer=first_layer)
    handle = load(base_dir, adapter=spec, seed=3, dtype=dtype, threads=threads)
    handle.require_adapter("test").masters_P.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    handle.trainer = Trainer(handle, micro_tokens=600)
    handle.trainer.take_form(form)
    return handle


def after_prefix(num_prefix: int, lengths: list[int], *, seed: int = 5) -> list[RenderedRow]:
    """Random rows that start with the same tokens, from which nothing is trained."""
    rng = np.random.default_rng(seed)
    prefix = rng.integers(0, VOCAB, num_prefix).tolist()
    rows = []
    for i, length in enumerate(lengths):
        own = random_row(f"r{i}", length + 1, rng)
        first, *rest = own.weight
        rows.append(RenderedRow(own.row_id, [*prefix, *own.tokens], [*[0.0] * num_prefix, first, *rest]))
    return rows


def step(handle: Handle, batches: list[list[RenderedRow]]) -> tuple[float, torch.Tensor]:
    """Loss and gradient of one step given as several batches."""
    total = sum(make_batch(rows).total_weight for rows in batches)
    loss = sum(
        forward_backward(handle, make_batch(rows), Linear(divide_by=total)).result().loss_nats for rows in batches
    )
    grad: torch.Tensor = sum(grads.flat_P.clone() for grads in trainer_of(handle).grads)  # type: ignore[assignment]  # sum of tensors is typed as int
    close(handle)
    return loss, grad


def assert_same(found: tuple[float, torch.Tensor], expected: tuple[float, torch.Tensor]) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert float((found[1] - expected[1]).norm() / expected[1].norm()) < 1e-5


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("first_layer", [0, 2, 3])
@pytest.mark.parametrize("num_prefix", [1, 16, 45, 300])
@pytest.mark.parametrize("lengths", [SHORT, LONG], ids=["short", "long"])
def test_a_shared_prefix_gives_the_loss_and_gradient_of_whole_rows(
    lengths: list[int], num_prefix: int, first_layer: int, threads: int, base_dir: Path
) -> None:
    rows = after_prefix(num_prefix, lengths)
    prefix = tuple(rows[0].tokens[:num_prefix])
    how: dict[str, Any] = {"threads": threads, "first_layer": first_layer}
    expected = step(loaded(base_dir, Form(), **how), [rows])
    assert_same(step(loaded(base_dir, Form(prefix=prefix), **how), [rows]), expected)


def test_a_shared_prefix_takes_part_in_every_call_of_one_step(base_dir: Path) -> None:
    rows = after_prefix(40, SHORT)
    form = Form(prefix=tuple(rows[0].tokens[:40]))
    expected = step(loaded(base_dir, Form(), threads=2), [rows])
    assert_same(step(loaded(base_dir, form, threads=2), [rows[:3], rows[3:4], rows[4:]]), expected)


@pytest.mark.parametrize("method", ["full", "dora"])
@pytest.mark.parametrize("first_layer", [0, 2])
def test_forms_stay_equal_over_steps_where_norms_embeddings_or_magnitudes_train(
    method: Any, first_layer: int, base_dir: Path
) -> None:
    rows = after_prefix(40, SHORT)
    rank, alpha = (0, 0.0) if method == "full" else (4, 8.0)
    spec = AdapterSpec(rank=rank, alpha=alpha, first_layer=first_layer, method=method)
    prefix = tuple(rows[0].tokens[:40])
    found = []
    for form in (Form(), Form(prefix=prefix), Form(layout="padded"), Form(prefix=prefix, checkpointing=True)):
        handle = load(base_dir, adapter=spec, seed=3, dtype="fp32", threads=2)
        trainer_of(handle).take_form(form)
        losses = []
        for _ in range(4):
            losses.append(forward_backward(handle, make_batch(rows), Linear()).result().loss_nats)
            optim_step(handle, lr=1e-2).result()
        found.append(losses)
        close(handle)
    assert found[0][-1] < found[0][0] - 0.1, "the steps must move the weights for this test to mean anything"
    for losses in found[1:]:
        assert losses == pytest.approx(found[0], rel=1e-4)


def test_what_flows_back_into_the_prefix_matters(base_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = after_prefix(40, SHORT)
    expected = step(loaded(base_dir, Form()), [rows])
    monkeypatch.setattr("metier.engine.prefix.SharedPrefix.backward", lambda self, grads: None)
    _, grad = step(loaded(base_dir, Form(prefix=tuple(rows[0].tokens[:40]))), [rows])
    assert float((grad - expected[1]).norm() / expected[1].norm()) > 0.01


@pytest.mark.parametrize("first_layer", [0, 2])
def test_scores_after_a_shared_prefix_are_those_of_whole_rows(first_layer: int, base_dir: Path) -> None:
    rows = after_prefix(50, [*SHORT, *LONG])
    scores = []
    for form in (Form(), Form(prefix=tuple(rows[0].tokens[:50]))):
        handle = loaded(base_dir, form, threads=2, first_layer=first_layer)
        scores.append(logprobs(handle, make_batch(rows)).result())
        close(handle)
    torch.testing.assert_close(scores[1], scores[0], rtol=1e-5, atol=1e-5)


def test_a_batch_that_does_not_start_with_the_prefix_is_computed_whole(base_dir: Path) -> None:
    rows = random_rows(SHORT)
    form = Form(prefix=(1, 2, 3))
    loss, grad = step(loaded(base_dir, form), [rows])
    expected = step(loaded(base_dir, Form()), [rows])
    assert loss == expected[0] and torch.equal(grad, expected[1])


def test_the_prefix_ends_before_the_place_that_predicts_the_first_trained_token() -> None:
    tokens = [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 9]]
    assert common_prefix(tokens, [[0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 1]], least=1) == [1, 2, 3]
    assert common_prefix(tokens, [[0, 0, 0, 0, 0, 1], [0, 0, 0, 1, 0]], least=1) == [1, 2]
    assert common_prefix(tokens, [[1, 0, 0, 0, 0, 1], [0, 0, 0, 0, 1]], least=4) == []
    assert common_prefix(tokens[:1], [[0, 0, 0, 0, 0, 1]], least=1) == [], "one row shares nothing"
    batch = make_batch([RenderedRow("a", tokens[1], [0, 0, 0, 1, 0])])
    assert starts_with(batch, [1, 2]) and not starts_with(batch, [1, 2, 3]) and not starts_with(batch, [1, 3])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("first_layer", [0, 2])
@pytest.mark.parametrize("num_prefix", [0, 30])
def test_padded_rows_give_the_loss_and_gradient_of_packed_ones(
    num_prefix: int, first_layer: int, threads: int, base_dir: Path
) -> None:
    rows = after_prefix(num_prefix, [*SHORT, *LONG])
    prefix = tuple(rows[0].tokens[:num_prefix])
    how: dict[str, Any] = {"threads": threads, "first_layer": first_layer}
    expected = step(loaded(base_dir, Form(prefix=prefix), **how), [rows])
    assert_same(step(loaded(base_dir, Form(prefix=prefix, layout="padded"), **how), [rows]), expected)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("first_layer", [0, 2, 3])
@pytest.mark.parametrize("num_prefix", [0, 30])
def test_checkpointing_gives_the_same_bits(num_prefix: int, first_layer: int, dtype: str, base_dir: Path) -> None:
    rows = after_prefix(num_prefix, [*SHORT, *LONG])
    prefix = tuple(rows[0].tokens[:num_prefix])
    how: dict[str, Any] = {"threads": 2, "first_layer": first_layer, "dtype": dtype}
    expected = step(loaded(base_dir, Form(prefix=prefix), **how), [rows])
    loss, grad = step(loaded(base_dir, Form(prefix=prefix, checkpointing=True), **how), [rows])
    assert loss == expected[0]
    assert torch.equal(grad, expected[1])


def test_checkpointing_holds_less_memory(tmp_path: Path) -> None:
    base_dir = tiny_base(tmp_path / "base", num_layers=12)
    held = []
    for form in (Form(), Form(checkpointing=True)):
        handle = loaded(base_dir, form)
        forward_backward(handle, make_batch(random_rows([200, 220, 240])), Linear()).result()
        (stack,) = trainer_of(handle).stacks
        held.append(sum(x.numel() * x.element_size() for x in stack.buffers.flat.values()))
        close(handle)
    assert held[1] < 0.5 * held[0]


@pytest.mark.parametrize("family", ["qwen3 untied with biases", "llama 3.1"])
def test_other_families_keep_their_numbers_in_every_form(family: str, tmp_path: Path) -> None:
    base_dir = write_model(tmp_path / "base", COMPACT[family])
    rows = after_prefix(45, [9, 14, 300, 40])
    prefix = tuple(rows[0].tokens[:45])
    for first_layer in (0, 1):
        expected = step(loaded(base_dir, Form(), first_layer=first_layer), [rows])
        for form in (Form(prefix=prefix), Form(layout="padded"), Form(prefix=prefix, checkpointing=True)):
            assert_same(step(loaded(base_dir, form, first_layer=first_layer), [rows]), expected)
