"""Several processes by torchrun (gloo): the bits of one process, and what is left when one of them dies."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from metier.core.errors import ConfigError, DataError, MetierError
from metier.core.tune_config import TuneConfig
from metier.engine import open_ranks
from metier.render import RenderedRow
from metier.tune import Options, Progress, tune
from tests.engine.builders import random_rows, tiny_base

LENGTHS = [150, 90, 200, 60, 170, 110, 80, 140, 120, 100, 160, 50, 130]  # 13 rows: no step has the same number on both
TRAIN, DEV = random_rows(LENGTHS, seed=1), random_rows([90, 120, 70, 150, 200, 60], seed=2)
CONFIG = TuneConfig(rank=4, alpha=8.0, passes=2.0, step_tokens=700, evals=2, product_dtype="fp32", lr=0.02)


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


def run(base_dir: Path, out_dir: Path, processes: int, *, rows=TRAIN, threads=2, **named):
    config = replace(CONFIG, processes=processes, **named.pop("settings", {}))
    options = Options(threads=threads, **named)
    return tune(rows, DEV, config, base=base_dir, out_dir=out_dir, seed=0, options=options)


def left_in(out_dir: Path) -> dict[str, object]:
    lines = [json.loads(line) for line in (out_dir / "metrics.jsonl").read_text().splitlines()]
    return {
        "metrics": [{key: value for key, value in line.items() if not key.startswith("time/")} for line in lines],
        "adapter": (out_dir / "adapter" / "adapter_model.safetensors").read_bytes(),
        "files": sorted(path.name for path in out_dir.iterdir()),
    }


def test_two_processes_of_one_thread_give_the_bits_of_one_with_two_workers(base_dir: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    told: list[str] = []
    one = run(base_dir, tmp_path / "one", 1)
    processes = 2
    two = run(base_dir, tmp_path / "two", processes, on_progress=seen.append, say=told.append)
    assert told == two.execution.lines()
    assert left_in(tmp_path / "two") == left_in(tmp_path / "one")
    assert (two.fingerprint, two.dev_curve, two.best_step) == (one.fingerprint, one.dev_curve, one.best_step)
    assert [each.step for each in seen] == list(range(1, one.num_steps + 1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"], (
        "the job folder goes when the run is done"
    )

    # The setting has an effect: one process of one thread adds in another order, and the sums round otherwise.
    alone = run(base_dir, tmp_path / "alone", 1, threads=1)
    assert alone.fingerprint != two.fingerprint
    assert [loss for _, loss in alone.dev_curve] == pytest.approx([loss for _, loss in two.dev_curve], rel=1e-4)


def test_a_step_with_fewer_rows_than_processes_is_computed_once(base_dir: Path, tmp_path: Path) -> None:
    one = run(base_dir, tmp_path / "one", 1, rows=TRAIN[:1], threads=1, settings={"step_tokens": 100})
    two = run(base_dir, tmp_path / "two", 2, rows=TRAIN[:1], settings={"step_tokens": 100})
    assert one.num_steps == 2
    assert left_in(tmp_path / "two") == left_in(tmp_path / "one")
    assert two.fingerprint == one.fingerprint


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def test_a_killed_process_ends_the_job_with_an_error_and_the_rerun_goes_on_bit_equal(
    base_dir: Path, tmp_path: Path
) -> None:
    settings = {"passes": 30.0, "evals": 15}
    run(base_dir, tmp_path / "whole", 1, settings=settings)
    out_dir = tmp_path / "cut"

    def kill_one_rank() -> None:
        deadline = time.monotonic() + 120
        while not (out_dir / "state").exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        (torchrun,) = [
            pid
            for pid in children_of(os.getpid())
            if b"torch.distributed.run" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        os.kill(max(children_of(torchrun)), signal.SIGKILL)

    killer = threading.Thread(target=kill_one_rank)
    killer.start()
    with pytest.raises(
        MetierError,
        match=r"cut: process \d of 2 (was killed by signal|ended with code).*The last checkpoint stands: run the same command",
    ):
        run(base_dir, out_dir, 2, settings=settings)
    killer.join()
    assert not (out_dir / "done.json").exists()
    step = json.loads((out_dir / "state" / "state.json").read_text())["step"]
    seen: list[Progress] = []
    run(base_dir, out_dir, 2, settings=settings, on_progress=seen.append)
    assert seen[0].step == step + 1 > 1
    assert left_in(out_dir) == left_in(tmp_path / "whole")


def test_an_error_of_the_run_comes_back_as_itself(base_dir: Path, tmp_path: Path) -> None:
    mute = RenderedRow("mute", [1, 2, 3], [0.0, 0.0, 0.0])
    with pytest.raises(DataError, match="row mute: no trained token among 3"):
        run(base_dir, tmp_path / "a", 2, rows=[mute])


def test_a_worker_that_torchrun_did_not_start_is_refused() -> None:
    with pytest.raises(ConfigError, match="RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR not set"):
        open_ranks()


def test_processes_go_on_with_the_threads_they_began_with(base_dir: Path, tmp_path: Path) -> None:
    settings = {"passes": 8.0, "evals": 8}
    whole = run(base_dir, tmp_path / "whole", 2, threads=4, settings=settings)
    assert whole.execution.threads == 2, "of each process"
    assert run(base_dir, tmp_path / "whole", 2, threads=None, settings=settings) == whole

    class _Stopped(Exception):
        pass

    def stop(progress: Progress) -> None:
        if (tmp_path / "cut" / "state" / "state.json").exists():
            raise _Stopped

    with pytest.raises(_Stopped):
        run(base_dir, tmp_path / "cut", 2, threads=4, settings=settings, on_progress=stop)
    seen: list[Progress] = []
    resumed = run(base_dir, tmp_path / "cut", 2, threads=None, settings=settings, on_progress=seen.append)
    assert seen[0].step > 1
    assert resumed.execution.threads == 2
    assert left_in(tmp_path / "cut") == left_in(tmp_path / "whole")
