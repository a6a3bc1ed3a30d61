"""What is written under the ledger's lock: records, and the one event that tells of them.

    >>> with ledger.writing("alias_moved") as transaction:
    ...     transaction.put(alias, [{"name": "champion", "model_id": model_id}])
    ...     transaction.note(name="champion")

The event's body holds, for each table, how many records were written and their Merkle root. Where a record took the
place of another, `replaced` names the old one: the event that wrote it, its leaf, its key, and what the columns that
tell a story said before::

    {"replaced": {"row": [[3, "9c41...", ["91ab...", "5f0c..."], {"state": "kept", "reason": ""}]]}}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Select, Table

from metier.core.errors import StoreError
from metier.core.hashing import canonical_json, merkle_root
from metier.ledger.bulk import insert, stored, update
from metier.ledger.chain import FIRST_PREV_HASH, Head, event_hash, newest, utc_now
from metier.ledger.leaves import RecordForm, Values, form_of
from metier.ledger.schema import MUTABLE, TOLD, event

__all__ = ["Transaction"]

_BLOCK = 10_000
"""Records looked at in one go; bounds memory, not what is written."""


class Transaction:
    """The records written under the ledger's lock, and the event that will tell of them."""

    def __init__(self, connection: Connection, where: str) -> None:
        last = newest(connection)
        self.connection = connection
        self.where = where
        self.prev_hash = last.hash if last else FIRST_PREV_HASH
        self.seq = last.seq + 1 if last else 1
        self.body: dict[str, Any] = {}
        self.head: Head | None = None
        self._leaves: dict[str, list[str]] = {}
        self._replaced: dict[str, list[list[Any]]] = {}  # Any: JSON values

    def records(self, query: Select[Any]) -> list[dict[str, Any]]:  # Any: SQL values
        """The records of a query, seen under the lock."""
        return [dict(record) for record in self.connection.execute(query).mappings()]

    def note(self, **facts: Any) -> None:  # Any: JSON values
        """Add facts to the body of the event."""
        self.body.update(facts)

    def put(self, table: Table, records: Iterable[Mapping[str, Any]]) -> int:  # Any: SQL values
        """Write records; returns how many were new or changed. Equal records are left as they are.

        Raises:
            DataError: a value is not one that both databases keep: NUL, NaN, another type.
            StoreError: a record stands already with other values in a column that is written once.
        """
        form, rest = form_of(table), iter(records)
        num = 0
        while block := [form.checked(record, self.where) for record in islice(rest, _BLOCK)]:
            num += self._put_block(form, block)
        return num

    def _put_block(self, form: RecordForm, block: list[Values]) -> int:
        """Sort records into new, changed and equal ones; write the first two."""
        standing = stored(self.connection, form, [form.key_of(values) for values in block])
        fresh: list[Values] = []
        changed: list[Values] = []
        for values in block:
            key = form.key_of(values)
            old = standing.get(key)
            if old is not None and old[:-1] == values:
                continue
            record = (*values, self.seq)
            if old is None:
                fresh.append(record)
            else:
                self._replace(form, old, values)
                changed.append(record)
            standing[key] = record
        if fresh:
            insert(self.connection, form, fresh)
        if changed:
            update(self.connection, form, changed)
        if fresh or changed:
            leaves = self._leaves.setdefault(form.name, [])
            leaves += form.leaves([record[:-1] for record in fresh])
            leaves += form.leaves([record[:-1] for record in changed])
        return len(fresh) + len(changed)

    def _replace(self, form: RecordForm, old: Values, new: Values) -> None:
        """Note what a record was; refuse to change what is written once, and two versions of a record in one event."""
        name_of = ", ".join(form.key_of(new))
        told: dict[str, Any] = {}  # Any: SQL values
        if old[-1] == self.seq:
            raise StoreError(f"{self.where}: {form.name} {name_of} stands twice in one batch, with different values.")
        for name, before, after in zip(form.names, old, new, strict=False):
            if before == after:
                continue
            if name not in MUTABLE.get(form.name, ()):
                raise StoreError(
                    f"{self.where}: {form.name} {name_of}: {name} is recorded as {before!r} and cannot become "
                    f"{after!r}; records are written once. Give the new record its own id."
                )
            if name in TOLD.get(form.name, ()):
                told[name] = before
        noted = [old[-1], form.leaf(old[:-1]), list(form.key_of(old)), told]
        self._replaced.setdefault(form.name, []).append(noted)

    def finish(self, kind: str, actor: str) -> None:
        """Append the event, with the Merkle root of everything put."""
        if not self.body and not self._leaves:
            return
        body = dict(self.body)
        if self._leaves:
            body["wrote"] = {
                name: {"n": len(leaves), "root": merkle_root(leaves)} for name, leaves in self._leaves.items()
            }
        if self._replaced:
            body["replaced"] = self._replaced
        text, at = canonical_json(body).decode(), utc_now()
        hashed = event_hash(self.prev_hash, seq=self.seq, at=at, actor=actor, kind=kind, body=json.loads(text))
        record = {"seq": self.seq, "at": at, "actor": actor, "kind": kind, "body": text, "prev_hash": self.prev_hash}
        self.connection.execute(event.insert(), {**record, "hash": hashed})
        self.head = Head(self.seq, hashed)
