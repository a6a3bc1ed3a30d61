"""Raw files into rows that may be used: read, cleaned, every gold reply graded; the first part of the road."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from metier.core.folders import read_json, write_json
from metier.core.hashing import file_sha256, value_hash
from metier.core.report import DataReport
from metier.core.rows import Row
from metier.curate import CurateResult, curate, data_report, load, write
from metier.evaluate import GOLD_FAILS, run_controls
from metier.road.session import Session

__all__ = ["Ground", "read_and_check"]

GROUND_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Ground:
    """The rows, and what became of those that are not used."""

    result: CurateResult
    controls: Mapping[str, Any]
    """Mean scores of the controls over all kept rows."""
    stage_hash: str
    """Hash of what the stage found, not of how: an unchanged result keeps every later stage."""

    @property
    def kept(self) -> list[Row]:
        """Rows that may be used."""
        return self.result.kept

    def report(self, dataset_version: str, purged: Mapping[str, int]) -> DataReport:
        """The data part of the report; rows the split set aside count as quarantined."""
        report = data_report(self.result)
        reasons = {**report.quarantined, **{reason: n for reason, n in purged.items() if n}}
        kept = report.kept - sum(purged.values())
        return replace(report, kept=kept, quarantined=reasons, dataset_version=dataset_version)


def read_and_check(session: Session) -> Ground:
    """Read, clean and grade the golds; rows whose gold fails its own grader are quarantined.

    Raises:
        DataError: nothing could be read, a brake closed, over 5 % of the golds fail, or a control passes.
    """
    session.progress.enter("read")
    config = session.config
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)

    def work(stage_dir: Path) -> None:
        result = curate(
            config.data, config.clean, session.project_dir, key=session.key, now=today,
            holdout_files=config.split.holdout_files,
        )  # fmt: skip
        controls = run_controls(result.kept, session.grader, seed=config.project.seed)
        fails = {row.origin_id: GOLD_FAILS for row in result.kept if row.row_id in controls.quarantined}
        result = result.with_quarantined(fails)
        write(result, stage_dir)
        write_json(stage_dir / "controls.json", {**controls.as_json(), "sentences": dict(controls.quarantined)})

    stage = session.stage(
        "ground",
        version=GROUND_VERSION,
        # The day matters only where rows expire: else a run of tomorrow is the run of today.
        inputs={"files": file_hashes(session), "day": today.date().isoformat() if config.data.expires else ""},
        config={"data": asdict(config.data), "clean": asdict(config.clean), "metric": asdict(config.metric),
                "conventions": [asdict(item) for item in config.convention], "seed": config.project.seed,
                "holdout_files": config.split.holdout_files},
        work=work,
    )  # fmt: skip
    result = load(stage.dir)
    controls = read_json(stage.dir / "controls.json")
    _record(session, result)
    reasons = ", ".join(f"{reason} {n}" for reason, n in result.reasons.items())
    aside = f"{len(result.quarantined)} set aside" + (f" ({reasons})" if reasons else "")
    session.progress.say(f"{result.num_read} rows read, {len(result.kept)} kept, {aside}, {len(result.failed)} failed")
    for failure in result.failed[:5]:
        session.progress.say(f"{failure.where}: {failure.message}")
    content = value_hash(sorted((row.origin_id, row.row_id, _meta_hash(row)) for row in result.kept))
    return Ground(result=result, controls=controls, stage_hash=content)


def file_hashes(session: Session) -> dict[str, str]:
    """SHA-256 of every data file and of everything that grades it, by name."""
    from metier.curate.records import expand

    patterns = (*session.config.data.files, *session.config.split.holdout_files)
    found = {name: file_sha256(path) for name, path in expand(patterns, session.project_dir)}
    return {**found, **session.own_code}


def _record(session: Session, result: CurateResult) -> None:
    """Put sources, rows and their versions into the ledger; a rerun changes nothing."""
    from collections import Counter

    from metier.ledger import (
        RowState,
        Source,
        Transform,
        record_edges,
        record_rows,
        record_source,
        record_transform,
    )  # fmt: skip

    rows = [*result.kept, *(item.row for item in result.quarantined)]
    counts = Counter(row.meta.source for row in rows)
    hashes = file_hashes(session)
    for name, num in sorted(counts.items()):
        licence = session.config.data.licence
        record_source(session.ledger, Source(name=name, sha256=hashes.get(name, ""), num_records=num, licence=licence))
    records = [_row_record(row, RowState.KEPT) for row in result.kept]
    for item in result.quarantined:
        version, survivor = str(item.rule_version), item.survivor or ""
        records.append(
            _row_record(item.row, RowState.QUARANTINED, reason=item.reason, rule_version=version, survivor=survivor)
        )
    record_rows(session.ledger, records)
    pairs = [(row.row_id, parent) for row in rows for parent in row.parents]
    if pairs:
        done = Transform(op="private_data", version="1", params={"private": session.config.clean.private})
        record_edges(session.ledger, record_transform(session.ledger, done), pairs)


def _row_record(row: Row, state: Any, **facts: str) -> Any:  # Any: RowState and RowRecord, imported lazily
    from metier.ledger import RowRecord

    return RowRecord(row_id=row.row_id, origin_id=row.origin_id, meta_hash=_meta_hash(row), state=state, **facts)


def _meta_hash(row: Row) -> str:
    """Hash of a row's metadata, which is no part of its id."""
    return value_hash(row.meta.model_dump(mode="json"))
