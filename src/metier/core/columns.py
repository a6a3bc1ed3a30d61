"""Named columns as Parquet bytes: the only module of `core` that knows the table library."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

__all__ = ["parquet_bytes", "read_parquet"]


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
