"""What goes wrong outside: a clear error, the last good state intact, nothing half-written looks finished, a rerun works."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from metier.core.errors import ConfigError, DataError, ModelError, StoreError
from metier.core.tune_config import TuneConfig
from metier.render import RenderedRow
from metier.tune import Options, Progress, TuneResult, tune
from metier.tune.schedule import run_steps
from tests.engine.builders import VOCAB, pattern_rows, tiny_base
from tests.tune.test_recipe import files_of

CONFIG = TuneConfig(rank=4, alpha=8.0, passes=2.0, step_tokens=128, evals=4, product_dtype="fp32", lr=0.02)
TRAIN, DEV = pattern_rows(16, seed=1), pattern_rows(4, seed=2)


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"), tied=False)


@pytest.fixture(scope="module")
def whole(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    out_dir = tmp_path_factory.mktemp("whole") / "tune"
    run(base_dir, out_dir)
    return out_dir


def run(
    base_dir: Path, out_dir: Path, *, train: list[RenderedRow] = TRAIN, dev: list[RenderedRow] = DEV, **named
) -> TuneResult:
    return tune(train, dev, CONFIG, base=base_dir, out_dir=out_dir, seed=0, options=Options(threads=1, **named))


def stopped_after(base_dir: Path, out_dir: Path, step: int) -> int:
    """A run that ended after this step; returns the step of its checkpoint."""

    def stop(progress: Progress) -> None:
        if progress.step == step:
            raise Stopped

    with pytest.raises(Stopped):
        run(base_dir, out_dir, on_progress=stop)
    return int(json.loads((out_dir / "state" / "state.json").read_text())["step"])


def step_of(row_id: str, rows: list[RenderedRow]) -> int:
    """The first step that sees a row."""
    lengths = [len(row.tokens) for row in rows]
    steps = run_steps(lengths, passes=CONFIG.passes, step_tokens=CONFIG.step_tokens, seed=0)
    return next(at for at, step in enumerate(steps, 1) if row_id in [rows[i].row_id for i in step])


def kept_in(out_dir: Path) -> dict[Path, bytes]:
    """Every file's bytes; how the run is arranged names the memory that is free and may be told again."""
    files = [path for path in out_dir.rglob("*") if path.is_file() and path.name != "execution.json"]
    return {path: path.read_bytes() for path in files}


def test_rows_that_are_all_too_long_are_an_error_that_says_what_to_do(base_dir: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, max_row_tokens=3)
    with pytest.raises(
        DataError,
        match="tune: 0 of 16 train rows have at most 3 tokens; expected at least one. Add rows or raise tune.max_row_tokens.",
    ):
        tune(TRAIN, DEV, config, base=base_dir, out_dir=tmp_path / "a", seed=0)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize("part", ["train", "dev"])
def test_a_weight_that_is_no_finite_number_is_refused_before_the_start_by_row(
    base_dir: Path, tmp_path: Path, value: float, part: str
) -> None:
    bad = RenderedRow("bad", [1, 2, 3], [0.0, 1.0, value])
    rows = {"train": TRAIN, "dev": DEV} | {part: [*DEV, bad]}
    with pytest.raises(
        DataError,
        match=f"row bad: the weight of token 2 is {value}; expected a finite number, 0 or more. Render the row again.",
    ):
        run(base_dir, tmp_path / "a", train=rows["train"], dev=rows["dev"])
    assert not (tmp_path / "a").exists()


