"""Which rows are set aside: the newest, whole random groups, or the newest groups.

Each function takes rows and a wanted number and returns (chosen, rest). None of them looks at text; copies across parts
are purged afterwards (`metier.split.purge`). The order of the input never matters.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime

import numpy as np

from metier.core.errors import DataError, counted
from metier.core.rows import Row
from metier.core.seeds import derived_seed

__all__ = ["Chosen", "by_time", "enough_groups", "group_key", "group_of", "newest", "newest_groups", "whole_groups"]

Chosen = tuple[list[Row], list[Row]]
_EXAMPLES = 5


def group_key(rows: Sequence[Row]) -> str:
    """The key of the groups that are kept whole: of several, the one with the fewest values; "" without groups."""
    values: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        for key, value in row.meta.groups.items():
            values[key].add(value)
    return min(values, key=lambda key: (len(values[key]), key), default="")


def group_of(row: Row, key: str) -> tuple[str, str]:
    """The group of a row; a row without one is a group of its own."""
    value = row.meta.groups.get(key) if key else None
    return ("row", row.origin_id) if value is None else ("group", value)


def _groups(rows: Sequence[Row], key: str) -> dict[tuple[str, str], list[Row]]:
    found: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.origin_id):
        found[group_of(row, key)].append(row)
    return dict(sorted(found.items()))


def time_of(row: Row) -> datetime:
    """When the row was collected; rows without a time were refused before (`by_time`)."""
    assert row.meta.collected_at is not None
    return row.meta.collected_at


def by_time(rows: Sequence[Row], seed: int, mode: str) -> list[Row]:
    """Rows newest first; rows of the same moment in an order drawn by the seed.

    Raises:
        DataError: a row has no time.
    """
    missing = [row for row in rows if row.meta.collected_at is None]
    if missing:
        shown = ", ".join(f"{row.meta.source}:{row.meta.source_row}" for row in missing[:_EXAMPLES])
        raise DataError(
            f"generalise_to = {mode!r}: {len(missing)} of {len(rows)} rows have no time ({shown}); expected one each. "
            "Name the column in [data] time and fill it, or use generalise_to = 'new_groups'."
        )
    return sorted(rows, key=lambda row: (time_of(row), derived_seed(seed, "ties", row.origin_id)), reverse=True)


def newest(rows: Sequence[Row], wanted: int, *, seed: int, what: str) -> Chosen:
    """The newest rows, exactly as many as wanted.

    Raises:
        DataError: too few rows, a row without a time, or times that do not tell the parts apart.
    """
    ordered = by_time(rows, seed, "later")
    _need(len(ordered) > wanted, what, wanted, _left(len(ordered)))
    chosen, rest = ordered[:wanted], ordered[wanted:]
    if time_of(chosen[0]) == time_of(rest[0]):
        raise DataError(
            f"generalise_to = 'later': every row of the {what} ({wanted}) and the newest of {len(rest)} rows before it "
            f"carry the same time, {time_of(rest[0]).isoformat()}; expected times that tell them apart. "
            "Give a finer [data] time, or use generalise_to = 'new_groups'."
        )
    return chosen, rest


def whole_groups(
    rows: Sequence[Row], wanted: int, *, key: str, seed: int, what: str, stratify: str = "", min_groups: int = 0
) -> Chosen:
    """Random whole groups, drawn one after the other, with at least as many rows as wanted.

    A group that would overshoot is passed over while others fit; if none fits exactly, the smallest one left is added.
    Rows without groups are drawn one by one. With `stratify`, each value's share of the rows is kept (largest
    remainder).

    Raises:
        DataError: too few rows or groups, or groups so large that the part would be twice as large as wanted.
    """
    units = list(_groups(rows, key).values())
    _need(len(rows) > wanted, what, wanted, _left(len(rows), len(units)))
    rng = np.random.default_rng(derived_seed(seed, "groups", what))
    units = [units[i] for i in rng.permutation(len(units))]
    taken = [False] * len(units)
    strata = [_stratum_of(unit, stratify) for unit in units] if stratify else [""] * len(units)
    left = dict(_quotas(units, wanted, stratify))
    for i, (unit, stratum) in enumerate(zip(units, strata, strict=True)):
        if len(unit) <= left[stratum]:
            taken[i], left[stratum] = True, left[stratum] - len(unit)
    missing = sum(left.values())  # what the quotas left open: filled with what fits, then with the smallest group left
    for i, unit in enumerate(units):
        if not taken[i] and len(unit) <= missing:
            taken[i], missing = True, missing - len(unit)
    smallest = min((len(unit), i) for i, unit in enumerate(units) if not taken[i]) if not all(taken) else (0, 0)
    if missing > 0 and 0 < smallest[0] <= missing + wanted:
        taken[smallest[1]] = True
    chosen = [row for unit, is_taken in zip(units, taken, strict=True) if is_taken for row in unit]
    rest = [row for unit, is_taken in zip(units, taken, strict=True) if not is_taken for row in unit]
    largest = max(len(unit) for unit in units)
    counts = f"{_left(len(rows), len(units))}, the largest of {counted(largest, 'row')}"
    _need(len(chosen) >= wanted and bool(rest), what, wanted, counts)
    enough_groups(sum(taken), min_groups, len(units), what)
    return chosen, rest


def newest_groups(rows: Sequence[Row], wanted: int, *, key: str, seed: int, what: str, min_groups: int = 0) -> Chosen:
    """Whole groups in the order of their first row, newest first, until there are as many rows as wanted.

    Raises:
        DataError: no groups, too few of them, too few rows, or a row without a time.
    """
    ordered = by_time(rows, seed, "later_and_new_groups")
    if not key:
        raise DataError(
            f"generalise_to = 'later_and_new_groups': none of {len(rows)} rows has a group; expected one each. "
            "Name [data] groups, or use 'later'."
        )
    units: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in reversed(ordered):  # oldest first: a group stands where its first row stands
        units[group_of(row, key)].append(row)
    chosen: list[Row] = []
    num_groups = 0
    for unit in reversed(units.values()):
        if len(chosen) >= wanted:
            break
        chosen, num_groups = chosen + unit, num_groups + 1
    picked = {row.origin_id for row in chosen}
    rest = [row for row in ordered if row.origin_id not in picked]
    counts = f"{_left(len(rows), len(units))}, and the newest groups hold {len(chosen)}"
    _need(wanted <= len(chosen) <= 2 * wanted and bool(rest), what, wanted, counts)
    enough_groups(num_groups, min_groups, len(units), what)
    return chosen, rest


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


def _stratum_of(unit: Sequence[Row], stratify: str) -> str:
    """The most frequent value in a group; ties go to the first in the alphabet."""
    values = Counter(
        (row.target.label if stratify == "label" else row.meta.attributes.get(stratify)) or "" for row in unit
    )
    return min(values, key=lambda value: (-values[value], value))


def _quotas(units: Sequence[Sequence[Row]], wanted: int, stratify: str) -> Mapping[str, int]:
    """Rows wanted of each stratum, adding up to `wanted`."""
    if not stratify:
        return {"": wanted}
    sizes: Counter[str] = Counter()
    for unit in units:
        sizes[_stratum_of(unit, stratify)] += len(unit)
    if set(sizes) == {""}:
        raise DataError(
            f"[split] stratify = {stratify!r}: none of {sum(sizes.values())} rows has it. "
            'Name one of [data] attributes, or "label" where rows have labels.'
        )
    exact = {name: wanted * size / sizes.total() for name, size in sorted(sizes.items())}
    quota = {name: int(share) for name, share in exact.items()}
    for name in sorted(exact, key=lambda name: (quota[name] - exact[name], name))[: wanted - sum(quota.values())]:
        quota[name] += 1
    return quota
