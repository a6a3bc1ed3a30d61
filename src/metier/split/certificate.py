"""The certificate of a split: what anyone with the project key can recompute from the rows.

>>> verify_certificate({"train": train, "dev": dev, "holdout": holdout}, certificate)
[]

The parts are tables made with one key. After an erasure the rows that are left are checked against the certificate as
it was issued: `metier.split.erased`.
"""

# Shapes: N rows of a part.

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from metier.core.errors import counted
from metier.core.hashing import canonical_json, merkle_root
from metier.core.similarity import max_between
from metier.core.table import NO_TIME, RowTable, Values
from metier.split.cut import Ints
from metier.split.disjoint import PARTS, common_rows
from metier.split.erased import after_erasure

__all__ = ["Certificate", "broken_promises", "certify", "verify_certificate"]

CERTIFICATE_VERSION = 2
MODES = ("later", "new_groups", "later_and_new_groups")
_DIGITS = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """Facts about a split that hold or not, whoever computes them."""

    mode: str
    near_dup: float
    max_similarity: float
    """Largest exact Jaccard similarity of word shingles between conversations of two parts; below `near_dup`."""
    similarity: Mapping[str, float]
    """The same for each pair of parts, as "train-holdout"."""
    exact: int
    """Rows of dev and hold-out whose folded prompt also stands in an earlier part; 0."""
    shared_groups: int
    """(key, value) groups with rows in two parts; 0 where new groups are claimed."""
    newest_train: str | None
    """Time of the newest train row, ISO 8601 in UTC; None where a train row has no time."""
    oldest_holdout: str | None
    counts: Mapping[str, int]
    """Rows of each part."""
    groups: Mapping[str, int]
    """Distinct (key, value) groups of each part."""
    roots: Mapping[str, str]
    """Merkle root of each part's row ids."""
    meta: Mapping[str, str]
    """SHA-256 of each part's ids with their times, groups and attributes, which are no part of a row id."""
    version: int = CERTIFICATE_VERSION

    def as_json(self) -> dict[str, Any]:
        """The certificate as plain JSON values."""
        return asdict(self)


def certify(parts: Mapping[str, RowTable], *, mode: str, near_dup: float) -> Certificate:
    """The certificate of parts named train, dev and holdout, computed from the rows alone."""
    similarity = {
        f"{first}-{second}": round(max_between(parts[second].conversation, parts[first].conversation)[0], _DIGITS)
        for first, second in combinations(PARTS, 2)
    }
    prompts = {name: np.unique(parts[name].prompt_N) for name in PARTS}
    earlier = {"dev": prompts["train"], "holdout": np.concatenate([prompts["train"], prompts["dev"]])}
    groups = {name: _groups(parts[name]) for name in PARTS}
    return Certificate(
        mode=mode,
        near_dup=near_dup,
        max_similarity=max(similarity.values()),
        similarity=similarity,
        exact=sum(int(np.isin(parts[name].prompt_N, before).sum()) for name, before in earlier.items()),
        shared_groups=len(set().union(*(groups[a] & groups[b] for a, b in combinations(PARTS, 2)))),
        newest_train=_time(parts["train"], newest=True),
        oldest_holdout=_time(parts["holdout"], newest=False),
        counts={name: len(parts[name]) for name in PARTS},
        groups={name: len(groups[name]) for name in PARTS},
        roots={name: merkle_root(row_id.decode("ascii") for row_id in parts[name].row_N.tolist()) for name in PARTS},
        meta={name: _meta_hash(parts[name]) for name in PARTS},
    )


def _groups(table: RowTable) -> set[tuple[str, str]]:
    """Every (key, value) a row of the part belongs to."""
    return {
        (key, values.names[code])
        for key, values in table.groups.items()
        for code in np.unique(values.code_N[values.code_N >= 0]).tolist()
    }


def _time(table: RowTable, *, newest: bool) -> str | None:
    if not len(table) or table.time_N.min() == NO_TIME:
        return None
    time = table.time(int(table.time_N.argmax() if newest else table.time_N.argmin()))
    return None if time is None else time.isoformat()


