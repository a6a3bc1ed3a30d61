"""Every setting of `[tune]` and of the tables in it changes what a run does, on a model of two layers.

The walk finds the tables and their fields by itself. A field without another value here fails, as does a choice that
leaves out one of its words. What another value changes: weights, the dev curve, dropped rows, the form of the run, the
replies that are drawn for pairs; or it is refused, and the message says why.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch

from metier.core.config import Settings
from metier.core.errors import ConfigError, ModelError
from metier.core.tune_config import DpoConfig, TuneConfig
from metier.tune import Options, tune, tune_pairs
from tests.engine.builders import pattern_rows, tiny_base
from tests.road.running import copy_of, metier, one_core
from tests.road.small_project import LEAN, write_project
from tests.tune.test_dpo import pattern_pairs
from tests.tune.test_recipe import files_of

CONFIG = TuneConfig(rank=4, alpha=8.0, passes=1.0, step_tokens=128, evals=2, product_dtype="fp32", lr=0.02, depth=1)
PAIRS = replace(CONFIG, objective="dpo", dpo=DpoConfig(lr=0.01), passes=0.0, lr=0.0)
OTHER: dict[str, list[Any]] = {
    "objective": ["dpo"],
    "dpo": [DpoConfig(beta=0.4)],
    "method": ["rslora", "dora", "full"],
    "targets": [("q_proj", "down_proj")],
    "depth": [2],
    "rank": [2],
    "alpha": [4.0],
    "lr": [0.01],
    "passes": [2.0],
    "max_row_tokens": [30],
    "step_tokens": [256],
    "warmup_ratio": [0.5],
    "weight_decay": [0.3],
    "max_grad_norm": [0.01],
    "evals": [1],
    "patience": [2],
    "product_dtype": ["bf16", "auto"],
    "layout": ["padded", "packed"],
    "checkpointing": ["on", "off"],
    "trunk_gib": [0.0],
    "processes": [2],
    "device": ["cuda"],
    "base_bits": [4],
    "optimizer": ["adamw8bit"],
}
OTHER_DPO: dict[str, list[Any]] = {
    "loss": ["ipo"],
    "beta": [0.4],
    "label_smoothing": [0.2],
    "length_normalised": [True],
    "lr": [0.005],
    "passes": [2.0],
    "pairs": ["file"],
    "samples": [3],
    "temperature": [0.3],
}
OTHERS: dict[type[Settings], dict[str, list[Any]]] = {TuneConfig: OTHER, DpoConfig: OTHER_DPO}
WITH: dict[Any, dict[str, Any]] = {"full": {"rank": 16, "alpha": 32.0, "lr": 0.003}, "dpo": {"passes": 0.0}}
"""What else a value needs to be allowed."""
AROUND: dict[str, dict[str, Any]] = {
    "patience": {"passes": 6.0, "evals": 9, "patience": 0},
    "trunk_gib": {"passes": 2.0},
}
"""The run in which a setting shows. Patience: dev rows count down, so its dev loss rises, and only patience ends it;
stored states: rows are read twice."""
REFUSED = {
    "dpo": r"\[tune.dpo\] has no effect with objective = 'sft'; set it to 'dpo', or drop the table",
    "base_bits": "base_bits is 4, but device = 'cpu' does not compute it; set device = 'cuda'",
    "optimizer": "optimizer is 'adamw8bit', but device = 'cpu' does not compute it; set device = 'cuda'",
    "pairs": "pairs = 'file': 0 to train on and 0 for the dev loss",
}
AUTO = "auto"
"""A word that decides for one of the others: it may be the same run as the one it decides for."""
NO_EFFECT: dict[str, Any] = {"rank": 4, "alpha": 8.0, "targets": ("q_proj",)}
MINED = LEAN.replace("[decision]", 'objective = "dpo"\n\n[tune.dpo]\nlr = 0.001\nsamples = 2\n\n[decision]')
DRAWN = ("pairs", "samples", "temperature")
"""Settings of the pairs themselves, which are made before the first step."""
TRAIN = pattern_rows(12, seed=1)
DEV = [replace(row, tokens=row.tokens[::-1]) for row in pattern_rows(4, seed=2)]
TRAIN_PAIRS, DEV_PAIRS = pattern_pairs(12, seed=1), pattern_pairs(4, seed=2)


def tables(table: type[Settings]) -> Iterator[type[Settings]]:
    """A table and all tables in it."""
    yield table
    for hint in get_type_hints(table).values():
        for part in get_args(hint) or (hint,):
            if isinstance(part, type) and issubclass(part, Settings):
                yield from tables(part)


WALK = [
    (table, field.name, value)
    for table in tables(TuneConfig)
    for field in fields(table)
    for value in OTHERS[table].get(field.name, [])
    if value != AUTO
]


def test_the_walk_leaves_no_field_and_no_word_of_a_choice_out() -> None:
    assert [*tables(TuneConfig)] == [TuneConfig, DpoConfig] == [*OTHERS]
    for table, other in OTHERS.items():
        hints = get_type_hints(table)
        assert list(other) == [field.name for field in fields(table)]
        for name, values in other.items():
            current = getattr(CONFIG if table is TuneConfig else PAIRS.dpo, name)
            assert values and current not in values, name
            if get_origin(hints[name]) is Literal:
                assert {current, *values} == {*get_args(hints[name])}, name


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"), num_layers=2)


@pytest.fixture(scope="module")
def first(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return run(base_dir, tmp_path_factory.mktemp("first") / "tune", CONFIG)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project of the tiny model, tuned on the gold replies and on pairs it drew. Never changed: copy it."""
    with pytest.MonkeyPatch.context() as patch, one_core():
        patch.setenv("METIER_CACHE", str(tmp_path_factory.mktemp("cache")))
        made = write_project(tmp_path_factory.mktemp("drawn") / "p", text=MINED)
        ran = metier("tune", "-C", made)
        assert ran.code == 0, ran.err
        yield made


