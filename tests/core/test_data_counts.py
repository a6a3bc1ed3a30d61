"""Counts by month, by length and by slice, worked by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.core.data_counts import (
    age_of,
    attribute_of,
    drop_rule,
    grouping_of,
    histogram_of,
    label_counts,
    month_counts,
    word_bins,
)
from metier.core.data_facts import Bin, LabelCount, Slice
from metier.core.settings import CleanConfig
from metier.core.table import NO_TIME
from metier.web.sentences import DROP_REASONS

NOW = datetime(2026, 1, 11, tzinfo=UTC)


def micros(*days: str) -> np.ndarray:
    return np.array([np.datetime64(day, "us").astype(np.int64) for day in days], dtype=np.int64)


def shown(time_N: np.ndarray) -> dict[str, int]:
    return {period.name: period.num for period in month_counts(time_N).counts}


def test_months_are_counted_without_gaps() -> None:
    time_N = micros("2025-12-31T23:59:59.999999", "2026-01-01", "2026-01-31", "2026-03-01")
    assert shown(time_N) == {"2025-12": 1, "2026-01": 2, "2026-02": 0, "2026-03": 1}


def test_more_than_three_years_are_shown_in_quarters() -> None:
    assert month_counts(micros("2023-01-15", "2025-12-15")).unit == "month"
    quarters = month_counts(micros("2023-01-15", "2026-01-15", "2026-01-31"))
    assert quarters.unit == "quarter"
    assert len(quarters.counts) == 13
    assert (quarters.counts[0].name, quarters.counts[-1].name, quarters.counts[-1].num) == ("2023-Q1", "2026-Q1", 2)


def test_more_than_twelve_years_are_shown_in_years_and_before_forty_as_one() -> None:
    assert month_counts(micros("2014-02-01", "2026-01-31")).unit == "quarter"
    assert shown(micros("2013-01-01", "2014-05-05", "2026-01-31")) == {
        "2013": 1, "2014": 1, **{str(year): 0 for year in range(2015, 2026)}, "2026": 1,
    }  # fmt: skip
    old = month_counts(micros("1899-12-30", "1970-01-01", "1987-06-01", "2026-01-01"))
    assert (len(old.counts), old.counts[0].name, old.counts[0].num) == (40, "up to 1987", 3)


def test_a_wrong_date_at_either_end_does_not_flatten_the_picture() -> None:
    right = ["2025-03-05"] * 9 + ["2025-05-05"] * 9
    assert shown(micros("1970-01-01", *right, "2096-10-02")) == {"up to 2025-03": 10, "2025-04": 0, "from 2025-05": 10}
    assert shown(micros("1970-01-01", *right, "2025-05-06")) == {"up to 2025-03": 10, "2025-04": 0, "2025-05": 10}
    years = [f"{year}-05-05" for year in range(2005, 2027)]
    assert [period.name for period in month_counts(micros(*years, "2096-10-02")).counts][-2:] == ["2025", "from 2026"]
    few = month_counts(micros("1970-01-01", *right))
    assert (few.unit, len(few.counts), few.counts[-1].num) == ("year", 40, 18), "of 19 rows none is taken for wrong"


def test_one_row_in_a_hundred_is_taken_for_a_wrong_date_and_no_more() -> None:
    right = ["2025-03-05"] * 197
    assert shown(micros("1990-01-01", "1990-01-01", *right, "2025-03-06")) == {"up to 2025-03": 200}
    assert month_counts(micros(*["1990-01-01"] * 3, *right)).unit == "year"


def test_no_row_is_lost_between_periods() -> None:
    rng = np.random.default_rng(5)
    for scale in (1e13, 1e14, 1e15, 1e16, 1e17):
        time_N = (rng.standard_normal(500) * scale).astype(np.int64)
        counts = month_counts(time_N).counts
        assert sum(period.num for period in counts) == 500
        assert len(counts) <= 49, "48 quarters may begin and end inside one"


def test_rows_without_a_time_are_in_no_month() -> None:
    assert shown(np.array([NO_TIME, *micros("2026-01-02")])) == {"2026-01": 1}
    assert month_counts(np.array([NO_TIME, NO_TIME])) == month_counts(np.array([], dtype=np.int64)) == ("month", ())


def test_a_time_before_1970_has_its_own_month() -> None:
    assert shown(micros("1969-12-31", "1970-01-01")) == {"1969-12": 1, "1970-01": 1}


def test_ages_are_days_before_the_day_the_facts_were_gathered() -> None:
    age = age_of(np.array([*micros("2026-01-01", "2026-01-06"), NO_TIME]), now=NOW)
    assert age is not None
    assert age.days == pytest.approx({"p10": 5.5, "p50": 7.5, "p90": 9.5}, rel=1e-12)
    assert (age.num_dated, age.num_undated, age.num_future) == (2, 1, 0)
    assert (age.oldest, age.newest, age.unit) == ("2026-01-01", "2026-01-06", "month")


def test_a_time_to_come_is_counted_and_the_zone_of_now_does_not_matter() -> None:
    time_N = micros("2026-01-10T23:00", "2026-01-11T01:00")
    east = NOW.astimezone(timezone(timedelta(hours=9)))
    for now in (NOW, east):
        age = age_of(time_N, now=now)
        assert age is not None
        assert age.num_future == 1
        assert age.days["p50"] == pytest.approx(0.0, abs=1e-9)


def test_no_time_at_all_is_no_age() -> None:
    assert age_of(np.array([NO_TIME]), now=NOW) is None
    assert age_of(np.array([], dtype=np.int64), now=NOW) is None


def test_bins_hold_the_lower_95_percent_and_one_holds_the_rest() -> None:
    # The 95 % quantile of these is 34.6: bins of five words reach it.
    bins = word_bins(np.array([3, 4, 12, 13, 40]))
    assert bins == (
        Bin(low=0, high=4, num=2), Bin(low=5, high=9, num=0), Bin(low=10, high=14, num=2), Bin(low=15, high=19, num=0),
        Bin(low=20, high=24, num=0), Bin(low=25, high=29, num=0), Bin(low=30, high=34, num=0),
        Bin(low=35, high=None, num=1),
    )  # fmt: skip


def test_one_length_is_one_bin_and_no_rows_are_none() -> None:
    assert word_bins(np.array([7, 7])) == (Bin(low=7, high=7, num=2),)
    assert word_bins(np.array([0])) == (Bin(low=0, high=0, num=1),)
    assert word_bins(np.array([], dtype=np.int64)) == ()
    assert histogram_of("prompt", np.array([], dtype=np.int64)) is None


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=60))
def test_every_length_is_in_one_bin_and_there_are_at_most_thirteen(lengths: list[int]) -> None:
    bins = word_bins(np.array(lengths, dtype=np.int64))
    assert len(bins) <= 13
    for part in bins:
        assert part.num == sum(part.low <= length <= (10**9 if part.high is None else part.high) for length in lengths)
    assert sum(part.num for part in bins) == len(lengths)
    assert [left.high for left in bins[:-1]] == [right.low - 1 for right in bins[1:]]
    assert bins[-1].num > 0
    assert sum(part.num for part in bins if part.high is not None) >= 0.9 * len(lengths) - 1


def test_a_histogram_says_median_tail_and_longest() -> None:
    histogram = histogram_of("reply", np.arange(1, 22))
    assert histogram is not None
    assert (histogram.what, histogram.num_rows, histogram.median, histogram.p95, histogram.longest) == (
        "reply",
        21,
        11,
        20,
        21,
    )


def test_slices_stand_by_size_and_the_rarest_are_not_named() -> None:
    kept = {"isles": 5, "hills": 60, "coast": 60, "anna": 4, "ben": 1, "nobody": 0}
    attribute = attribute_of("region", kept, num_kept=140)
    assert [(part.value, part.num) for part in attribute.slices] == [("coast", 60), ("hills", 60), ("isles", 5)]
    assert (attribute.num_unnamed, attribute.num_unnamed_rows, attribute.num_without) == (2, 5, 10)
    assert not attribute.is_expected


def test_hold_out_rows_of_a_slice_are_counted_or_expected() -> None:
    kept = {"isles": 30, "hills": 70}
    counted = attribute_of("region", kept, num_kept=100, holdout={"hills": 19}, expected_holdout=50)
    assert [part.num_holdout for part in counted.slices] == [19, 0]
    assert not counted.is_expected
    expected = attribute_of("region", kept, num_kept=100, expected_holdout=50)
    assert [part.num_holdout for part in expected.slices] == [35.0, 15.0]
    assert [part.is_too_small for part in expected.slices] == [False, True]
    assert expected.is_expected
    assert not attribute_of("region", {}, num_kept=0, expected_holdout=50).is_expected


def test_twenty_rows_are_enough_to_judge_a_slice() -> None:
    assert [Slice(value="a", num=99, num_holdout=num).is_too_small for num in (0, 19, 20)] == [True, True, False]
    assert [Slice(value="a", num=num, num_holdout=None).is_too_small for num in (19, 20)] == [True, False]


def test_labels_stand_by_size_then_by_name() -> None:
    assert label_counts({"b": 2, "c": 3, "a": 2}) == (
        LabelCount(name="c", num=3), LabelCount(name="a", num=2), LabelCount(name="b", num=2),
    )  # fmt: skip


def test_groups_are_counted_with_their_largest() -> None:
    group = grouping_of("customer", np.array([3, 1, 7]), effective_n=2.5)
    assert (group.num, group.num_rows, group.largest, group.effective_n) == (3, 11, 7, 2.5)
    assert grouping_of("customer", np.array([], dtype=np.int64)).largest == 0


@pytest.mark.parametrize("reason", DROP_REASONS)
def test_every_reason_has_a_rule_in_words(reason: str) -> None:
    rule = drop_rule(reason, CleanConfig(near_dup=0.75, min_reply_words=4, max_reply_words=60))
    assert rule.endswith(".")
    assert not rule.startswith("Set aside as"), "the reason has no sentence of its own"
    assert "{" not in rule


def test_a_rule_names_the_threshold_of_the_project() -> None:
    clean = CleanConfig(near_dup=0.75, min_reply_words=4, max_reply_words=60)
    assert "at least 75% of" in drop_rule("near_duplicate", clean)
    assert drop_rule("too_few_words", clean) == "The reply has fewer than 4 words."
    assert drop_rule("too_many_words", clean) == "The reply has more than 60 words."
    assert drop_rule("odd_moon", clean) == "Set aside as odd moon."
