"""`metier check`: are the rows ready for a verdict?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metier.core.data_facts import DataFacts
from metier.core.errors import DataError, GateClosed
from metier.core.folders import write_bytes
from metier.core.project_file import ProjectConfig
from metier.core.readiness import Readiness
from metier.core.report import DataReport, SplitReport
from metier.road.cut import Parts, cut_rows
from metier.road.ground import read_and_check
from metier.road.progress import Watcher
from metier.road.run import DATA_PAGE_NAME, open_session

if TYPE_CHECKING:
    from metier.curate.ages import Staleness

__all__ = ["Checked", "check_project"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """What the rows are, and what keeps them from being ready."""

    data: DataReport
    controls: Mapping[str, Any]
    split: SplitReport | None
    readiness: Readiness
    ages: Staleness
    review: str
    """What was found among labels or replies, in a sentence; empty where nothing could be ranked."""
    page: str
    """The page of the data; empty where none was drawn."""

    @property
    def ready(self) -> bool:
        """Whether a run can start."""
        return not self.readiness.problems

    def as_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {
            "ready": self.ready,
            "problem": next(iter(self.readiness.problems), ""),
            "data": asdict(self.data),
            "controls": dict(self.controls),
            "split": asdict(self.split) if self.split else None,
            "readiness": self.readiness.as_json(),
            "ages": self.ages.as_json(),
            "review": self.review,
            "page": self.page,
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
        lines.append(f"age: {self.ages.sentence}")
        if self.review:
            lines.append(f"review: {self.review}")
        lines += [f"warning: {warning}" for warning in self.readiness.warnings]
        lines += [f"not ready: {problem}" for problem in self.readiness.problems]
        if self.ready:
            lines.append(f"ready: {self.readiness.sentence}")
        if self.page:
            lines.append(f"Page: {self.page}")
        return "\n".join(lines)

    def require(self) -> None:
        """Pass only when the rows are ready.

        Raises:
            GateClosed: they are not.
        """
        if not self.ready:
            raise GateClosed(self.readiness.problems[0])


def check_project(
    project_dir: Path,
    config: ProjectConfig,
    *,
    watcher: Watcher | None = None,
    draw_data_page: Callable[[DataFacts], str] | None = None,
) -> Checked:
    """Read, clean, grade the golds and try the split; nothing is frozen or sealed.

    Raises:
        DataError: the rows cannot be read at all, or cleaning stopped.
    """
    from metier.road.annotators import annotators_of
    from metier.road.readiness import data_facts, judge_data, kept_ages, review_list

    with open_session(project_dir, config, watcher=watcher, what="metier check") as session:
        ground = read_and_check(session)
        parts: Parts | None = None
        problem = ""
        try:
            parts = cut_rows(session, ground)
        except DataError as err:
            problem = str(err)
        ages = kept_ages(session, ground)
        annotators = annotators_of(session, parts) if parts else None
        judged = judge_data(session, ground, parts, problem, ages, annotators)
        review = review_list(session, ground, parts) if parts else None
        drawn = ""
        if draw_data_page is not None:
            path = session.workspace.report_dir / DATA_PAGE_NAME
            facts = data_facts(session, ground, parts, judged, review, annotators)
            write_bytes(path, draw_data_page(facts).encode())
            drawn = str(path)
        return Checked(
            data=ground.report({}),
            controls=ground.controls,
            split=parts.report if parts else None,
            readiness=judged,
            ages=ages,
            review=review[0].sentence if review else "",
            page=drawn,
        )
