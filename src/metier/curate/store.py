"""Curated rows by column as files: `table.npz`, `fate.npz`, `failed.jsonl`, `counts.json`; and their report.

The texts lie elsewhere, with whoever was handed them. The folder's `done.json` is written by the caller, last.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np

from metier.core.errors import DataError, StoreError
from metier.core.folders import read_json, write_bytes, write_json
from metier.core.report import DataReport
from metier.core.table import RowTable, Values
from metier.curate.curated import Curated
from metier.curate.read import NUM_SHOWN, Failure

__all__ = ["data_report", "load", "write"]

STALE = ("expired", "retired_policy")
DUPLICATE = ("exact_duplicate", "near_duplicate")
TABLE_NAME, FATE_NAME, FAILED_NAME, COUNTS_NAME = "table.npz", "fate.npz", "failed.jsonl", "counts.json"


def write(result: Curated, stage_dir: Path) -> None:
    """Write a result into a folder, each file whole or not at all.

    Raises:
        StoreError: the disk is full or the folder cannot be written.
    """
    write_bytes(stage_dir / TABLE_NAME, result.table.to_bytes())
    buffer = io.BytesIO()
    np.savez(
        buffer,
        reason=result.reason.code_N,
        survivor=result.survivor_N,
        parent=result.parent_N,
        stored=result.stored_N,
    )
    write_bytes(stage_dir / FATE_NAME, buffer.getvalue())
    lines = [json.dumps(failure._asdict(), ensure_ascii=False) + "\n" for failure in result.failed]
    write_bytes(stage_dir / FAILED_NAME, "".join(lines).encode("utf-8", "backslashreplace"))
    counts = {
        "reasons": list(result.reason.names),
        "num_read": result.num_read,
        "private": dict(result.private),
        "public": dict(result.public),
        "repaired": dict(result.repaired),
        "conflicting_labels": result.conflicting_labels,
    }
    write_json(stage_dir / COUNTS_NAME, counts)


def load(stage_dir: Path) -> Curated:
    """The result written into a folder.

    Raises:
        StoreError: a file is missing or damaged, or the files do not add up.
    """
    try:
        counts = read_json(stage_dir / COUNTS_NAME)
        table = RowTable.from_bytes((stage_dir / TABLE_NAME).read_bytes(), where=stage_dir / TABLE_NAME)
        fate = np.load(io.BytesIO((stage_dir / FATE_NAME).read_bytes()), allow_pickle=False)
        text = (stage_dir / FAILED_NAME).read_text(encoding="utf-8")
        return Curated(
            table=table,
            reason=Values(tuple(counts.pop("reasons")), fate["reason"]),
            survivor_N=fate["survivor"],
            parent_N=fate["parent"],
            stored_N=fate["stored"],
            failed=[Failure(**json.loads(line)) for line in text.split("\n") if line],
            **counts,
        )
    except FileNotFoundError as err:
        raise StoreError(
            f"{err.filename}: expected a file of the curated rows, found none. Run again to write it."
        ) from err
    except (ValueError, KeyError, TypeError, OSError, DataError, zipfile.BadZipFile) as err:
        raise StoreError(
            f"{stage_dir}: the curated rows are damaged ({err}). Delete the folder and run again."
        ) from err


def data_report(result: Curated) -> DataReport:
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
        dataset_version=result.dataset_version,
        failures=tuple(f"{where}: {message}" for where, message in result.failed[:NUM_SHOWN]),
    )
