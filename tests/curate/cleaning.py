"""Cleaning with the rows it hands on collected, so that a test can look at them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from metier.core.rows import Row
from metier.core.settings import CleanConfig, DataConfig
from metier.curate import Curated, RowRules, clean_chunks, curate
from metier.curate.read import ReadChunk

KEY = b"project"
NOW = datetime(2026, 11, 1, tzinfo=UTC)


class Aside(NamedTuple):
    row: Row
    reason: str
    survivor: str | None


@dataclass
class Cleaned:
    """A result with its rows."""

    curated: Curated = field(compare=False)  # arrays have no single answer; the rows do
    stored: list[Row] = field(repr=False)

    def rows(self, places: Sequence[int]) -> list[Row]:
        return [self.stored[int(self.curated.stored_N[place])] for place in places]

    @property
    def kept(self) -> list[Row]:
        return self.rows(self.curated.kept.tolist())

    @property
    def quarantined(self) -> list[Aside]:
        aside = self.curated.set_aside.tolist()
        survivors = [int(self.curated.survivor_N[place]) for place in aside]
        return [
            Aside(row, self.curated.reason.at(place) or "", self.curated.table.origin(s) if s >= 0 else None)
            for row, place, s in zip(self.rows(aside), aside, survivors, strict=True)
        ]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.curated, name)


def data_config(**settings: Any) -> DataConfig:
    return DataConfig(**{"files": ("rows.jsonl",), **settings})


def clean(
    rows: Sequence[Row],
    *,
    now: datetime = NOW,
    retired: Sequence[str] = (),
    preferred: frozenset[str] = frozenset(),
    restored: Collection[str] = (),
    chunk_rows: int = 2048,
    data: DataConfig | None = None,
    erased: frozenset[str] = frozenset(),
    **settings: Any,
) -> Cleaned:
    """Clean rows that are in memory already."""
    if retired:
        data = data_config(policy="policy", retired_policies=tuple(retired))
    rules = RowRules(data=data or data_config(), clean=CleanConfig(**settings), now=now, restored=frozenset(restored))
    stored: list[Row] = []
    chunks = [
        ReadChunk(list(rows[i : i + chunk_rows]), [], len(rows[i : i + chunk_rows]), {})
        for i in range(0, len(rows), chunk_rows)
    ]
    result = clean_chunks(
        chunks, rules, key=KEY, keep=stored.extend, preferred_sources=preferred,
        is_erased=lambda row: bool(erased.intersection(row.meta.subjects)),
    )  # fmt: skip
    return Cleaned(result, stored)


def clean_files(
    folder: Path, data: DataConfig, *, holdout_files: Sequence[str] = (), clean: CleanConfig | None = None
) -> Cleaned:
    """Read and clean files."""
    stored: list[Row] = []
    rules = RowRules(data=data, clean=clean or CleanConfig(), now=NOW)
    result = curate(rules, folder, key=KEY, keep=stored.extend, holdout_files=holdout_files)
    return Cleaned(result, stored)
