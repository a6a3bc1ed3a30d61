"""The ledger itself: a chain of events, and the records each event wrote.

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

import getpass
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from sqlalchemy import Connection, Engine, Select, Table, bindparam, select

from metier.core.errors import StoreError
from metier.core.folders import storage_error
from metier.core.hashing import canonical_json, keyed_hash, merkle_root, sha256_hex
from metier.ledger.database import connect, empty_log, reading, upgrade, where_of, writing
from metier.ledger.keys import LEDGER_FILE, project_key, seal_key, workspace
from metier.ledger.schema import MUTABLE, event, key_columns, leaf

__all__ = ["FIRST_PREV_HASH", "KEY_CHECK", "Event", "Head", "Ledger", "Transaction", "event_hash", "utc_now"]

log = logging.getLogger(__name__)

FIRST_PREV_HASH = "0" * 64
KEY_CHECK = "metier key check"
_CHUNK = 500


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


class Ledger:
    """One open ledger. Open it with `Ledger.open`; use it as a context manager or `close` it."""

    def __init__(self, engine: Engine, project_dir: Path, actor: str) -> None:
        self.engine = engine
        self.project_dir = project_dir
        self.actor = actor

    @classmethod
    def open(cls, project_dir: Path, *, url: str = "", actor: str = "") -> Self:
        """The ledger of a project, made on first use and upgraded when it is older than this code.

        `url` names a database server instead of the file `.metier/ledger.db`; `actor` is who is
        recorded with each event, by default the user of the operating system.

        Raises:
            StoreError: damaged, written by a newer metier, or its keys are gone.
        """
        project_key(project_dir)  # both keys are made before the ledger, never after it
        seal_key(project_dir)
        metier_dir = workspace(project_dir)
        try:
            metier_dir.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise storage_error(metier_dir, err) from err
        engine = connect(url or f"sqlite:///{metier_dir / LEDGER_FILE}")
        ledger = cls(engine, project_dir, actor or _user_name())
        try:
            upgrade(engine, metier_dir / "ledger.lock")
            ledger._begin_chain()
        except BaseException:
            engine.dispose()
            raise
        return ledger

    def _begin_chain(self) -> None:
        """Write event 1 of a fresh ledger; it names the project key without telling it."""
        if self._newest() is not None:
            return
        with self.writing("ledger_created") as transaction:
            if transaction.seq == 1:
                transaction.note(key_check=keyed_hash(project_key(self.project_dir), KEY_CHECK))

    def close(self) -> None:
        """Empty the write-ahead log into the file and let go of the database.

        Raises:
            StoreError: the disk is full; the log keeps what was written.
        """
        try:
            empty_log(self.engine)
        finally:
            self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except StoreError:
            if err is None:
                raise
            log.warning("%s: not closed properly; the next run goes on from its log.", self.where)

    @property
    def where(self) -> str:
        """How messages name the ledger."""
        return where_of(self.engine)

    def head(self) -> Head:
        """Number and hash of the newest event."""
        newest = self._newest()
        if newest is None:
            raise StoreError(
                f"{self.where}: the ledger has no event; expected at least its creation. Restore a backup."
            )
        return newest

    def _newest(self) -> Head | None:
        with reading(self.engine) as connection:
            return _newest(connection)

    def events(self, *, kind: str = "") -> list[Event]:
        """All events in their order, or those of one kind."""
        query = select(event).order_by(event.c.seq)
        if kind:
            query = query.where(event.c.kind == kind)
        return [Event(**{**record, "body": json.loads(record["body"])}) for record in self.records(query)]

    def records(self, query: Select[Any]) -> list[dict[str, Any]]:  # Any: SQL values
        """The records of a query as mappings of column names to values."""
        with reading(self.engine) as connection:
            return [dict(record) for record in connection.execute(query).mappings()]

    def append(self, kind: str, body: Mapping[str, Any]) -> Head:  # Any: JSON values
        """Record that something happened; returns the new head."""
        with self.writing(kind) as transaction:
            transaction.note(**body)
        return self.head()

    @contextmanager
    def writing(self, kind: str) -> Iterator[Transaction]:
        """Write records together with the one event that tells of them: all of it or nothing.

        No event is written when nothing was put or noted, so that a rerun adds nothing.
        """
        with writing(self.engine) as connection:
            transaction = Transaction(connection, self.where)
            yield transaction
            transaction.finish(kind, self.actor)


class Transaction:
    """The records written under the ledger's lock, and the event that will tell of them."""

    def __init__(self, connection: Connection, where: str) -> None:
        newest = _newest(connection)
        self.connection = connection
        self.where = where
        self.prev_hash = newest.hash if newest else FIRST_PREV_HASH
        self.seq = newest.seq + 1 if newest else 1
        self.body: dict[str, Any] = {}
        self._leaves: dict[str, list[str]] = {}
        self._replaced: dict[str, list[tuple[int, str]]] = {}

    def records(self, query: Select[Any]) -> list[dict[str, Any]]:  # Any: SQL values
        """The records of a query, seen under the lock."""
        return [dict(record) for record in self.connection.execute(query).mappings()]

    def note(self, **facts: Any) -> None:  # Any: JSON values
        """Add facts to the body of the event."""
        self.body.update(facts)

    def put(self, table: Table, records: Iterable[Mapping[str, Any]]) -> int:  # Any: SQL values
        """Write records; returns how many were new or changed. Equal records are left as they are.

        Raises:
            StoreError: a record stands already with other values in a column that is written once.
        """
        keys = key_columns(table)
        stamped = [{**record, "seq": self.seq} for record in records]
        stored = self._stored(table, [record[keys[0]] for record in stamped])
        fresh: dict[tuple[Any, ...], dict[str, Any]] = {}  # Any: SQL values
        changed: list[dict[str, Any]] = []  # Any: SQL values
        for record in stamped:
            key = tuple(record[name] for name in keys)
            old = stored.get(key)
            if old is not None and leaf(table, old) == leaf(table, record):
                continue
            if old is None:
                fresh[key] = record
            else:
                self._check_mutable(table, old, record)
                self._replaced.setdefault(table.name, []).append((old["seq"], leaf(table, old)))
                changed.append(record)
            self._leaves.setdefault(table.name, []).append(leaf(table, record))
            stored[key] = record
        if fresh:
            self.connection.execute(table.insert(), list(fresh.values()))
        if changed:
            update = table.update().where(*(table.c[name] == bindparam(f"key_{name}") for name in keys))
            values = [{**record, **{f"key_{name}": record[name] for name in keys}} for record in changed]
            self.connection.execute(update.values({name: bindparam(name) for name in changed[0]}), values)
        return len(fresh) + len(changed)

    def _stored(
        self, table: Table, first_keys: Sequence[Any]
    ) -> dict[tuple[Any, ...], dict[str, Any]]:  # Any: SQL values
        """What the table holds for these values of its first key column, by key."""
        keys = key_columns(table)
        wanted = list(dict.fromkeys(first_keys))
        found: dict[tuple[Any, ...], dict[str, Any]] = {}  # Any: SQL values
        for start in range(0, len(wanted), _CHUNK):
            query = select(table).where(table.c[keys[0]].in_(wanted[start : start + _CHUNK]))
            for record in self.records(query):
                found[tuple(record[name] for name in keys)] = record
        return found

    def _check_mutable(self, table: Table, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:  # Any: SQL values
        """Refuse a change to what is written once, and two versions of one record in one event."""
        name_of = ", ".join(str(new[name]) for name in key_columns(table))
        if old["seq"] == self.seq:
            raise StoreError(f"{self.where}: {table.name} {name_of} stands twice in one batch, with different values.")
        for column in table.columns:
            name = column.name
            if name != "seq" and old[name] != new.get(name) and name not in MUTABLE.get(table.name, ()):
                raise StoreError(
                    f"{self.where}: {table.name} {name_of}: {name} is recorded as {old[name]!r} and cannot become "
                    f"{new.get(name)!r}; records are written once. Give the new record its own id."
                )

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
            body["replaced"] = {name: [list(pair) for pair in pairs] for name, pairs in self._replaced.items()}
        text, at = canonical_json(body).decode(), utc_now()
        hashed = event_hash(self.prev_hash, seq=self.seq, at=at, actor=actor, kind=kind, body=json.loads(text))
        record = {"seq": self.seq, "at": at, "actor": actor, "kind": kind, "body": text, "prev_hash": self.prev_hash}
        self.connection.execute(event.insert(), {**record, "hash": hashed})


def _newest(connection: Connection) -> Head | None:
    found = connection.execute(select(event.c.seq, event.c.hash).order_by(event.c.seq.desc()).limit(1)).first()
    return Head(found.seq, found.hash) if found else None


def _user_name() -> str:
    """Name of the operating system's user; its number where it has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
