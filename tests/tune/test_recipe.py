"""The supervised recipe: what it leaves behind, and that a killed run ends as an uninterrupted one."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metier.core.errors import DataError, ModelError
from metier.core.hashing import sha256_hex
from metier.core.tune_config import TuneConfig
from metier.engine import close, load, load_tuned, logprobs, make_batch, state, tuned_file
from metier.render import RenderedRow
from metier.tune import Options, Progress, TuneResult, rule_lr, tune
from tests.engine.builders import change_config, pattern_rows, tiny_base

CONFIG = TuneConfig(rank=4, alpha=8.0, passes=1.5, step_tokens=128, evals=3, product_dtype="fp32", lr=0.02)
TRAIN, DEV = pattern_rows(24, seed=1), pattern_rows(6, seed=2)


@pytest.fixture
def base_dir(tmp_path: Path) -> Path:
    return tiny_base(tmp_path / "base")


def run(
    base_dir: Path, out_dir: Path, *, config: TuneConfig = CONFIG, dev: list[RenderedRow] = DEV, **options: object
) -> TuneResult:
    return tune(TRAIN, dev, config, base=base_dir, out_dir=out_dir, seed=0, threads=2, **options)  # type: ignore[arg-type]  # object: any option of tune


def files_of(out_dir: Path) -> dict[str, object]:
    """What must be equal between two runs: a hash of the adapter's bytes and every metric but the times."""
    lines = [json.loads(line) for line in (out_dir / "metrics.jsonl").read_text().splitlines()]
    metrics = [{key: value for key, value in line.items() if not key.startswith("time/")} for line in lines]
    (tuned,) = {path.parent for path in out_dir.rglob("*.safetensors")}
    return {"tuned": sha256_hex(tuned_file(tuned).read_bytes()), "metrics": metrics}