def test_a_row_of_another_tokenizer_is_refused_by_name(base_dir: Path, tmp_path: Path) -> None:
    strange = RenderedRow("strange", [1, 5000, 3], [0.0, 1.0, 1.0])
    with pytest.raises(
        ModelError,
        match=f"row strange: token 5000; the base has tokens 0 to {VOCAB - 1}. Render the rows with the tokenizer of this base.",
    ):
        run(base_dir, tmp_path / "a", train=[strange])
    assert not (tmp_path / "a" / "done.json").exists()


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"rank": 200}, ModelError, "rank 200 is larger than k_proj can use: its matrix is 16 x 48, so 16 is full rank. Set tune.rank to at most that"),
        ({"targets": ("q_proj", "nope")}, ConfigError, "targets names 'nope', which is no linear layer; known: down_proj, gate_proj"),
    ],
)  # fmt: skip
def test_an_adapter_that_fits_no_layer_is_refused_before_the_start(
    base_dir: Path, tmp_path: Path, settings: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        tune(TRAIN, DEV, replace(CONFIG, **settings), base=base_dir, out_dir=tmp_path / "a", seed=0)
    assert not (tmp_path / "a").exists()


def test_an_adapter_of_another_base_is_refused_and_both_folders_stay(whole: Path, tmp_path: Path) -> None:
    other_dir = tiny_base(tmp_path / "other", seed=5, tied=False)  # the same shapes, other weights
    with pytest.raises(
        ModelError,
        match="adapter_model.safetensors: tuned on base [0-9a-f]{12}, but this base is [0-9a-f]{12}.*Load it onto its own base, or tune again",
    ):
        run(other_dir, tmp_path / "a", start=whole / "adapter")
    assert not (tmp_path / "a").exists()
    assert (whole / "done.json").exists()


def test_a_loss_that_is_not_finite_in_one_row_stops_before_its_step_and_the_checkpoint_stands(tmp_path: Path) -> None:
    # The embedding of the last token is not a number: only the row that reads it is spoiled.
    spoiled_dir = tiny_base(tmp_path / "base", tied=False)
    tensors = load_file(spoiled_dir / "model.safetensors")
    tensors["model.embed_tokens.weight"][VOCAB - 1] = float("nan")
    save_file(tensors, spoiled_dir / "model.safetensors", metadata={"format": "pt"})
    good = [row for row in pattern_rows(40, seed=3) if VOCAB - 1 not in row.tokens]
    bad = RenderedRow("bad", [1, VOCAB - 1, 3, 4], [0.0, 0.0, 1.0, 1.0])
    dev = [row for row in DEV if VOCAB - 1 not in row.tokens]
    out_dir = tmp_path / "tune"
    train = next(rows for rows in ([*good[:i], bad, *good[i:]] for i in range(len(good))) if step_of("bad", rows) == 5)
    with pytest.raises(
        ModelError,
        match=r"step 5: the loss is not finite in 1 of \d+ rows \(bad\)\. The weights are those of step 4; look at the rows",
    ):
        run(spoiled_dir, out_dir, train=train, dev=dev)
    assert len((out_dir / "metrics.jsonl").read_text().splitlines()) == 4, "no line of a step that was not taken"
    assert json.loads((out_dir / "state" / "state.json").read_text())["step"] in (2, 3, 4), "the last checkpoint stands"
    assert not (out_dir / "done.json").exists()
    for path in out_dir.rglob("*.safetensors"):
        assert all(bool(torch.isfinite(tensor).all()) for tensor in load_file(path).values()), path
    assert run(spoiled_dir, out_dir, train=good, dev=dev).num_rows == len(good)


@pytest.mark.parametrize(
    ("name", "said"),
    [("state.safetensors", "not readable as a checkpoint"), ("state.json", "not readable as JSON")],
)
def test_a_checkpoint_cut_by_one_byte_is_named_and_a_run_without_it_starts_again(
    base_dir: Path, whole: Path, tmp_path: Path, name: str, said: str
) -> None:
    out_dir = tmp_path / "tune"
    assert stopped_after(base_dir, out_dir, 4) >= 1
    path = out_dir / "state" / name
    path.write_bytes(path.read_bytes()[:-1])
    before = kept_in(out_dir)
    with pytest.raises(StoreError, match=f"{out_dir / 'state'}.*{said}.*delete"):
        run(base_dir, out_dir)
    assert kept_in(out_dir) == before
    shutil.rmtree(out_dir / "state")
    run(base_dir, out_dir)
    assert files_of(out_dir) == files_of(whole)


def test_a_finished_adapter_cut_by_one_byte_is_not_taken_for_finished(
    base_dir: Path, whole: Path, tmp_path: Path
) -> None:
    out_dir = Path(shutil.copytree(whole, tmp_path / "tune"))
    path = out_dir / "adapter" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    seen: list[Progress] = []
    run(base_dir, out_dir, on_progress=seen.append)
    assert seen and files_of(out_dir) == files_of(whole)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own of one mebibyte; only root can have one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no disk of its own: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("full_after", [1, 3, 5])
def test_a_disk_that_fills_up_leaves_the_last_checkpoint_and_a_rerun_ends_the_same(
    base_dir: Path, whole: Path, small_disk: Path, full_after: int
) -> None:
    out_dir, filler = small_disk / "tune", small_disk / "filler"

    def fill(progress: Progress) -> None:
        if progress.step == full_after:
            with filler.open("wb", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(b"x" * 4096)

    with pytest.raises(StoreError, match="[Ff]ree some space and run the same command again: it resumes"):
        run(base_dir, out_dir, on_progress=fill)
    assert not (out_dir / "done.json").exists()
    found = out_dir / "state" / "state.json"
    step = json.loads(found.read_text())["step"] if found.exists() else 0
    filler.unlink()
    seen: list[Progress] = []
    run(base_dir, out_dir, on_progress=seen.append)
    assert seen[0].step == step + 1 <= full_after + 1 if full_after > 1 else seen[0].step == 1
    assert files_of(out_dir) == files_of(whole)
    assert not list(out_dir.rglob("*.part"))
