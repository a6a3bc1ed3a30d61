"""Age of rows: the profile adds up, a planted shift is found and none invented, superseded versions are named."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from metier.core.errors import DataError
from metier.core.seeds import generator
from metier.core.similarity import shingles_of
from metier.core.table import NO_TIME, Values
from metier.curate.ages import auc_interval, staleness

NOW = datetime(2026, 11, 1, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def micros(moment: datetime) -> int:
    return round((moment - EPOCH).total_seconds()) * 1_000_000


def days_ago(days: list[float] | np.ndarray) -> np.ndarray:
    """Times so many days before NOW."""
    return np.array([micros(NOW - timedelta(days=float(d))) for d in days], dtype=np.int64)


def test_profile_counts_every_dated_row_and_gives_ages_in_days() -> None:
    times = np.append(days_ago([0, 10, 20, 30, 40]), [NO_TIME, NO_TIME])
    found = staleness(times, now=NOW, seed=0)
    assert (found.num_rows, found.num_dated, found.num_future) == (7, 5, 0)
    assert found.age_days == {"newest": 0, "quarter": 10, "median": 20, "three_quarters": 30, "oldest": 40}
    assert (found.period, found.rows_by_period) == ("month", {"2026-09": 1, "2026-10": 3, "2026-11": 1})
    assert found.not_compared == "a fifth of 5 dated rows is fewer than 20 rows"
    assert found.sentence == (
        "Half of 5 dated rows are older than 20 days; oldest and newest were not compared: a fifth of 5 dated rows is "
        "fewer than 20 rows."
    )


@pytest.mark.parametrize(
    ("first", "period", "names"),
    [
        (datetime(2024, 12, 5, tzinfo=UTC), "month", ("2024-12", "2026-11")),  # 24 months
        (datetime(2024, 11, 5, tzinfo=UTC), "quarter", ("2024-Q4", "2026-Q4")),
        (datetime(2020, 11, 5, tzinfo=UTC), "year", ("2020", "2026")),
        (datetime(1969, 12, 31, tzinfo=UTC), "year", ("1969", "2026")),
    ],
)
def test_long_spans_are_counted_by_quarter_or_year(first, period, names) -> None:
    found = staleness([micros(first), micros(NOW)], now=NOW, seed=0)
    assert found.period == period
    assert (next(iter(found.rows_by_period)), list(found.rows_by_period)[-1]) == names
    assert sum(found.rows_by_period.values()) == 2
    assert len(found.rows_by_period) <= 58


def test_rows_of_the_future_are_counted_and_no_younger_than_new() -> None:
    found = staleness(days_ago([-5, 3]), now=NOW.replace(tzinfo=None), seed=0)
    assert found.num_future == 1
    assert found.age_days["newest"] == 0
    assert "1 row dated in the future" in found.sentence


def test_no_times_and_no_rows() -> None:
    found = staleness([NO_TIME] * 3, now=NOW, seed=0)
    assert (found.num_dated, found.age_days, found.rows_by_period) == (0, {}, {})
    assert found.not_compared == "no row has a time"
    assert found.sentence == "None of 3 rows has a time: how old they are is not known."
    with pytest.raises(DataError, match=r"staleness: 0 rows; expected at least one row\."):
        staleness([], now=NOW, seed=0)
    with pytest.raises(DataError, match=r"staleness: 3 times and 2 labels; expected one for each row\."):
        staleness([NO_TIME] * 3, now=NOW, labels=Values.of(["a", "b"]), seed=0)


def test_one_time_for_most_rows_has_no_oldest_and_newest() -> None:
    found = staleness(days_ago([9] * 190 + list(range(10))), now=NOW, seed=0)
    assert found.not_compared == "most dated rows have one and the same time"
    assert found.labels is None


def test_label_shift_by_hand() -> None:
    # 100 rows: the oldest 20 are all "old way", the newest 20 half "old way", half "new way", the rest does not count.
    labels = ["old way"] * 90 + ["new way"] * 10
    found = staleness(days_ago(np.arange(100, 0, -1)), now=NOW, labels=Values.of(labels), seed=0).labels
    assert found is not None
    assert (found.rows_old, found.rows_new, found.distance) == (20, 20, 0.5)
    assert [tuple(change) for change in found.changes] == [("old way", 1.0, 0.5), ("new way", 0.0, 0.5)]
    # Fisher: all ten "new way" of 40 rows among the newest twenty, or all among the oldest: 2 C(20, 10) / C(40, 10).
    assert found.p_value == pytest.approx(0.000436, abs=0.001)
    # Mean of |X - 5| / 10 for the hypergeometric count X of "new way" in twenty.
    assert found.distance_by_chance == pytest.approx(0.110, abs=0.01)
    assert found.clear


def test_labels_drawn_from_one_mix_are_rarely_called_different() -> None:
    """300 repetitions: rejections at .05 stay below .05 plus three Monte-Carlo standard errors."""
    rejected = 0
    for rep in range(300):
        labels = generator(11, rep).choice(list("abcdefgh"), 200, p=[0.4, 0.2, 0.1, 0.1, 0.08, 0.06, 0.04, 0.02])
        found = staleness(days_ago(np.arange(200)), now=NOW, labels=Values.of(labels.tolist()), seed=rep).labels
        rejected += found.p_value <= 0.05
        assert not found.clear or found.p_value < 0.01
    assert rejected / 300 <= 0.05 + 3 * (0.05 * 0.95 / 300) ** 0.5
    assert rejected > 0


def test_one_label_or_too_few_labelled_rows_give_no_label_shift() -> None:
    times = days_ago(np.arange(100))
    assert staleness(times, now=NOW, labels=Values.of(["a"] * 100), seed=0).labels is None
    few = Values.of([None] * 90 + ["a", "b"] * 5)
    assert staleness(times, now=NOW, labels=few, seed=0).labels is None


def texts_of(num: int, seed: int, *, changing: bool) -> list[str]:
    """Made-up sentences, newest last; with `changing` the late ones speak of other things."""
    rng = np.random.default_rng(seed)
    words = [f"w{i}" for i in range(6)]
    return [
        " ".join([*rng.choice(words, 6), "cash desk paper" if changing and i < num / 2 else "mobile app login"])
        for i in range(num)
    ]


def test_new_words_are_seen_and_the_same_words_are_not() -> None:
    times = days_ago(np.arange(300, 0, -1))
    changed = staleness(times, now=NOW, shingles=shingles_of(texts_of(300, 1, changing=True)), seed=0)
    assert changed.words.auc > 0.95
    assert changed.words.low > 0.85
    assert changed.facts().shifted
    assert "the newer of two rows is recognised by its words" in changed.sentence
    same = staleness(times, now=NOW, shingles=shingles_of(texts_of(300, 1, changing=False)), seed=0)
    assert same.words.low < 0.5 < same.words.high
    assert (same.words.low, same.words.high) == auc_interval(same.words.auc, 30, 30)  # as exact as one half is
    assert (same.words.rows_old, same.words.rows_new) == (60, 60)
    assert not same.facts().shifted
    assert same.sentence.endswith("no clear difference between the oldest and the newest fifth.")


def test_words_of_one_source_are_rarely_called_different() -> None:
    """80 repetitions of 40 old and 40 new rows of one source: both sides of the interval miss .5 as seldom as stated."""
    missed = above = 0
    share = 1 / np.arange(1, 31) / (1 / np.arange(1, 31)).sum()
    for rep in range(80):
        rng = generator(12, rep)
        texts = [" ".join(f"w{i}" for i in rng.choice(30, 8, p=share)) for _ in range(200)]
        words = staleness(days_ago(np.arange(200)), now=NOW, shingles=shingles_of(texts), seed=rep).words
        missed += not words.low <= 0.5 <= words.high
        above += words.low > 0.5
        assert not words.clear
    assert missed / 80 <= 0.05 + 3 * (0.05 * 0.95 / 80) ** 0.5
    assert above / 80 <= 0.025 + 3 * (0.025 * 0.975 / 80) ** 0.5


def test_auc_interval_covers_the_truth_and_is_never_empty() -> None:
    """Normal scores one standard deviation apart: area .760; 1,000 repetitions of 30 against 30."""
    rng, covered = np.random.default_rng(3), 0
    for _ in range(1000):
        old, new = rng.normal(0, 1, 30), rng.normal(1, 1, 30)
        low, high = auc_interval(float((new[:, None] > old).mean()), 30, 30)
        covered += low <= 0.7602 <= high
    assert covered / 1000 >= 0.95 - 3 * (0.95 * 0.05 / 1000) ** 0.5
    assert covered / 1000 <= 0.99
    low, high = auc_interval(1.0, 20, 20)
    assert high == 1.0
    assert 0.8 < low < 1.0
    assert auc_interval(0.3, 20, 40).low == pytest.approx(1 - auc_interval(0.7, 20, 40).high)


def test_versions_that_end_before_another_begins_are_superseded() -> None:
    versions = ["v1", "v1", "v2", "v2", "v3", "v3", None, "v1"]
    times = np.append(days_ago([90, 70, 80, 40, 30, 1, 5]), NO_TIME)
    found = staleness(times, now=NOW, policies=Values.of(versions), seed=0).superseded
    # v1 ends (70 days) after v2 begins (80 days), but before v3 begins; its undated row counts too.
    assert [(s.version, s.rows, s.replaced_by) for s in found] == [("v1", 3, "v3"), ("v2", 2, "v3")]
    assert (found[0].last_row, found[0].first_row) == ("2026-08-23", "2026-10-02")
    sentence = staleness(times, now=NOW, policies=Values.of(versions), seed=0).sentence
    assert sentence.endswith("; 5 rows of 2 superseded policy versions.")


def test_versions_side_by_side_supersede_nothing() -> None:
    times = days_ago([10, 5, 10, 5])
    assert staleness(times, now=NOW, policies=Values.of(["a", "a", "b", "b"]), seed=0).superseded == ()
    assert staleness(times, now=NOW, policies=Values.of([None] * 4), seed=0).superseded == ()


def test_result_is_json_and_the_same_for_the_same_seed() -> None:
    times = days_ago(np.arange(150, 0, -1))
    columns = {
        "labels": Values.of(["a", "b", "c"] * 50),
        "shingles": shingles_of(texts_of(150, 2, changing=True)),
        "policies": Values.of(["v1"] * 75 + ["v2"] * 75),
    }
    found = staleness(times, now=NOW, seed=4, **columns)
    assert found == staleness(times, now=NOW, seed=4, **columns)
    values = json.loads(json.dumps(found.as_json()))
    assert values["labels"]["changes"][0].keys() == {"label", "old", "new"}
    assert values["superseded"][0]["replaced_by"] == "v2"
    facts = found.facts()
    assert (facts.num_rows, facts.num_dated, facts.num_superseded, facts.median_days) == (150, 150, 75, 75.5)


@pytest.mark.data
@pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data")
def test_complaints_of_ten_years_differ_between_their_ends() -> None:
    with (DATA / "cfpb_complaints" / "cfpb_narratives.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    times = [micros(datetime.fromisoformat(row["date_received"]).replace(tzinfo=UTC)) for row in rows]
    found = staleness(
        times,
        now=NOW,
        labels=Values.of(row["product"] for row in rows),
        shingles=shingles_of([row["narrative"] for row in rows]),
        seed=0,
    )
    assert found.num_dated == len(rows) == 3537
    assert found.labels.clear
    assert found.words.low > 0.6
    assert found.sentence.startswith(
        "Half of 3,537 rows are older than 1,355 days; labels differ between the oldest and "
    )
