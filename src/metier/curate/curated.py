"""What became of every record: by column, with the reasons; the texts went to whoever stores them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from metier.core.errors import DataError
from metier.core.hashing import merkle_root
from metier.core.table import RowTable, Values
from metier.curate.read import Failure

__all__ = ["CLEAN_RULES", "Curated"]

CLEAN_RULES = 2
"""Version of the rules; raised when the same rows would be treated otherwise."""

Ints = npt.NDArray[np.int64]
Ids = npt.NDArray[np.bytes_]

# Shapes: N rows.


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Curated:
    """Every record that was read: kept + set aside + failed = read."""

    table: RowTable
    """Every row in its final version, in the order of files and records."""
    reason: Values
    """Why a row is set aside; no value for a kept row."""
    survivor_N: Ints
    """Place of the row that stays in its place; -1 where there is none."""
    parent_N: Ids
    """`row_id` of the version before private data was replaced; empty where nothing was."""
    stored_N: Ints
    """Place of the row among those handed to the store."""
    failed: list[Failure]
    num_read: int
    private: Mapping[str, int] = field(default_factory=dict)
    """Pieces of private data found in rows that are no copies, by kind, whatever was done about them."""
    public: Mapping[str, int] = field(default_factory=dict)
    """Contacts of the organisation itself, left as they are: distinct values by kind."""
    repaired: Mapping[str, int] = field(default_factory=dict)
    """Rows whose text was repaired, by kind of damage."""
    conflicting_labels: int = 0
    """Rows whose label differs from that of a near-identical row; they are kept."""

    def __post_init__(self) -> None:
        if len(self.table) + len(self.failed) != self.num_read:
            raise DataError(
                f"cleaning lost rows: {len(self.table)} rows + {len(self.failed)} failed, but {self.num_read} were "
                "read. This is a defect of metier; please report it."
            )

    @property
    def kept(self) -> Ints:
        """Places of the rows that may be used."""
        return np.flatnonzero(self.reason.code_N < 0)

    @property
    def set_aside(self) -> Ints:
        """Places of the rows set aside."""
        return np.flatnonzero(self.reason.code_N >= 0)

    @property
    def reasons(self) -> dict[str, int]:
        """Rows set aside, by reason."""
        counts = Counter(self.reason.code_N[self.set_aside].tolist())
        return dict(sorted((self.reason.names[code], num) for code, num in counts.items()))

    @property
    def dataset_version(self) -> str:
        """Merkle root of the kept rows' ids: equal for equal rows in any order."""
        return merkle_root(row_id.decode("ascii") for row_id in self.table.row_N[self.kept])

    def with_set_aside(self, reason_by_row_id: Mapping[str, str]) -> Curated:
        """The result with more kept rows set aside, such as golds that fail their own grader."""
        names = list(self.reason.names)
        code_N = self.reason.code_N.copy()
        for place in self.kept.tolist():
            if reason := reason_by_row_id.get(self.table.row_id(place)):
                if reason not in names:
                    names.append(reason)
                code_N[place] = names.index(reason)
        return replace(self, reason=Values(tuple(names), code_N))
