"""Tuning on pairs: what it learns and leaves behind, its reference, and that a killed run ends as an uninterrupted one."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metier.core.errors import ConfigError, DataError, ModelError, StoreError
from metier.core.tune_config import DpoConfig, TuneConfig
from metier.engine import AdapterSpec, close, load, load_tuned, logprobs, make_batch
from metier.render import RenderedPair, RenderedRow
from metier.tune import Options, Progress, TuneResult, tune, tune_pairs
from metier.tune.dpo import pair_losses as losses_of
from metier.tune.dpo import reply_sums, whole_rows
from tests.engine.builders import VOCAB, pattern_rows, random_rows, tiny_base
from tests.tune.test_recipe import files_of

DPO = DpoConfig(lr=0.01, passes=2.0, beta=0.2)
CONFIG = TuneConfig(objective="dpo", dpo=DPO, rank=4, alpha=8.0, step_tokens=160, evals=3, product_dtype="fp32")


def pattern_pairs(num: int, *, seed: int) -> list[RenderedPair]:
    """Chosen counts up in steps, rejected counts down; prompts of two to five tokens."""
    rng = np.random.default_rng(seed)
    pairs = []
    for i in range(num):
        head, length, stride = int(rng.integers(2, 6)), int(rng.integers(4, 24)), int(rng.integers(1, 4))
        prompt = [(stride * place) % VOCAB for place in range(head)]
        sides = [
            RenderedRow(
                f"p{seed}-{i}",
                prompt + [(prompt[-1] + sign * stride * (place + 1)) % VOCAB for place in range(length + extra)],
                [0.0] * head + [1.0] * (length + extra),
            )
            for sign, extra in ((1, 0), (-1, int(rng.integers(0, 5))))
        ]
        pairs.append(RenderedPair(f"p{seed}-{i}", *sides))
    return pairs


TRAIN, DEV = pattern_pairs(20, seed=1), pattern_pairs(6, seed=2)


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def sft_dir(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter tuned on gold replies."""
    config = replace(CONFIG, objective="sft", dpo=None, passes=1.0, lr=0.02)
    rows, out_dir = pattern_rows(12, seed=1), tmp_path_factory.mktemp("sft") / "run"
    return tune(rows, rows[:4], config, base=base_dir, out_dir=out_dir, seed=0, threads=2).adapter_dir


def run(base_dir: Path, out_dir: Path, *, config: TuneConfig = CONFIG, **options: Any) -> TuneResult:
    options = {"threads": 2, **options}
    return tune_pairs(TRAIN, DEV, config, base=base_dir, out_dir=out_dir, seed=0, options=Options(**options))


def lines_of(out_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out_dir / "metrics.jsonl").read_text().splitlines()]


def test_it_learns_which_reply_is_better_and_starts_at_log_two(base_dir: Path, tmp_path: Path) -> None:
    result = run(base_dir, tmp_path / "dpo")
    losses = dict(result.dev_curve)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-9)  # nothing has moved yet: a coin toss for every pair
    assert losses[result.best_step] == min(loss for step, loss in result.dev_curve if step) < 0.4
    assert (result.num_rows, result.num_tokens) == (len(TRAIN), 2 * sum(pair.num_tokens for pair in TRAIN))
    lines = lines_of(tmp_path / "dpo")
    assert lines[0]["tune/reward_margin"] == 0.0
    assert lines[-1]["tune/reward_margin"] > 0.5
    assert lines[-1]["tune/reward_accuracy"] > 0.9
    scored = [line for line in lines if "tune/dev_loss_nats" in line]
    assert [line["step"] for line in scored] == sorted(set(losses) - {0})
    assert all({"tune/dev_reward_margin", "tune/dev_reward_accuracy"} <= set(line) for line in scored)


def test_the_reference_of_a_new_adapter_is_the_base_without_one(base_dir: Path, tmp_path: Path) -> None:
    run(base_dir, tmp_path / "dpo")
    stored = json.loads((tmp_path / "dpo" / "reference.json").read_text())
    handle = load(base_dir, dtype="fp32", threads=2)
    assert handle.adapter is None
    for part, pairs in (("train", TRAIN), ("dev", DEV)):
        batch = make_batch([row for pair in pairs for row in pair.rows])
        assert reply_sums(batch, logprobs(handle, batch).result()).tolist() == stored[part]
    close(handle)


