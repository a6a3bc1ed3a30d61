"""A certificate after rows have left: what it still proves of the rows that stay.

The erased rows are known by `row_id` alone. Proven with them: how many rows each part had, and which. Proven without
them, of the rows that are left: every promise of the mode, and that each fact of the certificate bounds theirs. A part
that lost no row is checked in full. No longer recomputable: the exact figures of a part that lost rows, and the hash of
its times, groups and attributes; that the rows listed left by an erasure and not otherwise is for the ledger to tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from metier.core.errors import counted
from metier.core.hashing import merkle_root
from metier.core.table import RowTable
from metier.split.disjoint import PARTS

__all__ = ["after_erasure"]

Facts = Mapping[str, Any]  # Any: a certificate's values, or what stands in a file for them


def after_erasure(
    parts: Mapping[str, RowTable], claimed: Facts, actual: Facts, erased: Mapping[str, Sequence[str]]
) -> list[str]:
    """Every fact of the certificate that the rows left and the erased ones contradict.

    `actual` is the certificate of the rows that are left; `erased` holds row ids, at least one a part.
    """
    unknown = sorted(erased.keys() - set(PARTS))
    if unknown:
        return [f"erased rows of {', '.join(unknown)}; expected parts named {', '.join(PARTS)}."]
    whole = {**actual, **_with_erased(parts, claimed, actual, erased)}
    # The largest over pairs that no longer all exist: it must at least be that of the pairs claimed.
    if _is_like(whole["similarity"], claimed["similarity"]):
        whole["max_similarity"] = max(claimed["similarity"].values())
    problems = []
    for name in actual:
        if isinstance(whole[name], Mapping) and not _is_like(whole[name], claimed[name]):
            problems.append(f"certificate: {name} is {claimed[name]!r}, but the rows give {whole[name]!r}.")
            continue
        for where, told, found, part in _entries(name, claimed[name], whole[name]):
            side = _side(name, touched=_touched(part, erased))
            if not _holds(side, told, found):
                only = f"; erasing rows of {part or 'a part'} can only {side} it" if side in ("lower", "raise") else ""
                left = f"the rows left and {counted(sum(map(len, erased.values())), 'erased row')} give {found!r}"
                problems.append(f"certificate: {where} is {told!r}, but {left}{only}.")
    return problems


def _with_erased(
    parts: Mapping[str, RowTable], claimed: Facts, actual: Facts, erased: Mapping[str, Sequence[str]]
) -> Facts:
    """Counts and roots with the erased rows counted in."""
    ids = {name: [row_id.decode("ascii") for row_id in parts[name].row_N.tolist()] for name in erased}
    # A part without rows left contradicts no time.
    empty = {
        field: claimed[field]
        for name, field in (("train", "newest_train"), ("holdout", "oldest_holdout"))
        if name in erased and not len(parts[name])
    }
    return {
        **empty,
        "counts": {name: num + len(erased.get(name, ())) for name, num in actual["counts"].items()},
        "roots": {**actual["roots"], **{name: merkle_root([*ids[name], *erased[name]]) for name in erased}},
    }


def _is_like(found: Any, told: Any) -> bool:  # Any: a certificate's value
    """Whether a mapping of a certificate has the keys and the kind of values it must have."""
    if not isinstance(told, Mapping) or found.keys() != told.keys():
        return False
    return all(_kind(told[key]) == _kind(value) for key, value in found.items())


def _kind(value: Any) -> str:  # Any: a JSON value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return type(value).__name__
    return "text" if isinstance(value, str) else "number"


def _entries(name: str, told: Any, found: Any) -> Iterator[tuple[str, Any, Any, str]]:  # Any: a certificate's values
    """Each single value of a field: how it is called, as claimed, as found, and whose rows it is about."""
    if isinstance(found, Mapping):
        for key, value in found.items():
            yield f"{name} of {key}", told[key], value, key
    else:
        yield name, told, found, {"newest_train": "train", "oldest_holdout": "holdout"}.get(name, "")


def _touched(part: str, erased: Mapping[str, Sequence[str]]) -> bool:
    """Whether erased rows were of this part, of one of this pair of parts, or of any."""
    return any(name in erased for name in (part.split("-") if part else PARTS))


def _side(name: str, *, touched: bool) -> str:
    """Which way an erasure may move a fact: lower, raise, any, or none."""
    if not touched or name in ("mode", "near_dup", "version", "max_similarity", "counts", "roots"):
        return "none"
    return {"meta": "any", "oldest_holdout": "raise"}.get(name, "lower")


def _holds(side: str, told: Any, found: Any) -> bool:  # Any: a certificate's values
    """Whether a fact found agrees with the one claimed, as far as erased rows allow."""
    if side == "any" or (told == found and _kind(told) == _kind(found)):
        return True
    if side == "none":
        return False
    if told is None or found is None:
        # A part without times may have lost the rows that had none; one with times is left without only when empty.
        return told is None
    if _kind(told) != _kind(found):
        return False
    return bool(found <= told if side == "lower" else found >= told)
