"""Votes of annotators: one vote, and many of them by column.

    >>> Vote(row_id="91ab", annotator="ana", value="refund", at="2026-03-01T09:30:00.000000Z", seconds=12.5)

One annotator has one say a row: of several votes the newest counts. Votes are kept in the ledger
(`metier.ledger.votes`); the statistics over them stand in `agreement`, `dawid_skene` and `annotators`.
"""

# Shapes: V votes, N rows (items), J annotators, K labels.

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from metier.core.errors import DataError

__all__ = ["Estimate", "Floats", "Ints", "Vote", "VoteTable", "score_interval", "vote_table", "vote_time"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
MAX_LABELS = 1000  # more different values are free texts, not labels
_Z95 = 1.959963984540054


def vote_time(when: datetime) -> str:
    """The one spelling of a time in votes: ISO text in UTC with microseconds; a time without a zone is UTC."""
    aware = when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    return aware.isoformat(timespec="microseconds").replace("+00:00", "Z")


@dataclass(frozen=True, kw_only=True, slots=True)
class Vote:
    """What one annotator said about one row, once."""

    row_id: str
    """Keyed hash of the content that was labelled."""
    annotator: str
    """Who: a name or number, the same in every file."""
    value: str
    """The label, rating or text, as text."""
    at: str
    """When, as `vote_time` spells it; a later vote of the same annotator on the same row replaces an earlier one."""
    guideline_version: str = ""
    """Version of the instructions the annotator followed."""
    seconds: float | None = None
    """Time spent; None where it was not measured, never 0 for "unknown"."""

    def __post_init__(self) -> None:
        where = f"vote of {self.annotator!r} on row {self.row_id!r}"
        if not (self.row_id and self.annotator and self.value):
            raise DataError(f"{where}: value {self.value!r}; expected a row, an annotator and a value. Leave it out.")
        try:
            spelled = vote_time(datetime.fromisoformat(self.at))
        except ValueError:
            spelled = ""
        if spelled != self.at:
            raise DataError(
                f"{where}: at is {self.at!r}; expected UTC such as 2026-03-01T09:30:00.000000Z. Use vote_time()."
            )
        if self.seconds is not None and not (math.isfinite(self.seconds) and self.seconds >= 0):
            raise DataError(f"{where}: seconds is {self.seconds}; expected 0 or more, or None where not measured.")


class Estimate(NamedTuple):
    """A figure with its two-sided 95 % interval and the number it rests on."""

    value: float
    low: float
    high: float
    n: int
    """Rows or votes the figure rests on."""

    def as_json(self) -> dict[str, float | int]:
        """The four numbers by name."""
        return self._asdict()


@dataclass(frozen=True, kw_only=True, slots=True)
class VoteTable:
    """Votes by column, one for each row and annotator, sorted by row then annotator; made by `vote_table`."""

    rows: tuple[str, ...]
    annotators: tuple[str, ...]
    labels: tuple[str, ...]
    """Every value that was voted, in order: as given, else by number where all are numbers, else by text."""
    row_V: Ints
    annotator_V: Ints
    label_V: Ints
    seconds_V: Floats
    """NaN where not measured."""
    num_replaced: int
    """Earlier votes that a newer one of the same annotator on the same row replaced."""

    @property
    def votes_N(self) -> Ints:
        """Votes a row."""
        return np.bincount(self.row_V, minlength=len(self.rows))

    @property
    def votes_J(self) -> Ints:
        """Votes an annotator."""
        return np.bincount(self.annotator_V, minlength=len(self.annotators))

    @property
    def start_N(self) -> Ints:
        """Where the votes of each row start; every row has at least one."""
        return np.flatnonzero(np.r_[True, np.diff(self.row_V) > 0])

    def count_NK(self) -> Floats:
        """How often each row got each label."""
        num_labels = len(self.labels)
        code_V = self.row_V * num_labels + self.label_V
        flat = np.bincount(code_V, minlength=len(self.rows) * num_labels)
        return flat.reshape(len(self.rows), num_labels).astype(np.float64)


def vote_table(votes: Iterable[Vote], *, order: Sequence[str] = ()) -> VoteTable:
    """Votes by column; `order` names all values in their order where it is neither numeric nor alphabetic.

    Raises:
        DataError: no votes, a value outside `order`, more than a thousand different ones, or one annotator with two
            values for a row at one time.
    """
    newest: dict[tuple[str, str], Vote] = {}
    num_votes = 0
    for vote in votes:
        num_votes += 1
        key = (vote.row_id, vote.annotator)
        old = newest.get(key)
        if old is not None and old.at == vote.at and old.value != vote.value:
            raise DataError(
                f"row {vote.row_id}: {vote.annotator!r} voted {old.value!r} and {vote.value!r} at {vote.at}; expected "
                "one value at one time. Remove one of the two."
            )
        if old is None or vote.at >= old.at:
            newest[key] = vote
    if not newest:
        raise DataError("vote_table: 0 votes; agreement needs votes. Record or import some first.")
    labels = _labels({vote.value for vote in newest.values()}, order)
    if len(labels) > MAX_LABELS:
        raise DataError(
            f"vote_table: {len(labels)} different values in {len(newest)} votes; expected at most {MAX_LABELS}. Free "
            "texts have no agreement to count: use the votes on a set of labels."
        )
    kept = [newest[key] for key in sorted(newest)]
    rows, row_V = np.unique([vote.row_id for vote in kept], return_inverse=True)
    annotators, annotator_V = np.unique([vote.annotator for vote in kept], return_inverse=True)
    code = {label: k for k, label in enumerate(labels)}
    seconds = [math.nan if vote.seconds is None else vote.seconds for vote in kept]
    return VoteTable(
        rows=tuple(rows.tolist()),
        annotators=tuple(annotators.tolist()),
        labels=labels,
        row_V=row_V.astype(np.int64),
        annotator_V=annotator_V.astype(np.int64),
        label_V=np.array([code[vote.value] for vote in kept], dtype=np.int64),
        seconds_V=np.array(seconds, dtype=np.float64),
        num_replaced=num_votes - len(kept),
    )


def _labels(seen: set[str], order: Sequence[str]) -> tuple[str, ...]:
    if order:
        if unknown := sorted(seen - set(order)):
            raise DataError(
                f"vote_table: {len(unknown)} values are not in the given order, first {unknown[0]!r}; expected one of "
                f"{', '.join(order)}. Name every value."
            )
        return tuple(order)
    try:
        return tuple(sorted(seen, key=lambda label: (float(label), label)))
    except ValueError:
        return tuple(sorted(seen))


def score_interval(share: float, num: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share that is known as well as `num` votes would tell; `num` need not be whole."""
    centre = (share + _Z95**2 / (2 * num)) / (1 + _Z95**2 / num)
    half = _Z95 / (1 + _Z95**2 / num) * math.sqrt(max(0.0, share * (1 - share)) / num + _Z95**2 / (4 * num**2))
    return (0.0 if share <= 0 else max(0.0, centre - half)), (1.0 if share >= 1 else min(1.0, centre + half))
