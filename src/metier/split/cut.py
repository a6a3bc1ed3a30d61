"""Which rows are set aside: the newest, whole random groups, or the newest groups.

Each function takes rows (their places in the table) and a wanted number and returns (chosen, rest). None of them looks
at text; copies across parts are purged afterwards (`metier.split.purge`). The order of the input never matters: where
one is needed it is that of the ids, and draws go through the rows in it.
"""

# Shapes: N rows of the table, R rows to cut from, U units (a group, or a row that has none).

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from metier.core.errors import DataError, counted
from metier.core.seeds import derived_seed
from metier.core.table import NO_TIME, RowTable, Values

__all__ = [
    "Chosen", "Ints", "Lot", "check_times", "enough_groups", "group_key", "lot_of", "newest", "newest_groups",
    "whole_groups",
]  # fmt: skip

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
_EXAMPLES = 5


class Chosen(NamedTuple):
    """Rows of one part, in the order they were chosen, and the rows that are left."""

    rows: Ints
    rest: Ints


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Lot:
    """The rows to split, with what every cut asks of them."""

    table: RowTable
    seed: int
    key: str
    """Key of the groups that are kept whole; "" without groups."""
    place_N: Ints
    """Rank of each row by source and record number."""
    origin_N: Ints
    """Rank of each row by `origin_id`."""
    unit_N: Ints
    """Number of each row's group; groups by their keyed hash, then rows without one by `origin_id`."""


def lot_of(table: RowTable, *, seed: int) -> Lot:
    """The rows of a table, ready to be cut.

    Raises:
        DataError: a record is among them twice.
    """
    order = np.argsort(table.origin_N, kind="stable")
    twice = np.flatnonzero(table.origin_N[order[1:]] == table.origin_N[order[:-1]])
    origin_N = _ranks(order)
    place_N = _ranks(np.lexsort((origin_N, table.number_N, _alphabetic(table.source))))
    if len(twice):
        num = len(np.unique(table.origin_N[order[twice]]))
        row = int(min(order[twice], key=lambda row: place_N[row]))
        raise DataError(
            f"{table.where(row)}: {counted(num, 'record')} more than once among the rows "
            "to split; expected each once. Clean the rows before splitting."
        )
    key = group_key(table)
    unit_N = origin_N
    if key:
        values = table.groups[key]
        unit_N = np.where(values.code_N < 0, len(values.names) + origin_N, _alphabetic(values))
    return Lot(table=table, seed=seed, key=key, place_N=place_N, origin_N=origin_N, unit_N=unit_N)


def _ranks(order_N: Ints) -> Ints:
    """The place of each row in an order."""
    rank_N = np.empty(len(order_N), dtype=np.int64)
    rank_N[order_N] = np.arange(len(order_N))
    return rank_N


def _alphabetic(values: Values) -> Ints:
    """Each row's value as its place in the alphabet of all values; -1 for none."""
    names = values.names
    rank = _ranks(np.asarray(sorted(range(len(names)), key=names.__getitem__), dtype=np.int64))
    return np.append(rank, -1)[values.code_N]


def group_key(table: RowTable) -> str:
    """The key of the groups that are kept whole: of several, the one with the fewest values; "" without groups."""
    num = {key: len(np.unique(values.code_N[values.code_N >= 0])) for key, values in table.groups.items()}
    return min((key for key in num if num[key]), key=lambda key: (num[key], key), default="")


def check_times(lot: Lot, index_R: Ints, mode: str) -> None:
    """Refuse rows without a time where the parts are told apart by it.

    Raises:
        DataError: a row has none; the first of them by source and record are named.
    """
    missing = index_R[lot.table.time_N[index_R] == NO_TIME]
    if len(missing):
        first = missing[np.argsort(lot.place_N[missing])[:_EXAMPLES]]
        raise DataError(
            f"generalise_to = {mode!r}: {len(missing)} of {len(index_R)} rows have no time "
            f"({', '.join(lot.table.where(int(row)) for row in first)}); expected one each. "
            "Name the column in [data] time and fill it, or use generalise_to = 'new_groups'."
        )


def _newest_first(lot: Lot, index_R: Ints) -> Ints:
    """Rows newest first; rows of the same moment in an order drawn by the seed."""
    time_R = lot.table.time_N[index_R]
    order = np.argsort(time_R, kind="stable")
    same = time_R[order[1:]] == time_R[order[:-1]]
    tied = order[np.append(same, False) | np.insert(same, 0, False)] if len(order) else order
    # A hash a row, so only where it decides: a row's draw must not depend on which other rows there are.
    draw_R = np.zeros(len(index_R), dtype=np.int64)
    draw_R[tied] = [derived_seed(lot.seed, "ties", lot.table.origin(row)) for row in index_R[tied].tolist()]
    return index_R[np.lexsort((draw_R, time_R))[::-1]]


