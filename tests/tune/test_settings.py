"""Every setting of `[tune]` changes the run: other weights, another dev curve, other rows, or a refusal."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from metier.core.errors import ConfigError
from metier.core.tune_config import TuneConfig
from metier.tune import tune
from tests.engine.builders import pattern_rows, tiny_base
from tests.tune.test_recipe import files_of

CONFIG = TuneConfig(rank=4, alpha=8.0, passes=1.0, step_tokens=128, evals=2, product_dtype="fp32", lr=0.02, depth=2)
OTHER: dict[str, Any] = {
    "method": "dora",
    "targets": ("q_proj", "down_proj"),
    "depth": 1,
    "rank": 2,
    "alpha": 4.0,
    "lr": 0.01,
    "passes": 2.0,
    "max_row_tokens": 30,
    "step_tokens": 256,
    "warmup_ratio": 0.5,
    "weight_decay": 0.3,
    "max_grad_norm": 0.01,
    "evals": 1,
    "patience": 1,
    "product_dtype": "bf16",
    "layout": "padded",
    "checkpointing": "on",
    "trunk_gib": 0.0,
}
STEEP = replace(CONFIG, passes=6.0, evals=9, patience=0)
"""With dev rows that count down: what training teaches makes them less likely, and only patience ends the run."""
NO_EFFECT: dict[str, Any] = {"rank": 4, "alpha": 8.0, "targets": ("q_proj",)}
ELSEWHERE = {
    "objective": "tests/tune/test_dpo.py::test_an_objective_is_run_by_its_own_function_only",
    "dpo": "tests/tune/test_dpo.py::test_another_value_is_another_run",
    "processes": "tests/tune/test_processes.py::test_two_processes_of_one_thread_give_the_bits_of_one_with_two_workers",
}
"""Settings that a run of twelve short rows cannot show, and the test that shows them."""
ROOT = Path(__file__).resolve().parents[2]
TRAIN, DEV = pattern_rows(12, seed=1), pattern_rows(4, seed=2)


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def first(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return run(base_dir, tmp_path_factory.mktemp("first") / "tune", CONFIG)


def run(base_dir: Path, out_dir: Path, config: TuneConfig) -> dict[str, object]:
    result = tune(TRAIN, DEV, config, base=base_dir, out_dir=out_dir, seed=0, threads=1)
    chosen = {name: choice.name for name, choice in result.execution.choices.items()}
    return {**files_of(out_dir), "dropped": (out_dir / "dropped.jsonl").read_text(), "chosen": chosen}


def test_the_table_holds_every_setting() -> None:
    assert {*OTHER, *ELSEWHERE} == {f.name for f in fields(TuneConfig)}
    for name, place in ELSEWHERE.items():
        path, _, test = place.partition("::")
        assert f"def {test}(" in (ROOT / path).read_text(encoding="utf-8"), name


@pytest.mark.parametrize("name", sorted(OTHER.keys() - {"patience"}))
def test_another_value_is_another_run(name: str, base_dir: Path, first: dict[str, object], tmp_path: Path) -> None:
    other = run(base_dir, tmp_path / "tune", replace(CONFIG, **{name: OTHER[name]}))
    assert other != first


def test_another_patience_is_another_run(base_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tune.patience ends a run whose dev loss rises."""
    monkeypatch.setattr(f"{__name__}.DEV", [replace(row, tokens=row.tokens[::-1]) for row in DEV])
    endless, ended = (run(base_dir, tmp_path / str(patience), replace(STEEP, patience=patience)) for patience in (0, 2))
    assert endless != ended


def test_the_same_values_are_the_same_run(base_dir: Path, first: dict[str, object], tmp_path: Path) -> None:
    assert run(base_dir, tmp_path / "tune", CONFIG) == first


@pytest.mark.parametrize("method", ["rslora", "full"])
def test_every_method_is_a_run_of_its_own(
    method: str, base_dir: Path, first: dict[str, object], tmp_path: Path
) -> None:
    plain = {"rank": 16, "alpha": 32.0, "lr": 0.003} if method == "full" else {}
    other = run(base_dir, tmp_path / "tune", replace(CONFIG, method=method, **plain))  # type: ignore[arg-type]  # a method's name
    assert other != first


@pytest.mark.parametrize("name", NO_EFFECT)
def test_a_setting_of_adapters_is_refused_where_there_are_none(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name} is {re.escape(repr(NO_EFFECT[name]))}, but method = 'full' trains"):
        TuneConfig(method="full", **{name: NO_EFFECT[name]})
    assert TuneConfig(method="full").method == "full"


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (("q_porj",), "targets names 'q_porj', which is no linear layer; did you mean 'q_proj'"),
        (("lm_head",), "targets names 'lm_head', which is no linear layer; known: down_proj, gate_proj, k_proj"),
        (("q_proj", "q_proj"), "targets names 'q_proj' twice"),
    ],
)
def test_a_target_that_no_block_has_is_refused_with_the_nearest(targets: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        TuneConfig(targets=targets)
