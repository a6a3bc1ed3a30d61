"""Everything the ledger claims, checked again from its file.

    >>> verify_chain(ledger, known_heads=[report.provenance["ledger_head"]])
    []

An empty list means *consistent*: every event follows from the one before, and every record is as the
event that wrote it says. It means *complete* only against a head noted outside: somebody who may write
the file can cut off the newest events with their records, or compute the whole chain anew.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Table, select, text

from metier.core.errors import StoreError
from metier.core.hashing import canonical_json, keyed_hash, merkle_root
from metier.ledger.database import reading
from metier.ledger.keys import project_key
from metier.ledger.ledger import FIRST_PREV_HASH, KEY_CHECK, Ledger, event_hash
from metier.ledger.objects import ObjectStore
from metier.ledger.schema import TABLES, event, key_columns, leaf, row, seal

__all__ = ["Problem", "verify_chain", "verify_objects"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Something that is not as the ledger says."""

    where: str
    """Event, record or object."""
    found: str
    """What is there."""
    expected: str
    """What should be there."""

    def __str__(self) -> str:
        return f"{self.where}: {self.found}; expected {self.expected}."


@dataclass(frozen=True, slots=True)
class _Claim:
    """What one event says it wrote into one table."""

    num: int
    root: str


def verify_chain(ledger: Ledger, *, known_heads: Sequence[str] = ()) -> list[Problem]:
    """Check every event and every record against the chain; `known_heads` are heads noted outside.

    Raises:
        StoreError: the file is damaged beyond reading.
    """
    with reading(ledger.engine) as connection:
        events = [dict(found) for found in connection.execute(select(event).order_by(event.c.seq)).mappings()]
        bodies = {found["seq"]: _body(found["body"]) for found in events}
        problems = list(_check_events(events, bodies))
        problems += _check_first(ledger, bodies)
        problems += _check_records(connection, bodies)
        problems += _check_guards(connection)
    hashes = {found["hash"] for found in events}
    problems += [
        Problem(where="chain", found=f"no event has the known head {head[:16]}",
                expected="every head ever noted; events were cut off or the chain was written anew")
        for head in known_heads if head not in hashes
    ]  # fmt: skip
    return problems


def verify_objects(ledger: Ledger, store: ObjectStore) -> list[Problem]:
    """Check that every object the ledger names is there with its bytes; erased rows have none."""
    rows = ledger.records(select(row.c.object_ref).where(row.c.object_ref != "", row.c.state != "erased").distinct())
    refs = {values["object_ref"]: "rows" for values in rows}
    refs |= {values["object_ref"]: f"seal of split {values['split_id']}" for values in ledger.records(select(seal))}
    problems = []
    for ref, what in sorted(refs.items()):
        try:
            store.get(ref)
        except StoreError as err:
            problems.append(Problem(where=f"object of {what}", found=str(err), expected=f"the bytes of {ref[:16]}"))
    return problems


def _body(found: str) -> Any:  # Any: whatever JSON the event holds
    """The body of an event; None where it is not the canonical JSON that was written."""
    try:
        body = json.loads(found)
        return body if canonical_json(body).decode() == found else None
    except (TypeError, ValueError):
        return None


def _check_events(events: list[dict[str, Any]], bodies: dict[int, Any]) -> Iterator[Problem]:  # Any: SQL, JSON values
    """Numbers without gap, each event tied to the one before, each hash that of its content."""
    if not events:
        yield Problem(where="chain", found="no event", expected="at least the ledger's creation")
    prev_hash, wanted_seq = FIRST_PREV_HASH, 1
    for found in events:
        where = f"event {found['seq']} ({found['kind']})"
        if found["seq"] != wanted_seq:
            yield Problem(
                where=where, found="it is the next event on file", expected=f"event {wanted_seq}; events were deleted"
            )
        elif found["prev_hash"] != prev_hash:
            yield Problem(
                where=where, found="it does not follow from the event before", expected="the hash of that event"
            )
        facts = {name: found[name] for name in ("seq", "at", "actor", "kind")}
        body = bodies[found["seq"]]
        if body is None or event_hash(found["prev_hash"], **facts, body=body) != found["hash"]:
            yield Problem(where=where, found="its content was edited", expected="the content its hash was made of")
        prev_hash, wanted_seq = found["hash"], found["seq"] + 1


def _check_first(ledger: Ledger, bodies: dict[int, Any]) -> list[Problem]:  # Any: JSON values
    """The project key is still the one the ledger began with."""
    body = bodies.get(1)
    if not isinstance(body, dict):
        return []
    if body.get("key_check") == keyed_hash(project_key(ledger.project_dir), KEY_CHECK):
        return []
    return [
        Problem(where="project key", found="another key", expected="the key the ledger was created with; restore it")
    ]


def _check_guards(connection: Connection) -> list[Problem]:
    """The triggers that refuse to change events still stand."""
    if connection.dialect.name != "sqlite":
        return []
    query = text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'event'")
    found = {name for name, sql in connection.execute(query) if "RAISE(ABORT" in sql}
    missing = sorted({"event_no_update", "event_no_delete"} - found)
    return [Problem(where="table event", found=f"trigger {name} is gone", expected="the trigger") for name in missing]


def _check_records(connection: Connection, bodies: dict[int, Any]) -> Iterator[Problem]:  # Any: JSON values
    """Every record of every table is as the event that wrote it says."""
    for name, table in TABLES.items():
        claims, replaced = _claims(name, bodies)
        leaves: dict[int, list[str]] = defaultdict(list)
        keys: dict[int, str] = {}
        for record in connection.execute(select(table)).mappings():
            leaves[record["seq"]].append(leaf(table, dict(record)))
            keys[record["seq"]] = _name_of(table, dict(record))
        for seq in sorted(leaves.keys() - claims.keys(), key=str):
            stray = f"{len(leaves[seq])} records ({keys[seq]}) say event {seq} wrote them"
            yield Problem(where=f"table {name}", found=stray, expected="an event that wrote them")
        for seq, claim in claims.items():
            found = leaves[seq] + replaced[seq]
            if len(found) != claim.num or merkle_root(found) != claim.root:
                what = f" {keys[seq]}" if claim.num == 1 and seq in keys else ""
                count = f"{len(found)} of {claim.num} records" if len(found) != claim.num else "edited content"
                yield Problem(where=f"table {name}{what}, event {seq}", found=count, expected="what the event recorded")


def _claims(name: str, bodies: dict[int, Any]) -> tuple[dict[int, _Claim], dict[int, list[str]]]:  # Any: JSON values
    """What events say they wrote into a table, and the leaves later events replaced, by event."""
    claims: dict[int, _Claim] = {}
    replaced: dict[int, list[str]] = defaultdict(list)
    for seq, body in bodies.items():
        if not isinstance(body, dict):
            continue
        if name in body.get("wrote", {}):
            claims[seq] = _Claim(body["wrote"][name]["n"], body["wrote"][name]["root"])
        for old_seq, old_leaf in body.get("replaced", {}).get(name, []):
            replaced[old_seq].append(old_leaf)
    return claims, replaced


def _name_of(table: Table, record: dict[str, Any]) -> str:  # Any: SQL values
    """The record's key, for messages."""
    return " ".join(str(record[column]) for column in key_columns(table))
