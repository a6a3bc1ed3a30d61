"""`metier label`: rows out to be labelled, votes in, and what the votes say of rows and annotators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metier.core.errors import ConfigError, DataError, counted
from metier.core.folders import write_bytes, write_json
from metier.core.project_file import ProjectConfig
from metier.core.rows import Row
from metier.core.votes import Vote, vote_time
from metier.road.annotators import GOLD, annotators_of, votes_and_gold
from metier.road.cut import cut_rows
from metier.road.ground import Ground, read_and_check, record_ground
from metier.road.run import open_session
from metier.road.session import Session

if TYPE_CHECKING:
    from metier.core.annotator_report import AnnotatorReport
    from metier.ledger import Ledger

__all__ = ["Imported", "export_tasks", "import_votes", "report_votes"]

NUM_SHOWN = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """What an export of Label Studio held."""

    num_tasks: int
    num_votes: int
    num_new: int
    """Votes that were not in the ledger."""
    num_gold: int
    """Rows with a known answer: their annotation is marked as ground truth."""
    skipped: Mapping[str, int]
    """Annotations and predictions that are no votes, by reason."""
    failed: Sequence[str]
    """file: task: what was found, expected and to do."""

    def as_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {
            "num_tasks": self.num_tasks, "num_votes": self.num_votes, "num_new": self.num_new,
            "num_gold": self.num_gold, "skipped": dict(self.skipped), "failed": list(self.failed),
        }  # fmt: skip

    def as_text(self) -> str:
        """The result for a person."""
        skipped = "".join(f", {num} {reason}" for reason, num in self.skipped.items() if num)
        gold = f", {counted(self.num_gold, 'known answer')}" if self.num_gold else ""
        lines = [f"{self.num_tasks} tasks, {self.num_votes} votes, {self.num_new} of them new{gold}{skipped}"]
        lines += self.failed[:NUM_SHOWN]
        if len(self.failed) > NUM_SHOWN:
            lines.append(f"and {len(self.failed) - NUM_SHOWN} more that failed")
        return "\n".join(lines)


def export_tasks(project_dir: Path, config: ProjectConfig, path: Path) -> int:
    """Write the rows of train and dev as tasks of Label Studio, and beside them the interface; number of tasks.

    Rows of the hold-out are sealed and do not go out. Without two labels there is no interface to write.

    Raises:
        ConfigError: a file to be written is there already.
    """
    from metier.curate.label_tasks import labelling_config, tasks_of

    interface_path = path.with_suffix(".xml")
    if path == interface_path:
        raise ConfigError(f"--export {path}: the interface gets this name; expected another ending, such as .json.")
    for there in (path, interface_path):
        if there.exists():
            raise ConfigError(
                f"--export {path}: {there} exists; expected a new file. Move it away, or give another name."
            )
    with open_session(project_dir, config, what="metier label") as session:
        ground = read_and_check(session)
        record_ground(session, ground)
        rows = _open_rows(session, ground)
        votes, _ = votes_and_gold(session.ledger, (row.row_id for row in rows))
        labels = sorted({row.target.label for row in rows if row.target.label is not None})
        if len(labels) > 1:
            write_bytes(interface_path, labelling_config(labels).encode())
        write_json(path, tasks_of(rows, votes))
        return len(rows)


def _open_rows(session: Session, ground: Ground) -> list[Row]:
    """Train and dev, the suspects of the review list first."""
    from metier.road.readiness import review_list

    parts = cut_rows(session, ground)
    rows = [*parts.train, *parts.dev]
    review = review_list(session, ground, parts)
    if review is None:
        return rows
    listed, places = review
    first = [ground.curated.table.row_id(int(places[suspect.place])) for suspect in listed.suspects]
    rank = {row_id: place for place, row_id in enumerate(first)}
    return sorted(rows, key=lambda row: rank.get(row.row_id, len(rank)))


@dataclass
class _KnownRows:
    """Rows votes may name: those of the project, and those that were erased, which are told apart afterwards."""

    here: frozenset[str]
    ledger: Ledger
    erased: set[str] = field(default_factory=set)
    """Rows asked for that were erased."""

    def __contains__(self, row_id: object) -> bool:
        from metier.ledger import RowState, find_row

        if row_id in self.here:
            return True
        states = {record.state for record in find_row(self.ledger, str(row_id))}
        if states != {RowState.ERASED}:
            return False
        self.erased.add(str(row_id))
        return True


def import_votes(project_dir: Path, config: ProjectConfig, path: Path, *, guideline_version: str = "") -> Imported:
    """Record the votes and the known answers of an export; those that are recorded already change nothing.

    Raises:
        DataError: the file is no export, or none of its tasks is of a row of this project.
    """
    from metier.curate.label_studio import read_label_studio
    from metier.ledger import record_votes

    with open_session(project_dir, config, what="metier label") as session:
        ground = read_and_check(session)
        record_ground(session, ground)
        table = ground.curated.table
        known = _KnownRows(frozenset(table.row_id(place) for place in range(len(table))), session.ledger)
        found = read_label_studio(path, known_rows=known, guideline_version=guideline_version)
        failed = [f"{failure.where}: {failure.message}" for failure in found.failed]
        lost = Counter(vote.row_id for vote in found.votes if vote.row_id in known.erased)
        failed += [
            f"{path.name}: row {row_id} was erased, {counted(lost[row_id], 'vote')} on it left out; expected rows that "
            "are still there. Delete the task in Label Studio too."
            for row_id in sorted(known.erased)
        ]
        votes = [vote for vote in found.votes if vote.row_id not in known.erased]
        gold = {row_id: value for row_id, value in found.gold.items() if row_id not in known.erased}
        if not votes and not gold and failed:
            raise DataError(f"{path}: no vote on a row of this project; the first: {failed[0]}")
        num_new = record_votes(session.ledger, votes)
        _record_gold(session.ledger, gold)
        skipped = {
            "cancelled": found.num_cancelled, "empty": found.num_empty, "repeated": found.num_repeated,
            "predictions": found.num_predictions,
        }  # fmt: skip
        return Imported(
            num_tasks=found.num_tasks, num_votes=len(votes), num_new=num_new, num_gold=len(gold), skipped=skipped,
            failed=failed,
        )  # fmt: skip


def _record_gold(ledger: Ledger, gold: Mapping[str, str]) -> None:
    """Add the known answers that are new or other than before; the newest of a row counts."""
    from metier.ledger import record_votes

    _, standing = votes_and_gold(ledger, gold)
    at = vote_time(datetime.now(UTC))
    changed = [(row_id, value) for row_id, value in sorted(gold.items()) if standing.get(row_id) != value]
    if changed:
        record_votes(ledger, [Vote(row_id=row_id, annotator=GOLD, value=value, at=at) for row_id, value in changed])


def report_votes(project_dir: Path, config: ProjectConfig) -> AnnotatorReport:
    """What the votes on rows of train and dev say: agreement, annotators, likely labels, the label ceiling.

    Known answers that were imported with the votes judge annotators and labels.

    Raises:
        DataError: no votes yet.
    """
    with open_session(project_dir, config, what="metier label") as session:
        report = annotators_of(session, cut_rows(session, read_and_check(session)))
        if report is None:
            raise DataError(
                "no votes on rows of train and dev; expected some. Export tasks with --export, label them, and read "
                "them with --import."
            )
        return report
