"""The workspace of a project: where every finished stage, the ledger, the objects and the report lie.

A stage's folder carries the hash of its inputs and settings in its name, so a changed project never
overwrites what an earlier run finished.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metier.core.folders import finish, finished, fresh_dir, read_json, stage_hash

__all__ = ["Stage", "Workspace", "peak_memory_gib"]


@dataclass(frozen=True, slots=True)
class Stage:
    """One finished stage."""

    dir: Path
    hash: str
    seconds: float
    """Time its work took when it was done; a later rerun that skips it keeps this figure."""
    peak_memory_gib: float
    """Peak memory of the process at its end."""


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
    ) -> Stage:  # Any: inputs and config are whatever json accepts
        """The finished stage; `work` fills its folder when it is not there yet.

        A resumable stage finds its unfinished folder as the killed run left it; any other starts empty.
        """
        wanted_hash = stage_hash(stage=name, version=version, inputs=inputs, config=config)
        stage_dir = self.stage_dir(name, wanted_hash)
        if not finished(stage_dir, wanted_hash):
            if not resumable:
                fresh_dir(stage_dir)
            stage_dir.mkdir(parents=True, exist_ok=True)
            started_s = time.monotonic()
            work(stage_dir)
            finish(stage_dir, wanted_hash, seconds=time.monotonic() - started_s, peak_memory_gib=peak_memory_gib())
        done = read_json(stage_dir / "done.json")
        return Stage(stage_dir, wanted_hash, done["seconds"], done["peak_memory_gib"])


def peak_memory_gib() -> float:
    """Peak resident memory of this process so far, in GiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak * (1 if sys.platform == "darwin" else 1024) / 1024**3)
