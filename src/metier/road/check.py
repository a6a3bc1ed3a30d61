"""`metier check`: are the rows ready for a verdict?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from metier.core.errors import DataError, GateClosed
from metier.core.project_file import ProjectConfig
from metier.core.report import DataReport, SplitReport
from metier.road.cut import cut_rows
from metier.road.ground import read_and_check
from metier.road.progress import Watcher
from metier.road.run import open_session

__all__ = ["Checked", "check_project"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """What the rows are, and what keeps them from being ready."""

    data: DataReport
    controls: Mapping[str, Any]
    split: SplitReport | None
    problem: str
    """Why the rows are not ready; empty when they are."""

    @property
    def ready(self) -> bool:
        """Whether a run can start."""
        return not self.problem

    def as_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {
            "ready": self.ready,
            "problem": self.problem,
            "data": asdict(self.data),
            "controls": dict(self.controls),
            "split": asdict(self.split) if self.split else None,
        }

    def as_text(self) -> str:
        """The result for a person."""
        data = self.data
        lines = [
            f"read {data.read}, kept {data.kept}, set aside {sum(data.quarantined.values())}, failed {data.failed}"
        ]
        lines += [f"  {n:>5}  {reason.replace('_', ' ')}" for reason, n in data.quarantined.items()]
        if data.private:
            lines.append("private data: " + ", ".join(f"{n} {kind}" for kind, n in data.private.items()))
        lines += list(data.failures)
        if self.split:
            split = self.split
            lines.append(f"split ({split.mode}): {split.train} train, {split.dev} dev, {split.holdout} hold-out")
        named = ("gold", "empty", "echo", "shuffled")
        lines.append("controls: " + ", ".join(f"{name} {self.controls[name]:.3f}" for name in named))
        lines.append("ready" if self.ready else f"not ready: {self.problem}")
        return "\n".join(lines)

    def require(self) -> None:
        """Pass only when the rows are ready.

        Raises:
            GateClosed: they are not.
        """
        if not self.ready:
            raise GateClosed(self.problem)


def check_project(project_dir: Path, config: ProjectConfig, *, watcher: Watcher | None = None) -> Checked:
    """Read, clean, grade the golds and try the split; nothing is frozen or sealed.

    Raises:
        DataError: the rows cannot be read at all, or cleaning stopped.
    """
    with open_session(project_dir, config, watcher=watcher, what="metier check") as session:
        ground = read_and_check(session)
        split, problem = None, ""
        try:
            split = cut_rows(session, ground).report
        except DataError as err:
            problem = str(err)
        data = ground.report("", {})
        return Checked(data=data, controls=ground.controls, split=split, problem=problem)
