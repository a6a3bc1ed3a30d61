"""Processes that write into one ledger, forked in milliseconds from a server that has the packages loaded."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from metier.ledger import ObjectStore, open_look, project_key, seal_holdout, seal_key

from .servers import Place

PRELOADED = [
    "alembic.command", "metier.ledger.ledger", "metier.ledger.looks", "metier.ledger.rows", "metier.ledger.seal",
    "cryptography.hazmat.primitives.ciphers.aead", "sqlalchemy.dialects.sqlite", "tests.ledger.writers",
]  # fmt: skip
ROW = {
    "origin_id": "o", "object_ref": "", "meta_hash": "", "state": "kept", "reason": "", "rule_version": "", "survivor": "",
}  # fmt: skip


def forks() -> Any:
    """A context whose processes start in milliseconds; nothing of it has run before, so nothing is inherited."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def start(target: Callable[..., None], *arguments: Any) -> tuple[Any, Connection]:
    """A running process, and the end of a pipe it reports to as its last argument."""
    mine, its = multiprocessing.Pipe(duplex=False)
    process = forks().Process(target=target, args=(*arguments, its), daemon=True)
    process.start()
    its.close()
    return process, mine


def kill(*_: Any, **__: Any) -> None:
    """The end nobody can catch."""
    os.kill(os.getpid(), signal.SIGKILL)


def heard(pipe: Connection) -> list[Any]:
    """Everything a process said before it ended."""
    said = []
    try:
        while True:
            said.append(pipe.recv())
    except EOFError:
        pipe.close()
    return said


def write_batches(place: Place, name: str, num: int, rows: int, pipe: Connection) -> None:
    """Record so many batches of rows, saying the head after each; without end where `num` is 0."""
    from metier.ledger.schema import row

    with place.open(name) as ledger:
        pipe.send((project_key(place.project_dir), seal_key(place.project_dir)))
        batch = 0
        while batch < num or not num:
            with ledger.writing("rows_recorded") as transaction:
                transaction.put(row, [{**ROW, "row_id": f"{name}-{batch}-{i}"} for i in range(rows)])
            pipe.send(transaction.head)
            batch += 1


def die_in_the_seal(place: Place, kill_where: str, split_id: str, _: Connection) -> None:
    """Seal a split and die on the way: in the object's write, before its record, or before the event."""
    with place.open() as ledger:
        if kill_where == "object":
            from metier.core import folders

            folders.os.fsync = kill  # type: ignore[assignment]  # what is patched is looked up by name
        elif kill_where == "record":
            from metier.ledger import seal

            seal.utc_now = kill  # type: ignore[assignment]  # as above
        else:
            from metier.ledger import transaction

            transaction.event_hash = kill  # type: ignore[assignment]  # as above
        seal_holdout(ledger, ObjectStore(place.project_dir), b"new hold-out", split_id=split_id, num_rows=1)


def die_in_the_look(place: Place, split_id: str, question_hash: str, _: Connection) -> None:
    """Open a look and die when it is recorded and not yet decrypted."""
    with place.open() as ledger:
        ObjectStore.get_encrypted = kill  # type: ignore[assignment, method-assign]  # as above
        open_look(
            ledger, ObjectStore(place.project_dir), split_id=split_id, question_hash=question_hash, arms_hash="arms",
            alpha=0.05, alpha_budget=0.05,
        )  # fmt: skip


def die_in_the_migration(place: Place, _: Connection) -> None:
    """Open a ledger for the first time and die between its tables and its indexes."""
    import alembic.op

    alembic.op.create_index = kill  # as above
    place.open()
