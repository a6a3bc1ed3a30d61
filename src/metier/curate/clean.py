"""Files into governed rows in one pass: read, judged, deduplicated, private data replaced, every drop with its reason.

    result = curate(RowRules(data=data, clean=clean, now=today), project_dir, key=project_key, keep=store_rows)
    result.num_read == len(result.kept) + len(result.set_aside) + len(result.failed)

Rows are held a chunk at a time and handed to `keep`; what decides between rows is held by column. Rows with private
data wait for the end of the pass, when it is known which contacts are the organisation's own; they are held as bytes,
about 1 kB each.

Order of the rules: consent, licence, age, length of the reply, duplicates, private data; then the brake on the losses.
"""

# Shapes: N rows.

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from metier.core.errors import DataError, counted
from metier.core.rows import Row, row_from_bytes, row_to_bytes
from metier.core.table import RowTable, Values, table_of
from metier.curate.brake import brake
from metier.curate.contacts import Contacts, Value, private_values, without_private
from metier.curate.curated import Curated, Ids, Ints
from metier.curate.duplicates import DuplicateColumns, Duplicates, duplicate_columns, find_duplicates
from metier.curate.read import Failure, ReadChunk, first_failures, read_chunks
from metier.curate.records import expand
from metier.curate.rules import RowRules

__all__ = ["clean_chunks", "curate"]

MIN_KEPT_ROWS = 2
"""With fewer rows nothing can be compared with anything."""
STORED_AT_ONCE = 2048
_ERASED = "about a person who was erased from this project; not read. Remove the record from the file."


def curate(
    rules: RowRules,
    project_dir: Path,
    *,
    key: bytes,
    keep: Callable[[list[Row]], None],
    holdout_files: Sequence[str] = (),
    is_erased: Callable[[Row], bool] = lambda _row: False,
) -> Curated:
    """Read and clean the rows of a project; rows of `holdout_files` survive their duplicates elsewhere.

    `keep` is given every row once, in its final version, at most 2,048 at a time; a row `is_erased` says yes to is a
    failure.

    Raises:
        ConfigError: a setting cannot mean anything; see `read_chunks`.
        DataError: nothing could be read, the brake closed, or fewer than two rows are left.
    """
    given = {source for source, _ in expand(holdout_files, project_dir)} if holdout_files else set()
    chunks = read_chunks(rules.data, project_dir, key=key, extra_files=holdout_files)
    result = clean_chunks(chunks, rules, key=key, keep=keep, preferred_sources=given, is_erased=is_erased)
    if len(result.kept) < MIN_KEPT_ROWS:
        raise DataError(_too_few(result, (*rules.data.files, *holdout_files)))
    return result


def clean_chunks(
    chunks: Iterable[ReadChunk],
    rules: RowRules,
    *,
    key: bytes,
    keep: Callable[[list[Row]], None],
    preferred_sources: Collection[str] = (),
    is_erased: Callable[[Row], bool] = lambda _row: False,
) -> Curated:
    """Clean rows that are read already; see `curate`. Rows of `preferred_sources` survive before their copies.

    Raises:
        DataError: cleaning would drop more than `max_drop_per_class` of one label's or source's rows, or all rows.
    """
    work = _Pass(rules, key, keep, preferred_sources)
    for chunk in chunks:
        work.take(chunk, is_erased)
    return work.finish()


def _too_few(result: Curated, files: Sequence[str]) -> str:
    """What became of the rows of files that leave nothing to work with: counts by reason, and the first of them."""
    lost = {"failed": len(result.failed), **result.reasons}
    counts = ", ".join(f"{reason} {num}" for reason, num in lost.items() if num) or "nothing was set aside"
    aside = [Failure(result.table.where(i), result.reason.at(i) or "") for i in result.set_aside[:5].tolist()]
    return (
        f"{', '.join(files)}: {counted(len(result.kept), 'row')} left of {counted(result.num_read, 'record')} read "
        f"({counts}); expected at least {MIN_KEPT_ROWS}. Give more rows, or correct [data] or the records."
        f"{first_failures([*result.failed, *aside])}"
    )


