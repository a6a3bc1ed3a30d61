"""Rows for split tests: text, groups and time as the test says; and parts as rows, for tests to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from metier.core.rows import Message, Meta, Role, Row, Target, TargetKind, make_row
from metier.core.settings import SplitConfig
from metier.core.table import RowTable, table_of
from metier.split import Certificate, split_rows

KEY = b"project"
START = datetime(2026, 1, 1, tzinfo=UTC)
LATER = SplitConfig(generalise_to="later", holdout_rows=20, dev_rows=10)


def make(
    number: int,
    *,
    prompt: str = "",
    reply: str = "",
    day: float | None = None,
    source: str = "rows.jsonl",
    label: str | None = None,
    kind: TargetKind = TargetKind.REPLY,
    **meta: Any,
) -> Row:
    """One row; without text its own three words make it like no other."""
    return make_row(
        KEY,
        messages=(
            Message(role=Role.USER, content=prompt or f"ask{number} about{number} thing{number}"),
            Message(role=Role.ASSISTANT, content=reply or f"say{number} of{number} it{number}"),
        ),
        target=Target(kind=kind, label=label),
        meta=Meta(
            source=source, source_row=number, collected_at=None if day is None else START + timedelta(days=day), **meta
        ),
    )


class Left(NamedTuple):
    """A row that is in no part."""

    row: Row
    reason: str
    other: str


@dataclass(frozen=True)
class Parts:
    """A split, its places in the table looked up as rows."""

    train: list[Row]
    dev: list[Row]
    holdout: list[Row]
    purged: list[Left]
    certificate: Certificate

    @property
    def parts(self) -> dict[str, list[Row]]:
        return {"train": self.train, "dev": self.dev, "holdout": self.holdout}


def split(rows: Sequence[Row], config: SplitConfig = LATER, *, seed: int = 0, near_dup: float = 0.8) -> Parts:
    """The parts of these rows."""
    result = split_rows(table_of(rows, key=KEY), config, seed=seed, near_dup=near_dup)
    parts = {name: [rows[i] for i in index.tolist()] for name, index in result.parts.items()}
    purged = [Left(rows[item.row], item.reason, item.other) for item in result.purged]
    return Parts(**parts, purged=purged, certificate=result.certificate)


def tables(parts: Mapping[str, Sequence[Row]]) -> dict[str, RowTable]:
    """Each part as a table of its own."""
    return {name: table_of(rows, key=KEY) for name, rows in parts.items()}
