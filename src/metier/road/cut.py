"""Train and dev in the open, the hold-out sealed, the question frozen: the second part of the road.

Cutting freezes nothing: every verb that only looks cuts the rows and keeps of the hold-out its record ids. `metier run`
alone freezes the question and seals the rows, with `seal_parts`, before it fits the first arm.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from metier.core.config import nearest
from metier.core.errors import ConfigError, DataError, counted
from metier.core.folders import read_json, write_bytes, write_json
from metier.core.readiness import MIN_SLICE_ROWS
from metier.core.report import SplitReport
from metier.core.rows import Row
from metier.road.ground import Ground
from metier.road.rowstore import Ints
from metier.road.session import Session
from metier.split import split_report, split_rows

__all__ = ["Parts", "Sealed", "cut_rows", "seal_parts"]

SPLIT_VERSION = 3
SEAL_VERSION = 2
PARTS_NAME = "parts.npz"


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The rows everyone may see, read when they are first asked for, and what is known of those nobody may."""

    ground: Ground = field(repr=False)
    place_by_part: Mapping[str, Ints]
    """Places in the ground's table of the rows of train, dev and holdout."""
    dataset_version: str
    stage_hash: str
    report: SplitReport
    purged: Mapping[str, int]
    """Rows set aside by the split, by reason."""

    @cached_property
    def train(self) -> list[Row]:
        """The train rows."""
        return self.ground.rows(self.place_by_part["train"])

    @cached_property
    def dev(self) -> list[Row]:
        """The dev rows."""
        return self.ground.rows(self.place_by_part["dev"])

    @property
    def num_holdout(self) -> int:
        """Rows of the hold-out."""
        return self.report.holdout


@dataclass(frozen=True, kw_only=True, slots=True)
class Sealed:
    """The frozen question and the sealed hold-out it will be asked of."""

    split_id: str
    question_hash: str
    frozen_at: str
    num_rows: int


def cut_rows(session: Session, ground: Ground) -> Parts:
    """Split the kept rows; nothing is frozen, sealed or recorded.

    Raises:
        DataError: the rows cannot give the parts asked for, or no verdict could stand on them.
        ConfigError: a guard is on something that is not scored.
    """
    session.progress.enter("split")
    config = session.config
    stage = session.stage(
        "split",
        version=SPLIT_VERSION,
        inputs={"rows": ground.stage_hash},
        config={"question": session.question, "seed": config.project.seed, "near_dup": config.clean.near_dup},
        work=lambda stage_dir: _work(session, ground, stage_dir),
    )
    stored = read_json(stage.dir / "split.json")
    report = SplitReport(**stored["report"])
    session.progress.say(
        f"{report.train} train, {report.dev} dev, {report.holdout} hold-out rows; {report.purged} set aside"
    )
    places = np.load(io.BytesIO((stage.dir / PARTS_NAME).read_bytes()), allow_pickle=False)
    return Parts(
        ground=ground,
        place_by_part={name: _places(ground, places[name]) for name in places.files},
        dataset_version=ground.curated.dataset_version,
        stage_hash=stage.hash,
        report=report,
        purged=stored["purged"],
    )


def _work(session: Session, ground: Ground, stage_dir: Path) -> None:
    """Split the kept rows and check that a verdict could stand on the hold-out."""
    config, kept = session.config, ground.curated.kept
    table = ground.curated.table.take(kept)
    result = split_rows(table, config.split, seed=config.project.seed, near_dup=config.clean.near_dup)
    _check_holdout(session, ground.rows(kept[result.holdout]))
    buffer = io.BytesIO()
    origins = {name: table.origin_N[index] for name, index in result.parts.items()}
    np.savez(buffer, train=origins["train"], dev=origins["dev"], holdout=origins["holdout"])
    write_bytes(stage_dir / PARTS_NAME, buffer.getvalue())
    purged = Counter(item.reason for item in result.purged)
    write_json(stage_dir / "split.json", {"report": asdict(split_report(result)), "purged": purged})


def _places(ground: Ground, origin_N: np.ndarray) -> Ints:
    """Where the rows of these origins stand in the table, which a changed file may have moved."""
    table = ground.curated.table
    order = np.argsort(table.origin_N)
    return np.asarray(order[np.searchsorted(table.origin_N, origin_N, sorter=order)], dtype=np.int64)


