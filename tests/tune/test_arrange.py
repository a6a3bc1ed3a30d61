"""What a run chose for itself: told, stored, the same on resume; and the same result whatever was chosen."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metier.core.errors import StoreError
from metier.core.tune_config import DpoConfig, TuneConfig
from metier.engine import AdapterSpec, close, load
from metier.engine import trunk as trunk_module
from metier.engine.batch import Batch
from metier.engine.choose import choose_checkpointing, choose_layout, step_bytes
from metier.engine.form import Choice, Form
from metier.engine.loop import Trainer, trainer_of
from metier.render import RenderedRow
from metier.tune import Options, Progress, TuneResult, tune, tune_pairs
from tests.engine.builders import VOCAB, pattern_rows, random_rows, tiny_base
from tests.tune.test_dpo import pattern_pairs
from tests.tune.test_recipe import files_of

CONFIG = TuneConfig(rank=4, alpha=8.0, passes=2.0, step_tokens=128, evals=3, product_dtype="fp32", lr=0.02, depth=1)
TRAIN, DEV = pattern_rows(24, seed=1), pattern_rows(6, seed=2)


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


def run(
    base_dir: Path, out_dir: Path, config: TuneConfig = CONFIG, *, rows: list[RenderedRow] = TRAIN, **options: object
) -> TuneResult:
    how = Options(**options)  # type: ignore[arg-type]  # object: any option
    return tune(
        rows, DEV if rows is TRAIN else rows[:4], config, base=base_dir, out_dir=out_dir, seed=0, threads=1, options=how
    )


def with_prefix(rows: list[RenderedRow], num_tokens: int) -> list[RenderedRow]:
    prefix = np.random.default_rng(4).integers(0, VOCAB, num_tokens).tolist()
    return [RenderedRow(row.row_id, [*prefix, *row.tokens], [0.0] * num_tokens + list(row.weight)) for row in rows]


class _Killed(Exception):
    pass


def kill_at(step: int) -> object:
    def stop(now: Progress) -> None:
        if now.step == step:
            raise _Killed

    return stop


def test_runs_with_a_cold_a_warm_a_lost_and_no_cache_of_their_own_end_with_the_same_bits(
    base_dir: Path, tmp_path: Path
) -> None:
    first = run(base_dir, tmp_path / "a" / "tune")
    assert (first.execution.trunk_layers, first.execution.trunk.name) == (2, "2 layers")
    (states,) = (tmp_path / "a" / "trunk").glob("*/states-0.bin")
    assert states.stat().st_size == first.execution.trunk_bytes
    run(base_dir, tmp_path / "b" / "tune", trunk_dir=tmp_path / "a" / "trunk")
    assert states.stat().st_size == first.execution.trunk_bytes, "the second run computes nothing"
    run(base_dir, tmp_path / "c" / "tune", trunk_dir=tmp_path / "empty")
    with pytest.raises(_Killed):
        run(base_dir, tmp_path / "d" / "tune", on_progress=kill_at(5))
    shutil.rmtree(tmp_path / "d" / "trunk")
    run(base_dir, tmp_path / "d" / "tune")
    found = [files_of(tmp_path / name / "tune") for name in "abcd"]
    assert found[1:] == found[:1] * 3


def test_another_seed_and_fewer_rows_read_the_same_states(base_dir: Path, tmp_path: Path) -> None:
    run(base_dir, tmp_path / "a" / "tune")
    (states,) = (tmp_path / "a" / "trunk").glob("*/states-0.bin")
    size = states.stat().st_size
    tune(TRAIN[:9], DEV, CONFIG, base=base_dir, out_dir=tmp_path / "a" / "less", seed=7, threads=2)
    assert states.stat().st_size == size


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_no_step_score_or_reference_computes_states_that_are_stored(
    objective: str, base_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bins: list[int] = []
    real = trunk_module.compute_states

    def seen(batch: Batch, rows: Sequence[int], *arguments: Any, **named: Any) -> list[torch.Tensor]:
        bins.append(len(rows))
        return real(batch, rows, *arguments, **named)

    monkeypatch.setattr(trunk_module, "compute_states", seen)
    if objective == "sft":
        run(base_dir, tmp_path / "tune")
        rows = [*TRAIN, *DEV]
    else:
        config = replace(CONFIG, objective="dpo", passes=0.0, lr=0.0, dpo=DpoConfig(passes=1.0, lr=0.02))
        train, dev = pattern_pairs(12, seed=1), pattern_pairs(4, seed=2)
        tune_pairs(train, dev, config, base=base_dir, out_dir=tmp_path / "tune", seed=0, options=Options(threads=1))
        rows = [row for pair in (*train, *dev) for row in pair.rows]
    assert sum(bins) == len({tuple(row.tokens) for row in rows})


def test_the_choices_are_told_before_the_start_and_stored_with_their_reasons(
    base_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="metier.tune.arrange"):
        said: list[str] = []
        result = run(base_dir, tmp_path / "a" / "tune", say=said.append)
    stored = json.loads((tmp_path / "a" / "tune" / "done.json").read_text())["result"]["execution"]
    assert stored == json.loads((tmp_path / "a" / "tune" / "execution.json").read_text()) == result.execution.as_json()
    filled, *told = [record.message for record in caplog.records]
    assert said == [filled, *told]
    assert filled == "states below the adapted layers: 100% computed"
    assert told == result.execution.lines()
    assert [line.partition(":")[0] for line in told] == [
        "block", "device", "base", "optimizer", "head", "product_dtype", "workers", "micro_tokens", "layout", "checkpointing", "prefix", "trunk",
    ]  # fmt: skip
    assert "product_dtype: float32 (tune.product_dtype)" in told
    assert "layout: packed (no rehearsal measured the layouts)" in told
    assert run(base_dir, tmp_path / "a" / "tune") == result, "a finished folder gives the stored choices"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"depth": 0}, "none (all layers are adapted)"),
        ({"trunk_gib": 0.0}, "none (tune.trunk_gib is 0)"),
        ({"trunk_gib": 1e-6}, "over tune.trunk_gib"),
        ({"passes": 1.0, "evals": 3}, "none (a row is read 1.00 times; it pays from 1.4)"),
    ],
)
def test_a_run_without_stored_states_says_why(
    change: dict[str, float], told: str, base_dir: Path, tmp_path: Path
) -> None:
    result = run(base_dir, tmp_path / "tune", replace(CONFIG, **change))  # type: ignore[arg-type]  # names of settings
    assert told in result.execution.lines()[-1]
    assert (result.execution.trunk_layers, result.execution.trunk_bytes) == (0, 0)
    assert not (tmp_path / "trunk").exists()


def test_a_prefix_of_all_rows_is_found_and_changes_the_result_by_rounding_alone(base_dir: Path, tmp_path: Path) -> None:
    rows = with_prefix(TRAIN, 40)
    shared = run(base_dir, tmp_path / "a", replace(CONFIG, depth=0), rows=rows)
    assert shared.execution.prefix_tokens == 41, "every pattern starts with token 0"
    lonely = RenderedRow("other", list(range(50)), [0.0] * 45 + [1.0] * 5)
    assert run(base_dir, tmp_path / "c", replace(CONFIG, depth=0), rows=[*rows, lonely]).execution.prefix_tokens == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("metier.tune.arrange.MIN_PREFIX_TOKENS", 1000)
        whole = run(base_dir, tmp_path / "b", replace(CONFIG, depth=0), rows=rows)
    assert whole.execution.prefix_tokens == 0
    assert [loss for _, loss in shared.dev_curve] == pytest.approx([loss for _, loss in whole.dev_curve], rel=1e-4)
    assert shared.num_tokens == whole.num_tokens


def test_the_workers_told_are_those_that_compute_the_tokens_beside_the_prefix(
    base_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = Trainer.prepare, []

    def prepare(self: Trainer, num_workers: int) -> None:
        seen.append(num_workers)
        real(self, num_workers)

    monkeypatch.setattr(Trainer, "prepare", prepare)
    config = replace(CONFIG, step_tokens=700, depth=0, layout="packed")
    for num_prefix, wanted in ((0, 2), (40, 1)):
        seen.clear()
        rows = with_prefix(random_rows([60] * 24), num_prefix)
        result = tune(
            rows,
            rows[:2],
            config,
            base=base_dir,
            out_dir=tmp_path / str(num_prefix),
            seed=0,
            options=Options(threads=2),
        )
        assert max(seen) == int(result.execution.workers.name) == wanted


def test_a_resumed_run_takes_the_layout_it_began_with(
    base_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto, padded = replace(CONFIG, layout="auto"), replace(CONFIG, layout="padded")
    run(base_dir, tmp_path / "whole" / "tune", padded)
    monkeypatch.setattr("metier.tune.arrange.choose_layout", lambda *_: Choice(name="padded", reason="measured"))
    with pytest.raises(_Killed):
        run(base_dir, tmp_path / "cut" / "tune", auto, on_progress=kill_at(5), times_layouts=True)
    monkeypatch.setattr("metier.tune.arrange.choose_layout", lambda *_: Choice(name="packed", reason="measured"))
    resumed = run(base_dir, tmp_path / "cut" / "tune", auto)
    assert resumed.execution.layout == Choice(name="padded", reason="measured")
    assert files_of(tmp_path / "cut" / "tune") == files_of(tmp_path / "whole" / "tune")


def test_checkpointing_is_on_where_memory_would_not_do_and_gives_the_same_bits(
    base_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    off = run(base_dir, tmp_path / "off", replace(CONFIG, depth=0))
    assert off.execution.checkpointing.name == "off"
    monkeypatch.setattr("metier.tune.arrange._free_bytes", lambda _: 1000.0)
    on = run(base_dir, tmp_path / "on", replace(CONFIG, depth=0))
    assert on.execution.checkpointing.name == "on"
    assert "0.00 are free" in on.execution.checkpointing.reason
    assert files_of(tmp_path / "on") == files_of(tmp_path / "off")


def test_a_run_that_began_with_stored_states_does_not_go_on_without(
    base_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(_Killed):
        run(base_dir, tmp_path / "tune", on_progress=kill_at(5))
    monkeypatch.setattr("metier.engine.trunk_files.SPARE_BYTES", 1 << 60)
    with pytest.raises(StoreError, match=r"began with stored states and needs .* not free on the disk.* it resumes"):
        run(base_dir, tmp_path / "tune")
    monkeypatch.undo()
    run(base_dir, tmp_path / "tune")
    with pytest.raises(_Killed):
        monkeypatch.setattr("metier.engine.trunk_files.SPARE_BYTES", 1 << 60)
        run(base_dir, tmp_path / "without" / "tune", on_progress=kill_at(5))
    monkeypatch.undo()
    assert "as the run began" in run(base_dir, tmp_path / "without" / "tune").execution.trunk.reason


def test_timing_the_layouts_changes_neither_weights_nor_gradient_nor_form(base_dir: Path) -> None:
    handle = load(base_dir, adapter=AdapterSpec(rank=2, alpha=4.0), dtype="fp32", threads=1)
    before = handle.fingerprint
    choice = choose_layout(handle, random_rows([30, 20, 25]), repeats=2)
    assert choice.name in ("packed", "padded")
    assert set(choice.seconds) == {"packed", "padded"} and min(choice.seconds.values()) > 0
    assert handle.fingerprint == before
    trainer = trainer_of(handle)
    assert trainer.form == Form() and trainer.pending == 0
    assert not any(bool(grads.flat_P.any()) for grads in trainer.grads)
    close(handle)


def test_a_step_that_fits_needs_no_checkpoints_and_one_that_does_not_needs_less_with_them(base_dir: Path) -> None:
    handle = load(base_dir, adapter=AdapterSpec(rank=2, alpha=4.0), dtype="fp32", threads=2)
    need = 2 * step_bytes(handle.shape, depth=3, tokens=100, value_bytes=4, checkpointing=False)
    assert choose_checkpointing(handle, micro_tokens=100, workers=2, free_bytes=need).name == "off"
    assert choose_checkpointing(handle, micro_tokens=100, workers=2, free_bytes=need - 1).name == "on"
    assert choose_checkpointing(handle, micro_tokens=101, workers=2, free_bytes=need).name == "on"
    close(handle)
