"""Train and dev in the open, the hold-out sealed, the question frozen: the second part of the road."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from metier.core.columns import rows_from_parquet, rows_to_parquet
from metier.core.folders import read_json, write_bytes, write_json
from metier.core.report import SplitReport
from metier.core.rows import Row
from metier.road.ground import Ground
from metier.road.session import Session
from metier.split import split_report, split_rows

__all__ = ["Parts", "cut_rows"]

SPLIT_VERSION = 1


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
        DataError: the rows cannot give the parts asked for; nothing is frozen or sealed then.
    """
    session.progress.enter("split")
    config = session.config

    def work(stage_dir: Path) -> None:
        result = split_rows(ground.kept, config.split, seed=config.project.seed, near_dup=config.clean.near_dup)
        report = split_report(result)
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
