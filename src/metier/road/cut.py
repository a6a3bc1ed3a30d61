"""Train and dev in the open, the hold-out sealed, the question frozen: the second part of the road."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from metier.core.columns import rows_from_parquet, rows_to_parquet
from metier.core.config import nearest
from metier.core.errors import ConfigError, DataError
from metier.core.folders import read_json, write_bytes, write_json
from metier.core.report import SplitReport
from metier.core.rows import Row
from metier.road.ground import Ground
from metier.road.session import Session
from metier.split import split_report, split_rows

__all__ = ["Parts", "cut_rows"]

SPLIT_VERSION = 1
MIN_SLICE_ROWS = 20
"""Hold-out rows of a slice whose scores may leave the seal: fewer would tell of single rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """The rows everyone may see, and what is known of those nobody may."""

    train: list[Row]
    dev: list[Row]
    num_holdout: int
    split_id: str
    question_hash: str
    frozen_at: str
    dataset_version: str
    stage_hash: str
    report: SplitReport
    purged: Mapping[str, int]
    """Rows set aside by the split, by reason."""


def cut_rows(session: Session, ground: Ground) -> Parts:
    """Split the kept rows, freeze the question, seal the hold-out.

    Raises:
        DataError: the rows cannot give the parts asked for, or no verdict could stand on them; nothing is frozen or
            sealed then.
        ConfigError: a guard is on something that is not scored.
    """
    session.progress.enter("split")
    config = session.config

    def work(stage_dir: Path) -> None:
        result = split_rows(ground.kept, config.split, seed=config.project.seed, near_dup=config.clean.near_dup)
        report = split_report(result)
        _check_holdout(session, result.holdout)
        facts = _freeze_and_seal(session, ground, result.parts, report.certificate)
        write_bytes(stage_dir / "train.parquet", rows_to_parquet(result.train))
        write_bytes(stage_dir / "dev.parquet", rows_to_parquet(result.dev))
        purged = [{"row_id": p.row.row_id, "reason": p.reason, "survivor": p.other} for p in result.purged]
        write_json(stage_dir / "split.json", {**facts, "report": asdict(report), "purged": purged})

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
        f"{report.train} train, {report.dev} dev, {report.holdout} hold-out rows (sealed); {report.purged} set aside"
    )
    return Parts(
        train=rows_from_parquet((stage.dir / "train.parquet").read_bytes()),
        dev=rows_from_parquet((stage.dir / "dev.parquet").read_bytes()),
        num_holdout=report.holdout,
        split_id=stored["split_id"],
        question_hash=stored["question_hash"],
        frozen_at=stored["frozen_at"],
        dataset_version=stored["dataset_version"],
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
            f"hold-out: {num_groups} groups ({session.group_column}) in {len(holdout)} rows; expected at least "
            f"{MIN_GROUPS}, as rows of one group move together. Raise [split] holdout_rows, or collect more groups."
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


def _freeze_and_seal(
    session: Session,
    ground: Ground,
    parts: Mapping[str, list[Row]],
    certificate: Mapping[str, Any],  # Any: JSON values
) -> dict[str, str]:
    """Record question, dataset, split and seal; all of it may be repeated after a kill and gives the same."""
    from metier.ledger import freeze_question, record_dataset, record_split, seal_holdout

    question = freeze_question(session.ledger, session.question)
    dataset_version = record_dataset(session.ledger, [row.row_id for row in ground.kept])
    part_by_origin = {row.origin_id: name for name, rows in parts.items() for row in rows}
    split = record_split(
        session.ledger,
        dataset_version=dataset_version,
        question_hash=question.hash,
        parts=part_by_origin,
        # Metadata is no part of a row id, yet groups and times decide the split: another day is another split.
        certificate={**certificate, "rows": ground.stage_hash},
    )
    holdout = parts["holdout"]
    seal_holdout(
        session.ledger, session.store, rows_to_parquet(holdout), split_id=split.split_id, num_rows=len(holdout)
    )
    return {
        "split_id": split.split_id,
        "question_hash": question.hash,
        "frozen_at": question.frozen_at,
        "dataset_version": dataset_version,
    }
