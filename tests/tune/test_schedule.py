"""Learning rates, the order of rows, and when dev is scored."""

from __future__ import annotations

from itertools import chain

import pytest

from metier.core.tune_config import TuneConfig
from metier.tune.schedule import default_lr, eval_steps, is_spent, lr_at, mean_reads, run_steps, step_tokens_of


def test_default_lr_is_ten_times_full_tunings_and_fifteen_times_in_short_runs() -> None:
    # 5e-4 x (2000 / 2000)^0.781 = 5e-4; width 576: (3.4722)^0.781 = 2.6438, so 1.3219e-3.
    assert default_lr(2000, method="lora", num_steps=100) == pytest.approx(5e-4)
    assert default_lr(576, method="lora", num_steps=1000) == pytest.approx(1.3219e-3, rel=1e-3)
    assert default_lr(576, method="lora", num_steps=99) == pytest.approx(1.5 * 1.3219e-3, rel=1e-3)
    assert default_lr(576, method="full", num_steps=50) == pytest.approx(1.3219e-4, rel=1e-3)


def test_default_lr_follows_the_scale_of_rslora_and_is_lower_for_dora() -> None:
    # scale x lr is the same: 32 / 16 x 5e-4 = 32 / 4 x 1.25e-4.
    assert default_lr(2000, method="rslora", num_steps=100, rank=16) == pytest.approx(1.25e-4)
    assert default_lr(2000, method="dora", num_steps=100, rank=16) == pytest.approx(3.3333e-4, rel=1e-4)
    assert default_lr(2000, method="lora", num_steps=100, rank=16) == pytest.approx(5e-4)


def test_a_run_is_cut_into_about_400_steps_within_what_products_and_adapters_stand() -> None:
    assert step_tokens_of(TuneConfig(), 400_000) == 1000
    assert step_tokens_of(TuneConfig(), 90_000) == 512
    assert step_tokens_of(TuneConfig(), 4_000_000) == 2048
    assert step_tokens_of(TuneConfig(step_tokens=300), 400_000) == 300


def test_lr_rises_to_the_peak_and_falls_to_a_tenth() -> None:
    rates = [lr_at(step, num_steps=100, peak=1.0, warmup_ratio=0.1) for step in range(1, 101)]
    assert rates[:10] == pytest.approx([step / 11 for step in range(1, 11)])
    assert rates[10] == pytest.approx(1.0, abs=1e-3)
    assert rates[-1] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert lr_at(1, num_steps=1, peak=1.0, warmup_ratio=0.0) == pytest.approx(0.1)


def test_passes_see_every_row_once_each_in_another_order_and_a_part_of_a_pass_is_a_part() -> None:
    lengths = [10] * 40
    steps = run_steps(lengths, passes=2.5, step_tokens=100, seed=0)
    assert len(steps) == 4 + 4 + 2
    assert sorted(chain(*steps[:4])) == sorted(chain(*steps[4:8])) == list(range(40))
    assert steps[:4] != steps[4:8]
    assert len(list(chain(*steps[8:]))) == 20
    assert run_steps(lengths, passes=2.5, step_tokens=100, seed=1) != steps


def test_dev_is_scored_evenly_and_always_at_the_end() -> None:
    assert eval_steps(100, 4) == {25, 50, 75, 100}
    assert eval_steps(2, 6) == {1, 2}
    assert eval_steps(1, 3) == {1}


def test_patience_is_spent_by_scores_without_a_lower_loss_and_never_by_the_base() -> None:
    curve = [(0, 1.0), (10, 3.0), (20, 2.0), (30, 2.5), (40, 2.0)]
    # Lowest before the last two is 2.0 at step 20; 2.5 and 2.0 are no lower. Before the last three it is 3.0.
    assert [is_spent(curve, patience) for patience in (0, 1, 2, 3, 4)] == [False, True, True, False, False]
    assert not is_spent([(0, 1.0), (10, 3.0), (20, 3.0)], 2)
    assert not is_spent([], 1)


def test_how_often_a_train_row_is_read_hangs_on_steps_and_reference_alone() -> None:
    # 10 + 20 + 20 + 30 tokens of steps over the 60 of the three rows they see.
    assert mean_reads([10, 20, 30, 40], [[0, 1], [1, 2]], has_reference=False) == pytest.approx(80 / 60)
    assert mean_reads([10, 20], [[0, 1], [1, 0]], has_reference=True) == 3.0
    assert mean_reads([], [], has_reference=False) == 0.0
