"""Raw files into rows that may be used: read, cleaned, every gold reply graded; the first part of the road."""

from __future__ import annotations

import io
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from metier.core.folders import read_json, write_bytes, write_json
from metier.core.hashing import file_sha256, merkle_root
from metier.core.report import DataReport
from metier.core.rows import Row
from metier.curate import CLEAN_RULES, Curated, RowRules, curate, data_report, load, write
from metier.evaluate import GoldGrader
from metier.road.rowstore import Ints, RowReader, RowWriter
from metier.road.session import Session

__all__ = ["Ground", "file_hashes", "read_and_check", "record_ground"]

GROUND_VERSION = 3
TOLD = 5
"""Rows that are named one by one while the run goes; all of them are in the stage's folder."""
STORED_NAME = "stored.npz"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ground:
    """The rows by column, where their texts lie, and what became of those that are not used."""

    curated: Curated
    controls: Mapping[str, Any]
    """Mean scores of the controls over the kept rows."""
    reader: RowReader
    meta_hashes: Sequence[str]
    """Of every row stored."""
    subjects: Sequence[tuple[int, str]]
    """(place among the rows stored, subject hash)."""
    stage_hash: str
    """Hash of what the stage found, not of how: an unchanged result keeps every later stage."""

    def rows(self, places: Sequence[int] | Ints) -> list[Row]:
        """The rows at these places of the table, with their text."""
        return self.reader.rows(self.curated.stored_N[np.asarray(places, dtype=np.int64)])

    def report(self, purged: Mapping[str, int]) -> DataReport:
        """The data part of the report; rows the split set aside count as quarantined."""
        report = data_report(self.curated)
        reasons = {**report.quarantined, **{reason: n for reason, n in purged.items() if n}}
        return replace(report, kept=report.kept - sum(purged.values()), quarantined=reasons)


def read_and_check(session: Session) -> Ground:
    """Read, clean and grade the golds; rows whose gold fails its own grader are set aside. Nothing is recorded.

    Raises:
        DataError: nothing could be read, a brake closed, over 5 % of the golds fail, or a control passes.
    """
    session.progress.enter("read")
    config = session.config
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    restored = session.restored
    stage = session.stage(
        "ground",
        version=GROUND_VERSION,
        # The day matters only where rows expire: else a run of tomorrow is the run of today.
        inputs={"files": file_hashes(session), "day": today.date().isoformat() if config.data.expires else "",
                "restored": sorted(restored), "erased": session.subject_keys.destroyed},
        config={"data": asdict(config.data), "clean": asdict(config.clean), "metric": asdict(config.metric),
                "conventions": [asdict(item) for item in config.convention], "seed": config.project.seed,
                "holdout_files": config.split.holdout_files},
        work=lambda stage_dir: _work(session, stage_dir, today, restored),
    )  # fmt: skip
    refs = read_json(stage.dir / "packs.json")
    if not all(session.store.path_of(ref).exists() for ref in refs):
        shutil.rmtree(stage.dir)  # the objects were cleared away: the files still hold every row
        return read_and_check(session)
    ground = _found(session, stage.dir, refs)
    _tell(session, ground, read_json(stage.dir / "controls.json")["sentences"])
    return ground


def _work(session: Session, stage_dir: Path, today: datetime, restored: frozenset[str]) -> None:
    """Read, clean, store and grade."""
    config, writer = session.config, RowWriter(session.store, session.subject_keys)
    rules = RowRules(data=config.data, clean=config.clean, now=today, restored=restored)
    golds = GoldGrader(session.grader)

    def keep(rows: list[Row]) -> None:
        golds.add(rows)
        writer.keep(rows)

    curated = curate(
        rules, session.project_dir, key=session.key, keep=keep, holdout_files=config.split.holdout_files,
        is_erased=lambda row: any(map(session.is_erased, row.meta.subjects)),
    )  # fmt: skip
    writer.finish()
    reader = RowReader(session.store, session.subject_keys, writer.refs)
    kept = curated.kept
    controls = golds.controls(
        [curated.table.row_id(place) for place in kept.tolist()],
        lambda places: reader.rows(curated.stored_N[kept[np.asarray(places, dtype=np.int64)]]),
        config.project.seed,
    )
    write(curated.with_set_aside(controls.reasons), stage_dir)
    write_json(stage_dir / "packs.json", writer.refs)
    write_json(stage_dir / "controls.json", {**controls.as_json(), "sentences": dict(controls.quarantined)})
    buffer = io.BytesIO()
    np.savez(
        buffer,
        meta=np.asarray(writer.meta_hashes, dtype="S64"),
        place=np.asarray([place for place, _ in writer.subjects], dtype=np.int64),
        subject=np.asarray([hashed for _, hashed in writer.subjects], dtype="S32"),
    )
    write_bytes(stage_dir / STORED_NAME, buffer.getvalue())


