"""Plain numbers as the parts of `DataFacts`: rows a month, lengths in bins, slices, labels, the rule behind a reason.

    >>> month_counts(table.time_N).counts[0]
    Period(name='2024-11', num=31)

Ages are in days, lengths in words. Nothing here reads a row.
"""

# Shapes: N rows, G groups, Q quantiles.

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from metier.core.data_facts import (
    MIN_NAMED_ROWS,
    Age,
    Attribute,
    Bin,
    Grouping,
    Histogram,
    LabelCount,
    Period,
    Slice,
)
from metier.core.settings import CleanConfig
from metier.core.table import NO_TIME

__all__ = [
    "Periods", "age_of", "attribute_of", "drop_rule", "grouping_of", "histogram_of", "label_counts", "month_counts",
    "word_bins",
]  # fmt: skip

Ints = npt.NDArray[np.int64]
Unit = Literal["month", "quarter", "year"]
MAX_MONTHS, MAX_QUARTERS, MAX_YEARS = 36, 48, 40
"""Periods shown at most; more months are shown as quarters, more quarters as years."""
MIN_CLIPPED_ROWS = 20
"""Rows from which one at each end may be taken for a wrong date."""
NUM_BINS = 12
_UNITS = MappingProxyType({"month": 1, "quarter": 3, "year": 12})
_RULES: Mapping[str, str] = MappingProxyType(
    {
        "consent_denied": "The person did not agree to this use.",
        "consent_unknown": "Nothing says that the person agreed, and the project asks for it.",
        "licence_not_allowed": "The licence of the row is none of those the project allows.",
        "expired": "The row is past the day until which it may be used.",
        "retired_policy": "The reply follows a policy that is no longer in force.",
        "empty_reply": "The reply holds no word.",
        "too_few_words": "The reply has fewer than {min_reply_words} words.",
        "too_many_words": "The reply has more than {max_reply_words} words.",
        "exact_duplicate": "Everything a model sees or is graded by is the same as in a row that is kept.",
        "near_duplicate": "Prompt and right answer each share at least {near_dup:.0%} of their three-word pieces with "
        "a row that is kept, and the prompts hold the same numbers.",
        "private_data": "The row holds private data, and the project sets such rows aside.",
        "gold_fails_grader": "The reply breaks the project's own conventions.",
        "nothing_to_check": "A convention that takes its expected value from the row finds none in it.",
        "near_holdout": "The row is nearly the same as one of the hold-out; training on it would give the answer away.",
        "near_dev": "The row is nearly the same as one of dev; training on it would give the answer away.",
        "shared_group": "The row's group, such as a customer, is in the hold-out or in dev.",
        "not_older": "The row is not older than the oldest hold-out row.",
        "holdout_unused": "The row is in the given test set, and the split asks for fewer.",
    }
)


class Periods(NamedTuple):
    """Rows by period of one length, without gaps, oldest first."""

    unit: Unit
    counts: tuple[Period, ...]


def drop_rule(reason: str, clean: CleanConfig) -> str:
    """What a reason means, in one sentence, with the thresholds of the project."""
    rule = _RULES.get(reason, f"Set aside as {reason.replace('_', ' ')}.")
    return rule.format(
        near_dup=clean.near_dup, min_reply_words=clean.min_reply_words, max_reply_words=clean.max_reply_words
    )


def age_of(time_N: Ints, *, now: datetime) -> Age | None:
    """Ages of rows by their times (microseconds since 1970, as `RowTable.time_N`); None where no row has one."""
    dated = time_N[time_N != NO_TIME]
    if not len(dated):
        return None
    day_N = (_micros(now) - dated) / 86_400e6
    p10, p50, p90 = np.quantile(day_N, (0.1, 0.5, 0.9)).tolist()
    periods = month_counts(dated)
    return Age(
        num_dated=len(dated),
        num_undated=len(time_N) - len(dated),
        oldest=_day(int(dated.min())),
        newest=_day(int(dated.max())),
        days={"p10": p10, "p50": p50, "p90": p90},
        num_future=int((day_N < 0).sum()),
        unit=periods.unit,
        periods=periods.counts,
    )


def _micros(time: datetime) -> int:
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _day(micros: int) -> str:
    return str(np.datetime64(micros, "us").astype("datetime64[D]"))