@pytest.mark.parametrize(
    "changes", [{}, {"method": "rslora"}, {"method": "dora"}, {"passes": 5.0, "step_tokens": 16}, {"passes": 0.0}]
)
def test_the_rules_rate_is_told_before_the_run(base_dir: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    config = replace(CONFIG, lr=0.0, evals=1, **changes)
    width = json.loads((base_dir / "config.json").read_text())["hidden_size"]
    result = run(base_dir, tmp_path / "run", config=config)
    assert (result.num_steps >= 100) == (config.passes == 5)
    assert rule_lr(TRAIN, config, width=width, seed=0) == result.lr


def test_tuning_learns_and_keeps_the_step_with_the_lowest_dev_loss(base_dir: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    result = run(base_dir, tmp_path / "tune", options=Options(on_progress=seen.append))
    losses = dict(result.dev_curve)
    assert losses[result.num_steps] < losses[0] - 0.5
    assert losses[result.best_step] == min(loss for step, loss in result.dev_curve if step)
    assert [p.step for p in seen] == list(range(1, result.num_steps + 1))
    assert [p.step for p in seen if p.dev_loss_nats is not None] == sorted(set(losses) - {0})
    assert len(result.dev_curve) == 4  # the base and three scores
    lines = [json.loads(line) for line in (tmp_path / "tune" / "metrics.jsonl").read_text().splitlines()]
    assert sum(line["tune/num_tokens"] for line in lines) == result.num_tokens
    assert {"step", "tune/loss_nats", "tune/lr", "time/step_s"} <= set(lines[0])
    assert sorted(path.name for path in (tmp_path / "tune").iterdir()) == [
        "adapter",
        "done.json",
        "dropped.jsonl",
        "execution.json",
        "metrics.jsonl",
    ]


def test_a_finished_folder_is_returned_as_it_is_and_other_settings_tune_again(base_dir: Path, tmp_path: Path) -> None:
    first = run(base_dir, tmp_path / "tune")
    seen: list[Progress] = []
    assert run(base_dir, tmp_path / "tune", options=Options(on_progress=seen.append)) == first
    assert not seen
    other = run(
        base_dir, tmp_path / "tune", config=replace(CONFIG, weight_decay=0.3), options=Options(on_progress=seen.append)
    )
    assert seen and other.fingerprint != first.fingerprint


def test_the_same_weights_under_another_config_tune_again_and_read_no_states_of_the_other(
    base_dir: Path, tmp_path: Path
) -> None:
    config = replace(CONFIG, depth=1)
    first = run(base_dir, tmp_path / "tune", config=config)
    change_config(base_dir, rope_parameters={"rope_type": "default", "rope_theta": 50.0})
    again = run(base_dir, tmp_path / "tune", config=config)
    apart = run(base_dir, tmp_path / "apart", config=config, options=Options(trunk_dir=tmp_path / "other_trunk"))
    assert first.dev_curve != again.dev_curve == apart.dev_curve


class _Killed(Exception):
    pass


FORMS: dict[str, dict[str, Any]] = {  # Any: settings of [tune]
    "lora": {},
    "rslora": {"method": "rslora", "targets": ("q_proj", "v_proj")},
    "dora": {"method": "dora"},
    "full": {"method": "full", "rank": 16, "alpha": 32.0, "lr": 0.003},
    "full, top layer": {"method": "full", "rank": 16, "alpha": 32.0, "lr": 0.003, "depth": 1},
}


@pytest.mark.parametrize(
    ("stop_after", "form"),
    [(1, "lora"), (4, "lora"), (6, "lora"), *((4, form) for form in FORMS if form != "lora")],
)
def test_a_run_stopped_anywhere_ends_as_an_uninterrupted_one(
    base_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int, form: str
) -> None:
    config = replace(CONFIG, **FORMS[form])
    whole = run(base_dir, tmp_path / "whole", config=config)
    monkeypatch.setattr("metier.tune.running.CHECKPOINT_SECONDS", 0.0 if stop_after == 4 else 60.0)

    def stop(progress: Progress) -> None:
        if progress.step == stop_after:
            raise _Killed

    with pytest.raises(_Killed):
        run(base_dir, tmp_path / "cut", config=config, options=Options(on_progress=stop))
    assert not (tmp_path / "cut" / "done.json").exists()
    resumed = run(base_dir, tmp_path / "cut", config=config)
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")
    assert (resumed.dev_curve, resumed.best_step, resumed.fingerprint) == (
        whole.dev_curve,
        whole.best_step,
        whole.fingerprint,
    )
    assert (resumed.num_tokens, resumed.num_trained) == (whole.num_tokens, whole.num_trained)


def _tune_and_die(base_dir: Path, out_dir: Path, renames: int) -> None:
    """Run until the second checkpoint has done `renames` of its two renames, then die as a power cut would."""
    rename, count = Path.rename, 0

    def dying(self: Path, target: Path) -> Path:
        nonlocal count
        if ".state." in self.name or ".state." in Path(target).name:
            if count == 1 + renames:  # the first checkpoint renames once, later ones twice
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
        return rename(self, target)

    Path.rename = dying  # type: ignore[method-assign,assignment]  # this process is to die
    run(base_dir, out_dir)


@pytest.mark.parametrize("renames", [0, 1])
def test_a_kill_inside_a_save_leaves_the_last_whole_checkpoint(base_dir: Path, tmp_path: Path, renames: int) -> None:
    run(base_dir, tmp_path / "whole")
    out_dir = tmp_path / "cut"
    child = multiprocessing.get_context("spawn").Process(target=_tune_and_die, args=(base_dir, out_dir, renames))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    found_dir = state.find_state(out_dir / "state")
    assert found_dir is not None
    assert found_dir.name == ("state" if renames == 0 else ".state.old")
    first_eval = json.loads((found_dir / "state.json").read_text())["step"]
    assert 0 < first_eval < len(list(files_of(tmp_path / "whole")["metrics"]))  # type: ignore[call-overload]  # a list
    seen: list[Progress] = []
    run(base_dir, out_dir, options=Options(on_progress=seen.append))
    assert seen[0].step == first_eval + 1
    assert files_of(out_dir) == files_of(tmp_path / "whole")


def test_rows_longer_than_the_limit_are_left_out_whole_and_listed(base_dir: Path, tmp_path: Path) -> None:
    long = RenderedRow("long", [1] * 60, [0.0] + [1.0] * 59)
    config = replace(CONFIG, max_row_tokens=50, evals=1)
    result = tune([*TRAIN, long], DEV, config, base=base_dir, out_dir=tmp_path / "a", seed=0, threads=2)
    assert (result.num_rows, result.num_dropped) == (len(TRAIN), 1)
    dropped = (tmp_path / "a" / "dropped.jsonl").read_text()
    assert json.loads(dropped) == {"row_id": "long", "reason": "too_many_tokens"}


def test_no_rows_within_the_limit_is_an_error_that_says_what_to_do(base_dir: Path, tmp_path: Path) -> None:
    for train, dev, part in (([], DEV, "train"), (TRAIN, [], "dev")):
        with pytest.raises(DataError, match=f"0 of 0 {part} rows have at most 1024 tokens.*raise tune.max_row_tokens"):
            tune(train, dev, CONFIG, base=base_dir, out_dir=tmp_path / "a", seed=0)
    assert not (tmp_path / "a").exists()


def test_one_row_tunes(base_dir: Path, tmp_path: Path) -> None:
    result = tune(TRAIN[:1], DEV[:1], replace(CONFIG, passes=3), base=base_dir, out_dir=tmp_path / "a", seed=0)
    assert (result.num_steps, result.num_rows) == (3, 1)


def test_a_learning_rate_that_explodes_stops_with_step_and_rows(base_dir: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, lr=0.99, max_grad_norm=1e9, alpha=1e30)
    with pytest.raises(ModelError, match=r"step \d+: the loss is not finite in|step \d+: the gradient is not finite"):
        run(base_dir, tmp_path / "a", config=config)
    assert not (tmp_path / "a" / "done.json").exists()


@pytest.mark.parametrize("form", FORMS)
def test_training_that_changes_nothing_is_an_error(
    base_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr("metier.tune.running.lr_at", lambda step, **_: 0.0)
    said = "no weight has changed" if "full" in form else "the adapter changes nothing, all of its B are zero"
    with pytest.raises(ModelError, match=f"{said}; the tuned model would be the base"):
        run(base_dir, tmp_path / "a", config=replace(CONFIG, **FORMS[form]))


@pytest.mark.parametrize("form", FORMS)
def test_every_method_learns_and_leaves_what_loads_as_the_model_that_was_scored(
    base_dir: Path, tmp_path: Path, form: str
) -> None:
    config = replace(CONFIG, **FORMS[form], passes=3, trunk_gib=0.0)
    result = run(base_dir, tmp_path / "tune", config=config)
    losses = dict(result.dev_curve)
    assert losses[result.best_step] < losses[0] - 0.3
    base_sha256 = load(base_dir).base_sha256
    handle = load_tuned(base_dir, result.adapter_dir, base_sha256=base_sha256, dtype="fp32", threads=2)
    assert handle.fingerprint == result.fingerprint
    logp = logprobs(handle, make_batch(DEV)).result()
    num = sum(sum(row.weight) for row in DEV)
    assert float(-logp.sum() / num) == pytest.approx(losses[result.best_step], rel=1e-6)
    close(handle)


def test_depth_adapts_only_the_top_layers(base_dir: Path, tmp_path: Path) -> None:
    result = run(base_dir, tmp_path / "a", config=replace(CONFIG, depth=1, evals=1))
    config = json.loads((result.adapter_dir / "adapter_config.json").read_text())
    assert config["layers_to_transform"] == [2]


STEEP = replace(CONFIG, passes=6.0, evals=9, patience=2)
OTHER_DEV = [replace(row, tokens=row.tokens[::-1]) for row in DEV]
"""Counting down: what training teaches makes these rows less likely."""


def test_patience_ends_a_run_whose_dev_loss_no_longer_falls_and_keeps_its_best_step(
    base_dir: Path, tmp_path: Path
) -> None:
    endless = run(base_dir, tmp_path / "endless", config=replace(STEEP, patience=0), dev=OTHER_DEV)
    assert endless.last_step == endless.num_steps
    cut = run(base_dir, tmp_path / "cut", config=STEEP, dev=OTHER_DEV)
    scored = [(step, loss) for step, loss in cut.dev_curve if step]
    assert cut.last_step == scored[-1][0] < cut.num_steps == endless.num_steps
    assert list(cut.dev_curve) == list(endless.dev_curve)[: len(cut.dev_curve)]
    best = min(loss for _, loss in scored[:-2])
    assert all(loss >= best for _, loss in scored[-2:]) and dict(scored)[cut.best_step] == best
    assert cut.num_tokens < endless.num_tokens


def test_a_run_stopped_where_patience_is_spent_ends_as_an_uninterrupted_one(base_dir: Path, tmp_path: Path) -> None:
    whole = run(base_dir, tmp_path / "whole", config=STEEP, dev=OTHER_DEV)

    def stop(progress: Progress) -> None:
        if progress.step == whole.last_step:
            raise _Killed

    with pytest.raises(_Killed):
        run(base_dir, tmp_path / "cut", config=STEEP, dev=OTHER_DEV, options=Options(threads=2, on_progress=stop))
    seen: list[Progress] = []
    resumed = run(
        base_dir, tmp_path / "cut", config=STEEP, dev=OTHER_DEV, options=Options(threads=2, on_progress=seen.append)
    )
    assert not seen
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")
    assert (resumed.dev_curve, resumed.last_step) == (whole.dev_curve, whole.last_step)


def test_the_same_rows_with_other_weights_are_another_run(base_dir: Path, tmp_path: Path) -> None:
    whole = tune(TRAIN, DEV, CONFIG, base=base_dir, out_dir=tmp_path / "tune", seed=0, threads=1)
    halved = [RenderedRow(row.row_id, row.tokens, [weight / 2 for weight in row.weight]) for row in TRAIN[:12]]
    weighted = [*halved, *TRAIN[12:]]
    again = tune(weighted, DEV, CONFIG, base=base_dir, out_dir=tmp_path / "tune", seed=0, threads=1)
    fresh = tune(weighted, DEV, CONFIG, base=base_dir, out_dir=tmp_path / "fresh", seed=0, threads=1)
    assert again.fingerprint == fresh.fingerprint != whole.fingerprint
