"""Predictions of time and memory: how they scale; their accuracy on the real base is in docs/tune.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from metier.core.errors import DataError
from metier.core.tune_config import TuneConfig
from metier.engine import AdapterSpec, close, load, read_shape
from metier.tune import Speed, estimate, measure_speed
from tests.engine.builders import pattern_rows, tiny_base

SPEED = Speed(
    train_tokens_per_s=1000.0,
    score_tokens_per_s=2000.0,
    depth=3,
    trained_ratio=0.5,
    threads=2,
    product_bytes=2,
    seconds=1.0,
)


def test_minutes_are_tokens_times_passes_over_speed(tmp_path: Path) -> None:
    shape = read_shape(tiny_base(tmp_path))
    config = TuneConfig(passes=2.0, evals=1, step_tokens=1000)
    found = estimate(num_tokens=60_000, dev_tokens=4000, shape=shape, config=config, speed=SPEED)
    # 2 x 60,000 / 1000 = 120 s of steps; 2 x 4000 / 2000 = 4 s of dev scores; half a second of checkpoint.
    assert found.minutes == pytest.approx(124.5 / 60)
    assert found.num_steps == 120


def test_fewer_adapted_layers_take_less_time_and_memory(tmp_path: Path) -> None:
    shape = read_shape(tiny_base(tmp_path))
    found = [
        estimate(num_tokens=60_000, dev_tokens=0, shape=shape, config=TuneConfig(depth=depth), speed=SPEED)
        for depth in (1, 2, 3)
    ]
    assert found[0].minutes < found[1].minutes < found[2].minutes
    assert found[0].gib < found[1].gib < found[2].gib


def test_longer_rows_take_more_memory(tmp_path: Path) -> None:
    shape = read_shape(tiny_base(tmp_path))
    found = [
        estimate(
            num_tokens=6000, dev_tokens=0, shape=shape, config=TuneConfig(), speed=SPEED, longest_row=longest_row
        ).gib
        for longest_row in (100, 1024, 4096)
    ]
    assert found[0] < found[1] < found[2]


def test_measuring_changes_no_weight_and_leaves_no_gradient(tmp_path: Path) -> None:
    handle = load(tiny_base(tmp_path), adapter=AdapterSpec(rank=2, alpha=4.0, first_layer=1), threads=2)
    before = handle.fingerprint
    speed = measure_speed(handle, pattern_rows(20), TuneConfig(step_tokens=128))
    assert handle.fingerprint == before
    assert handle.trainer is not None and handle.trainer.pending == 0 and handle.trainer.step == 0
    assert not any(grads.flat_P.any() for grads in handle.trainer.grads)
    assert speed.train_tokens_per_s > 0 and speed.score_tokens_per_s > 0
    assert (speed.depth, speed.threads) == (2, 2)
    with pytest.raises(DataError, match="0 of 1 rows have at most 2 tokens"):
        measure_speed(handle, pattern_rows(1), TuneConfig(max_row_tokens=2))
    close(handle)
