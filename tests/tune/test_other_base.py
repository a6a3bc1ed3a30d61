"""Tuning a base that transformers' own modules compute: runs that go on from an adapter, and ranks no layer can use."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metier.core.errors import ConfigError, ModelError
from metier.core.tune_config import TuneConfig
from metier.engine import AdapterSpec, close, continue_tuned, export_adapter, load
from metier.tune import Options, tune, tune_pairs
from tests.engine.builders import pattern_rows
from tests.engine.family_builders import OTHERS, write_model
from tests.tune.test_dpo import CONFIG, DEV, TRAIN

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
SFT = replace(CONFIG, objective="sft", dpo=None, passes=1.0, lr=0.02)


def gemma(tmp_path: Path) -> Path:
    return write_model(tmp_path / "base", OTHERS["gemma3"])


@pytest.mark.parametrize("form", [{}, {"method": "rslora", "depth": 2, "targets": ("q_proj", "v_proj")}])
def test_pairs_go_on_from_the_adapter_of_the_gold_replies(tmp_path: Path, form: dict[str, Any]) -> None:
    base_dir, rows = gemma(tmp_path), pattern_rows(12, seed=1)
    sft = tune(rows, rows[:4], replace(SFT, **form), base=base_dir, out_dir=tmp_path / "sft", seed=0, threads=1)
    options = Options(threads=1, start=sft.adapter_dir)
    named: dict[str, Any] = {"base": base_dir, "seed": 0, "options": options}
    dpo = tune_pairs(TRAIN, DEV, replace(CONFIG, **form), out_dir=tmp_path / "dpo", **named)
    assert dict(dpo.dev_curve)[0] == pytest.approx(math.log(2), abs=1e-6), "the reference is what sft left"
    assert dpo.fingerprint != sft.fingerprint
    reloaded = load(base_dir, adapter=dpo.adapter_dir, dtype="fp32", threads=1)
    assert reloaded.fingerprint == dpo.fingerprint
    close(reloaded)
    words = "rslora on q_proj, v_proj, rank 4, alpha 8, top 2 layers" if form else "lora.*rank 4, alpha 8, top 3 layers"
    for other in ({"rank": 8}, {"alpha": 4.0}, {"depth": 1}, {"targets": ("q_proj",)}):
        with pytest.raises(ConfigError, match=f"{words}; the settings say (lora|rslora) on"):
            tune_pairs(TRAIN, DEV, replace(CONFIG, **{**form, **other}), out_dir=tmp_path / "refused", **named)


@pytest.mark.parametrize("family", OTHERS)
def test_every_family_goes_on_from_what_it_wrote(tmp_path: Path, family: str) -> None:
    base_dir, spec = write_model(tmp_path / "base", OTHERS[family]), AdapterSpec(rank=4, alpha=8.0, first_layer=1)
    handle = load(base_dir, adapter=spec, dtype="fp32", threads=1)
    export_adapter(handle, tmp_path / "adapter")
    again = continue_tuned(base_dir, tmp_path / "adapter", spec, dtype="fp32", threads=1)
    assert again.fingerprint == handle.fingerprint
    close(again)
    close(handle)


@pytest.mark.parametrize("family", ["gemma3", "gpt2"])
def test_a_rank_above_what_a_layer_can_use_is_refused(tmp_path: Path, family: str) -> None:
    base_dir = write_model(tmp_path / "base", OTHERS[family])
    rank = {"gemma3": 16, "gpt2": 48}[family]  # Gemma's keys are 2 heads of 8
    close(load(base_dir, adapter=AdapterSpec(rank=rank, alpha=8.0), dtype="fp32", threads=1))
    with pytest.raises(ModelError, match=f"rank {rank + 1} is larger than .*so {rank} is full rank. Set tune.rank"):
        load(base_dir, adapter=AdapterSpec(rank=rank + 1, alpha=8.0), dtype="fp32", threads=1)
    config = TuneConfig(rank=4096, passes=1.0)
    with pytest.raises(ModelError, match="rank 4096 is larger than"):
        tune(pattern_rows(4), pattern_rows(2), config, base=base_dir, out_dir=tmp_path / "run", seed=0, threads=1)
