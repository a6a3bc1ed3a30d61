"""Everything the ledger claims, checked again from its database and the files beside it.

    >>> verify_chain(ledger, known_heads=[report.provenance["ledger_head"]])
    []

An empty list means *consistent*: every event follows from the one before, and every record is as the
event that wrote it says. It means *complete* only against a head noted outside: somebody who may write
the file can cut off the newest events with their records, or compute the whole chain anew.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select, text

from metier.core.errors import StoreError
from metier.core.hashing import canonical_json, file_sha256, keyed_hash, merkle_root
from metier.ledger.bulk import stream
from metier.ledger.chain import FIRST_PREV_HASH, KEY_CHECK, event_hash
from metier.ledger.content import check_names
from metier.ledger.database import reading
from metier.ledger.keys import project_key
from metier.ledger.leaves import Values, form_of
from metier.ledger.ledger import Ledger
from metier.ledger.objects import ObjectStore
from metier.ledger.problems import Problem
from metier.ledger.schema import TABLES, erasure, event, model, row, seal

__all__ = ["Problem", "verify_chain", "verify_model_files", "verify_objects"]

_GUARDS = {
    "sqlite": (
        {"event_no_update", "event_no_delete"},
        "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'event' AND sql LIKE '%RAISE(ABORT%'",
    ),
    "postgresql": (
        {"event_append_only", "event_not_emptied"},
        "SELECT tgname FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid WHERE tgrelid = to_regclass('event') "
        "AND tgenabled IN ('O', 'A') AND prosrc LIKE '%RAISE EXCEPTION%'",
    ),
}
"""The triggers that refuse to change events, and how to ask which of them stand and still refuse."""


@dataclass(frozen=True, slots=True)
class _Claim:
    """What one event says it wrote into one table."""

    num: int
    root: str


def verify_chain(ledger: Ledger, *, known_heads: Sequence[str] = ()) -> list[Problem]:
    """Check every event and every record against the chain; `known_heads` are heads noted outside.

    Raises:
        StoreError: the database is damaged beyond reading, or a table is gone.
    """
    with reading(ledger.engine) as connection:
        events = [dict(found) for found in connection.execute(select(event).order_by(event.c.seq)).mappings()]
        bodies = {found["seq"]: _body(found["body"]) for found in events}
        problems = list(_check_events(events, bodies))
        problems += _check_first(ledger, bodies)
        problems += _check_records(connection, bodies)
        problems += check_names(connection)
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
    refs |= {values["object_ref"]: f"erasure {values['erasure_id']}" for values in ledger.records(select(erasure))}
    problems = []
    for ref, what in sorted(refs.items()):
        try:
            store.get(ref)
        except StoreError as err:
            problems.append(Problem(where=f"object of {what}", found=str(err), expected=f"the bytes of {ref[:16]}"))
    return problems


def verify_model_files(ledger: Ledger, adapter_path_of: Mapping[str, Path]) -> list[Problem]:
    """Check adapter files, by model id, against the register of models."""
    known = {values["model_id"]: values["adapter_sha"] for values in ledger.records(select(model))}
    problems = []
    for model_id, path in sorted(adapter_path_of.items()):
        where = f"model {model_id[:16]}"
        if model_id not in known:
            problems.append(Problem(where=where, found="it is not registered", expected="a model of the register"))
            continue
        wanted = f"the adapter with SHA-256 {known[model_id][:16]}"
        try:
            found = file_sha256(path)
        except OSError as err:
            found = f"cannot be read ({err.strerror})"
            problems.append(Problem(where=where, found=f"{path} {found}", expected=wanted))
            continue
        if found != known[model_id]:
            problems.append(Problem(where=where, found=f"{path} has SHA-256 {found[:16]}", expected=wanted))
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
    wanted, query = _GUARDS[connection.dialect.name]
    missing = sorted(wanted - set(connection.execute(text(query)).scalars()))
    return [Problem(where="table event", found=f"trigger {name} is gone", expected="the trigger") for name in missing]


def _check_records(connection: Connection, bodies: dict[int, Any]) -> Iterator[Problem]:  # Any: JSON values
    """Every record of every table is as the event that wrote it says."""
    for name, table in TABLES.items():
        form = form_of(table)
        claims, replaced = _claims(name, bodies)
        leaves: dict[int, list[str]] = defaultdict(list)
        one: dict[int, Values] = {}
        for record in stream(connection, form):
            leaves[record[-1]].append(form.leaf(record[:-1]))
            one[record[-1]] = record
        for seq in sorted(leaves.keys() - claims.keys(), key=str):
            stray = f"{len(leaves[seq])} records ({form.name_of(one[seq])}) say event {seq} wrote them"
            yield Problem(where=f"table {name}", found=stray, expected="an event that wrote them")
        for seq, claim in claims.items():
            found = leaves[seq] + replaced[seq]
            if len(found) != claim.num or merkle_root(found) != claim.root:
                what = f" {form.name_of(one[seq])}" if claim.num == 1 and seq in one else ""
                count = f"{len(found)} of {claim.num} records" if len(found) != claim.num else "edited content"
                yield Problem(where=f"table {name}{what}, event {seq}", found=count, expected="what the event recorded")


def _claims(name: str, bodies: dict[int, Any]) -> tuple[dict[int, _Claim], dict[int, list[str]]]:  # Any: JSON values
    """What events say they wrote into a table, and the leaves later events replaced, by event."""
    claims: dict[int, _Claim] = {}
    replaced: dict[int, list[str]] = defaultdict(list)
    for seq, body in bodies.items():
        wrote, old = _told(body, "wrote", name), _told(body, "replaced", name)
        if isinstance(wrote, dict) and wrote.keys() >= {"n", "root"}:
            claims[seq] = _Claim(wrote["n"], wrote["root"])
        for entry in old if isinstance(old, list) else ():
            if isinstance(entry, list) and len(entry) >= 2:
                replaced[entry[0]].append(str(entry[1]))
    return claims, replaced


def _told(body: Any, word: str, name: str) -> Any:  # Any: JSON values
    """What an event tells about a table; None where it tells nothing, or was edited into something else."""
    tables = body.get(word) if isinstance(body, dict) else None
    return tables.get(name) if isinstance(tables, dict) else None
