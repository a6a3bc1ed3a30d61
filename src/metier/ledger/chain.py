"""The chain of events: what an event is, how it is hashed, which one is the newest.

An event as it stands in the table, its hash being SHA-256 of the previous hash and of its own
canonical JSON without hashes::

    {
        "seq": 3,
        "at": "2026-03-01T09:30:00.000000Z",
        "actor": "ana",
        "kind": "rows_recorded",
        "body": {"wrote": {"row": {"n": 2, "root": "9c41..."}}},
    }

The chain shows edits, deletions and insertions. It cannot show a cut tail by itself: compare its head
with one noted outside, as every report does.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, select

from metier.core.hashing import canonical_json, sha256_hex
from metier.ledger.schema import event

__all__ = ["FIRST_PREV_HASH", "KEY_CHECK", "Event", "Head", "event_hash", "newest", "utc_now"]

FIRST_PREV_HASH = "0" * 64
KEY_CHECK = "metier key check"


class Event(NamedTuple):
    """One thing that happened."""

    seq: int
    at: str
    actor: str
    kind: str
    body: dict[str, Any]
    prev_hash: str
    hash: str


class Head(NamedTuple):
    """The newest event's number and hash: what to note outside, to see a cut tail later."""

    seq: int
    hash: str


def utc_now() -> str:
    """The time as ISO text in UTC, with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def event_hash(prev_hash: str, *, seq: int, at: str, actor: str, kind: str, body: Any) -> str:  # Any: a JSON value
    """SHA-256 of the previous hash and the canonical JSON of the event, 64 hex digits."""
    values = {"seq": seq, "at": at, "actor": actor, "kind": kind, "body": body}
    return sha256_hex(prev_hash.encode() + canonical_json(values))


def newest(connection: Connection) -> Head | None:
    """The head of the chain; None in a ledger without an event."""
    found = connection.execute(select(event.c.seq, event.c.hash).order_by(event.c.seq.desc()).limit(1)).first()
    return Head(found.seq, found.hash) if found else None
