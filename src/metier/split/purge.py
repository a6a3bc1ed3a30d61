"""Rows that must leave train because they would give the hold-out away: copies, equal prompts, shared groups."""

# Shapes: R rows, K kept rows of a part cut before, P pairs.

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from metier.core.similarity import near_between
from metier.split.cut import Ints, Lot

__all__ = ["Purged", "purge_groups", "purge_near"]

CHUNK_ROWS = 100_000
"""Rows compared at once: their shingles are copied, and where all rows are alike each is near every kept row."""


class Purged(NamedTuple):
    """A row that is in no part, why, and the `origin_id` of the row it is too close to ("" where there is none)."""

    row: int
    """Its place in the table."""
    reason: str
    """near_holdout, near_dev, shared_group, not_older or holdout_unused."""
    other: str


def purge_near(lot: Lot, index_R: Ints, kept_K: Ints, near_dup: float, reason: str) -> tuple[Ints, list[Purged]]:
    """Rows without those that are a direct near-duplicate of a kept row or ask the same in the same words.

    A near-duplicate has a Jaccard similarity of word shingles of at least `near_dup` between whole conversations. Only
    direct neighbours leave: a neighbour's neighbour stays.
    """
    table = lot.table
    asked = _first_equal(table.prompt_N[index_R], table.prompt_N[kept_K])
    near = np.full(len(index_R), -1, dtype=np.int64)
    for low in range(0, len(index_R), CHUNK_ROWS):
        part = slice(low, low + CHUNK_ROWS)
        near[part] = _closest(lot, index_R[part], kept_K, near_dup)
    return _parted(lot, index_R, kept_K, np.where(near >= 0, near, asked), reason)


def _closest(lot: Lot, index_R: Ints, kept_K: Ints, near_dup: float) -> Ints:
    """For each row the place of the nearest near-duplicate among the kept rows, or -1; ties by `origin_id`."""
    conversation = lot.table.conversation
    pairs = near_between(conversation.take(index_R), conversation.take(kept_K), near_dup)
    order = np.lexsort((lot.origin_N[kept_K[pairs.second]], pairs.similarity, pairs.first))
    found = np.full(len(index_R), -1, dtype=np.int64)
    found[pairs.first[order]] = pairs.second[order]  # the last of a row's pairs stays: the nearest
    return found


def purge_groups(lot: Lot, index_R: Ints, kept_K: Ints) -> tuple[Ints, list[Purged]]:
    """Rows without those that share a group, by any key, with a kept row."""
    shared = np.full(len(index_R), -1, dtype=np.int64)
    for key in sorted(lot.table.groups):
        code_N = lot.table.groups[key].code_N
        found = _first_equal(code_N[index_R], code_N[kept_K])
        shared = np.where((found >= 0) & (code_N[index_R] >= 0), found, shared)
    return _parted(lot, index_R, kept_K, shared, "shared_group")


def _first_equal(value_R: npt.NDArray[Any], value_K: npt.NDArray[Any]) -> Ints:  # Any: codes of one of two widths
    """For each value the place of the first equal one among those kept, or -1."""
    if not len(value_K):
        return np.full(len(value_R), -1, dtype=np.int64)
    known, first = np.unique(value_K, return_index=True)
    near = np.minimum(np.searchsorted(known, value_R), len(known) - 1)
    return np.where(known[near] == value_R, first[near], -1)


def _parted(lot: Lot, index_R: Ints, kept_K: Ints, other_R: Ints, reason: str) -> tuple[Ints, list[Purged]]:
    """Rows that stay, and those whose `other_R` names a kept row."""
    leaves = other_R >= 0
    others = kept_K[other_R[leaves]].tolist()
    gone = [
        Purged(row, reason, lot.table.origin(other))
        for row, other in zip(index_R[leaves].tolist(), others, strict=True)
    ]
    return index_R[~leaves], gone
