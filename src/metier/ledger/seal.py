"""The hold-out, encrypted into one object until a look opens it.

Sealing is the whole of this module: the rows come back from `metier.ledger.open_look` alone, which
counts the look first. The seal is tamper-evident, not tamper-proof: its key lies in the project.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from metier.core.errors import DataError, StoreError
from metier.ledger.keys import seal_key
from metier.ledger.ledger import Ledger, utc_now
from metier.ledger.objects import ObjectStore
from metier.ledger.schema import seal, split

__all__ = ["SealRecord", "find_seal", "seal_holdout"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SealRecord:
    """The sealed hold-out of one split."""

    split_id: str
    """Which split."""
    object_ref: str
    """The encrypted object."""
    num_rows: int
    """Rows in it."""
    sealed_at: str
    """When it was sealed, ISO text in UTC."""


def seal_holdout(ledger: Ledger, store: ObjectStore, pack: bytes, *, split_id: str, num_rows: int) -> SealRecord:
    """Encrypt the packed hold-out of a split and record it; sealing the same bytes again changes nothing.

    Raises:
        DataError: no rows.
        StoreError: the split is not recorded, it is sealed with other rows, or the disk is full.
    """
    if num_rows < 1:
        raise DataError(f"seal_holdout: {num_rows} rows; a hold-out needs at least one.")
    object_ref = store.put_encrypted(pack, seal_key(ledger.project_dir))
    record = {"split_id": split_id, "object_ref": object_ref, "num_rows": num_rows, "sealed_at": utc_now()}
    with ledger.writing("holdout_sealed") as transaction:
        if not transaction.records(select(split.c.split_id).where(split.c.split_id == split_id)):
            raise StoreError(f"{ledger.where}: no split {split_id!r}; record it with record_split before sealing.")
        for stored in transaction.records(select(seal).where(seal.c.split_id == split_id)):
            if (stored["object_ref"], stored["num_rows"]) != (object_ref, num_rows):
                raise StoreError(
                    f"{ledger.where}: split {split_id} is sealed with other rows ({stored['num_rows']} rows, "
                    f"{stored['sealed_at']}); a seal is never replaced. Other rows are another split."
                )
            return _record(stored)
        transaction.put(seal, [record])
        transaction.note(split=split_id, num_rows=num_rows)
    return _record(record)


def find_seal(ledger: Ledger, split_id: str) -> SealRecord | None:
    """The seal of a split, or None when its hold-out is not sealed."""
    for stored in ledger.records(select(seal).where(seal.c.split_id == split_id)):
        return _record(stored)
    return None


def _record(values: Mapping[str, Any]) -> SealRecord:  # Any: SQL values
    return SealRecord(
        split_id=values["split_id"],
        object_ref=values["object_ref"],
        num_rows=values["num_rows"],
        sealed_at=values["sealed_at"],
    )
