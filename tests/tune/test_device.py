"""What only CUDA computes: refused on a CPU before anything is written, and handed to what loads the base."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from metier.core.errors import ConfigError, ModelError
from metier.core.tune_config import TuneConfig
from metier.tune import Options, tune
from metier.tune.form import load_trainee
from tests.engine.builders import pattern_rows, tiny_base

CONFIG = TuneConfig(rank=4, alpha=8.0, passes=1.0, step_tokens=128, evals=2, product_dtype="fp32", lr=0.02, depth=2)
NEEDS_CUDA: dict[str, Any] = {"device": "cuda", "base_bits": 4, "optimizer": "adamw8bit"}


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: tests/gpu")
@pytest.mark.parametrize("name", NEEDS_CUDA)
def test_what_needs_cuda_ends_a_run_before_it_writes_anything(name: str, base_dir: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, **{"device": "cuda", name: NEEDS_CUDA[name]})
    with pytest.raises(ModelError, match=r"device is 'cuda', but torch .* finds no CUDA GPU here. Use device='cpu'"):
        tune(
            pattern_rows(12, seed=1), pattern_rows(4, seed=2), config, base=base_dir, out_dir=tmp_path / "tune", seed=0
        )
    assert not (tmp_path / "tune").exists()


@pytest.mark.parametrize("start", [None, Path("adapter")], ids=["new", "goes on"])
def test_where_and_in_how_many_bits_reaches_what_loads_the_base(
    start: Path | None, base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asked(Exception):
        pass

    def asked(*args: Any, **settings: Any) -> None:
        raise Asked({name: settings[name] for name in NEEDS_CUDA})

    monkeypatch.setattr("metier.tune.form.load", asked)
    monkeypatch.setattr("metier.engine.model_files.load", asked)
    for config in (CONFIG, replace(CONFIG, **NEEDS_CUDA)):
        with pytest.raises(Asked) as found:
            load_trainee(base_dir, config, seed=0, options=Options(start=start))
        assert found.value.args[0] == {name: getattr(config, name) for name in NEEDS_CUDA}


@pytest.mark.parametrize("name", ["base_bits", "optimizer"])
def test_what_a_cpu_does_not_compute_is_refused_with_the_settings(name: str) -> None:
    value = NEEDS_CUDA[name]
    with pytest.raises(
        ConfigError, match=rf"{name} is {value!r}, but device = 'cpu' does not compute it; set device ="
    ):
        TuneConfig(**{name: value})
    assert getattr(TuneConfig(device="cuda", **{name: value}), name) == value


@pytest.mark.parametrize(("method", "why"), [("dora", "needs their norms"), ("full", "trains the weights themselves")])
def test_weights_in_4_bits_are_refused_where_they_would_have_to_train(method: str, why: str) -> None:
    with pytest.raises(ConfigError, match=rf"base_bits is 4, but method = '{method}' {why}; set method to 'lora' or"):
        TuneConfig(device="cuda", base_bits=4, method=method)  # type: ignore[arg-type]  # a method's name
    assert TuneConfig(device="cuda", base_bits=4, method="rslora").base_bits == 4