def test_a_run_that_starts_from_an_adapter_is_measured_against_that_adapter(
    base_dir: Path, sft_dir: Path, tmp_path: Path
) -> None:
    result = run(base_dir, tmp_path / "dpo", start=sft_dir)
    stored = json.loads((tmp_path / "dpo" / "reference.json").read_text())
    handle = load(base_dir, adapter=sft_dir, dtype="fp32", threads=2)
    batch = make_batch([row for pair in TRAIN for row in pair.rows])
    assert reply_sums(batch, logprobs(handle, batch).result()).tolist() == stored["train"]
    assert dict(result.dev_curve)[0] == pytest.approx(math.log(2), abs=1e-9)
    assert result.fingerprint not in (handle.fingerprint, run(base_dir, tmp_path / "new").fingerprint)
    close(handle)


def test_a_fully_tuned_model_goes_on_from_pairs_and_stays_one_of_its_base(base_dir: Path, tmp_path: Path) -> None:
    form: dict[str, Any] = {"method": "full", "rank": 16, "alpha": 32.0}
    config = replace(CONFIG, **form, objective="sft", dpo=None, passes=1.0, lr=0.003)
    rows = pattern_rows(12, seed=1)
    sft = tune(rows, rows[:4], config, base=base_dir, out_dir=tmp_path / "sft", seed=0, threads=2)
    result = run(base_dir, tmp_path / "dpo", config=replace(CONFIG, **form), start=sft.adapter_dir)
    assert dict(result.dev_curve)[0] == pytest.approx(math.log(2), abs=1e-9)
    base_sha256 = load(base_dir, dtype="fp32").base_sha256
    handle = load_tuned(base_dir, result.adapter_dir, base_sha256=base_sha256, dtype="fp32")
    assert handle.fingerprint == result.fingerprint != sft.fingerprint
    with pytest.raises(ModelError, match="an adapter, but method = 'full' goes on from a model"):
        lora = run(base_dir, tmp_path / "lora")
        run(base_dir, tmp_path / "other", config=replace(CONFIG, **form), start=lora.adapter_dir)


def test_settings_that_the_adapter_to_start_from_does_not_have_are_refused(
    base_dir: Path, sft_dir: Path, tmp_path: Path
) -> None:
    for other in ({"rank": 8}, {"alpha": 4.0}, {"depth": 1}, {"method": "dora"}, {"targets": ("q_proj",)}):
        with pytest.raises(ConfigError, match="lora, rank 4, alpha 8, top 3 layers; the settings say (lora|dora)"):
            run(base_dir, tmp_path / "dpo", config=replace(CONFIG, **other), start=sft_dir)