def newest(lot: Lot, index_R: Ints, wanted: int, *, what: str) -> Chosen:
    """The newest rows, exactly as many as wanted.

    Raises:
        DataError: too few rows, a row without a time, or times that do not tell the parts apart.
    """
    check_times(lot, index_R, "later")
    _need(len(index_R) > wanted, what, wanted, _left(len(index_R)))
    time_R = lot.table.time_N[index_R]
    num_rest = len(index_R) - wanted
    before, edge = np.partition(time_R, [num_rest - 1, num_rest])[[num_rest - 1, num_rest]]
    if before == time_R.max():
        same = lot.table.time(int(index_R[time_R.argmax()]))
        assert same is not None, "rows without a time were refused"
        raise DataError(
            f"generalise_to = 'later': every row of the {what} ({wanted}) and the newest of {num_rest} rows before it "
            f"carry the same time, {same.isoformat()}; expected times that tell them apart. "
            "Give a finer [data] time, or use generalise_to = 'new_groups'."
        )
    chosen = _newest_first(lot, index_R[time_R >= edge])[:wanted]
    return Chosen(chosen, _without(lot, index_R, chosen))


def _without(lot: Lot, index_R: Ints, chosen: Ints) -> Ints:
    taken_N = np.zeros(len(lot.table), dtype=bool)
    taken_N[chosen] = True
    return index_R[~taken_N[index_R]]


def whole_groups(lot: Lot, index_R: Ints, wanted: int, *, what: str, stratify: str = "", min_groups: int = 0) -> Chosen:
    """Random whole groups, drawn one after the other, with at least as many rows as wanted.

    A group that would overshoot is passed over while others fit; if none fits exactly, the smallest one left is added.
    Rows without groups are drawn one by one. With `stratify`, each value's share of the rows is kept (largest
    remainder).

    Raises:
        DataError: too few rows or groups, or groups so large that the part would be twice as large as wanted.
    """
    unit_U, own_R, size_U = np.unique(lot.unit_N[index_R], return_inverse=True, return_counts=True)
    _need(len(index_R) > wanted, what, wanted, _left(len(index_R), len(unit_U)))
    drawn_U = np.random.default_rng(derived_seed(lot.seed, "groups", what)).permutation(len(unit_U))
    stratum_U, names = _strata(lot.table, index_R, own_R, stratify)
    rows = np.bincount(stratum_U, weights=size_U, minlength=len(names)).astype(np.int64)
    quota = _quotas(rows, names, wanted, stratify)
    taken_U = _taken(size_U[drawn_U], stratum_U[drawn_U], quota, wanted)
    turn_R = _ranks(drawn_U)[own_R]
    is_chosen_R = taken_U[turn_R]
    chosen, rest = index_R[is_chosen_R], index_R[~is_chosen_R]
    counts = f"{_left(len(index_R), len(unit_U))}, the largest of {counted(int(size_U.max()), 'row')}"
    _need(len(chosen) >= wanted and len(rest) > 0, what, wanted, counts)
    enough_groups(int(taken_U.sum()), min_groups, len(unit_U), what)
    return Chosen(chosen[np.lexsort((lot.origin_N[chosen], turn_R[is_chosen_R]))], rest)


def _taken(size_U: Ints, stratum_U: Ints, quota: Sequence[int], wanted: int) -> Bools:
    """Which units are taken, in the order they are drawn."""
    taken_U = np.zeros(len(size_U), dtype=bool)
    left, missing = list(quota), wanted
    sizes = size_U.tolist()
    for i, (size, stratum) in enumerate(zip(sizes, stratum_U.tolist(), strict=True)):
        if size <= left[stratum]:
            taken_U[i] = True
            left[stratum] -= size
            missing -= size
            if not missing:
                return taken_U
    for i, size in enumerate(sizes):  # what the quotas left open: filled with what fits
        if size <= missing and not taken_U[i]:
            taken_U[i] = True
            missing -= size
    open_U = np.where(taken_U, np.iinfo(np.int64).max, size_U)
    smallest = int(open_U.argmin())
    if missing and open_U[smallest] <= missing + wanted:
        taken_U[smallest] = True
    return taken_U


