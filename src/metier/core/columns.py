"""Rows as Polars columns and Parquet bytes: the only module that knows the table library.

Nested parts (messages, tools, target, meta) are JSON text columns: a Parquet struct would freeze the
set of group and attribute names of the first file written.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from metier.core.hashing import canonical_json
from metier.core.rows import Row

if TYPE_CHECKING:
    import polars as pl

__all__ = ["parquet_bytes", "read_parquet", "rows_from_parquet", "rows_to_parquet"]

_JSON_COLUMNS = ("messages", "tools", "target", "meta", "parents")


def parquet_bytes(columns: Mapping[str, Sequence[Any]], schema: Mapping[str, str] | None = None) -> bytes:
    """Parquet bytes of named columns. `schema` maps names to Polars type names where inference could differ."""
    import polars as pl

    dtypes = {name: getattr(pl, kind) for name, kind in (schema or {}).items()}  # getattr: type by its name
    buffer = io.BytesIO()
    pl.DataFrame(columns, schema_overrides=dtypes).write_parquet(buffer, compression="zstd", statistics=False)
    return buffer.getvalue()


def read_parquet(data: bytes) -> pl.DataFrame:
    """The frame in Parquet bytes."""
    import polars as pl

    return pl.read_parquet(io.BytesIO(data))


def rows_to_parquet(rows: Iterable[Row]) -> bytes:
    """Parquet bytes of rows, in their order; an empty list gives an empty table with the same columns."""
    columns: dict[str, list[str]] = {name: [] for name in ("origin_id", "row_id", *_JSON_COLUMNS)}
    for row in rows:
        values = row.model_dump(mode="json", exclude_defaults=True)
        columns["origin_id"].append(row.origin_id)
        columns["row_id"].append(row.row_id)
        for name in _JSON_COLUMNS:
            columns[name].append(canonical_json(values.get(name)).decode())
    return parquet_bytes(columns, dict.fromkeys(columns, "String"))


def rows_from_parquet(data: bytes) -> list[Row]:
    """The rows written by `rows_to_parquet`, in their order, equal to those written."""
    rows = []
    for record in read_parquet(data).iter_rows(named=True):
        values = {"origin_id": record["origin_id"], "row_id": record["row_id"]}
        for name in _JSON_COLUMNS:
            value = json.loads(record[name])
            if value is not None:
                values[name] = value
        rows.append(Row.model_validate(values))
    return rows
