"""Rows that must leave train because they would give the hold-out away: copies, equal prompts, shared groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from metier.core.rows import Row
from metier.core.similarity import conversation_text, near_between, prompt_key

__all__ = ["Purged", "all_groups", "purge_groups", "purge_near"]


class Purged(NamedTuple):
    """A row that is in no part, why, and the `origin_id` of the row it is too close to ("" where there is none)."""

    row: Row
    reason: str
    """near_holdout, near_dev, shared_group, not_older or holdout_unused."""
    other: str


def purge_near(
    rows: Sequence[Row], kept: Sequence[Row], near_dup: float, reason: str
) -> tuple[list[Row], list[Purged]]:
    """Rows without those that are a direct near-duplicate of a kept row or ask the same in the same words.

    A near-duplicate has a Jaccard similarity of word shingles of at least `near_dup` between whole conversations. Only
    direct neighbours leave: a neighbour's neighbour stays.
    """
    pairs = near_between([conversation_text(row) for row in rows], [conversation_text(row) for row in kept], near_dup)
    closest: dict[int, tuple[float, str]] = {}
    for i, j, similarity in zip(pairs.first.tolist(), pairs.second.tolist(), pairs.similarity.tolist(), strict=True):
        candidate = (similarity, kept[j].origin_id)
        closest[i] = max(closest.get(i, candidate), candidate)
    asked = {prompt_key(row): row.origin_id for row in reversed(kept)}
    for i, row in enumerate(rows):
        if i not in closest and (other := asked.get(prompt_key(row))) is not None:
            closest[i] = (1.0, other)
    return _parted(rows, {i: other for i, (_, other) in closest.items()}, reason)


def all_groups(rows: Sequence[Row]) -> dict[tuple[str, str], str]:
    """Every (key, value) a row belongs to, with the `origin_id` of one such row."""
    return {pair: row.origin_id for row in reversed(rows) for pair in row.meta.groups.items()}


def purge_groups(rows: Sequence[Row], kept: Sequence[Row]) -> tuple[list[Row], list[Purged]]:
    """Rows without those that share a group, by any key, with a kept row."""
    theirs = all_groups(kept)
    shared = {
        i: other
        for i, row in enumerate(rows)
        for pair in row.meta.groups.items()
        if (other := theirs.get(pair)) is not None
    }
    return _parted(rows, shared, "shared_group")


def _parted(rows: Sequence[Row], other_by_index: dict[int, str], reason: str) -> tuple[list[Row], list[Purged]]:
    left = [row for i, row in enumerate(rows) if i not in other_by_index]
    return left, [Purged(rows[i], reason, other) for i, other in sorted(other_by_index.items())]
