"""One rank of a job: what torchrun starts, `torchrun ... -m metier.tune.worker JOB_PATH`; not for calling by hand."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from threading import Thread

from metier.core.errors import MetierError
from metier.core.folders import write_json
from metier.engine import Ranks, close_ranks, open_ranks
from metier.render import RenderedPair
from metier.tune.dpo import tune_pairs
from metier.tune.processes import PROGRESS_WORD, SAY_WORD, Job, job_dir_of, read_job
from metier.tune.result import Progress, TuneResult
from metier.tune.sft import tune

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Take part in a job; a rank that fails leaves its error in the job's folder."""
    watch_reader()
    job = read_job(Path(argv[0]))
    ranks = open_ranks(device=job.config.device)
    try:
        _run(job, ranks)
    except MetierError as err:
        # Every rank: torchrun stops the others as soon as one has ended, perhaps before they have written.
        error_path = job_dir_of(job.out_dir) / f"error-{ranks.rank}.json"
        write_json(error_path, {"type": type(err).__name__, "message": str(err)})
        sys.stderr.write(f"rank {ranks.rank}: {err}\n")
        return err.exit_code
    finally:
        close_ranks()
    return 0


def watch_reader() -> None:
    """Die as soon as nobody reads what this process says: the process that began the job is gone, by whatever kill."""
    Thread(target=_die_with_the_reader, daemon=True).start()


def _die_with_the_reader() -> None:
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # no event asked for: a pipe without a reader is told all the same
    poll.poll()
    os.kill(os.getpid(), signal.SIGKILL)


def _run(job: Job, ranks: Ranks) -> TuneResult:
    options = replace(job.options, on_progress=_tell_progress, say=_say) if ranks.is_first else job.options
    base, out_dir, seed, config = job.base, job.out_dir, job.seed, job.config
    if config.objective == "dpo":
        pairs, dev_pairs = ([RenderedPair(rows[0].row_id, *rows) for rows in part] for part in (job.train, job.dev))
        return tune_pairs(pairs, dev_pairs, config, base=base, out_dir=out_dir, seed=seed, options=options)
    rows, dev = ([example[0] for example in part] for part in (job.train, job.dev))
    return tune(rows, dev, config, base=base, out_dir=out_dir, seed=seed, options=options)


def _tell_progress(progress: Progress) -> None:
    _write(PROGRESS_WORD, asdict(progress))


def _say(line: str) -> None:
    _write(SAY_WORD, line)


def _write(word: str, value: object) -> None:
    sys.stdout.write(f"{word}{json.dumps(value)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