@dataclass
class _Pass:
    """What one pass over the files has found so far."""

    rules: RowRules
    key: bytes
    keep: Callable[[list[Row]], None]
    preferred: Collection[str]
    reasons: list[str] = field(default_factory=list)
    columns: list[DuplicateColumns] = field(default_factory=list)
    contacts: Contacts = field(default_factory=Contacts)
    waiting: dict[int, bytes] = field(default_factory=dict)
    """Rows with private data that will be replaced, by place."""
    tables: list[RowTable] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    """Place of every row handed to `keep`, in that order."""
    restored: set[int] = field(default_factory=set)
    """Places of rows a person put back."""
    failed: list[Failure] = field(default_factory=list)
    repaired: dict[str, int] = field(default_factory=dict)
    num_read: int = 0

    def take(self, chunk: ReadChunk, is_erased: Callable[[Row], bool]) -> None:
        """Judge the rows of a chunk one by one, and hand on those that are final."""
        gone = [is_erased(row) for row in chunk.rows]
        self.failed += chunk.failed
        self.failed += [
            Failure(f"{row.meta.source}:{row.meta.source_row}", _ERASED)
            for row, is_gone in zip(chunk.rows, gone, strict=True)
            if is_gone
        ]
        rows = [row for row, is_gone in zip(chunk.rows, gone, strict=True) if not is_gone]
        self.num_read += chunk.num_read
        for kind, num in chunk.repaired.items():
            self.repaired[kind] = self.repaired.get(kind, 0) + num
        first = len(self.reasons)
        self.reasons += map(self.rules.reason, rows)
        preferred = [row.meta.source in self.preferred for row in rows]
        self.columns.append(duplicate_columns(rows, key=self.key, preferred=preferred))
        ready: list[Row] = []
        for place, row in enumerate(rows, start=first):
            if row.origin_id in self.rules.restored:
                self.restored.add(place)
            if found := private_values(row):
                self.contacts.found[place] = found
            if found and self.rules.clean.private == "replace":
                self.waiting[place] = row_to_bytes(row)
            else:
                ready.append(row)
                self.places.append(place)
        self._store(ready)

    def _store(self, rows: list[Row]) -> None:
        if rows:
            self.tables.append(table_of(rows, key=self.key))
            self.keep(rows)

    def finish(self) -> Curated:
        """Decide what must be known of all rows, store the rest, count.

        Raises:
            DataError: cleaning would drop more than `max_drop_per_class` of one label's or source's rows, or all.
        """
        reasons, survivor_N, num_conflicting = self._duplicates()
        left = {place for place, reason in enumerate(reasons) if not reason}
        public = self.contacts.public(left)
        private, holding = self.contacts.counts(public, left)
        if self.rules.clean.private == "quarantine":
            for place in holding - self.restored:
                reasons[place] = "private_data"
        parent_N = self._store_waiting(public, len(reasons))
        table, stored_N = self._table()
        reason = Values.of(reason or None for reason in reasons)
        brake(table, reason, self.rules.clean.max_drop_per_class)
        return Curated(
            table=table, reason=reason, survivor_N=survivor_N, parent_N=parent_N, stored_N=stored_N,
            failed=self.failed, num_read=self.num_read, private=private, repaired=self.repaired,
            public=_by_kind(public), conflicting_labels=num_conflicting,
        )  # fmt: skip

    def _duplicates(self) -> tuple[list[str], Ints, int]:
        """Reasons with copies among them, each copy's survivor, and how many labels contradict one another."""
        reasons, survivor_N = list(self.reasons), np.full(len(self.reasons), -1, dtype=np.int64)
        if not reasons:
            return reasons, survivor_N, 0
        left = np.asarray([i for i, reason in enumerate(reasons) if not reason], dtype=np.int64)
        columns = DuplicateColumns.joined(self.columns)
        self.columns.clear()  # the parts are as large as the whole
        found = find_duplicates(columns.take(left), self.rules.clean.near_dup)
        return reasons, survivor_N, self._set_aside(found, left, reasons, survivor_N)

    def _set_aside(self, found: Duplicates, left: Ints, reasons: list[str], survivor_N: Ints) -> int:
        """Write the copies among the rows left into reasons and survivors; number of contradicting labels."""
        for i in np.flatnonzero(found.survivor_N >= 0).tolist():
            place = int(left[i])
            if reasons[place] or place in self.restored:
                continue
            reasons[place] = found.reason(i)
            survivor_N[place] = left[found.survivor_N[i]]
        return len(found.conflicting)

    def _store_waiting(self, public: frozenset[Value], num_rows: int) -> Ids:
        """Replace private data in the rows that waited, and store them; the ids of the versions before."""
        parent_N = np.zeros(num_rows, dtype="S32")
        waiting = sorted(self.waiting)
        for start in range(0, len(waiting), STORED_AT_ONCE):
            ready = []
            for place in waiting[start : start + STORED_AT_ONCE]:
                old = row_from_bytes(self.waiting.pop(place))
                new = without_private(old, public, self.key)
                if new.row_id != old.row_id:
                    parent_N[place] = old.row_id.encode()
                ready.append(new)
                self.places.append(place)
            self._store(ready)
        return parent_N

    def _table(self) -> tuple[RowTable, Ints]:
        """All rows in the order they were read, and where each stands among those stored."""
        if not self.tables:
            return table_of([], key=self.key), np.zeros(0, dtype=np.int64)
        stored_N = np.argsort(np.asarray(self.places, dtype=np.int64), kind="stable")
        table = RowTable.joined(self.tables)
        self.tables.clear()
        return (table if (np.diff(stored_N) == 1).all() else table.take(stored_N)), stored_N


def _by_kind(public: Collection[Value]) -> dict[str, int]:
    """Distinct values by kind."""
    return dict(sorted(Counter(kind for kind, _ in public).items()))
