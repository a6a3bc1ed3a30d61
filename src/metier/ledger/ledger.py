"""The ledger of a project: opened, read, and written through one transaction at a time.

    >>> with Ledger.open(project_dir) as ledger:
    ...     head = ledger.append("tea_made", {"cups": 2})
    >>> head.seq
    2

What an event is stands in `metier.ledger.chain`, how records are written in `metier.ledger.transaction`.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Engine, Select, select

from metier.core.errors import StoreError
from metier.core.folders import storage_error
from metier.core.hashing import keyed_hash
from metier.ledger.chain import KEY_CHECK, Event, Head, newest, utc_now
from metier.ledger.database import connect, empty_log, reading, upgrade, where_of, writing
from metier.ledger.keys import LEDGER_FILE, project_key, seal_key, workspace
from metier.ledger.schema import event
from metier.ledger.transaction import Transaction

__all__ = ["Event", "Head", "Ledger", "Transaction", "utc_now"]

log = logging.getLogger(__name__)


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
        # A user name need not be Unicode; escaped, it can be hashed and stored.
        ledger = cls(engine, project_dir, (actor or _user_name()).encode("utf-8", "backslashreplace").decode())
        try:
            upgrade(engine, metier_dir / "ledger.lock")
            ledger._begin_chain()
        except BaseException:
            engine.dispose()
            raise
        return ledger

    def _begin_chain(self) -> None:
        """Write event 1 of a fresh ledger, which names the project key without telling it; later on compare the two.

        Raises:
            StoreError: the ledger was begun with another project key.
        """
        key_check = keyed_hash(project_key(self.project_dir), KEY_CHECK)
        if self._newest() is None:
            with self.writing("ledger_created") as transaction:
                if transaction.seq == 1:
                    transaction.note(key_check=key_check)
        for first in self.records(select(event.c.body).where(event.c.seq == 1)):
            if f'"key_check":"{key_check}"' not in first["body"] and '"key_check":"' in first["body"]:
                raise StoreError(
                    f"{self.where}: the ledger was begun with another project key than {self.project_dir / '.metier'} "
                    "holds; every row id would be another. Give the URL of this project's own database, or restore "
                    ".metier/keys from a backup."
                )

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
        found = self._newest()
        if found is None:
            raise StoreError(
                f"{self.where}: the ledger has no event; expected at least its creation. Restore a backup."
            )
        return found

    def _newest(self) -> Head | None:
        with reading(self.engine) as connection:
            return newest(connection)

    def events(self, *, kind: str = "") -> list[Event]:
        """All events in their order, or those of one kind.

        Raises:
            StoreError: an event was edited so that its body is no JSON.
        """
        query = select(event).order_by(event.c.seq)
        if kind:
            query = query.where(event.c.kind == kind)
        return [Event(**{**record, "body": self._body(record)}) for record in self.records(query)]

    def _body(self, record: Mapping[str, Any]) -> Any:  # Any: SQL and JSON values
        try:
            return json.loads(record["body"])
        except ValueError as err:
            raise StoreError(
                f"{self.where}: event {record['seq']} ({record['kind']}) is no longer what was written ({err}). Run "
                "metier verify, and restore the ledger from a backup."
            ) from err

    def records(self, query: Select[Any]) -> list[dict[str, Any]]:  # Any: SQL values
        """The records of a query as mappings of column names to values."""
        with reading(self.engine) as connection:
            return [dict(record) for record in connection.execute(query).mappings()]

    def append(self, kind: str, body: Mapping[str, Any]) -> Head:  # Any: JSON values
        """Record that something happened; returns the head that this event became."""
        with self.writing(kind) as transaction:
            transaction.note(**body)
        return transaction.head or self.head()

    @contextmanager
    def writing(self, kind: str) -> Iterator[Transaction]:
        """Write records together with the one event that tells of them: all of it or nothing.

        No event is written when nothing was put or noted, so that a rerun adds nothing.
        """
        with writing(self.engine) as connection:
            transaction = Transaction(connection, self.where)
            yield transaction
            transaction.finish(kind, self.actor)


def _user_name() -> str:
    """Name of the operating system's user; its number where it has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
