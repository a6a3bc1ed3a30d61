"""Where rows come from: sources, transforms, and the edges from a changed row to what it was.

>>> record_edges(ledger, transform_id, [(new_row.row_id, old_row.row_id)])
1
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from metier.core.hashing import value_hash
from metier.ledger.ledger import Ledger
from metier.ledger.schema import edge, source, transform

__all__ = ["Source", "Transform", "record_edges", "record_source", "record_transform"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A file rows were read from."""

    name: str
    """Its path relative to the project."""
    sha256: str
    """Hash of its bytes."""
    num_records: int
    """Records read from it, failed ones included."""
    licence: str = ""
    """Licence of its rows; empty when not stated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Transform:
    """One operation that turned rows into rows."""

    op: str
    """What was done: private_replaced, near_duplicates_dropped."""
    version: str
    """Version of the code or rule."""
    params: Mapping[str, Any]
    """Its settings, as JSON values; the ledger keeps their hash."""


def record_source(ledger: Ledger, found: Source) -> str:
    """Record a source; returns its id. The same file with the same bytes is one source."""
    source_id = value_hash([found.name, found.sha256])[:32]
    with ledger.writing("source_read") as transaction:
        transaction.put(source, [{"source_id": source_id, **asdict(found)}])
    return source_id


def record_transform(ledger: Ledger, done: Transform) -> str:
    """Record a transform; returns its id, equal for equal op, version and settings."""
    params_hash = value_hash(dict(done.params))
    transform_id = value_hash([done.op, done.version, params_hash])[:32]
    record = {"transform_id": transform_id, "op": done.op, "version": done.version, "params_hash": params_hash}
    with ledger.writing("transform_recorded") as transaction:
        transaction.put(transform, [record])
    return transform_id


def record_edges(ledger: Ledger, transform_id: str, pairs: Iterable[tuple[str, str]]) -> int:
    """Record (child, parent) row ids of a transform; returns how many were new."""
    records = [{"child": child, "parent": parent, "transform_id": transform_id} for child, parent in pairs]
    with ledger.writing("edges_recorded") as transaction:
        return transaction.put(edge, records)
