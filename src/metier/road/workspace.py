"""The workspace of a project: where every finished stage, the ledger, the objects and the report lie.

A stage's folder carries the hash of its inputs and settings in its name, so a changed project never
overwrites what an earlier run finished.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from metier.core.errors import StoreError
from metier.core.folders import finish, finished, fresh_dir, read_json, stage_hash, write_json

__all__ = ["Stage", "Workspace", "note_peak", "peak_memory_gib"]

SPENT_NAME = "spent.json"
"""Seconds and peak memory of the attempts before this one; its time of writing is when this one began."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One finished stage."""

    dir: Path
    hash: str
    seconds: float
    """Time its work took, over all attempts; a later rerun that skips it keeps this figure."""
    peak_memory_gib: float
    """Peak memory of the process at its end; where it took several attempts, of the highest that could note it."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """Paths of one project."""

    project_dir: Path

    @property
    def root(self) -> Path:
        """`.metier/`."""
        return self.project_dir / ".metier"

    @property
    def lock_path(self) -> Path:
        """Held by the one run at work."""
        return self.root / "run.lock"

    @property
    def report_dir(self) -> Path:
        """Where the newest finished report lies."""
        return self.root / "report"

    @property
    def trunk_dir(self) -> Path:
        """Hidden states of rows below adapted layers, for all runs of the project; an erasure drops them all."""
        return self.root / "trunk"

    @property
    def calls_dir(self) -> Path:
        """Answers of endpoints; an erasure drops them all and keeps what was spent."""
        return self.root / "calls"

    def stage_dir(self, name: str, wanted_hash: str) -> Path:
        """Folder of a stage with this hash."""
        return self.root / "stages" / name / wanted_hash[:16]

    def stage(
        self,
        name: str,
        *,
        version: int,
        inputs: Any,  # Any: whatever json accepts
        config: Any,  # Any: whatever json accepts
        work: Callable[[Path], None],
        resumable: bool = False,
        processes: int = 1,
    ) -> Stage:  # Any: inputs and config are whatever json accepts
        """The finished stage; `work` fills its folder when it is not there yet.

        A resumable stage finds its unfinished folder as the killed run left it; any other starts empty.
        `processes` is how many the work starts, whose memory counts as well.
        """
        wanted_hash = stage_hash(stage=name, version=version, inputs=inputs, config=config)
        stage_dir = self.stage_dir(name, wanted_hash)
        if not finished(stage_dir, wanted_hash):
            before = Spent(_spent_s(stage_dir), _spent_gib(stage_dir))
            if not resumable:
                fresh_dir(stage_dir)
            seconds = before.seconds + _timed(work, stage_dir, before, processes)
            peak_gib = max(before.peak_gib, peak_memory_gib(processes=processes))
            finish(stage_dir, wanted_hash, seconds=seconds, peak_memory_gib=peak_gib)
        done = read_json(stage_dir / "done.json")
        return Stage(stage_dir, wanted_hash, done["seconds"], done["peak_memory_gib"])


class Spent(NamedTuple):
    """What earlier attempts at a stage took."""

    seconds: float
    peak_gib: float


def _timed(work: Callable[[Path], None], stage_dir: Path, before: Spent, processes: int) -> float:
    """Do the work; seconds it took. Where it ends early they are noted beside `before`, for the next attempt."""
    _note(stage_dir, before)
    started_s = time.monotonic()
    try:
        work(stage_dir)
    except BaseException:
        with suppress(StoreError):  # a full disk: what stopped the work is told, not this
            seconds = before.seconds + time.monotonic() - started_s
            _note(stage_dir, Spent(seconds, max(before.peak_gib, peak_memory_gib(processes=processes))))
        raise
    return time.monotonic() - started_s


def _note(stage_dir: Path, spent: Spent) -> None:
    write_json(stage_dir / SPENT_NAME, {"seconds": spent.seconds, "peak_memory_gib": spent.peak_gib})


def note_peak(stage_dir: Path) -> None:
    """Note the peak memory so far, without changing when the attempt began: a kill must not lose it."""
    path = stage_dir / SPENT_NAME
    if path.exists():
        began = path.stat().st_mtime
        values = read_json(path)
        write_json(path, {**values, "peak_memory_gib": max(values.get("peak_memory_gib", 0.0), peak_memory_gib())})
        os.utime(path, (began, began))


def _spent_gib(stage_dir: Path) -> float:
    """Peak memory of all earlier attempts at a stage, as far as they noted it."""
    for name in ("done.json", SPENT_NAME):
        if (stage_dir / name).exists():
            return float(read_json(stage_dir / name).get("peak_memory_gib", 0.0))
    return 0.0


def _spent_s(stage_dir: Path) -> float:
    """Seconds of all earlier attempts at a stage, damaged ones included; of a killed one those up to its last write."""
    if (stage_dir / "done.json").exists():
        return float(read_json(stage_dir / "done.json")["seconds"])
    if not (stage_dir / SPENT_NAME).exists():
        return 0.0
    written_s = [path.stat().st_mtime for path in stage_dir.rglob("*") if path.is_file()]
    last_attempt_s = max(written_s) - (stage_dir / SPENT_NAME).stat().st_mtime
    return float(read_json(stage_dir / SPENT_NAME)["seconds"]) + last_attempt_s


def peak_memory_gib(*, processes: int = 1) -> float:
    """Peak resident memory of this process so far, in GiB, and of `processes` it has started where these are several.

    The largest that has ended stands for each of them. Where this process computes on a CUDA device, that device's.
    """
    if "torch" in sys.modules:  # else nothing is on a device, and torch need not be loaded to say so
        from metier.engine.cuda import device_peak_gib

        on_device = device_peak_gib()
        if on_device:
            return on_device
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if processes > 1:
        peak += processes * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return float(peak * (1 if sys.platform == "darwin" else 1024) / 1024**3)
