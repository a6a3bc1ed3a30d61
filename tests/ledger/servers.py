"""The two databases of the ledger's tests: a file for each test, or a PostgreSQL database copied from a template.

`METIER_TEST_POSTGRES` is the URL of a server whose user may create databases; `.ci/run` starts one.
"""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import make_url

from metier.ledger import Ledger
from metier.ledger.database import connect, upgrade

SERVER_URL = os.environ.get("METIER_TEST_POSTGRES", "")
NO_SERVER = "METIER_TEST_POSTGRES names no PostgreSQL server; .ci/run starts one"

only_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
only_postgresql = pytest.mark.parametrize(
    "backend", [pytest.param("postgresql", marks=pytest.mark.skipif(not SERVER_URL, reason=NO_SERVER))], indirect=True
)


class Place(NamedTuple):
    """Where a project lies and where its ledger is; `url` is empty for the file in the project."""

    project_dir: Path
    url: str

    def open(self, actor: str = "") -> Ledger:
        """The ledger of the place."""
        return Ledger.open(self.project_dir, url=self.url, actor=actor)

    @property
    def is_sqlite(self) -> bool:
        """Whether the ledger is a file."""
        return not self.url

    @property
    def db_path(self) -> Path:
        """The file."""
        return self.project_dir / ".metier" / "ledger.db"

    def run_sql(self, *statements: str) -> list[Any]:
        """Run SQL past the ledger, whatever it says about triggers; returns what the last statement found."""
        if self.is_sqlite:
            return _run_sqlite(self.db_path, statements)
        with _psycopg().connect(self.url, autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
            return list(cursor) if cursor.description else []

    def tamper(self, *statements: str) -> None:
        """Run SQL past the ledger with the triggers out of the way, and put them back."""
        guards_off, guards_on = _SQLITE_GUARDS if self.is_sqlite else _POSTGRESQL_GUARDS
        self.run_sql(*guards_off, *statements, *guards_on)


_SQLITE_GUARDS = (
    ["DROP TRIGGER IF EXISTS event_no_update", "DROP TRIGGER IF EXISTS event_no_delete"],
    [
        f"CREATE TRIGGER event_no_{verb.lower()} BEFORE {verb} ON event "
        "BEGIN SELECT RAISE(ABORT, 'events are append only'); END"
        for verb in ("UPDATE", "DELETE")
    ],
)
_POSTGRESQL_GUARDS = (["ALTER TABLE event DISABLE TRIGGER USER"], ["ALTER TABLE event ENABLE TRIGGER USER"])


def _run_sqlite(path: Path, statements: Sequence[str]) -> list[Any]:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        for statement in statements:
            found = connection.execute(statement).fetchall()
        return found
    finally:
        connection.close()


def _psycopg() -> Any:
    return pytest.importorskip("psycopg")


class Server:
    """A PostgreSQL server on which databases are made and dropped."""

    def __init__(self, root: Path) -> None:
        self.made: list[str] = []
        self.admin = _psycopg().connect(SERVER_URL, autocommit=True)
        self.empty = self.create()
        engine = connect(self.empty)
        upgrade(engine, root / "upgrade.lock")
        engine.dispose()

    def create(self, template: str = "") -> str:
        """The URL of a new database: empty, or a copy of another one's URL."""
        name = f"metier_{uuid.uuid4().hex}"
        copied = f' TEMPLATE "{make_url(template).database}"' if template else ""
        self.admin.execute(f'CREATE DATABASE "{name}"{copied}')
        self.made.append(name)
        return make_url(SERVER_URL).set(database=name).render_as_string(hide_password=False)

    def drop(self, url: str) -> None:
        """Remove a database, also from under whoever is connected."""
        name = make_url(url).database
        self.made.remove(str(name))
        self.admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def close(self) -> None:
        """Remove everything that was made."""
        for name in self.made:
            self.admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        self.admin.close()
