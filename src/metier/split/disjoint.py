"""Parts without a common row: asked of rows after every transform, and of tables when a certificate is checked."""

# Shapes: N rows of all parts, one part after the other.

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from metier.core.errors import DataError
from metier.core.rows import Row
from metier.core.similarity import conversation_text, fold
from metier.core.table import RowTable

__all__ = ["PARTS", "assert_disjoint", "common_rows"]

PARTS = ("train", "dev", "holdout")


def assert_disjoint(train: Sequence[Row], dev: Sequence[Row], holdout: Sequence[Row]) -> None:
    """Nothing after a transform: no row, version of a row or exact text stands in two parts.

    Raises:
        DataError: one does; the message names both rows.
    """
    marks = {
        name: {mark: row for row in rows for mark in _marks(row)} for name, rows in (("dev", dev), ("holdout", holdout))
    }
    for first, rows, later in (("train", train, ("dev", "holdout")), ("dev", dev, ("holdout",))):
        for row in rows:
            for mark in _marks(row):
                for second in later:
                    if (other := marks[second].get(mark)) is not None:
                        raise DataError(_told((_where(row), row.row_id, first), (_where(other), second), how=mark[0]))


def _marks(row: Row) -> list[tuple[str, str]]:
    """Everything by which a row is recognised in another part, with the word for it."""
    return [
        ("same record", row.origin_id),
        ("same content", row.row_id),
        *(("same content", parent) for parent in row.parents),
        ("same text", fold(conversation_text(row))),
    ]


def _where(row: Row) -> str:
    return f"{row.meta.source}:{row.meta.source_row}"


def _told(row: tuple[str, str, str], other: tuple[str, str], *, how: str) -> str:
    """The message about a row (where, `row_id`, part) that is also another one (where, part)."""
    return (
        f"{row[0]}: row {row[1]} of {row[2]} is also in {other[1]} ({how} as {other[0]}); expected parts without a "
        "common row. A transform mixed them up: run the split again."
    )


def common_rows(parts: Mapping[str, RowTable]) -> list[str]:
    """One message for the first record, and one for the first content, that stands in two parts of a split."""
    part_N = np.repeat(np.arange(len(PARTS)), [len(parts[name]) for name in PARTS])
    row_N = np.concatenate([np.arange(len(parts[name])) for name in PARTS])
    problems = []
    for how in ("same record", "same content"):
        ids_N = np.concatenate([
            parts[name].origin_N if how == "same record" else parts[name].row_N for name in PARTS
        ])  # fmt: skip
        order = np.argsort(ids_N, kind="stable")  # stable: of equal ids the earlier part comes first
        before, after = order[:-1], order[1:]
        found = np.flatnonzero((ids_N[before] == ids_N[after]) & (part_N[before] != part_N[after]))
        if len(found):
            at = found[before[found].argmin()]
            (first, row), (second, other) = (
                (PARTS[part_N[place]], int(row_N[place])) for place in (before[at], after[at])
            )
            where, row_id = parts[first].where(row), parts[first].row_id(row)
            problems.append(_told((where, row_id, first), (parts[second].where(other), second), how=how))
    return problems
