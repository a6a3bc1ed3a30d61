"""Tuning in several processes: torchrun starts them, they read the job from this one's memory, and what came of it.

    >>> tune(train, dev, TuneConfig(processes=2), base=base, out_dir=Path("tune"), seed=0)  # doctest: +SKIP

`tune` and `tune_pairs` come here where `processes` is above 1. The job, rows included, is a file in memory that the
processes open through /proc: it is never on a disk and is gone with this process, and so are they. Beside `out_dir` a
folder `.<name>.job` holds what they said, and errors; it goes when the run is done.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from metier.core import errors
from metier.core.errors import MetierError, StoreError
from metier.core.folders import locked, read_json
from metier.core.tune_config import TuneConfig
from metier.engine import current_ranks
from metier.tune.examples import Examples
from metier.tune.result import Options, Progress, TuneResult
from metier.tune.running import result_in

if TYPE_CHECKING:
    from metier.models import BaseModel
    from metier.render import RenderedRow

__all__ = ["Job", "job_dir_of", "read_job", "tune_in_processes", "wants_processes"]

PROGRESS_WORD, SAY_WORD = "metier-progress ", "metier-say "
"""What the first rank begins a line with that says how far it is, or what it chose for itself."""
LOG_NAME = "torchrun.log"
_DEAD_RANK = re.compile(r"exitcode: (-?\d+)\) local_rank: (\d+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What every rank needs to know: of sft single rows, of dpo (chosen, rejected)."""

    train: Examples
    dev: Examples
    config: TuneConfig
    base: BaseModel | Path
    out_dir: Path
    seed: int
    options: Options

    @property
    def base_dir(self) -> Path:
        """The folder of the base."""
        return self.base if isinstance(self.base, Path) else self.base.dir


def wants_processes(config: TuneConfig) -> bool:
    """Whether a run is to be shared among processes, and this is not one of them yet."""
    return config.processes > 1 and current_ranks().size == 1


def job_dir_of(out_dir: Path) -> Path:
    """Where the processes of a run leave what they said."""
    return out_dir.with_name(f".{out_dir.name}.job")


def tune_in_processes(job: Job) -> TuneResult:
    """Run the job in `job.config.processes` processes and wait for its end; only the first rank writes.

    Raises:
        MetierError: what a rank raised, or a process died: the last checkpoint stands.
    """
    job_dir = job_dir_of(job.out_dir)
    job_dir.mkdir(parents=True, exist_ok=True)
    # The processes inherit the log and its lock with it: it is free when the last one of a killed run is gone.
    with locked(job_dir / LOG_NAME) as log_file, _in_memory(job) as job_path:
        for path in job_dir.iterdir():
            if path.name != LOG_NAME:
                path.unlink()
        log_file.truncate(0)
        code = _run(job, job_path, log_file)
        if code:
            _raise_what_happened(job, job_dir)
        shutil.rmtree(job_dir)
    return result_in(job.out_dir)


def _run(job: Job, job_path: Path, log_file: IO[bytes]) -> int:
    """Start the processes, follow them, and return torchrun's exit code; none is left however this ends."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1", f"--nproc-per-node={job.config.processes}"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
    command += ["-m", "metier.tune.worker", str(job_path)]
    # One thread for what torch does on its own; what is computed sets its threads itself.
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log_file, text=True) as run:
        try:
            assert run.stdout is not None
            _follow(run.stdout, job.options)
            return run.wait()
        finally:
            run.terminate()  # an interrupted parent leaves no process behind


@contextmanager
def _in_memory(job: Job) -> Iterator[Path]:
    """The job as a file that lies in memory alone, under a name that only processes of this user can open."""
    file = os.memfd_create("metier-job")
    try:
        with open(file, "wb", closefd=False) as stream:
            stream.write(_job_bytes(job))
        yield Path(f"/proc/{os.getpid()}/fd/{file}")
    finally:
        os.close(file)


def _job_bytes(job: Job) -> bytes:
    threads = job.options.threads
    folders = {"start": job.options.start, "trunk_dir": job.options.trunk_dir}
    parts = {"train": job.train, "dev": job.dev}
    return json.dumps(
        {
            "config": asdict(job.config),
            "base_dir": str(job.base_dir.resolve()),
            "out_dir": str(job.out_dir.resolve()),
            "seed": job.seed,
            "layout_why": job.options.layout_why,
            # Not asked for: each rank takes its share of the cores, or what the run began with.
            "threads": None if threads is None else max(1, threads // job.config.processes),
            **{name: None if path is None else str(path.resolve()) for name, path in folders.items()},
            **{
                part: [[[row.row_id, row.tokens, row.weight] for row in example] for example in examples]
                for part, examples in parts.items()
            },
        }
    ).encode()


def read_job(job_path: Path) -> Job:
    """The job as a rank finds it.

    Raises:
        StoreError: the process that began it is gone.
    """
    from metier.render import RenderedRow

    try:
        stored = json.loads(job_path.read_bytes())
    except OSError as err:
        raise StoreError(f"{job_path}: the process that began this job is gone; run its command again.") from err
    parts: dict[str, list[tuple[RenderedRow, ...]]] = {
        part: [tuple(RenderedRow(*row) for row in example) for example in stored[part]] for part in ("train", "dev")
    }
    folders = {name: None if stored[name] is None else Path(stored[name]) for name in ("start", "trunk_dir")}
    return Job(
        train=parts["train"],
        dev=parts["dev"],
        config=TuneConfig.from_mapping(stored["config"], where=str(job_path)),
        base=Path(stored["base_dir"]),
        out_dir=Path(stored["out_dir"]),
        seed=stored["seed"],
        options=Options(
            threads=stored["threads"],
            start=folders["start"],
            trunk_dir=folders["trunk_dir"],
            layout_why=stored["layout_why"],
        ),
    )


def _follow(lines: IO[str], options: Options) -> None:
    """Read what the processes say until they end."""
    for line in lines:
        if options.on_progress is not None and line.startswith(PROGRESS_WORD):
            options.on_progress(Progress(**json.loads(line.removeprefix(PROGRESS_WORD))))
        if options.say is not None and line.startswith(SAY_WORD):
            options.say(json.loads(line.removeprefix(SAY_WORD)))


def _raise_what_happened(job: Job, job_dir: Path) -> None:
    """Raise the run's own error, or say which process died."""
    log_path = job_dir / LOG_NAME
    for error_path in sorted(job_dir.glob("error-*.json")):
        found = read_json(error_path)
        raise getattr(errors, found["type"])(found["message"])  # getattr: the names of core.errors
    died = _DEAD_RANK.search(log_path.read_text(encoding="utf-8", errors="replace"))
    code, rank = (int(died[1]), died[2]) if died else (0, "?")
    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    raise MetierError(
        f"{job.out_dir}: process {rank} of {job.config.processes} {how}, and the others were stopped. The last "
        f"checkpoint stands: run the same command again, it resumes. What they said is in {log_path}."
    )
