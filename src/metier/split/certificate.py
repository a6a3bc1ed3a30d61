"""The certificate of a split: what anyone can recompute from the rows, and the check that it holds.

>>> verify_certificate({"train": train, "dev": dev, "holdout": holdout}, certificate)
[]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from metier.core.errors import DataError, counted
from metier.core.hashing import merkle_root
from metier.core.rows import Row
from metier.core.similarity import conversation_text, fold, max_between, prompt_key
from metier.split.purge import all_groups

__all__ = ["Certificate", "assert_disjoint", "certify", "verify_certificate"]

PARTS = ("train", "dev", "holdout")
CERTIFICATE_VERSION = 1
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
    version: int = CERTIFICATE_VERSION

    def as_json(self) -> dict[str, Any]:
        """The certificate as plain JSON values."""
        return asdict(self)


def certify(parts: Mapping[str, Sequence[Row]], *, mode: str, near_dup: float) -> Certificate:
    """The certificate of parts named train, dev and holdout, computed from the rows alone."""
    texts = {name: [conversation_text(row) for row in parts[name]] for name in PARTS}
    similarity = {
        f"{first}-{second}": round(max_between(texts[second], texts[first])[0], _DIGITS)
        for first, second in combinations(PARTS, 2)
    }
    prompts = {name: {prompt_key(row) for row in parts[name]} for name in PARTS}
    earlier = {"dev": prompts["train"], "holdout": prompts["train"] | prompts["dev"]}
    groups = {name: set(all_groups(parts[name])) for name in PARTS}
    return Certificate(
        mode=mode,
        near_dup=near_dup,
        max_similarity=max(similarity.values()),
        similarity=similarity,
        exact=sum(prompt_key(row) in before for name, before in earlier.items() for row in parts[name]),
        shared_groups=len(set().union(*(groups[a] & groups[b] for a, b in combinations(PARTS, 2)))),
        newest_train=_time(parts["train"], newest=True),
        oldest_holdout=_time(parts["holdout"], newest=False),
        counts={name: len(parts[name]) for name in PARTS},
        groups={name: len(groups[name]) for name in PARTS},
        roots={name: merkle_root(row.row_id for row in parts[name]) for name in PARTS},
    )


def _time(rows: Sequence[Row], *, newest: bool) -> str | None:
    times = [row.meta.collected_at for row in rows]
    known = [time for time in times if time is not None]
    if not known or len(known) < len(times):
        return None
    return (max(known) if newest else min(known)).isoformat()


def verify_certificate(
    parts: Mapping[str, Sequence[Row]], certificate: Certificate | Mapping[str, Any]
) -> list[str]:  # Any: the certificate as read from JSON
    """What is wrong: every field that the rows contradict, and every promise the certificate does not keep."""
    claimed = certificate.as_json() if isinstance(certificate, Certificate) else dict(certificate)
    expected = set(Certificate.__dataclass_fields__)
    if set(claimed) != expected:
        odd = ", ".join(sorted(set(claimed) ^ expected))
        return [f"certificate: fields {odd} are missing or unknown; it was not written by this version."]
    actual = certify(parts, mode=claimed["mode"], near_dup=claimed["near_dup"]).as_json()
    problems = [
        f"certificate: {name} is {claimed[name]!r}, but the rows give {actual[name]!r}."
        for name in actual
        if actual[name] != claimed[name]
    ]
    try:
        assert_disjoint(parts["train"], parts["dev"], parts["holdout"])
    except DataError as err:
        problems.append(str(err))
    return problems + broken_promises(actual)


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
    if facts["mode"] != "new_groups":
        newest_train, oldest_holdout = facts["newest_train"], facts["oldest_holdout"]
        if newest_train is None or oldest_holdout is None or newest_train > oldest_holdout:
            problems.append(
                f"split: the newest train row is of {newest_train}, the oldest hold-out row of {oldest_holdout}."
            )
    return problems


def assert_disjoint(train: Sequence[Row], dev: Sequence[Row], holdout: Sequence[Row]) -> None:
    """Nothing after a transform: no row, version of a row or exact text stands in two parts.

    Raises:
        DataError: one does; the message names both rows.
    """
    named = {"train": train, "dev": dev, "holdout": holdout}
    for first, second in combinations(PARTS, 2):
        marks = {mark: row for row in named[second] for mark in _marks(row)}
        for row in named[first]:
            for mark in _marks(row):
                if (other := marks.get(mark)) is not None:
                    raise DataError(
                        f"{row.meta.source}:{row.meta.source_row}: row {row.row_id} of {first} is also in {second} "
                        f"({mark[0]} as {other.meta.source}:{other.meta.source_row}); expected parts without a "
                        "common row. A transform mixed them up: run the split again."
                    )


def _marks(row: Row) -> list[tuple[str, str]]:
    """Everything by which a row is recognised in another part, with the word for it."""
    return [
        ("same record", row.origin_id),
        ("same content", row.row_id),
        *(("same content", parent) for parent in row.parents),
        ("same text", fold(conversation_text(row))),
    ]
