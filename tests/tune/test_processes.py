"""Several processes by torchrun (gloo): the bits of one process, and what is left when one of them dies."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from metier.core.errors import ConfigError, DataError, MetierError, StoreError
from metier.core.folders import locked
from metier.engine import open_ranks
from metier.render import RenderedRow
from metier.tune import Options, Progress, tune
from metier.tune.processes import job_dir_of, read_job
from metier.tune.running import result_in
from tests.engine.builders import tiny_base
from tests.tune.shared_runs import CONFIG, DEV, NUM_PREFIX, RUNS, TRAIN, made
from tests.tune.test_recipe import files_of

ROOT = Path(__file__).resolve().parents[2]


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


def test_a_process_without_a_device_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"RANK": "7", "WORLD_SIZE": "8", "LOCAL_RANK": "7", "MASTER_ADDR": "127.0.0.1"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    with pytest.raises(ConfigError, match="process 7 of this run has no device: torch finds 4 CUDA devices"):
        open_ranks(device="cuda")


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


def run_in_child(base_dir: Path, out_dir: Path, settings: dict[str, float]) -> None:
    run(base_dir, out_dir, 2, settings=settings)


def descendants(pid: int) -> list[int]:
    try:
        found = children_of(pid)
    except FileNotFoundError:
        return []
    return [*found, *(deeper for child in found for deeper in descendants(child))]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:  # a part that was renamed meanwhile
        return b""


@pytest.mark.parametrize("with_signal", [signal.SIGTERM, signal.SIGKILL])
def test_processes_die_with_the_one_that_began_them_and_leave_no_row(
    with_signal: signal.Signals, base_dir: Path, tmp_path: Path
) -> None:
    out_dir = tmp_path / "out" / "run"
    row = ", ".join(map(str, TRAIN[0].tokens[:20])).encode()
    settings = {"passes": 300.0, "evals": 150}
    parent = multiprocessing.get_context("spawn").Process(target=run_in_child, args=(base_dir, out_dir, settings))
    parent.start()
    assert parent.pid is not None
    deadline = time.monotonic() + 120
    while not (out_dir / "state").exists() and time.monotonic() < deadline:
        assert not [path for path in out_dir.parent.rglob("*") if path.is_file() and row in bytes_of(path)]
        time.sleep(0.02)
    started = [
        pid for pid in descendants(parent.pid) if b"metier.tune.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert len(started) == 3, "torchrun and two ranks"
    os.kill(parent.pid, with_signal)
    parent.join()
    # The next run waits for what is left of the killed one: its files are closed, and the kernel is done with it soon.
    with locked(job_dir_of(out_dir) / "torchrun.log"):
        freed_at = time.monotonic()
        while any(map(is_alive, started)) and time.monotonic() < freed_at + 2:
            time.sleep(0.01)
        assert not [pid for pid in started if is_alive(pid)]
    assert time.monotonic() < deadline
    assert not [path for path in out_dir.parent.rglob("*") if path.is_file() and row in bytes_of(path)]
    assert sorted(path.name for path in job_dir_of(out_dir).iterdir()) == ["torchrun.log"]


def test_a_rank_that_says_nothing_dies_as_soon_as_nobody_would_read_it() -> None:
    busy = "from metier.tune.worker import watch_reader; import time; watch_reader(); print('on', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", busy], stdout=subprocess.PIPE) as rank:
        assert rank.stdout is not None and rank.stdout.readline() == b"on\n"
        with pytest.raises(subprocess.TimeoutExpired):
            rank.wait(0.3)
        rank.stdout.close()
        assert rank.wait(20) == -signal.SIGKILL


def test_a_job_whose_beginner_is_gone_is_not_begun(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="the process that began this job is gone; run its command again"):
        read_job(tmp_path / "gone")


@pytest.fixture(scope="module")
def shared(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of `RUNS` by two processes, which start once."""
    out_dir = tmp_path_factory.mktemp("shared")
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=2"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
    command += ["-m", "tests.tune.shared_runs", str(base_dir), str(out_dir)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ran = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return out_dir


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_give_what_one_gives_whatever_is_tuned(
    name: str, base_dir: Path, shared: Path, tmp_path: Path
) -> None:
    one, two = made(name, base_dir, tmp_path, processes=1), result_in(shared / name / "run")
    mine, theirs = tmp_path / name / "run", shared / name / "run"
    assert (one.execution.threads, two.execution.threads) == (2, 1)
    assert (one.execution.trunk_layers > 0) == (two.execution.trunk_layers > 0) == (name == "stored states")
    assert one.execution.layout.name == two.execution.layout.name
    if name != "prefix":
        assert files_of(theirs) == files_of(mine)
        assert (two.fingerprint, two.dev_curve) == (one.fingerprint, one.dev_curve)
        return
    # Processes compute the prefix each, on their own cores, and add what comes back of it rank by rank.
    assert one.execution.prefix_tokens == two.execution.prefix_tokens >= NUM_PREFIX
    assert [loss for _, loss in two.dev_curve] == pytest.approx([loss for _, loss in one.dev_curve], rel=1e-5)
    weights = [load_file(run_dir / "adapter" / "adapter_model.safetensors") for run_dir in (mine, theirs)]
    for key, wanted in weights[0].items():
        assert float((weights[1][key] - wanted).norm()) < 1e-3 * float(wanted.norm()), key
