"""The rehearsal on a tiny base: it leaves nothing behind, and refuses what would end a resumed run as another model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from metier.core.errors import DataError, ModelError
from metier.core.tune_config import TuneConfig
from metier.engine import Handle, SamplingParams
from metier.tune import Prompts, rehearse
from tests.engine.builders import VOCAB, pattern_rows, tiny_base

CONFIG = TuneConfig(rank=4, alpha=8.0, step_tokens=128, product_dtype="fp32", lr=0.02)
TRAIN, DEV = pattern_rows(24, seed=1), pattern_rows(6, seed=2)
PROMPTS = Prompts(tokens=[[1, 2, 3], [4, 5]], params=SamplingParams(max_tokens=5, stop_ids=frozenset({VOCAB})))


@pytest.fixture
def base_dir(tmp_path: Path) -> Path:
    return tiny_base(tmp_path / "base")


def test_everything_is_timed_and_nothing_is_left(base_dir: Path, tmp_path: Path) -> None:
    found = rehearse(TRAIN, DEV, CONFIG, base=base_dir, work_dir=tmp_path / "work", threads=1, prompts=PROMPTS)
    assert not (tmp_path / "work").exists()
    assert min(found.load_s, found.dev_s, found.save_s, found.resume_s, found.decode_s) > 0
    assert found.seconds > found.load_s + found.dev_s + found.save_s + found.resume_s + found.decode_s
    assert [len(reply) for reply in found.reply_tokens] == [5, 5]
    assert found.speed.save_s == found.save_s and found.speed.longest_step_s > 0 and found.speed.optim_s > 0
    assert found.speed.runtime_gib > 0.1 and found.speed.file_bytes == (base_dir / "model.safetensors").stat().st_size
    # fp32 masters of rank 4 on three layers, two moments and an export: 16 bytes each.
    masters = 3 * 4 * (48 + 48 + 2 * (48 + 16) + 48 + 48 + 3 * (48 + 80))
    assert found.checkpoint_gib * 2**30 == pytest.approx(16 * masters, rel=0.15)


def test_both_layouts_are_timed_where_none_is_set(base_dir: Path, tmp_path: Path) -> None:
    found = rehearse(TRAIN, DEV, CONFIG, base=base_dir, work_dir=tmp_path / "work", threads=1)
    assert set(found.execution.layout.seconds) == {"packed", "padded"}
    assert "median of 5 turns" in found.execution.layout.reason
    padded = replace(CONFIG, layout="padded")
    found = rehearse(TRAIN, DEV, padded, base=base_dir, work_dir=tmp_path / "work", threads=1)
    assert (found.execution.layout.name, found.execution.layout.seconds) == ("padded", {})


def test_timing_ends_soon_where_a_step_takes_long(
    base_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metier.engine.choose.ENOUGH_S", 0.0)
    found = rehearse(TRAIN, DEV, CONFIG, base=base_dir, work_dir=tmp_path / "work", threads=1)
    assert "median of 1 turn" in found.execution.layout.reason


def test_a_resumption_that_brings_back_too_little_is_refused(
    base_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loses_the_moments(handle: Handle, state_dir: Path) -> dict[str, object]:
        facts = load_state(handle, state_dir)
        assert handle.trainer is not None and handle.trainer.optimizer is not None
        for state in handle.trainer.optimizer.state.values():
            state["exp_avg"].zero_()
        return facts

    from metier.engine import load_state

    monkeypatch.setattr("metier.tune.rehearsing.load_state", loses_the_moments)
    with pytest.raises(ModelError, match="expected the same bits"):
        rehearse(TRAIN, DEV, CONFIG, base=base_dir, work_dir=tmp_path / "work", threads=1)
    assert not (tmp_path / "work").exists()


def test_no_rows_is_an_error_before_anything_is_written(base_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0 of 0 rows have at most 1024 tokens"):
        rehearse([], DEV, CONFIG, base=base_dir, work_dir=tmp_path / "work", threads=1)
    assert not (tmp_path / "work").exists()
