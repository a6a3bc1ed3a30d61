"""Predictions of time and memory: how they scale; their accuracy on the real base is in docs/tune.md."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metier.core.errors import DataError
from metier.core.tune_config import DpoConfig, Method, TuneConfig
from metier.engine import AdapterSpec, close, load, read_shape
from metier.engine.cuda import CONTEXT_GIB
from metier.tune import MemoryParts, Speed, estimate, estimate_pairs, measure_speed
from metier.tune.estimate import seconds_of_product
from metier.tune.kernels import products, stored_products
from metier.tune.memory import base_weights, layer_weights, num_trained
from metier.tune.schedule import run_steps
from metier.tune.steps_ahead import look_ahead
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
    found = estimate(train_tokens=[100] * 600, dev_tokens=[100] * 40, shape=shape, config=config, speed=SPEED)
    # 2 x 60,000 / 1000 = 120 s of steps; 2 x 4000 / 2000 = 4 s of dev scores; half a second of checkpoint.
    assert found.minutes == pytest.approx(124.5 / 60)
    assert found.num_steps == 120


def test_compiling_saving_and_the_optimizer_come_on_top(tmp_path: Path) -> None:
    shape = read_shape(tiny_base(tmp_path))
    config = TuneConfig(passes=2.0, evals=1, step_tokens=1000)
    speed = replace(SPEED, product_s=0.01, first_step_extra_s=1.5, optim_s=0.1, save_s=2.5)
    found = estimate(train_tokens=[100] * 600, dev_tokens=[100] * 40, shape=shape, config=config, speed=speed)
    ahead = look_ahead([100] * 600, [100] * 40, config=config, threads=2)
    # Steps of ten rows on two workers: one size of 495 tokens that are read, filled up to 512; dev in four of 990.
    assert (ahead.widths, ahead.scored_widths) == ({512}, {992})
    kinds = products(shape, config, ahead, depth=3, trained_ratio=0.5, is_stored=False)
    assert len(kinds) > 20
    assert found.minutes == pytest.approx((124 + 1.5 + len(kinds) * 0.01 + 120 * 0.1 + 2.5) / 60)


def test_rows_over_the_limit_take_nothing(tmp_path: Path) -> None:
    shape = read_shape(tiny_base(tmp_path))
    config = TuneConfig(passes=1.0, step_tokens=1000, max_row_tokens=200)
    found = [
        estimate(train_tokens=tokens, dev_tokens=[100], shape=shape, config=config, speed=SPEED)
        for tokens in ([100] * 60, [100] * 60 + [1000] * 5)
    ]
    assert found[0] == found[1]


def test_fewer_adapted_layers_take_less_time_and_memory(tmp_path: Path) -> None:
    shape = read_shape(tiny_base(tmp_path))
    found = [
        estimate(
            train_tokens=[100] * 600,
            dev_tokens=[],
            shape=shape,
            config=TuneConfig(depth=depth, trunk_gib=0),
            speed=SPEED,
        )
        for depth in (1, 2, 3)
    ]
    assert found[0].minutes < found[1].minutes < found[2].minutes
    assert found[0].gib < found[1].gib < found[2].gib


def test_stored_states_take_memory_and_save_the_frozen_layers(tmp_path: Path) -> None:
    shape = read_shape(tiny_base(tmp_path))
    plain, stored = (
        estimate(
            train_tokens=[100] * 600,
            dev_tokens=[100] * 10,
            shape=shape,
            config=TuneConfig(depth=1, passes=4, trunk_gib=trunk_gib),
            speed=SPEED,
        )
        for trunk_gib in (0, 1)
    )
    assert stored.minutes < plain.minutes
    # 61,000 tokens of 48 values in bf16.
    assert stored.memory.stored == pytest.approx(61_000 * 48 * 2 / 2**30)
    assert plain.memory.stored == 0


def test_pairs_take_both_rows_every_pass_and_one_pass_for_their_reference(tmp_path: Path) -> None:
    shape = read_shape(tiny_base(tmp_path))
    config = TuneConfig(objective="dpo", dpo=DpoConfig(passes=2.0), evals=1, step_tokens=1000)
    found = estimate_pairs(
        train_pairs=[(60, 40)] * 600, dev_pairs=[(60, 40)] * 40, shape=shape, config=config, speed=SPEED
    )
    # As rows of 100 tokens: 124.5 s, of which 120 s of steps; the head goes forward once more: 2,328 multiplications a
    # token beside the 118,589 of a step. And (60,000 + 4,000) / 2,000 = 32 s for the reference.
    assert found.minutes == pytest.approx((124.5 + 120 * 2328 / 118588.8 + 32) / 60)


def test_every_part_of_memory_follows_its_cause(tmp_path: Path) -> None:
    shape = read_shape(tiny_base(tmp_path))

    def parts(config: TuneConfig | None = None, *, tokens: int = 300, speed: Speed = SPEED) -> MemoryParts:
        found = estimate(
            train_tokens=[tokens] * 20, dev_tokens=[100], shape=shape, config=config or TuneConfig(), speed=speed
        )
        return found.memory

    plain = parts()
    assert parts(TuneConfig(rank=64)).trained > plain.trained
    assert parts(TuneConfig(step_tokens=4096)).activations > plain.activations
    assert parts(tokens=1024).activations > plain.activations
    assert parts(speed=replace(SPEED, product_bytes=4)).base == pytest.approx(2 * plain.base)
    assert parts(speed=replace(SPEED, product_bytes=4)).kernels == 0 < plain.kernels
    assert parts(speed=replace(SPEED, runtime_gib=1.0)).gib == pytest.approx(plain.gib + 1.0)
    assert parts(speed=replace(SPEED, threads=1)).head == pytest.approx(plain.head / 2)


def test_what_only_cuda_computes_takes_the_memory_that_it_is_chosen_for(tmp_path: Path) -> None:
    shape, speed = read_shape(tiny_base(tmp_path)), replace(SPEED, runtime_gib=7.0, file_bytes=10**9)

    def parts(**settings: Any) -> MemoryParts:
        config = TuneConfig(device="cuda", **settings)
        return estimate(train_tokens=[300] * 60, dev_tokens=[100], shape=shape, config=config, speed=speed).memory

    plain, layers = parts(), shape.num_layers * layer_weights(shape)
    # A device holds no interpreter, no file and no compiled products, and is asked for by each process alone.
    assert (plain.runtime, plain.kernels) == (CONTEXT_GIB, 0.0)
    assert plain.base == pytest.approx(2 * base_weights(shape) / 2**30)
    assert parts(processes=2).base == plain.base
    assert parts(depth=1).stored == 0.0
    # 0.55 bytes a weight of the layers instead of 2; embeddings stay.
    assert plain.base - parts(base_bits=4).base == pytest.approx(1.45 * layers / 2**30)
    # Two moments of 1 byte and a 256th of a scale each instead of 4 bytes.
    values = num_trained(shape, TuneConfig(), depth=3)
    saved = plain.trained - parts(optimizer="adamw8bit").trained
    assert saved == pytest.approx(values * 2 * (3 - 4 / 256) / 2**30)


def test_a_device_takes_one_wide_batch_at_a_time() -> None:
    found = [
        look_ahead([400] * 40, [50], config=TuneConfig(device=device, step_tokens=4000), threads=4)  # type: ignore[arg-type]  # a device's name
        for device in ("cpu", "cuda")
    ]
    assert [ahead.workers for ahead in found] == [4, 1]
    assert found[0].micro_tokens < 2000 < found[1].micro_tokens


def test_memory_of_several_processes_is_that_of_each_and_of_the_one_that_waits(tmp_path: Path) -> None:
    shape, speed = read_shape(tiny_base(tmp_path)), replace(SPEED, runtime_gib=0.5)

    def parts(processes: int, threads: int) -> MemoryParts:
        config = TuneConfig(processes=processes, depth=1)
        wanted = replace(speed, threads=threads)
        return estimate(train_tokens=[300] * 20, dev_tokens=[100], shape=shape, config=config, speed=wanted).memory

    one, four_workers, two = parts(1, 1), parts(1, 4), parts(2, 2)
    assert two.runtime == pytest.approx(3 * 0.5)
    assert two.base == pytest.approx(2 * one.base)
    assert two.trained == pytest.approx(2 * one.trained), "each has the gradient of one worker"
    assert two.head == pytest.approx(2 * one.head)
    assert two.stored == pytest.approx(one.stored) and one.stored > 0
    assert parts(2, 4).head == pytest.approx(four_workers.head)


def test_the_steps_ahead_are_those_of_the_run() -> None:
    lengths = [40, 60, 700, 300, 20, 500] * 4
    config = TuneConfig(step_tokens=512, passes=1.5)
    ahead = look_ahead(lengths, [50], config=config, threads=2, seed=7)
    steps = run_steps(lengths, passes=1.5, step_tokens=512, seed=7)
    assert ahead.num_steps == len(steps)
    assert ahead.num_tokens == sum(lengths[row] for step in steps for row in step)
    assert (ahead.workers, ahead.longest_row) == (2, 704)
    assert ahead.micro_tokens >= 704 and ahead.micro_tokens % 32 == 0


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


def test_a_worker_that_only_scores_takes_memory_too(tmp_path: Path) -> None:
    """Steps of one long pair keep one worker busy; the dev score before them has started two."""
    shape, config = read_shape(tiny_base(tmp_path)), TuneConfig(objective="dpo", step_tokens=512)
    pairs = [(700, 600)] * 3
    alone, beside = (look_ahead(pairs, dev, config=config, threads=2) for dev in (pairs[:1], pairs))
    assert (alone.workers, alone.scoring_workers, beside.workers, beside.scoring_workers) == (1, 1, 1, 2)
    one, two = (
        estimate_pairs(train_pairs=pairs[:1], dev_pairs=dev, shape=shape, config=config, speed=SPEED).memory
        for dev in (pairs[:1], pairs)
    )
    assert one.activations < two.activations < 2 * one.activations
    assert two.head == pytest.approx(2 * one.head)


def test_products_are_counted_by_their_shapes(tmp_path: Path) -> None:
    """A micro-batch of 64 tokens on width 48, q k v 80, gate and up 160, down from 80; head of 97."""
    shape = read_shape(tiny_base(tmp_path))

    def counted(config: TuneConfig, *, ratio: float = 1.0, dev: tuple[int, ...] = (), depth: int = 3) -> int:
        ahead = look_ahead([65], dev, config=config, threads=1)
        return len(products(shape, config, ahead, depth=depth, trained_ratio=ratio, is_stored=False))

    full, lora = TuneConfig(method="full"), TuneConfig(rank=4)
    # Four products forward, back and outer, and the head's; scores, values, keys.
    assert counted(full) == 12 + 3 + 3
    # Of half the tokens, the top layer's out, gate_up and down; the head has them instead.
    assert counted(full, ratio=0.5) == 12 + 9 + 3 + 3
    # Forward and back; A and B of all four, there and back and outer, less four that are the size of another.
    assert counted(lora) == 8 + 24 - 4 + 2 + 3
    # Scored alone: forward of another size, three of the top layer's among them, its head, scores and values.
    assert counted(full, dev=(129,)) == counted(full) + 4 + 1 + 2
    # One layer trains, and no head: those below go forward through the same sizes.
    assert counted(full, depth=1, ratio=0.5) == 4 + 2 + 9 + 2 + 3


def test_products_of_stored_states_are_those_of_bins_and_of_every_length(tmp_path: Path) -> None:
    shape = read_shape(tiny_base(tmp_path))
    config = TuneConfig(rank=4, depth=1, passes=2.0)
    # 30 and 60 tokens are read to 32 and 64, in one bin of 512; 700 to 704, alone.
    ahead = look_ahead([31, 61], [701], config=config, threads=1)
    assert ahead.stored_lengths == {32, 64, 704}
    # Four products of either size; scores and values of rows of 32 and 64, and of the three blocks of 704.
    assert len(stored_products(shape, config, ahead)) == 8 + 2 * (1 + 1 + 3)


def test_a_products_seconds_are_measured_from_twenty_on_and_bounded() -> None:
    assert seconds_of_product(0.06, 30, product_bytes=2) == pytest.approx(0.002)
    assert seconds_of_product(0.3, 30, product_bytes=2) == 0.005, "a hiccup is no product"
    assert seconds_of_product(-0.1, 30, product_bytes=2) == 0.0
    assert seconds_of_product(0.3, 3, product_bytes=2) == 0.002, "three say nothing"
    assert seconds_of_product(0.3, 30, product_bytes=4) == 0.0, "nothing is compiled in fp32"


def test_logits_take_a_chunk_of_the_trained_tokens_a_larger_one_where_the_head_trains(tmp_path: Path) -> None:
    shape = read_shape(tiny_base(tmp_path))

    def head_gib(method: Method, *, tokens: int) -> float:
        config = TuneConfig(method=method, step_tokens=tokens)
        return estimate(
            train_tokens=[tokens], dev_tokens=[50], shape=shape, config=config, speed=replace(SPEED, threads=1)
        ).memory.head

    # Vocabulary 97, logits in fp32 and bf16: 128 tokens, or 1.5 x half of 512 of them where the head trains.
    assert head_gib("lora", tokens=513) == pytest.approx(128 * 97 * 6 / 2**30)
    assert head_gib("full", tokens=513) == pytest.approx(384 * 97 * 6 / 2**30)
    assert head_gib("full", tokens=1024) == pytest.approx(512 * 97 * 6 / 2**30)


def test_all_workers_fill_the_stored_states_however_few_rows_a_step_has(tmp_path: Path) -> None:
    shape = read_shape(tiny_base(tmp_path))

    def trained_gib(trunk_gib: float) -> float:
        config = TuneConfig(method="full", depth=1, passes=2.0, step_tokens=512, trunk_gib=trunk_gib)
        speed = replace(SPEED, threads=8, product_bytes=4)
        return estimate(train_tokens=[500] * 4, dev_tokens=[50], shape=shape, config=config, speed=speed).memory.trained

    values = num_trained(shape, TuneConfig(method="full", depth=1), depth=1)
    assert trained_gib(1.0) - trained_gib(0.0) == pytest.approx(4 * values * 7 / 2**30)


def test_a_base_in_the_files_own_precision_stays_mapped_beside_its_fused_copies(tmp_path: Path) -> None:
    shape = read_shape(tiny_base(tmp_path))

    def base_gib(product_bytes: int) -> float:
        speed = replace(SPEED, product_bytes=product_bytes, file_bytes=2 * base_weights(shape) + 3000)
        config = TuneConfig()
        found = estimate(train_tokens=[300] * 20, dev_tokens=[100], shape=shape, config=config, speed=speed)
        return found.memory.base

    fused = 3 * (48 * 80 + 48 * 160)
    assert base_gib(2) == pytest.approx(2 * (base_weights(shape) + fused) / 2**30)
    assert base_gib(4) == pytest.approx(4 * base_weights(shape) / 2**30)
