"""The connection to the ledger's database: made, upgraded, locked, and its errors put in words.

SQLite by default (one file, write-ahead log); PostgreSQL by URL. Writers take turns: `BEGIN IMMEDIATE`
on SQLite, with a kernel file lock for the place in line; an advisory lock on PostgreSQL, which is given
in the order of asking. The migration tool is imported only when there is something to migrate.
"""

from __future__ import annotations

import fcntl
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError

from metier.core.errors import StoreError
from metier.core.extras import require
from metier.core.folders import storage_error
from metier.ledger.schema import REVISION

__all__ = ["connect", "empty_log", "reading", "upgrade", "where_of", "writing"]

BUSY_SECONDS = 30
CONNECT_SECONDS = 10
_POLL_SECONDS = 0.002
MIGRATIONS_DIR = Path(__file__).parent / "migrations"
_LOCK_NUMBER = 7_215_403_118
_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # a look that was shown must survive a power cut
    "PRAGMA secure_delete = ON",  # erased values leave no copy in free pages
    "PRAGMA cache_size = -65536",  # KiB; keys are random, and a million of them must not thrash
    "PRAGMA wal_autocheckpoint = 8000",  # pages; random keys touch the same pages again and again
)


def connect(url: str) -> Engine:
    """An engine whose transactions start only when asked, so that writers can take the lock first.

    Raises:
        StoreError: the URL is of another kind, or cannot be read.
        MissingExtra: PostgreSQL without its driver.
    """
    if url.startswith("postgresql"):
        return _connect_server(url)
    if not url.startswith("sqlite"):
        raise StoreError(
            f"ledger URL of kind {url.partition(':')[0]!r}; expected postgresql://user@host/database, or no URL for a "
            "file in the project."
        )
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def _set_up(connection: Any, _record: Any) -> None:  # Any: the driver's objects
        connection.isolation_level = None  # the driver's own BEGIN would come too late and too weak
        for pragma in _PRAGMAS:
            connection.execute(pragma)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("metier_writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _connect_server(url: str) -> Engine:
    """An engine for PostgreSQL; a connection that died while it was idle is replaced unseen."""
    require("psycopg", extra="postgres", why="A ledger on PostgreSQL")
    try:
        parsed = make_url("postgresql+psycopg" + url[url.index(":") :])
    except (ArgumentError, ValueError) as err:
        raise StoreError(  # without the URL: it may hold a password
            "ledger URL cannot be read; expected postgresql://user@host:port/database, special characters of the "
            "password written as %40."
        ) from err
    waits = {} if "connect_timeout" in parsed.query else {"connect_timeout": CONNECT_SECONDS}
    return create_engine(parsed, connect_args=waits, pool_pre_ping=True)


def where_of(engine: Engine) -> str:
    """How messages name the database: the file, or the URL without its password."""
    if engine.dialect.name == "sqlite":
        return str(engine.url.database)
    return engine.url.set(drivername="postgresql").render_as_string(hide_password=True)


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that sees one unchanging state of the ledger."""
    with _worded(engine), engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        with connection.begin():
            yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """The one writing transaction at a time; committed as a whole or not at all.

    Raises:
        StoreError: the disk is full, the file is damaged, or another process holds the lock.
    """
    with _worded(engine), engine.connect() as connection:
        connection = connection.execution_options(metier_writes=True)
        if engine.dialect.name == "postgresql":
            # Whatever the server's default is: what is read after the lock must be what the one before wrote.
            connection = connection.execution_options(isolation_level="READ COMMITTED")
            with connection.begin():
                connection.execute(text(f"SET LOCAL lock_timeout = '{BUSY_SECONDS}s'"))
                connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK_NUMBER})
                yield connection
        else:
            with _next_in_line(engine):
                transaction = connection.begin()
            with transaction:
                yield connection


@contextmanager
def _next_in_line(engine: Engine) -> Iterator[None]:
    """Be the only one that waits for SQLite's lock.

    SQLite gives its lock to whoever asks at the right moment, and who writes without pause always does: others were
    seen to wait for a minute. Here the one that has just written finds the place in line taken, and the lock goes on.
    """
    path = Path(str(engine.url.database)).with_suffix(".line")
    with _opened(path) as file:
        give_up = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise _store_error(where_of(engine), "the place in line is locked") from None
                time.sleep(_POLL_SECONDS)
        yield


def empty_log(engine: Engine) -> None:
    """Move SQLite's write-ahead log into the file and truncate it: no erased value stays behind in it.

    Raises:
        StoreError: the disk is full; the log keeps what was written.
    """
    if engine.dialect.name != "sqlite":
        return
    try:
        with engine.connect() as connection:
            cursor = connection.connection.cursor()
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            cursor.close()
    except (DBAPIError, sqlite3.Error) as err:
        raise _store_error(where_of(engine), str(err)) from err


@contextmanager
def _worded(engine: Engine) -> Iterator[None]:
    """Database errors as `StoreError`, saying what to do."""
    try:
        yield
    except DBAPIError as err:
        found = " ".join(str(err.orig).split())
        if err.connection_invalidated:
            raise _lost(where_of(engine), found) from err
        raise _store_error(where_of(engine), found) from err


def _lost(where: str, found: str) -> StoreError:
    return StoreError(
        f"{where}: the connection to the database was lost ({found}); nothing half-written was kept. Run the same "
        "command again: it resumes."
    )


def _store_error(where: str, found: str) -> StoreError:
    lower = found.lower()
    if any(sign in lower for sign in ("terminating connection", "server closed the connection", "connection is lost")):
        return _lost(where, found)
    if "authentication failed" in lower or ("does not exist" in lower and "fatal" in lower):
        return StoreError(
            f"{where}: the server refused the connection ({found}). Check user, password and database of the URL."
        )
    if any(sign in lower for sign in ("connection to server", "connection is bad", "connection timeout")):
        return StoreError(
            f"{where}: the database server cannot be reached ({found}). Start it or correct the URL, and run again."
        )
    if "is full" in lower or "no space" in lower:
        return StoreError(
            f"{where}: no space left on the disk; nothing half-written was kept. Free some space and run the same "
            "command again: it resumes."
        )
    if "locked" in lower or "busy" in lower or "lock timeout" in lower:
        return StoreError(
            f"{where}: another metier process has been writing for {BUSY_SECONDS} s. Wait for it, or stop it, and "
            "run again."
        )
    if "malformed" in lower or "not a database" in lower or "disk i/o" in lower:
        return StoreError(f"{where}: the ledger is damaged ({found}). Restore the file from a backup.")
    if "append only" in lower:
        return StoreError(f"{where}: {found}. Record a new event instead.")
    return StoreError(f"{where}: the ledger could not be read or written ({found}). Check the file and run again.")


def upgrade(engine: Engine, lock_path: Path) -> None:
    """Bring an absent or older schema to the current revision, in one transaction; waits for others at it.

    Raises:
        StoreError: the ledger was written by a newer metier, or its file is damaged.
    """
    if _revision(engine) == REVISION:
        return
    with _turn(lock_path):
        found = _revision(engine)
        if found != REVISION:
            _migrate(engine, found)


def _revision(engine: Engine) -> str:
    """The schema revision of the database; empty in a fresh one."""
    with reading(engine) as connection:
        if not inspect(connection).has_table("alembic_version"):
            return ""
        return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar() or "")


def _migrate(engine: Engine, found: str) -> None:
    """Run the migrations after revision `found`."""
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("path_separator", "os")
    config.set_main_option("script_location", str(MIGRATIONS_DIR).replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found and found not in known:
        raise StoreError(
            f"{where_of(engine)}: the ledger has revision {found!r}; this metier knows up to {REVISION!r}. It was "
            "written by a newer metier: upgrade with pip install -U metier."
        )
    with writing(engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


@contextmanager
def _turn(lock_path: Path) -> Iterator[None]:
    """Hold a kernel file lock, waiting for it; a killed process frees it."""
    with _opened(lock_path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _opened(lock_path: Path) -> BinaryIO:
    """A lock's file; closing it frees the lock, and so does a kill."""
    try:
        return lock_path.open("a+b")
    except OSError as err:
        raise storage_error(lock_path, err) from err