def test_one_dev_pair_more_is_another_run_and_the_same_pairs_are_the_same(base_dir: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    first = run(base_dir, tmp_path / "dpo")
    assert run(base_dir, tmp_path / "dpo", on_progress=seen.append) == first
    assert not seen
    options = Options(threads=2, on_progress=seen.append)
    tune_pairs(TRAIN, DEV[:-1], CONFIG, base=base_dir, out_dir=tmp_path / "dpo", seed=0, options=options)
    assert seen


class _Killed(Exception):
    pass


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_a_run_stopped_anywhere_ends_as_an_uninterrupted_one(
    base_dir: Path, sft_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    whole = run(base_dir, tmp_path / "whole", start=sft_dir)
    monkeypatch.setattr("metier.tune.running.CHECKPOINT_SECONDS", 0.0 if stop_after > 1 else 60.0)

    def stop(progress: Progress) -> None:
        if progress.step == stop_after:
            raise _Killed

    with pytest.raises(_Killed):
        run(base_dir, tmp_path / "cut", start=sft_dir, on_progress=stop)
    seen: list[Progress] = []
    resumed = run(base_dir, tmp_path / "cut", start=sft_dir, on_progress=seen.append)
    assert seen[0].step == (stop_after + 1 if stop_after > 1 else 1)
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")
    assert (tmp_path / "cut/reference.json").read_bytes() == (tmp_path / "whole/reference.json").read_bytes()
    assert (resumed.dev_curve, resumed.fingerprint) == (whole.dev_curve, whole.fingerprint)


def test_a_resumed_run_without_its_reference_says_what_to_do(
    base_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metier.tune.running.CHECKPOINT_SECONDS", 0.0)

    def stop(progress: Progress) -> None:
        if progress.step == 2:
            raise _Killed

    with pytest.raises(_Killed):
        run(base_dir, tmp_path / "dpo", on_progress=stop)
    (tmp_path / "dpo/reference.json").unlink()
    with pytest.raises(StoreError, match=r"reference.json: not there; .* Delete .*dpo to start again"):
        run(base_dir, tmp_path / "dpo")


def test_pairs_with_a_side_over_the_limit_are_left_out_whole_and_listed(base_dir: Path, tmp_path: Path) -> None:
    long = RenderedRow("long", [1] * 60, [0.0] + [1.0] * 59)
    pair = RenderedPair("long", TRAIN[0].chosen, long)
    config = replace(CONFIG, max_row_tokens=50, evals=1, dpo=replace(DPO, passes=1.0))
    options = Options(threads=2)
    result = tune_pairs([*TRAIN, pair], DEV, config, base=base_dir, out_dir=tmp_path / "a", seed=0, options=options)
    assert (result.num_rows, result.num_dropped) == (len(TRAIN), 1)
    assert json.loads((tmp_path / "a/dropped.jsonl").read_text()) == {"row_id": "long", "reason": "too_many_tokens"}


def test_no_pairs_are_an_error_and_one_pair_tunes(base_dir: Path, tmp_path: Path) -> None:
    for train, dev, part in (([], DEV, "train"), (TRAIN, [], "dev")):
        with pytest.raises(DataError, match=f"0 of 0 {part} rows have at most 1024 tokens"):
            tune_pairs(train, dev, CONFIG, base=base_dir, out_dir=tmp_path / "a", seed=0)
    result = tune_pairs(TRAIN[:1], DEV[:1], CONFIG, base=base_dir, out_dir=tmp_path / "a", seed=0)
    assert (result.num_rows, result.num_steps) == (1, 2)


def test_an_adapter_that_stays_as_it_was_is_an_error(
    base_dir: Path, sft_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metier.tune.running.lr_at", lambda step, **_: 0.0)
    with pytest.raises(ModelError, match="what was tuned is still what the run started from; raise the learning rate"):
        run(base_dir, tmp_path / "a", start=sft_dir)


def test_the_learning_rate_is_a_tenth_of_that_of_sft(base_dir: Path, tmp_path: Path) -> None:
    rows = pattern_rows(24, seed=1)
    config = replace(CONFIG, lr=0.0, dpo=replace(DPO, lr=0.0))
    sft = tune(
        rows,
        rows[:4],
        replace(config, objective="sft", dpo=None, passes=1.0),
        base=base_dir,
        out_dir=tmp_path / "sft",
        seed=0,
    )
    assert run(base_dir, tmp_path / "dpo", config=config).lr == pytest.approx(sft.lr / 10)


def test_the_learning_rate_is_a_tenth_of_one_that_is_set(base_dir: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, lr=0.003, dpo=replace(DPO, lr=0.0))
    assert run(base_dir, tmp_path / "dpo", config=config).lr == pytest.approx(0.0003)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"passes": 2.0}, r"tune.passes is 2, but pairs are seen tune.dpo.passes = 2 times; leave tune.passes at 0"),
        ({"lr": 0.001}, r"tune.lr is 0.001 and tune.dpo.lr 0.01; pairs are learned at the latter. Leave one at 0"),
    ],
)
def test_a_setting_of_sft_that_pairs_do_not_take_is_refused(
    values: dict[str, Any], said: str, base_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        run(base_dir, tmp_path / "dpo", config=replace(CONFIG, **values))
    assert not (tmp_path / "dpo").exists()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"loss": "ipo", "label_smoothing": 0.1}, "label_smoothing has no effect with loss = 'ipo'"),
        ({"loss": "ipo", "length_normalised": True}, "length_normalised has no effect with loss = 'ipo'"),
        ({"pairs": "file", "samples": 2}, "samples is 2 and temperature 1.0, but pairs = 'file' draws no replies"),
        ({"label_smoothing": 0.5}, r"label_smoothing is 0.5; expected a number in \[0, 0.5\)"),
        ({"beta": 0.0}, "beta is 0.0; expected more than 0"),
        ({"temperature": 0.0}, "temperature is 0.0; expected more than 0"),
        ({"samples": 0}, "samples is 0; expected 1 or more"),
        ({"passes": 0.0}, "passes is 0.0; expected more than 0"),
        ({"lr": 1.0}, r"lr is 1.0; expected a number in \[0, 1\)"),
    ],
)
def test_values_without_effect_or_out_of_range_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        DpoConfig(**values)


