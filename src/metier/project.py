"""A project folder as an object: every verb of the command line is one of its methods.

>>> project = Project.load("support")  # doctest: +SKIP
>>> report = project.run()  # doctest: +SKIP
>>> report.verdict.sentence  # doctest: +SKIP
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metier.core.config import nearest
from metier.core.errors import ConfigError, GateClosed, StoreError
from metier.core.folders import read_json
from metier.core.project_file import PROJECT_FILE, ProjectConfig, load_project_file
from metier.core.report import Outcome, Report, report_from_json

if TYPE_CHECKING:
    from metier.core.annotator_report import AnnotatorReport
    from metier.ledger import RowHistory
    from metier.road import (
        Assessed,
        Checked,
        Diagnosis,
        Erasure,
        Imported,
        Planned,
        SetAside,
        ShownRow,
        Status,
        Tuned,
        Verified,
        Watcher,
    )

__all__ = ["Project", "cost_table", "doctor", "init_project"]


@dataclass(frozen=True, slots=True)
class Project:
    """One project: its folder and its settings."""

    dir: Path
    config: ProjectConfig

    @classmethod
    def load(cls, directory: Path | str = ".", overrides: Sequence[str] = ()) -> Project:
        """The project in a folder; `overrides` are texts such as "budget.minutes=5".

        Raises:
            ConfigError: no project file, or a setting that is unknown or out of range.
        """
        from metier.models import check_base

        project_dir = Path(directory).resolve()
        config = load_project_file(project_dir, overrides)
        check_base(config.base.name, revision=config.base.revision)
        return cls(project_dir, config)

    @property
    def report_path(self) -> Path:
        """The page of the newest finished run."""
        return self.dir / ".metier" / "report" / "index.html"

    def check(self, watcher: Watcher | None = None) -> Checked:
        """Read and clean the rows, grade their gold replies, and say whether they are ready."""
        from metier.road import check_project
        from metier.web import render_data_page

        return check_project(self.dir, self.config, watcher=watcher, draw_data_page=render_data_page)

    def run(self, watcher: Watcher | None = None) -> Report:
        """The whole road; writes the report page last."""
        from metier.road import Pages, run_road
        from metier.web import render_data_page, render_report

        return run_road(self.dir, self.config, watcher=watcher, pages=Pages(render_report, render_data_page))

    def plan(self, watcher: Watcher | None = None, *, rehearse: bool = False) -> Planned:
        """What the run would do and take; nothing is trained, but with `rehearse` everything is done once."""
        from metier.road import plan_project

        return plan_project(self.dir, self.config, rehearse=rehearse, watcher=watcher)

    def tune(self, watcher: Watcher | None = None, *, search: int = 0) -> Tuned:
        """The road as far as the tuned adapter; `search` learning rates are tried on dev first."""
        from metier.road import tune_project

        return tune_project(self.dir, self.config, search=search, watcher=watcher)

    def assess(self, watcher: Watcher | None = None) -> Assessed:
        """Before spending: the untuned arms on dev, and what the hold-out could show."""
        from metier.road import assess_project

        return assess_project(self.dir, self.config, watcher=watcher)

    def curate(self, *, restore: Sequence[str] = (), watcher: Watcher | None = None) -> SetAside:
        """What cleaning set aside and why; rows named in `restore` are put back."""
        from metier.road import curate_project

        return curate_project(self.dir, self.config, restore=restore, watcher=watcher)

    def export_tasks(self, path: Path) -> int:
        """Rows of train and dev as tasks of Label Studio; number of tasks."""
        from metier.road import export_tasks

        return export_tasks(self.dir, self.config, path)

    def import_votes(self, path: Path, *, guideline_version: str = "") -> Imported:
        """The votes of an export of Label Studio into the ledger."""
        from metier.road import import_votes

        return import_votes(self.dir, self.config, path, guideline_version=guideline_version)

    def annotators(self) -> AnnotatorReport:
        """What the votes say of rows and annotators."""
        from metier.road import report_votes

        return report_votes(self.dir, self.config)

    def erase(self, subject: str, *, dry_run: bool = False) -> Erasure:
        """A person out of data, objects, caches and report; the models that saw it named."""
        from metier.road import erase_subject
        from metier.web import render_report

        return erase_subject(self.dir, self.config, subject, dry_run=dry_run, draw_page=render_report)

    def show(self, row: str) -> ShownRow:
        """A row as the model sees it."""
        from metier.road import show_row

        return show_row(self.dir, self.config, row)

    def history(self, row: str) -> RowHistory:
        """Everything that happened to a row."""
        from metier.road import history_of

        return history_of(self.dir, self.config, row)

    def chat(self) -> Callable[[str], dict[str, str]]:
        """A function from a message to the replies of base and tuned model."""
        from metier.road import open_chat

        return open_chat(self.dir, self.config)

    def status(self) -> Status:
        """Which stages are finished, and the newest verdict."""
        from metier.road import read_status

        return read_status(self.dir, self.config)

    def report(self) -> Report:
        """The newest finished report.

        Raises:
            StoreError: no run has finished yet.
        """
        path = self.report_path.with_name("report.json")
        if not path.exists():
            raise StoreError(f"{path}: no finished run here. Start one: metier run -C {self.dir}")
        return report_from_json(read_json(path))

    def verify(self) -> Verified:
        """Ledger, objects and everything the report claims, if there is one, checked again from the files."""
        from metier.road import verify_project

        found = self.report() if self.report_path.with_name("report.json").exists() else None
        return verify_project(self.dir, self.config, found)

    def gate(self, report: Report) -> None:
        """Pass only where tuning was worth it.

        Raises:
            GateClosed: any other verdict.
        """
        if report.verdict.outcome is not Outcome.WORTH_IT:
            raise GateClosed(f"the verdict is {report.verdict.outcome} ({report.verdict.reason}), not WORTH_IT.")


def cost_table() -> tuple[list[dict[str, Any]], str]:  # Any: JSON values
    """The reference table of common bases on common devices: its rows as JSON values, and as text."""
    from metier.tune import cost_rows, table_text

    return [asdict(row) for row in cost_rows()], table_text()


def examples_dir() -> Path:
    """Where the example projects lie: beside the installed package, or in the checkout."""
    packaged = Path(__file__).parent / "examples"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[2] / "examples"


def init_project(target: Path, source: str) -> Path:
    """Copy an example into a new folder; nothing that exists is overwritten.

    Raises:
        ConfigError: no such example, or the folder is not empty.
    """
    known = sorted(path.parent.name for path in examples_dir().glob(f"*/{PROJECT_FILE}"))
    if source not in known:
        raise ConfigError(f"--from {source!r}: no such example; {nearest(source, known)}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target}: exists and is not empty; nothing was written. Name a new folder.")
    ignored = shutil.ignore_patterns(".metier", "__pycache__", "planted.json")
    shutil.copytree(examples_dir() / source, target, dirs_exist_ok=True, ignore=ignored)
    return target


def doctor() -> Diagnosis:
    """What this machine offers and what is missing."""
    from metier.road import diagnose

    return diagnose()