def newest_groups(lot: Lot, index_R: Ints, wanted: int, *, what: str, min_groups: int = 0) -> Chosen:
    """Whole groups in the order of their first row, newest first, until there are as many rows as wanted.

    Raises:
        DataError: no groups, too few of them, too few rows, or a row without a time.
    """
    check_times(lot, index_R, "later_and_new_groups")
    if not lot.key:
        raise DataError(
            f"generalise_to = 'later_and_new_groups': none of {len(index_R)} rows has a group; expected one each. "
            "Name [data] groups, or use 'later'."
        )
    unit_U, own_R, size_U = np.unique(lot.unit_N[index_R], return_inverse=True, return_counts=True)
    first_U = np.full(len(unit_U), np.iinfo(np.int64).max)
    np.minimum.at(first_U, own_R, lot.table.time_N[index_R])
    order = np.argsort(first_U)[::-1]
    num_groups = _num_until(size_U[order], wanted)
    # Groups that begin at the moment of the last one needed compete for its place; no other group can come in.
    close_U = first_U >= first_U[order[num_groups - 1]] if num_groups else np.zeros(0, dtype=bool)
    ordered = _newest_first(lot, index_R[close_U[own_R]])[::-1]  # oldest first: a group stands where its first row does
    _, first_at, own, size = np.unique(lot.unit_N[ordered], return_index=True, return_inverse=True, return_counts=True)
    newest_units = np.argsort(first_at)[::-1]
    num_groups = _num_until(size[newest_units], wanted)
    turn = _ranks(newest_units)[own]
    by_turn = np.argsort(turn, kind="stable")
    chosen = ordered[by_turn[turn[by_turn] < num_groups]]
    rest = _without(lot, index_R, chosen)
    counts = f"{_left(len(index_R), len(unit_U))}, and the newest groups hold {len(chosen)}"
    _need(wanted <= len(chosen) <= 2 * wanted and len(rest) > 0, what, wanted, counts)
    enough_groups(num_groups, min_groups, len(unit_U), what)
    return Chosen(chosen, rest)


def _num_until(size_U: Ints, wanted: int) -> int:
    """How many groups, one after the other, it takes to have the rows wanted; all where they do not suffice."""
    return min(len(size_U), int(np.searchsorted(np.cumsum(size_U), wanted)) + 1)


def _left(num_rows: int, num_groups: int = 0) -> str:
    """How many rows, in how many groups, there are to cut from."""
    within = f" in {counted(num_groups, 'group')}" if num_groups else ""
    return f"{counted(num_rows, 'row')}{within} {'is' if num_rows == 1 else 'are'} left"


def _need(holds: bool, what: str, wanted: int, counts: str) -> None:
    if not holds:
        raise DataError(
            f"{what}: {wanted} rows asked for, but {counts}, and train needs rows too. "
            f"Collect more rows, or ask for fewer: [split] {'holdout_rows' if what == 'hold-out' else 'dev_rows'}."
        )


def enough_groups(num: int, min_groups: int, of: int, what: str) -> None:
    """Refuse a part of too few groups to stand for groups nobody has seen.

    Raises:
        DataError: fewer than `min_groups` of the `of` groups are in it.
    """
    if num < min_groups:
        raise DataError(
            f"{what}: {counted(num, 'group')} of {of}; expected at least {min_groups} to claim anything about new "
            "groups. Raise holdout_rows, collect more groups, or lower [split] min_holdout_groups and say so."
        )


def _strata(table: RowTable, index_R: Ints, own_R: Ints, stratify: str) -> tuple[Ints, list[str]]:
    """The most frequent value of each unit, as its place among the names; ties go to the first in the alphabet."""
    num_units = int(own_R.max()) + 1
    values = table.label if stratify == "label" else table.attributes.get(stratify)
    if not stratify or values is None:
        return np.zeros(num_units, dtype=np.int64), [""]
    names = sorted({"", *values.names})
    place = {name: i for i, name in enumerate(names)}
    place_of_code = np.asarray([*(place[name] for name in values.names), place[""]], dtype=np.int64)
    pair, num = np.unique(own_R * len(names) + place_of_code[values.code_N[index_R]], return_counts=True)
    unit, value = np.divmod(pair, len(names))
    order = np.lexsort((value, -num, unit))
    first = np.searchsorted(unit[order], np.arange(num_units))
    return value[order][first], names


def _quotas(size: Ints, names: Sequence[str], wanted: int, stratify: str) -> list[int]:
    """Rows wanted of each stratum, adding up to `wanted`."""
    if not stratify:
        return [wanted]
    total = int(size.sum())
    if int(size[0]) == total:  # the first name is ""
        raise DataError(
            f"[split] stratify = {stratify!r}: none of {total} rows has it. "
            'Name one of [data] attributes, or "label" where rows have labels.'
        )
    exact = [wanted * int(num) / total for num in size]
    quota = [int(share) for share in exact]
    for i in sorted(range(len(names)), key=lambda i: (quota[i] - exact[i], i))[: wanted - sum(quota)]:
        quota[i] += 1
    return quota