def _meta_hash(table: RowTable) -> str:
    """SHA-256 of ids, times, groups and attributes, in the order of `origin_id`; keys without a value left out."""
    order = np.argsort(table.origin_N, kind="stable")
    digest = hashlib.sha256(canonical_json(len(order)))
    digest.update(table.origin_N[order].tobytes())
    digest.update(table.row_N[order].tobytes())
    digest.update(table.time_N[order].astype("<i8").tobytes())
    for what, columns in (("group", table.groups), ("attribute", table.attributes)):
        for key in sorted(columns):
            names, place_N = _alphabetic(columns[key].take(order))
            if names:
                digest.update(canonical_json([what, key, names]))
                digest.update(place_N.astype("<i8").tobytes())
    return digest.hexdigest()


def _alphabetic(values: Values) -> tuple[list[str], Ints]:
    """The different values of a column in the order of the alphabet, and the place of each row's among them, or -1."""
    codes, inverse_N = np.unique(values.code_N, return_inverse=True)
    place = {values.names[code]: int(i) for i, code in enumerate(codes.tolist()) if code >= 0}
    names = sorted(place)
    rank = np.full(len(codes), -1, dtype=np.int64)
    rank[[place[name] for name in names]] = np.arange(len(names))
    return names, rank[inverse_N]


def verify_certificate(
    parts: Mapping[str, RowTable],
    certificate: Certificate | Mapping[str, Any],  # Any: the certificate as read from JSON
    *,
    erased: Mapping[str, Collection[str]] | None = None,
) -> list[str]:
    """What is wrong: every field that the rows contradict, and every promise the certificate does not keep.

    `erased` names the erased rows of each part by `row_id`, one entry a row; `parts` then hold the rows that are left.
    Counts and Merkle roots must hold with the erased rows counted in. Facts about a part that lost rows are bounds:
    what is left may be less similar, of fewer groups, older in train and newer in the hold-out, never the other way.
    """
    claimed = certificate.as_json() if isinstance(certificate, Certificate) else dict(certificate)
    expected = set(Certificate.__dataclass_fields__)
    if set(claimed) != expected:
        odd = ", ".join(sorted(set(claimed) ^ expected))
        return [f"certificate: fields {odd} are missing or unknown; it was not written by this version."]
    if problems := _unknown_premises(claimed):
        return problems
    actual = certify(parts, mode=claimed["mode"], near_dup=claimed["near_dup"]).as_json()
    gone = {name: list(ids) for name, ids in (erased or {}).items() if len(ids)}
    if gone:
        problems = after_erasure(parts, claimed, actual, gone)
        problems += [] if problems else broken_promises(claimed)
    else:
        problems = [
            f"certificate: {name} is {claimed[name]!r}, but the rows give {actual[name]!r}."
            for name in actual
            if actual[name] != claimed[name]
        ]
    return problems + common_rows(parts) + [told for told in broken_promises(actual) if told not in problems]


def _unknown_premises(claimed: Mapping[str, Any]) -> list[str]:  # Any: a certificate as read from JSON
    """What the rows cannot tell, only the certificate: the mode and the threshold."""
    problems = []
    if claimed["mode"] not in MODES:
        problems.append(f"certificate: mode is {claimed['mode']!r}; expected one of {', '.join(MODES)}.")
    near_dup = claimed["near_dup"]
    if isinstance(near_dup, bool) or not isinstance(near_dup, int | float) or not 0 <= near_dup <= 1:
        problems.append(f"certificate: near_dup is {near_dup!r}; expected a number from 0 to 1.")
    return problems


def broken_promises(facts: Mapping[str, Any]) -> list[str]:  # Any: a certificate's values
    """What the mode promises and the facts do not keep."""
    problems = []
    if facts["max_similarity"] >= facts["near_dup"]:
        problems.append(
            f"split: two parts hold rows of similarity {facts['max_similarity']}; expected below {facts['near_dup']}."
        )
    if facts["exact"]:
        problems.append(f"split: {counted(facts['exact'], 'prompt')} in two parts; expected 0.")
    if facts["mode"] != "later" and facts["shared_groups"]:
        problems.append(
            f"split: {counted(facts['shared_groups'], 'group')} with rows in two parts; "
            f"expected 0 in {facts['mode']!r}."
        )
    if facts["mode"] != "new_groups" and facts["counts"]["train"] and facts["counts"]["holdout"]:
        newest_train, oldest_holdout = facts["newest_train"], facts["oldest_holdout"]
        if newest_train is None or oldest_holdout is None or newest_train > oldest_holdout:
            problems.append(
                f"split: the newest train row is of {newest_train}, the oldest hold-out row of {oldest_holdout}."
            )
    return problems
