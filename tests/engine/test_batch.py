"""Plans: every row once, steps of even size, micro-batches of even cost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.engine import make_batch, plan_steps
from metier.engine.batch import micro_batch, split_rows
from metier.render import RenderedRow


@settings(deadline=None, max_examples=50)  # a busy machine is not a failure
@given(st.lists(st.integers(1, 500), max_size=60), st.integers(64, 1024), st.integers(0, 5))
def test_every_row_is_in_exactly_one_step_of_a_pass(lengths: list[int], step_tokens: int, seed: int) -> None:
    steps = plan_steps(lengths, step_tokens=step_tokens, rng=np.random.default_rng(seed))
    assert sorted(row for step in steps for row in step) == list(range(len(lengths)))
    assert all(steps)


def test_steps_are_about_as_large_as_asked_with_no_short_last_one() -> None:
    lengths = np.random.default_rng(1).integers(20, 400, 500).tolist()
    steps = plan_steps(lengths, step_tokens=2048, rng=np.random.default_rng(0))
    sizes = [sum(lengths[row] for row in step) for step in steps]
    assert len(steps) == round(sum(lengths) / 2048)
    assert min(sizes) > 2048 - 400 and max(sizes) < 2048 + 400


def test_another_seed_is_another_order_and_the_same_seed_the_same() -> None:
    plans = [plan_steps([10] * 50, step_tokens=100, rng=np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert plans[0] == plans[1] != plans[2]


def test_zero_rows_make_no_steps_and_one_row_makes_one() -> None:
    assert plan_steps([], step_tokens=100, rng=np.random.default_rng(0)) == []
    assert plan_steps([5000], step_tokens=100, rng=np.random.default_rng(0)) == [[0]]


@settings(deadline=None, max_examples=50)  # a busy machine is not a failure
@given(st.lists(st.integers(1, 900), min_size=1, max_size=40), st.integers(1, 4))
def test_micro_batches_hold_every_row_once(lengths: list[int], num_workers: int) -> None:
    parts = split_rows(lengths, num_workers=num_workers, micro_tokens=512)
    assert sorted(row for part in parts for row in part) == list(range(len(lengths)))
    assert all(parts)


def test_two_workers_get_halves_of_nearly_equal_size() -> None:
    lengths = np.random.default_rng(1).integers(20, 300, 14).tolist()
    parts = split_rows(lengths, num_workers=2, micro_tokens=2048)
    sizes = [sum(lengths[row] for row in part) for part in parts]
    assert len(sizes) == 2 and abs(sizes[0] - sizes[1]) < 0.1 * sum(sizes)


def test_a_micro_batch_leaves_out_what_no_loss_sees_and_points_at_the_trained_places() -> None:
    rows = [
        RenderedRow("a", [10, 11, 12, 13, 14], [0.0, 0.0, 1.0, 0.5, 0.0]),
        RenderedRow("b", [20, 21], [0.0, 2.0]),
    ]
    micro = micro_batch(make_batch(rows), [0, 1])
    assert micro.rows == (1, 0)  # shortest first
    assert micro.num_inputs == 4 and len(micro.input_N) == len(micro.select_M) == 32
    assert micro.input_N[:4].tolist() == [20, 10, 11, 12]  # 13 predicts 14, which is not trained; 21 predicts nothing
    assert micro.select_M[:3].tolist() == [0, 2, 3]
    assert micro.target_M[:3].tolist() == [21, 12, 13]
    assert micro.weight_M.tolist() == [2.0, 1.0, 0.5] + 29 * [0.0]
    assert micro.place_P.tolist() == [6, 2, 3]


def test_attention_groups_pad_at_most_a_fifth() -> None:
    lengths = sorted(np.random.default_rng(0).integers(2, 300, 40).tolist())
    rows = [RenderedRow(str(i), [1] * n, [0.0] * (n - 1) + [1.0]) for i, n in enumerate(lengths)]
    micro = micro_batch(make_batch(rows), range(40))
    padded = sum(group.rows * group.length for group in micro.groups)
    assert micro.num_inputs == sum(lengths) - 40
    assert padded * 0.8 <= micro.num_inputs + sum(16 * group.rows for group in micro.groups)
    assert [group.stop for group in micro.groups][-1] == micro.num_inputs
    assert sum(group.rows for group in micro.groups) == 40


def test_position_counts_within_each_row() -> None:
    batch = make_batch([RenderedRow("a", [1, 2, 3], [0, 0, 1.0]), RenderedRow("b", [4, 5], [0, 1.0])])
    assert torch.equal(batch.position_T, torch.tensor([0, 1, 2, 0, 1]))
    assert batch.total_weight == pytest.approx(2.0)
