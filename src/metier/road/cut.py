"""Train and dev in the open, the hold-out sealed, the question frozen: the second part of the road.

Cutting freezes nothing: every verb that only looks cuts the rows and keeps of the hold-out its record ids. `metier run`
alone freezes the question and seals the rows, with `seal_parts`, before it fits the first arm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from metier.core.columns import rows_from_parquet, rows_to_parquet
from metier.core.config import nearest
from metier.core.errors import ConfigError, DataError, counted
from metier.core.folders import read_json, write_bytes, write_json
from metier.core.report import SplitReport
from metier.core.rows import Row
from metier.curate import dataset_version
from metier.road.ground import Ground
from metier.road.session import Session
from metier.split import split_report, split_rows

__all__ = ["Parts", "Sealed", "cut_rows", "seal_parts"]

SPLIT_VERSION = 2
SEAL_VERSION = 1
MIN_SLICE_ROWS = 20
"""Hold-out rows of a slice whose scores may leave the seal: fewer would tell of single rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """The rows everyone may see, and what is known of those nobody may."""

    train: list[Row]
    dev: list[Row]
    num_holdout: int
    dataset_version: str
    stage_hash: str
    report: SplitReport
    purged: Mapping[str, int]
    """Rows set aside by the split, by reason."""


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

    def work(stage_dir: Path) -> None:
        result = split_rows(ground.kept, config.split, seed=config.project.seed, near_dup=config.clean.near_dup)
        report = split_report(result)
        _check_holdout(session, result.holdout)
        write_bytes(stage_dir / "train.parquet", rows_to_parquet(result.train))
        write_bytes(stage_dir / "dev.parquet", rows_to_parquet(result.dev))
        purged = [{"row_id": p.row.row_id, "reason": p.reason, "survivor": p.other} for p in result.purged]
        part_by_origin = {row.origin_id: name for name, rows in result.parts.items() for row in rows}
        write_json(
            stage_dir / "split.json", {"report": asdict(report), "purged": purged, "part_by_origin": part_by_origin}
        )

    stage = session.stage(
        "split",
        version=SPLIT_VERSION,
        inputs={"rows": ground.stage_hash},
        config={"question": session.question, "seed": config.project.seed, "near_dup": config.clean.near_dup},
        work=work,
    )
    stored = read_json(stage.dir / "split.json")
    report = SplitReport(**stored["report"])
    session.progress.say(
        f"{report.train} train, {report.dev} dev, {report.holdout} hold-out rows; {report.purged} set aside"
    )
    return Parts(
        train=rows_from_parquet((stage.dir / "train.parquet").read_bytes()),
        dev=rows_from_parquet((stage.dir / "dev.parquet").read_bytes()),
        num_holdout=report.holdout,
        dataset_version=dataset_version(ground.result),
        stage_hash=stage.hash,
        report=report,
        purged=Counter(item["reason"] for item in stored["purged"]),
    )


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


def _freeze_and_seal(session: Session, ground: Ground, parts: Parts) -> Sealed:
    """Record question, dataset, split and seal; all of it may be repeated after a kill and gives the same."""
    from metier.ledger import freeze_question, record_dataset, record_split, seal_holdout

    stored = read_json(session.stages["split"].dir / "split.json")
    question = freeze_question(session.ledger, session.question)
    split = record_split(
        session.ledger,
        dataset_version=record_dataset(session.ledger, [row.row_id for row in ground.kept]),
        question_hash=question.hash,
        parts=stored["part_by_origin"],
        # Metadata is no part of a row id, yet groups and times decide the split: another day is another split.
        certificate={**parts.report.certificate, "rows": ground.stage_hash},
    )
    row_by_origin = {row.origin_id: row for row in ground.kept}
    holdout = [row_by_origin[origin] for origin, part in stored["part_by_origin"].items() if part == "holdout"]
    seal_holdout(
        session.ledger, session.store, rows_to_parquet(holdout), split_id=split.split_id, num_rows=len(holdout)
    )
    return Sealed(
        split_id=split.split_id,
        question_hash=question.hash,
        frozen_at=question.frozen_at,
        num_rows=len(holdout),
    )
