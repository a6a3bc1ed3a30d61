"""What is to be known about each annotator: right on gold rows, in line with the others, in no hurry.

    >>> gold_accuracy(table, {"91ab": "refund"})["ana"]
    Estimate(value=1.0, low=0.2065..., high=1.0, n=1)

Whether labels differ between slices of the rows is asked in `label_slices`.
"""

# Shapes: V votes, N rows, K labels.

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from metier.core.errors import DataError
from metier.core.stats.proportions import wilson
from metier.core.votes import Estimate, Ints, VoteTable

__all__ = ["FAST_SHARE", "MIN_TIMED_VOTES", "Pace", "gold_accuracy", "pace", "peer_agreement", "peers_label", "share"]

MIN_TIMED_VOTES = 10
"""Fewer timed votes of an annotator are not judged for speed."""
FAST_SHARE = 0.2
"""An annotator whose median is below this share of the usual one is flagged."""


def share(num: int, of: int) -> Estimate:
    """A share with Wilson's 95 % interval."""
    low, high = wilson(num, of)
    return Estimate(num / of, low, high, of)


def gold_accuracy(table: VoteTable, gold: Mapping[str, str]) -> dict[str, Estimate]:
    """Share of gold rows each annotator labelled as known, with Wilson's interval; who saw none is left out.

    Raises:
        DataError: no gold answer is among the values that were voted.
    """
    if gold and not set(gold.values()) & set(table.labels):
        raise DataError(
            f"gold_accuracy: gold answers such as {next(iter(gold.values()))!r} were never voted; expected values such "
            f"as {table.labels[0]!r}. Spell them as the labels are."
        )
    seen: dict[str, list[bool]] = {}
    for row, annotator, label in zip(table.row_V, table.annotator_V, table.label_V, strict=True):
        answer = gold.get(table.rows[row])
        if answer is not None:
            seen.setdefault(table.annotators[annotator], []).append(table.labels[label] == answer)
    return {name: share(sum(right), len(right)) for name, right in sorted(seen.items())}


def peers_label(table: VoteTable) -> Ints:
    """For every vote the label most of the other annotators gave its row; -1 without others, or where they tie."""
    count_VK = table.count_NK()[table.row_V]
    count_VK[np.arange(len(table.row_V)), table.label_V] -= 1
    top_V = count_VK.max(axis=1)
    clear_V = (top_V > 0) & ((count_VK == top_V[:, None]).sum(axis=1) == 1)
    return np.where(clear_V, count_VK.argmax(axis=1), -1).astype(np.int64)


def peer_agreement(table: VoteTable) -> dict[str, Estimate]:
    """Share of each annotator's votes that equal the majority of the others on the row; ties are left out."""
    peers_V = peers_label(table)
    found = {}
    for code, name in enumerate(table.annotators):
        told_V = (table.annotator_V == code) & (peers_V >= 0)
        if told_V.any():
            found[name] = share(int((table.label_V == peers_V)[told_V].sum()), int(told_V.sum()))
    return found


class Pace(NamedTuple):
    """Seconds an annotator spends on a vote."""

    median_s: float
    num_timed: int
    too_fast: bool
    """Ten timed votes or more, with a median below a fifth of the usual one."""


def pace(table: VoteTable) -> dict[str, Pace]:
    """Median seconds a vote of every annotator whose time was measured, and who is implausibly fast.

    The usual pace is the median of the medians of all annotators with ten timed votes; with one such annotator
    nobody is flagged, as there is nothing to compare with.
    """
    timed_V = np.isfinite(table.seconds_V)
    medians, sizes = {}, {}
    for code, name in enumerate(table.annotators):
        seconds = table.seconds_V[timed_V & (table.annotator_V == code)]
        if len(seconds):
            medians[name], sizes[name] = float(np.median(seconds)), len(seconds)
    judged = [name for name, num in sizes.items() if num >= MIN_TIMED_VOTES]
    limit_s = FAST_SHARE * float(np.median([medians[name] for name in judged])) if len(judged) > 1 else 0.0
    return {name: Pace(median, sizes[name], name in judged and median < limit_s) for name, median in medians.items()}
