"""What became of every row, and which rows make a dataset version.

    >>> record_rows(ledger, [RowRecord(row_id="91ab", origin_id="5f0c", object_ref=ref)])
    1

The ledger holds keyed ids only; the text lies in the object store.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import func, select

from metier.core.errors import DataError, StoreError
from metier.core.hashing import merkle_root
from metier.ledger.ledger import Ledger
from metier.ledger.schema import dataset, member, row

__all__ = [
    "RowRecord",
    "RowState",
    "count_rows",
    "find_row",
    "members_of",
    "record_dataset",
    "record_rows",
    "stored_rows",
]


class RowState(StrEnum):
    """What became of a row."""

    KEPT = "kept"
    QUARANTINED = "quarantined"
    ERASED = "erased"


@dataclass(frozen=True, kw_only=True, slots=True)
class RowRecord:
    """One version of one row, as the ledger knows it. An exact duplicate shares its `row_id`, never its `origin_id`."""

    row_id: str
    """Keyed hash of the content."""
    origin_id: str
    """Keyed hash of source and record number."""
    object_ref: str = ""
    """Object that holds the text."""
    meta_hash: str = ""
    """Hash of the metadata, which is not part of `row_id`."""
    state: RowState = RowState.KEPT
    """What became of it."""
    reason: str = ""
    """Why it is quarantined or erased, as a code: near_duplicate, stale, near_holdout."""
    rule_version: str = ""
    """Version of the rule that decided."""
    survivor: str = ""
    """`origin_id` of the row that was kept in its place."""

    def __post_init__(self) -> None:
        if not self.row_id or not self.origin_id:
            raise DataError(f"row record {self.row_id!r}: row_id and origin_id are needed; make rows with make_row.")
        if (self.state is RowState.KEPT) == bool(self.reason):
            raise DataError(
                f"row {self.row_id}: state {self.state} with reason {self.reason!r}; a kept row has no reason and "
                "every other row has one."
            )


def record_rows(ledger: Ledger, records: Iterable[RowRecord]) -> int:
    """Record rows, new or with a new state; returns how many were new or changed.

    Raises:
        DataError: a record is not complete.
        StoreError: one row stands twice among the records, with different values.
    """
    with ledger.writing("rows_recorded") as transaction:
        return transaction.put(row, map(_values, records))


def stored_rows(ledger: Ledger, *, state: RowState | None = None) -> list[RowRecord]:
    """All rows of the ledger, or those of one state, sorted by id."""
    query = select(row).order_by(row.c.row_id, row.c.origin_id)
    if state is not None:
        query = query.where(row.c.state == state.value)
    return [_row_record(values) for values in ledger.records(query)]


def find_row(ledger: Ledger, row_id: str) -> list[RowRecord]:
    """Every record of one content: one, or more where exact duplicates were read; empty when unknown."""
    query = select(row).where(row.c.row_id == row_id).order_by(row.c.origin_id)
    return [_row_record(values) for values in ledger.records(query)]


def count_rows(ledger: Ledger) -> dict[tuple[str, str], int]:
    """Number of rows by (state, reason)."""
    query = select(row.c.state, row.c.reason, func.count().label("n")).group_by(row.c.state, row.c.reason)
    return {(values["state"], values["reason"]): values["n"] for values in ledger.records(query)}


def record_dataset(ledger: Ledger, row_ids: Iterable[str]) -> str:
    """Record which rows make a dataset; returns its version, the Merkle root of the row ids.

    Raises:
        DataError: no rows, or rows that were never recorded.
    """
    ids = sorted(set(row_ids))
    if not ids:
        raise DataError("record_dataset: 0 rows; a dataset version needs at least one.")
    version = merkle_root(ids)
    with ledger.writing("dataset_recorded") as transaction:
        known = set(transaction.connection.execute(select(row.c.row_id)).scalars())
        if unknown := [row_id for row_id in ids if row_id not in known]:
            raise DataError(
                f"record_dataset: {len(unknown)} of {len(ids)} rows were never recorded, first {unknown[0]}; record "
                "them first."
            )
        transaction.put(dataset, [{"version": version, "root": version, "n": len(ids)}])
        transaction.put(member, [{"dataset": version, "row_id": row_id} for row_id in ids])
    return version


def members_of(ledger: Ledger, version: str) -> list[str]:
    """The sorted row ids of a dataset version.

    Raises:
        StoreError: no such version.
    """
    query = select(member.c.row_id).where(member.c.dataset == version).order_by(member.c.row_id)
    ids = [values["row_id"] for values in ledger.records(query)]
    if not ids:
        raise StoreError(f"{ledger.where}: no dataset version {version!r}; record it with record_dataset.")
    return ids


def _values(record: RowRecord) -> dict[str, str]:
    """A record as the table's columns; `asdict` would copy each of a million records deeply."""
    return {
        "row_id": record.row_id, "origin_id": record.origin_id, "object_ref": record.object_ref,
        "meta_hash": record.meta_hash, "state": record.state.value, "reason": record.reason,
        "rule_version": record.rule_version, "survivor": record.survivor,
    }  # fmt: skip


def _row_record(values: dict[str, str]) -> RowRecord:
    facts = {name: value for name, value in values.items() if name not in ("seq", "state")}
    return RowRecord(**facts, state=RowState(values["state"]))
