"""Raw files into rows that may be used: read, cleaned, every gold reply graded; the first part of the road."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from metier.core.columns import rows_from_parquet, rows_to_parquet
from metier.core.folders import read_json, write_bytes, write_json
from metier.core.hashing import file_sha256, value_hash
from metier.core.report import DataReport
from metier.core.rows import Row
from metier.curate import CurateResult, Quarantined, curate, data_report, load, write
from metier.evaluate import run_controls
from metier.ledger import decrypt, encrypt
from metier.road.session import Session

__all__ = ["Ground", "read_and_check", "record_ground"]

GROUND_VERSION = 2
TOLD = 5
"""Rows that are named one by one while the run goes; all of them are in the report's folder."""
KEPT_NAME = "kept.sealed"
ASIDE_NAME = "quarantined.sealed"


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
    """Read, clean and grade the golds; rows whose gold fails its own grader are quarantined. Nothing is recorded.

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
        fails = {row.origin_id: controls.reasons[row.row_id] for row in result.kept if row.row_id in controls.reasons}
        result = result.with_quarantined(fails)
        _write(result, stage_dir, key=session.key)
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
    result = _load(stage.dir, key=session.key)
    controls = read_json(stage.dir / "controls.json")
    reasons = ", ".join(f"{reason} {n}" for reason, n in result.reasons.items())
    aside = f"{len(result.quarantined)} set aside" + (f" ({reasons})" if reasons else "")
    session.progress.say(f"{result.num_read} rows read, {len(result.kept)} kept, {aside}, {len(result.failed)} failed")
    for failure in result.failed[:TOLD]:
        session.progress.say(f"{failure.where}: {failure.message}")
    for sentence in list(controls["sentences"].values())[:TOLD]:
        session.progress.say(sentence)
    content = value_hash(sorted((row.origin_id, row.row_id, _meta_hash(row)) for row in result.kept))
    return Ground(result=result, controls=controls, stage_hash=content)


def _write(result: CurateResult, stage_dir: Path, *, key: bytes) -> None:
    """The rows encrypted under the project key, since those of the hold-out and their copies are among them.

    What is no row (failed records, counts) stands beside them as `curate` writes it, as a result without rows.
    """
    write(replace(result, kept=[], quarantined=[], num_read=len(result.failed)), stage_dir)
    facts = [(item.reason, item.survivor, item.rule_version) for item in result.quarantined]
    write_json(stage_dir / "quarantined.json", facts)
    for name, rows in ((KEPT_NAME, result.kept), (ASIDE_NAME, [item.row for item in result.quarantined])):
        write_bytes(stage_dir / name, encrypt(rows_to_parquet(rows), key))


def _load(stage_dir: Path, *, key: bytes) -> CurateResult:
    """The result that was written.

    Raises:
        StoreError: a file is damaged, or the key is another one.
    """
    kept, aside = (
        rows_from_parquet(decrypt((stage_dir / name).read_bytes(), key, where=stage_dir / name))
        for name in (KEPT_NAME, ASIDE_NAME)
    )
    facts = read_json(stage_dir / "quarantined.json")
    quarantined = [Quarantined(row, *fact) for row, fact in zip(aside, facts, strict=True)]
    rest = load(stage_dir)
    num_read = len(kept) + len(quarantined) + len(rest.failed)
    return replace(rest, kept=kept, quarantined=quarantined, num_read=num_read)


def file_hashes(session: Session) -> dict[str, str]:
    """SHA-256 of every data file and of everything that grades it, by name."""
    from metier.curate.records import expand

    patterns = (*session.config.data.files, *session.config.split.holdout_files)
    found = {name: file_sha256(path) for name, path in expand(patterns, session.project_dir)}
    return {**found, **session.own_code}


def record_ground(session: Session, ground: Ground) -> None:
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

    result = ground.result
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
