"""Which rows are about which person, whose key is gone, and which rows a person put back.

    >>> record_subjects(ledger, [(row_id, subject_hash)], key_ref="subjects.keys")
    1

Persons are keyed hashes here; their keys lie apart (`metier.ledger.subjects`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import select

from metier.core.errors import StoreError
from metier.ledger.ledger import Ledger, utc_now
from metier.ledger.schema import member, part, row, row_subject, split, subject_key

__all__ = [
    "PartRow", "num_erased", "record_destroyed", "record_restored", "record_subjects", "restored_rows",
    "stored_parts",
]  # fmt: skip

RESTORED = "rows_restored"


@dataclass(frozen=True, kw_only=True, slots=True)
class PartRow:
    """One row of a split, as the ledger knows it."""

    row_id: str
    origin_id: str
    part: str
    object_ref: str
    """The pack that holds it."""
    is_erased: bool


def record_subjects(ledger: Ledger, pairs: Iterable[tuple[str, str]], *, key_ref: str) -> int:
    """Record (row_id, subject hash) pairs and where the persons' keys lie; returns how many records were new."""
    unique = sorted(set(pairs))
    with ledger.writing("subjects_recorded") as transaction:
        known = {
            record["subject_hash"]: record["destroyed_at"]
            for record in transaction.records(select(subject_key.c.subject_hash, subject_key.c.destroyed_at))
        }
        fresh = sorted({hashed for _, hashed in unique} - set(known))
        num = transaction.put(
            subject_key, [{"subject_hash": hashed, "key_ref": key_ref, "destroyed_at": None} for hashed in fresh]
        )
        return num + transaction.put(row_subject, [{"row_id": r, "subject_hash": hashed} for r, hashed in unique])


def record_destroyed(ledger: Ledger, hashed: str, *, key_ref: str) -> None:
    """Record that a person's key is gone; the second time changes nothing."""
    with ledger.writing("subject_key_destroyed") as transaction:
        stored = transaction.records(select(subject_key).where(subject_key.c.subject_hash == hashed))
        if stored and stored[0]["destroyed_at"] is not None:
            return
        transaction.put(subject_key, [{"subject_hash": hashed, "key_ref": key_ref, "destroyed_at": utc_now()}])
        transaction.note(subject=hashed)


def record_restored(ledger: Ledger, origins: Sequence[str], *, why: str) -> None:
    """Record that rows cleaning had set aside are wanted after all; they come back with the next run.

    Raises:
        StoreError: a row is not set aside, or not known.
    """
    query = select(row.c.origin_id, row.c.state, row.c.reason).where(row.c.origin_id.in_(list(origins)))
    found = {record["origin_id"]: record for record in ledger.records(query)}
    for origin in origins:
        state = found[origin]["state"] if origin in found else "unknown"
        if state != "quarantined":
            raise StoreError(
                f"{ledger.where}: row {origin} is {state}; expected one that is set aside. `metier curate` lists them."
            )
    ledger.append(RESTORED, {"origins": {o: found[o]["reason"] for o in sorted(set(origins))}, "why": why})


def restored_rows(ledger: Ledger) -> frozenset[str]:
    """`origin_id` of every row that was put back."""
    return frozenset(origin for event in ledger.events(kind=RESTORED) for origin in event.body["origins"])


def num_erased(ledger: Ledger, split_id: str) -> int:
    """Hold-out rows of a split that were erased since it was sealed."""
    return sum(place.is_erased and place.part == "holdout" for place in stored_parts(ledger, split_id))


def stored_parts(ledger: Ledger, split_id: str) -> list[PartRow]:
    """Every row of a split with its part and pack, sorted by origin.

    Raises:
        StoreError: no such split.
    """
    query = (
        select(part.c.part, row.c.row_id, row.c.origin_id, row.c.object_ref, row.c.state)
        .join(split, split.c.split_id == part.c.split_id)
        .join(row, row.c.origin_id == part.c.origin_id)
        .join(member, (member.c.row_id == row.c.row_id) & (member.c.dataset == split.c.dataset))
        .where(part.c.split_id == split_id)
        .order_by(part.c.origin_id)
    )
    found = [
        PartRow(
            row_id=record["row_id"], origin_id=record["origin_id"], part=record["part"],
            object_ref=record["object_ref"], is_erased=record["state"] == "erased",
        )
        for record in ledger.records(query)
    ]  # fmt: skip
    if not found:
        raise StoreError(f"{ledger.where}: no rows of split {split_id!r}; record it with record_split.")
    return found