def test_a_dpo_table_without_the_objective_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"\[tune.dpo\] has no effect with objective = 'sft'; set it to 'dpo'"):
        TuneConfig(dpo=DpoConfig())


def test_an_objective_is_run_by_its_own_function_only(base_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tune.objective is 'dpo'; this learns sft only. Call tune_pairs"):
        tune(pattern_rows(2), pattern_rows(2), CONFIG, base=base_dir, out_dir=tmp_path / "a", seed=0)
    with pytest.raises(ConfigError, match="tune.objective is 'sft'; this learns dpo only. Call tune"):
        run(base_dir, tmp_path / "a", config=TuneConfig(objective="sft"))


def by_hand(settings: DpoConfig, delta: float) -> float:
    """The loss of one pair that lies `delta` apart, in plain Python."""
    if settings.loss == "ipo":
        return (delta - 1 / (2 * settings.beta)) ** 2
    eps = settings.label_smoothing
    up, down = 1 / (1 + math.exp(-settings.beta * delta)), 1 / (1 + math.exp(settings.beta * delta))
    return -(1 - eps) * math.log(up) - eps * math.log(down)


@pytest.mark.parametrize(
    "settings",
    [DpoConfig(), DpoConfig(label_smoothing=0.2), DpoConfig(loss="ipo"), DpoConfig(length_normalised=True)],
    ids=["sigmoid", "smoothed", "ipo", "normalised"],
)
def test_pair_losses_are_those_worked_by_hand(settings: DpoConfig) -> None:
    # Chosen: two tokens, moved by +1 in all; rejected: four tokens, moved by -2 in all.
    logp_P = torch.tensor([-1.0, -2.0, -1.0, -1.0, -2.0, -2.0])
    rows = [RenderedRow("a", [1, 2, 3], [0.0, 1.0, 1.0]), RenderedRow("a", [1, 2, 3, 4, 5], [0.0, 1.0, 1.0, 1.0, 1.0])]
    batch = make_batch(rows)
    logp_T = torch.tensor([0.0, *logp_P[:2], 0.0, *logp_P[2:]])
    loss_G, dlogp_P = losses_of(
        whole_rows(batch, logp_T), torch.tensor([-4.0, -4.0], dtype=torch.float64), settings, num_pairs=3
    )
    by_mean = settings.length_normalised or settings.loss == "ipo"
    delta = 1 / 2 + 2 / 4 if by_mean else 1.0 + 2.0
    assert float(loss_G) == pytest.approx(by_hand(settings, delta) / 3, rel=1e-9)
    step = 1e-6
    slope = (by_hand(settings, delta + step) - by_hand(settings, delta - step)) / (2 * step) / 3
    expected = [slope / (2 if by_mean else 1)] * 2 + [-slope / (4 if by_mean else 1)] * 4
    assert dlogp_P.tolist() == pytest.approx(expected, rel=1e-5)


def test_a_fresh_adapter_gives_bit_for_bit_what_no_adapter_gives(base_dir: Path) -> None:
    batch = make_batch(random_rows([30, 7, 90, 200]))
    without, fresh = (load(base_dir, adapter=spec, dtype="bf16") for spec in (None, AdapterSpec(rank=8, alpha=16.0)))
    assert torch.equal(logprobs(without, batch).result(), logprobs(fresh, batch).result())
    close(without)
    close(fresh)


def test_a_pair_too_long_is_counted_also_where_it_shares_its_row_with_a_kept_one(
    base_dir: Path, tmp_path: Path
) -> None:
    long = random_rows([300])[0]
    pair = RenderedPair(TRAIN[0].row_id, long, RenderedRow(long.row_id, [*long.tokens[:-1], 0], long.weight))
    config = replace(CONFIG, max_row_tokens=256)
    result = tune_pairs(
        [*TRAIN, pair], DEV, config, base=base_dir, out_dir=tmp_path / "dpo", seed=0, options=Options(threads=1)
    )
    assert (result.num_rows, result.num_dropped) == (len(TRAIN), 1)
    assert json.loads((tmp_path / "dpo" / "dropped.jsonl").read_text())["row_id"] == TRAIN[0].row_id
