"""A curated set of rows as files: `kept.parquet`, `quarantined.parquet`, `failed.jsonl`, `counts.json`; and its report.

The folder's `done.json` is written by the caller, last.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

from metier.core.columns import read_parquet, rows_from_parquet, rows_to_parquet
from metier.core.errors import StoreError
from metier.core.folders import read_json, write_bytes, write_json
from metier.core.hashing import merkle_root
from metier.core.report import DataReport
from metier.curate.clean import CurateResult, Quarantined
from metier.curate.read import NUM_SHOWN, Failure

__all__ = ["data_report", "dataset_version", "load", "write"]

STALE = ("expired", "retired_policy")
DUPLICATE = ("exact_duplicate", "near_duplicate")


def write(result: CurateResult, stage_dir: Path) -> None:
    """Write a result into a folder, each file whole or not at all.

    Raises:
        StoreError: the disk is full or the folder cannot be written.
    """
    import polars as pl

    write_bytes(stage_dir / "kept.parquet", rows_to_parquet(result.kept))
    frame = read_parquet(rows_to_parquet(item.row for item in result.quarantined)).with_columns(
        pl.Series("reason", [item.reason for item in result.quarantined], dtype=pl.String),
        pl.Series("survivor", [item.survivor for item in result.quarantined], dtype=pl.String),
        pl.Series("rule_version", [item.rule_version for item in result.quarantined], dtype=pl.Int64),
    )
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd")
    write_bytes(stage_dir / "quarantined.parquet", buffer.getvalue())
    lines = [json.dumps(failure._asdict(), ensure_ascii=False) + "\n" for failure in result.failed]
    write_bytes(stage_dir / "failed.jsonl", "".join(lines).encode())
    counts = {
        "num_read": result.num_read,
        "private": dict(result.private),
        "public": dict(result.public),
        "conflicting_labels": result.conflicting_labels,
    }
    write_json(stage_dir / "counts.json", counts)


def load(stage_dir: Path) -> CurateResult:
    """The result written into a folder, equal to the one written.

    Raises:
        StoreError: a file is missing or damaged.
        DataError: the files do not add up.
    """
    counts = read_json(stage_dir / "counts.json")
    try:
        kept = rows_from_parquet((stage_dir / "kept.parquet").read_bytes())
        data = (stage_dir / "quarantined.parquet").read_bytes()
        facts = read_parquet(data).select("reason", "survivor", "rule_version").iter_rows()
        quarantined = [Quarantined(row, *fact) for row, fact in zip(rows_from_parquet(data), facts, strict=True)]
        text = (stage_dir / "failed.jsonl").read_text(encoding="utf-8")
        failed = [Failure(**json.loads(line)) for line in text.split("\n") if line]
    except FileNotFoundError as err:
        raise StoreError(
            f"{err.filename}: expected a file of the curated rows, found none. Run again to write it."
        ) from err
    except Exception as err:  # whatever the table library raises on damaged bytes; named in the error
        raise StoreError(
            f"{stage_dir}: the curated rows are damaged ({err}). Delete the folder and run again."
        ) from err
    return CurateResult(kept=kept, quarantined=quarantined, failed=failed, **counts)


def dataset_version(result: CurateResult) -> str:
    """Merkle root of the kept rows' ids: equal for equal rows in any order."""
    return merkle_root(row.row_id for row in result.kept)


def data_report(result: CurateResult) -> DataReport:
    """The part of `report.json` about the data."""
    reasons = result.reasons
    return DataReport(
        read=result.num_read,
        kept=len(result.kept),
        quarantined=reasons,
        failed=len(result.failed),
        duplicates=sum(reasons.get(reason, 0) for reason in DUPLICATE),
        private=dict(result.private),
        stale=sum(reasons.get(reason, 0) for reason in STALE),
        dataset_version=dataset_version(result),
        failures=tuple(f"{where}: {message}" for where, message in result.failed[:NUM_SHOWN]),
    )
