"""Many records in one statement, on SQLite and on PostgreSQL.

    >>> insert(connection, form, [("champion", "9c41...", 12)])

Records are tuples in the order of the table's columns, `seq` last. SQLite takes them one by one from one prepared
statement and finds keys through a JSON text; PostgreSQL takes one array a column, in one round trip.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Float, Integer

from metier.ledger.leaves import RecordForm, Values

__all__ = ["insert", "stored", "stream", "update"]

_STREAMED = 5_000


def insert(connection: Connection, form: RecordForm, records: Sequence[Values]) -> None:
    """Write new records."""
    names = (*form.names, "seq")
    into = f'INSERT INTO "{form.name}" ({_listed(names)})'
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"{into} SELECT * FROM {_arrays(form, names)}", _by_column(records))
    else:
        connection.exec_driver_sql(f"{into} VALUES ({', '.join('?' * len(names))})", list(records))


def update(connection: Connection, form: RecordForm, records: Sequence[Values]) -> None:
    """Write records over those of the same keys."""
    names, keys = (*form.names, "seq"), form.names[: form.num_keys]
    change = f'UPDATE "{form.name}" SET '
    if connection.dialect.name == "postgresql":
        values = ", ".join(f'"{name}" = new."{name}"' for name in names)
        same = " AND ".join(f'"{form.name}"."{name}" = new."{name}"' for name in keys)
        source = f"{_arrays(form, names)} AS new({_listed(names)})"
        connection.exec_driver_sql(f"{change}{values} FROM {source} WHERE {same}", _by_column(records))
    else:
        values = ", ".join(f'"{name}" = ?' for name in names)
        same = " AND ".join(f'"{name}" = ?' for name in keys)
        rows = [(*record, *form.key_of(record)) for record in records]
        connection.exec_driver_sql(f"{change}{values} WHERE {same}", rows)


def stored(connection: Connection, form: RecordForm, keys: Sequence[Values]) -> dict[Values, Values]:
    """The records, `seq` last, that stand under these keys, by key."""
    if not keys or connection.exec_driver_sql(f'SELECT 1 FROM "{form.name}" LIMIT 1').first() is None:
        return {}
    names = form.names[: form.num_keys]
    columns = _listed((*form.names, "seq"), "t.")
    if connection.dialect.name == "postgresql":
        same = " AND ".join(f't."{name}" = k."{name}"' for name in names)
        source = f"{_arrays(form, names)} AS k({_listed(names)})"
        query, values = f'SELECT {columns} FROM {source} JOIN "{form.name}" AS t ON {same}', _by_column(keys)
    else:
        # CROSS: the keys are gone through, and the table is asked by its index.
        same = " AND ".join(f"t.\"{name}\" = json_extract(k.value, '$[{place}]')" for place, name in enumerate(names))
        query = f'SELECT {columns} FROM json_each(?) AS k CROSS JOIN "{form.name}" AS t ON {same}'
        values = (json.dumps(keys),)
    found = (tuple(record) for record in connection.exec_driver_sql(query, values))
    return {form.key_of(record): record for record in found}


def stream(connection: Connection, form: RecordForm) -> Iterator[Values]:
    """All records of a table, `seq` last, a few thousand in memory at a time."""
    query = f'SELECT {_listed((*form.names, "seq"))} FROM "{form.name}"'
    streaming = {"stream_results": True, "yield_per": _STREAMED}
    for block in connection.exec_driver_sql(query, None, streaming).partitions():
        yield from map(tuple, block)


def _listed(names: Sequence[str], before: str = "") -> str:
    return ", ".join(f'{before}"{name}"' for name in names)


def _by_column(records: Sequence[Values]) -> Values:
    """One list a column."""
    return tuple(list(column) for column in zip(*records, strict=True))


def _arrays(form: RecordForm, names: Sequence[str]) -> str:
    """PostgreSQL's table made of one array a column."""
    types = {column.name: _array_type(column.type) for column in form.columns}
    return f"unnest({', '.join(f'%s::{types.get(name, _array_type(Integer()))}' for name in names)})"


def _array_type(kind: Any) -> str:  # Any: an SQL type of whatever Python value
    if isinstance(kind, Float):
        return "double precision[]"
    return "bigint[]" if isinstance(kind, Integer) else "text[]"