def _check_holdout(session: Session, holdout: list[Row]) -> None:
    """Refuse a hold-out on which no verdict could stand, before anything is frozen or paid for.

    Raises:
        DataError: too few groups for an interval, a control that passes, or a slice with too few rows.
        ConfigError: a guard on something that is not scored.
    """
    from metier.core.stats import MIN_GROUPS
    from metier.evaluate import group_ids, run_controls

    num_groups = len(set(group_ids(holdout, session.group_column, key=session.key)))
    if num_groups < MIN_GROUPS:
        raise DataError(
            f"hold-out: {counted(num_groups, 'group')} ({session.group_column}) in {len(holdout)} rows; expected "
            f"{MIN_GROUPS} or more, as rows of one group move together. Raise [split] holdout_rows, or collect more "
            "groups."
        )
    try:
        run_controls(holdout, session.grader, seed=session.config.project.seed, sealed=True)
    except DataError as err:
        raise DataError(f"hold-out: {err}") from err
    _check_guards(session, holdout)


def _check_guards(session: Session, holdout: list[Row]) -> None:
    """Refuse a guard that nothing could be said of.

    Raises:
        ConfigError: it is on something that is not scored.
        DataError: its slice has too few hold-out rows.
    """
    names = [convention.name for convention in session.conventions]
    for guard in session.config.guard:
        attribute, equals, value = (part.strip() for part in guard.on.partition("="))
        where = f"[[guard]] {guard.name!r} is on {guard.on!r}"
        if not equals and guard.on not in ("metric", *names):
            raise ConfigError(f"{where}; {nearest(guard.on, ['metric', *names])} Or name a slice: region=north.")
        if equals and attribute not in session.config.data.attributes:
            raise ConfigError(f"{where}; add {attribute!r} to [data] attributes, so that rows carry it.")
        found = [row for row in holdout if row.meta.attributes.get(attribute) == value]
        if equals and len(found) < MIN_SLICE_ROWS:
            raise DataError(
                f"{where}: {len(found)} of {len(holdout)} hold-out rows; expected at least {MIN_SLICE_ROWS}. "
                "Raise [split] holdout_rows, or correct or drop the guard."
            )


def seal_parts(session: Session, ground: Ground, parts: Parts) -> Sealed:
    """Freeze the question and seal the hold-out; what a finished run did is found again.

    Raises:
        StoreError: the split is sealed with other rows, or the disk is full.
    """

    def work(stage_dir: Path) -> None:
        write_json(stage_dir / "seal.json", asdict(_freeze_and_seal(session, ground, parts)))

    stage = session.stage("seal", version=SEAL_VERSION, inputs={"split": parts.stage_hash}, config=None, work=work)
    sealed = Sealed(**read_json(stage.dir / "seal.json"))
    session.progress.say(f"question {sealed.question_hash[:12]} frozen, {sealed.num_rows} hold-out rows sealed")
    return sealed


def record_kept(session: Session, ground: Ground) -> str:
    """Put the kept rows into the ledger as a dataset; returns its version, and changes nothing where it is there."""
    from metier.ledger import record_dataset

    return record_dataset(session.ledger, map(ground.curated.table.row_id, ground.curated.kept.tolist()))


def _freeze_and_seal(session: Session, ground: Ground, parts: Parts) -> Sealed:
    """Record question, dataset, split and seal; all of it may be repeated after a kill and gives the same."""
    from metier.ledger import freeze_question, pack_rows, record_split, seal_holdout

    table = ground.curated.table
    question = freeze_question(session.ledger, session.question)
    split = record_split(
        session.ledger,
        dataset_version=record_kept(session, ground),
        question_hash=question.hash,
        parts={table.origin(i): name for name, index in parts.place_by_part.items() for i in index.tolist()},
        # Metadata is no part of a row id, yet groups and times decide the split: another day is another split.
        certificate={**parts.report.certificate, "rows": ground.stage_hash},
    )
    holdout = ground.rows(parts.place_by_part["holdout"])
    seal_holdout(
        session.ledger,
        session.store,
        pack_rows(holdout, session.subject_keys),
        split_id=split.split_id,
        num_rows=len(holdout),
    )
    return Sealed(
        split_id=split.split_id,
        question_hash=question.hash,
        frozen_at=question.frozen_at,
        num_rows=len(holdout),
    )