def _found(session: Session, stage_dir: Path, refs: list[str]) -> Ground:
    """What the finished stage holds."""
    curated = load(stage_dir)
    stored = np.load(io.BytesIO((stage_dir / STORED_NAME).read_bytes()), allow_pickle=False)
    meta = [value.decode("ascii") for value in stored["meta"]]
    subjects = [(int(p), s.decode("ascii")) for p, s in zip(stored["place"], stored["subject"], strict=True)]
    table = curated.table
    content = merkle_root(
        f"{table.origin(i)} {table.row_id(i)} {meta[int(curated.stored_N[i])]}" for i in curated.kept.tolist()
    )
    return Ground(
        curated=curated,
        controls=read_json(stage_dir / "controls.json"),
        reader=RowReader(session.store, session.subject_keys, refs),
        meta_hashes=meta,
        subjects=subjects,
        stage_hash=content,
    )


def _tell(session: Session, ground: Ground, sentences: Mapping[str, str]) -> None:
    """Counts, and the first of what failed."""
    curated = ground.curated
    reasons = ", ".join(f"{reason} {n}" for reason, n in curated.reasons.items())
    aside = f"{len(curated.set_aside)} set aside" + (f" ({reasons})" if reasons else "")
    session.progress.say(
        f"{curated.num_read} rows read, {len(curated.kept)} kept, {aside}, {len(curated.failed)} failed"
    )
    for failure in curated.failed[:TOLD]:
        session.progress.say(f"{failure.where}: {failure.message}")
    for sentence in list(sentences.values())[:TOLD]:
        session.progress.say(sentence)


def file_hashes(session: Session) -> dict[str, str]:
    """SHA-256 of every data file and of everything that grades it, by name."""
    from metier.curate.records import expand

    patterns = (*session.config.data.files, *session.config.split.holdout_files)
    found = {name: file_sha256(path) for name, path in expand(patterns, session.project_dir)}
    return {**found, **session.own_code}


def record_ground(session: Session, ground: Ground) -> None:
    """Put sources, rows, their persons and their versions into the ledger; a rerun changes nothing."""
    from metier.ledger import (
        Source,
        Transform,
        record_edges,
        record_rows,
        record_source,
        record_subjects,
        record_transform,
    )  # fmt: skip

    curated, table = ground.curated, ground.curated.table
    counts = np.bincount(table.source.code_N, minlength=len(table.source.names))
    # Rows and failures together depend on the bytes alone: which record fails, settings and erasures decide.
    num_records = Counter(dict(zip(table.source.names, counts.tolist(), strict=True)))
    num_records.update(failure.where.rpartition(":")[0] for failure in curated.failed)
    hashes = file_hashes(session)
    for name, num in sorted(num_records.items()):
        licence = session.config.data.licence
        record_source(session.ledger, Source(name=name, sha256=hashes.get(name, ""), num_records=num, licence=licence))
    record_rows(session.ledger, (_record(ground, i) for i in range(len(table))))
    table_place = np.empty(len(table), dtype=np.int64)
    table_place[curated.stored_N] = np.arange(len(table))
    record_subjects(
        session.ledger,
        ((table.row_id(int(table_place[place])), hashed) for place, hashed in ground.subjects),
        key_ref=session.subject_keys.path.name,
    )
    replaced = np.flatnonzero(curated.parent_N != b"")
    if len(replaced):
        done = Transform(op="private_data", version=str(CLEAN_RULES), params={"private": session.config.clean.private})
        pairs = [(table.row_id(i), curated.parent_N[i].decode("ascii")) for i in replaced.tolist()]
        record_edges(session.ledger, record_transform(session.ledger, done), pairs)


def _record(ground: Ground, place: int) -> Any:  # Any: RowRecord, imported lazily
    from metier.ledger import PACK_ROWS, RowRecord, RowState

    curated, table = ground.curated, ground.curated.table
    stored, survivor, reason = int(curated.stored_N[place]), int(curated.survivor_N[place]), curated.reason.at(place)
    return RowRecord(
        row_id=table.row_id(place),
        origin_id=table.origin(place),
        object_ref=ground.reader.refs[stored // PACK_ROWS],
        meta_hash=ground.meta_hashes[stored],
        state=RowState.QUARANTINED if reason else RowState.KEPT,
        reason=reason or "",
        rule_version=str(CLEAN_RULES) if reason else "",
        survivor=table.origin(survivor) if survivor >= 0 else "",
    )