def month_counts(time_N: Ints) -> Periods:
    """Rows a month; a quarter or a year where there would be too many. Rows without a time are left out.

    Wrong dates must not flatten the picture: where leaving out the outermost hundredth at each end makes it finer,
    those rows are counted in the first and the last period, whose names say so. So are rows before the last 40 years.
    """
    month_N = np.sort(time_N[time_N != NO_TIME].astype("datetime64[us]").astype("datetime64[M]").astype(np.int64))
    if not len(month_N):
        return Periods("month", ())
    low, high = int(month_N[0]), int(month_N[-1])
    num_outer = max(len(month_N) // 100, int(len(month_N) >= MIN_CLIPPED_ROWS))
    inner_low, inner_high = int(month_N[num_outer]), int(month_N[-1 - num_outer])
    if _unit(inner_high - inner_low + 1) != _unit(high - low + 1) or high - low >= 12 * MAX_YEARS:
        low, high = inner_low, inner_high
    unit = _unit(high - low + 1)
    place_N = month_N // _UNITS[unit]
    first, last = low // _UNITS[unit], high // _UNITS[unit]
    first = max(first, last - MAX_YEARS + 1) if unit == "year" else first
    counts = np.bincount(np.clip(place_N, first, last) - first).tolist()
    names = [_period_name(unit, first + place) for place in range(len(counts))]
    if place_N[0] < first:
        names[0] = f"up to {names[0]}"
    if place_N[-1] > last:
        names[-1] = f"from {names[-1]}"
    return Periods(unit, tuple(Period(name=name, num=num) for name, num in zip(names, counts, strict=True)))


def _unit(num_months: int) -> Unit:
    if num_months <= MAX_MONTHS:
        return "month"
    return "quarter" if num_months <= 3 * MAX_QUARTERS else "year"


def _period_name(unit: str, place: int) -> str:
    """The name of a period by its number since 1970."""
    months = place * _UNITS[unit]
    year, month = 1970 + months // 12, months % 12 + 1
    return {"month": f"{year}-{month:02}", "quarter": f"{year}-Q{(month + 2) // 3}", "year": f"{year}"}[unit]


def word_bins(words_N: Ints) -> tuple[Bin, ...]:
    """Lengths counted in up to twelve bins of equal round width that hold the lower 95 %, and one for all above."""
    if not len(words_N):
        return ()
    low, high = (int(value) for value in np.quantile(words_N, (0.0, 0.95)).tolist())
    width = _round_width(high - low + 1)
    start = low // width * width
    num = max(1, (high - start) // width + 1)
    place_N = np.minimum((words_N - start) // width, num)
    counts = np.bincount(place_N, minlength=num + 1).tolist()
    bins = [
        Bin(low=start + place * width, high=start + (place + 1) * width - 1, num=counts[place]) for place in range(num)
    ]
    return (*bins, Bin(low=start + num * width, high=None, num=counts[num])) if counts[num] else tuple(bins)


def _round_width(span: int) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, ... of which at most twelve cover the span."""
    width = 1
    while True:
        for step in (1, 2, 5):
            if span <= (NUM_BINS - 1) * width * step:  # one is kept for a start below the first length
                return width * step
        width *= 10


def histogram_of(what: str, words_N: Ints) -> Histogram | None:
    """Lengths in words of prompts or replies; None without rows."""
    if not len(words_N):
        return None
    median, p95 = np.quantile(words_N, (0.5, 0.95)).tolist()
    return Histogram(
        what=what, num_rows=len(words_N), median=median, p95=p95, longest=int(words_N.max()), bins=word_bins(words_N)
    )


def attribute_of(
    name: str,
    kept: Mapping[str, int],
    *,
    num_kept: int,
    holdout: Mapping[str, int] | None = None,
    expected_holdout: int | None = None,
) -> Attribute:
    """The slices of an attribute by the kept rows of each value, `num_kept` in all.

    `holdout` are the hold-out rows of each value, after the split; before it, `expected_holdout` rows in all are spread
    as the kept rows are. Values with fewer than five rows are counted, not named.
    """
    expected = holdout is None and expected_holdout is not None and num_kept > 0
    slices = []
    for value, num in _most_first(kept):
        if num < MIN_NAMED_ROWS:
            continue
        of_holdout: float | None = None
        if holdout is not None:
            of_holdout = holdout.get(value, 0)
        elif expected and expected_holdout is not None:
            of_holdout = num * expected_holdout / num_kept
        slices.append(Slice(value=value, num=num, num_holdout=of_holdout))
    unnamed = [num for num in kept.values() if 0 < num < MIN_NAMED_ROWS]
    return Attribute(
        name=name,
        slices=tuple(slices),
        num_without=num_kept - sum(kept.values()),
        num_unnamed=len(unnamed),
        num_unnamed_rows=sum(unnamed),
        is_expected=expected,
    )


def label_counts(counts: Mapping[str, int]) -> tuple[LabelCount, ...]:
    """Labels with their kept rows, most rows first."""
    return tuple(LabelCount(name=name, num=num) for name, num in _most_first(counts))


def _most_first(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def grouping_of(key: str, size_G: Ints, *, effective_n: float | None = None) -> Grouping:
    """Groups by their sizes in kept rows."""
    return Grouping(
        key=key,
        num=len(size_G),
        num_rows=int(size_G.sum()),
        largest=int(size_G.max(initial=0)),
        effective_n=effective_n,
    )