def run(base_dir: Path, out_dir: Path, config: TuneConfig, *, threads: int = 1) -> dict[str, object]:
    """What is seen of a run."""
    named: dict[str, Any] = {
        "base": base_dir, "out_dir": out_dir, "seed": 0, "options": Options(threads=threads)
    }  # fmt: skip
    if config.objective == "dpo":
        result = tune_pairs(TRAIN_PAIRS, DEV_PAIRS, config, **named)
    else:
        result = tune(TRAIN, DEV, config, **named)
    chosen = {name: choice.name for name, choice in result.execution.choices.items()}
    dropped = (out_dir / "dropped.jsonl").read_text()
    return {**files_of(out_dir), "dropped": dropped, "chosen": chosen, "threads": result.execution.threads}


def drawn(project: Path, *settings: str) -> dict[str, Any]:
    """What became of the pairs of a project that `metier tune` tuned with these settings."""
    ran = metier("tune", "-C", project, *settings, "--json")
    if ran.code:
        raise ConfigError(ran.err)
    (newest,) = sorted(
        project.glob(".metier/stages/tune-dpo/*/run/reference.json"), key=lambda path: path.stat().st_mtime_ns
    )[-1:]
    return {"reference": newest.read_text(), "curve": ran.json["dev_curve"]}


@pytest.mark.parametrize(("table", "name", "value"), [case for case in WALK if case[1] not in DRAWN])
def test_another_value_is_another_run(
    table: type[Settings], name: str, value: Any, base_dir: Path, first: dict[str, object], tmp_path: Path
) -> None:
    threads = 2 if name == "processes" else 1
    if table is DpoConfig:
        assert PAIRS.dpo is not None
        before, after = PAIRS, replace(PAIRS, dpo=replace(PAIRS.dpo, **{name: value}))
    else:
        before = replace(CONFIG, **AROUND.get(name, {}))
        if name in REFUSED:
            with pytest.raises(ConfigError, match=REFUSED[name]):
                replace(before, **{name: value})
            return
        extra = WITH.get(value, {}) if isinstance(value, str) else {}
        after = replace(before, **{name: value}, **extra)
    if name == "device" and not torch.cuda.is_available():
        with pytest.raises(ModelError, match="device is 'cuda', but torch .* finds no CUDA GPU here"):
            run(base_dir, tmp_path / "other", after)
        return
    seen = first if (before, threads) == (CONFIG, 1) else run(base_dir, tmp_path / "first", before, threads=threads)
    other = run(base_dir, tmp_path / "other", after, threads=threads)
    is_decided_so = getattr(before, name, None) == AUTO and value in ("packed", "off")
    assert (other == seen) == is_decided_so


@pytest.mark.parametrize(("table", "name", "value"), [case for case in WALK if case[1] in DRAWN])
def test_another_value_draws_other_pairs(
    table: type[Settings], name: str, value: Any, project: Path, tmp_path: Path
) -> None:
    assert table is DpoConfig
    changed = copy_of(project, tmp_path / "p")
    before = drawn(changed)
    setting = ("--set", f"tune.dpo.{name}={value}")
    if name in REFUSED:
        text = (changed / "metier.toml").read_text(encoding="utf-8")
        (changed / "metier.toml").write_text(text.replace("samples = 2\n", ""), encoding="utf-8")
        with pytest.raises(ConfigError, match=REFUSED[name]):
            drawn(changed, *setting)
        return
    assert drawn(changed, *setting) != before


def test_the_same_values_are_the_same_run(base_dir: Path, first: dict[str, object], tmp_path: Path) -> None:
    assert run(base_dir, tmp_path / "tune", CONFIG) == first


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
