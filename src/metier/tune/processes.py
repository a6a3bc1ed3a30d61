"""Tuning in several processes: a job folder with rows and settings, torchrun, and what came of it.

    >>> tune(train, dev, TuneConfig(processes=2), base=base, out_dir=Path("tune"), seed=0)  # doctest: +SKIP

`tune` and `tune_pairs` come here where `processes` is above 1. The same job folder serves several machines that share
their disk: run `torchrun --nnodes=2 ... -m metier.tune.worker JOB_DIR` on each.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from metier.core import errors
from metier.core.errors import MetierError
from metier.core.folders import fresh_dir, read_json, write_bytes, write_json
from metier.core.tune_config import TuneConfig
from metier.engine import current_ranks
from metier.tune.examples import Examples
from metier.tune.result import Options, Progress, TuneResult
from metier.tune.running import result_in

if TYPE_CHECKING:
    from metier.models import BaseModel
    from metier.render import RenderedRow

__all__ = ["Job", "read_job", "tune_in_processes", "wants_processes"]

PROGRESS_WORD = "metier-progress "
"""What the first rank begins a line with that says how far it is."""
SAY_WORD = "metier-say "
"""The same of a line that says what the run chose for itself."""
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


def tune_in_processes(job: Job) -> TuneResult:
    """Run the job in `job.config.processes` processes and wait for its end; only the first rank writes.

    Raises:
        MetierError: what a rank raised, or a process died: the last checkpoint stands.
    """
    job_dir = fresh_dir(job.out_dir.with_name(f".{job.out_dir.name}.job"))
    _write_job(job, job_dir)
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1", f"--nproc-per-node={job.config.processes}"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
    command += ["-m", "metier.tune.worker", str(job_dir)]
    # One thread for what torch does on its own; what is computed sets its threads itself.
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    log_path = job_dir / "torchrun.log"
    with (
        log_path.open("w", encoding="utf-8") as log_file,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log_file, text=True) as run,
    ):
        try:
            assert run.stdout is not None
            _follow(run.stdout, job.options)
            code = run.wait()
        finally:
            run.terminate()  # an interrupted parent leaves no process behind
    if code:
        _raise_what_happened(job, job_dir)
    shutil.rmtree(job_dir)
    return result_in(job.out_dir)


def _write_job(job: Job, job_dir: Path) -> None:
    threads = job.options.threads
    folders = {"start": job.options.start, "trunk_dir": job.options.trunk_dir}
    write_json(
        job_dir / "job.json",
        {
            "config": asdict(job.config),
            "base_dir": str(job.base_dir.resolve()),
            "out_dir": str(job.out_dir.resolve()),
            "seed": job.seed,
            # Not asked for: each rank takes its share of the cores, or what the run began with.
            "threads": None if threads is None else max(1, threads // job.config.processes),
            **{name: None if path is None else str(path.resolve()) for name, path in folders.items()},
        },
    )
    for part, examples in (("train", job.train), ("dev", job.dev)):
        lines = [json.dumps([[row.row_id, row.tokens, row.weight] for row in example]) for example in examples]
        write_bytes(job_dir / f"{part}.jsonl", "".join(line + "\n" for line in lines).encode())


def read_job(job_dir: Path) -> Job:
    """The job as a rank finds it."""
    from metier.render import RenderedRow

    stored = read_json(job_dir / "job.json")
    parts: dict[str, list[tuple[RenderedRow, ...]]] = {}
    for part in ("train", "dev"):
        lines = (job_dir / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()
        parts[part] = [tuple(RenderedRow(*row) for row in json.loads(line)) for line in lines]
    where = str(job_dir / "job.json")
    folders = {name: None if stored[name] is None else Path(stored[name]) for name in ("start", "trunk_dir")}
    return Job(
        train=parts["train"],
        dev=parts["dev"],
        config=TuneConfig.from_mapping(stored["config"], where=where),
        base=Path(stored["base_dir"]),
        out_dir=Path(stored["out_dir"]),
        seed=stored["seed"],
        options=Options(threads=stored["threads"], start=folders["start"], trunk_dir=folders["trunk_dir"]),
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
    log_path = job_dir / "torchrun.log"
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
