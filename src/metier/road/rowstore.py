"""Where the texts of a project's rows lie: packs in the object store, read back by place."""

# Shapes: N rows.

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from metier.core.errors import StoreError
from metier.core.hashing import value_hash
from metier.core.rows import Row
from metier.ledger import PACK_ROWS, ObjectStore, SubjectKeys, pack_rows, unpack_rows

__all__ = ["RowReader", "RowWriter", "meta_hash"]

Ints = npt.NDArray[np.int64]


def meta_hash(row: Row) -> str:
    """Hash of a row's metadata, which is no part of its id."""
    return value_hash(row.meta.model_dump(mode="json"))


@dataclass
class RowWriter:
    """Puts rows into packs as they come."""

    store: ObjectStore
    keys: SubjectKeys
    refs: list[str] = field(default_factory=list)
    """One object for every 2,048 rows, in their order."""
    meta_hashes: list[str] = field(default_factory=list)
    """Of every row."""
    subjects: list[tuple[int, str]] = field(default_factory=list)
    """(place of the row, subject hash)."""
    _waiting: list[Row] = field(default_factory=list)

    def keep(self, rows: Sequence[Row]) -> None:
        """Take rows; full packs are written at once."""
        for row in rows:
            place = len(self.meta_hashes)
            self.meta_hashes.append(meta_hash(row))
            hashes = {self.keys.hash_of(subject) for subject in row.meta.subjects}
            self.subjects += [(place, hashed) for hashed in sorted(hashes)]
        self._waiting += rows
        while len(self._waiting) >= PACK_ROWS:
            self._write(self._waiting[:PACK_ROWS])
            self._waiting = self._waiting[PACK_ROWS:]

    def finish(self) -> None:
        """Write what waits."""
        if self._waiting:
            self._write(self._waiting)
            self._waiting = []

    def _write(self, rows: list[Row]) -> None:
        self.refs.append(self.store.put(pack_rows(rows, self.keys)))


@dataclass(frozen=True)
class RowReader:
    """The rows at some places among those stored."""

    store: ObjectStore
    keys: SubjectKeys
    refs: Sequence[str]

    def rows(self, places: Sequence[int] | Ints) -> list[Row]:
        """The rows at these places, in the order asked for.

        Raises:
            StoreError: one was erased, or a pack is missing or damaged.
        """
        by_pack: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for position, place in enumerate(np.asarray(places, dtype=np.int64).tolist()):
            by_pack[place // PACK_ROWS][place % PACK_ROWS].append(position)
        found: list[Row | None] = [None] * len(places)
        for pack, wanted in by_pack.items():
            ref = self.refs[pack]
            data, where = self.store.get(ref), self.store.path_of(ref)
            rows = unpack_rows(data, self.keys, where=where, wanted=wanted)
            for offset, row in zip(sorted(wanted), rows, strict=True):
                for position in wanted[offset]:
                    found[position] = row
        kept = [row for row in found if row is not None]
        if len(kept) < len(found):
            raise StoreError(
                f"{len(found) - len(kept)} of {len(found)} rows were erased since this stage was finished. Run again."
            )
        return kept
