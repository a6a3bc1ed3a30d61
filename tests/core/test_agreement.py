"""Agreement against published figures, formulas spelled out by hand, and simulated truth."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.core.agreement import Metric, cohen_kappa, fleiss_kappa, krippendorff_alpha, majority_vote
from metier.core.errors import DataError
from metier.core.votes import Vote, score_interval, vote_table, vote_time

from .voting import AT, drawn_table, one_coin, votes_by_coder

CODERS = [  # the example of Wikipedia's article on the alpha
    "* * * * * 3 4 1 2 1 1 3 3 * 3",
    "1 * 2 1 3 3 4 3 * * * * * * *",
    "* * 2 1 3 4 4 * 2 1 1 3 3 * 4",
]


def alpha(table, metric=Metric.NOMINAL, num_resamples=50):
    return krippendorff_alpha(table, metric=metric, rng=np.random.default_rng(0), num_resamples=num_resamples)


def alpha_by_pairs(table, metric) -> float:
    """Alpha from the matrix of coincidences, pair by pair, as Krippendorff writes it down."""
    num = len(table.labels)
    coincidences = np.zeros((num, num))
    for row in range(len(table.rows)):
        codes = table.label_V[table.row_V == row]
        for i, first in enumerate(codes):
            for j, second in enumerate(codes):
                if i != j:
                    coincidences[first, second] += 1 / (len(codes) - 1)
    total = coincidences.sum(axis=1)
    distance = np.zeros((num, num))
    for c in range(num):
        for k in range(num):
            if metric is Metric.NOMINAL:
                distance[c, k] = c != k
            elif metric is Metric.INTERVAL:
                distance[c, k] = (float(table.labels[c]) - float(table.labels[k])) ** 2
            else:
                low, high = min(c, k), max(c, k)
                distance[c, k] = (total[low : high + 1].sum() - (total[c] + total[k]) / 2) ** 2
    n = total.sum()
    return 1 - (n - 1) * (coincidences * distance).sum() / (np.outer(total, total) * distance).sum()


def test_alpha_meets_the_published_example() -> None:
    table = vote_table(votes_by_coder(CODERS))
    assert round(alpha(table).value, 3) == 0.691
    assert round(alpha(table, Metric.INTERVAL).value, 3) == 0.811
    assert alpha(table).n == 12  # of 15 rows one has one vote, one none; row 1 has one


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from(["1", "2", "3", "7", "*"]), min_size=8, max_size=8), min_size=2, max_size=4))
def test_alpha_is_that_of_all_pairs(coders) -> None:
    votes = votes_by_coder([" ".join(line) for line in coders])
    try:
        table = vote_table(votes)
        found = {metric: alpha(table, metric, num_resamples=2).value for metric in Metric}
    except DataError:
        return  # too few votes, or all the same: said so in tests of their own
    # Labels that only stand on rows with one vote take no part in the pairs.
    for metric, value in found.items():
        assert value == pytest.approx(alpha_by_pairs(table, metric), abs=1e-9)


def test_alpha_of_full_agreement_is_one_and_of_chance_about_nought() -> None:
    perfect = vote_table(votes_by_coder(["a b a b a b", "a b a b a b"]))
    # Nothing seen in 6 rows: 3 of 6 may disagree. By chance 72 of 132 pairs would: 1 - .5 / (72 / 132).
    assert alpha(perfect) == (1.0, pytest.approx(1 - 0.5 * 132 / 72), 1.0, 6)
    rng = np.random.default_rng(5)
    table = drawn_table(rng, np.zeros(400, dtype=int), np.full((4, 3, 3), 1 / 3), 3)
    found = alpha(table, num_resamples=200)
    assert found.low < 0 < found.high
    assert abs(found.value) < 0.06


@pytest.mark.parametrize(("num_rows", "accuracy"), [(80, 0.8), (40, 0.9)])
def test_the_interval_of_alpha_holds_the_truth_as_often_as_it_says(num_rows, accuracy) -> None:
    # Two labels, even shares: a pair agrees with a^2 + (1 - a)^2, by chance with a half.
    truth = 1 - 2 * (1 - accuracy**2 - (1 - accuracy) ** 2)
    rng, reps, held = np.random.default_rng(11), 250, 0
    for _ in range(reps):
        table = drawn_table(rng, rng.integers(0, 2, num_rows), one_coin([accuracy] * 3), 3)
        found = krippendorff_alpha(table, rng=rng, num_resamples=150)
        held += found.low <= truth <= found.high
    assert held / reps >= 0.95 - 3 * (0.95 * 0.05 / reps) ** 0.5


def test_alpha_is_unsure_where_hardly_a_vote_differs() -> None:
    found = alpha(vote_table(votes_by_coder(["a a a a a a", "a a a a a b"])), num_resamples=1)
    assert found == (0.0, -1.0, 1.0, 6)


def test_alpha_is_the_same_for_the_same_seed_and_wider_for_fewer_rows() -> None:
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 2, 400)
    many = drawn_table(rng, truth, one_coin([0.8] * 3), 3)
    few = drawn_table(rng, truth[:40], one_coin([0.8] * 3), 3)
    assert alpha(many) == alpha(many)
    assert alpha(few).high - alpha(few).low > 2 * (alpha(many).high - alpha(many).low)


def test_alpha_says_what_is_missing() -> None:
    with pytest.raises(DataError, match="1 of 3 rows have two votes or more; expected at least 2"):
        alpha(vote_table(votes_by_coder(["a b *", "a * b"])))
    with pytest.raises(DataError, match="all 4 votes are 'a'; expected two values or more"):
        alpha(vote_table(votes_by_coder(["a a", "a a"])))
    with pytest.raises(DataError, match="the interval metric met the value 'low'; expected numbers"):
        alpha(vote_table(votes_by_coder(["low 2 3", "1 2 3"])), Metric.INTERVAL)
    with pytest.raises(DataError, match="0 votes; agreement needs votes"):
        vote_table([])


def test_ordinal_values_keep_their_order() -> None:
    votes = votes_by_coder(["low mid high low mid high", "low high mid low mid high"])  # mid and high are confused
    assert vote_table(votes).labels == ("high", "low", "mid")
    ordered = vote_table(votes, order=["low", "mid", "high"])
    assert ordered.labels == ("low", "mid", "high")
    assert alpha(ordered, Metric.ORDINAL).value > alpha(vote_table(votes), Metric.ORDINAL).value
    assert vote_table(votes_by_coder(["10 9 2", "10 9 2"])).labels == ("2", "9", "10")
    with pytest.raises(DataError, match="1 values are not in the given order, first 'mid'; expected one of low, high"):
        vote_table(votes, order=["low", "high"])


def test_fleiss_kappa_meets_published_figures() -> None:
    wikipedia = [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ]  # fmt: skip
    assert round(fleiss_kappa(wikipedia).kappa, 3) == 0.210
    found = fleiss_kappa([[7, 1], [3, 5]])
    assert [round(value, 6) for value in found[:3]] == [0.161905, 0.214286, 0.607143]
    with pytest.raises(DataError, match="rows have 2 to 3 votes; expected the same number"):
        fleiss_kappa([[2, 0], [2, 1]])
    with pytest.raises(DataError, match="every vote has the same label"):
        fleiss_kappa([[3, 0], [3, 0]])
    with pytest.raises(DataError, match="expected counts of rows by labels"):
        fleiss_kappa([3, 0])


def test_cohen_kappa_meets_published_figures() -> None:
    table = [[0, 4, 1], [0, 8, 0], [0, 1, 5]]
    plain = cohen_kappa(table)
    assert [round(value, 4) for value in plain[:6]] == [0.4842, 0.1380, 0.2137, 0.7547, 0.1484, 3.2626]
    assert (round(plain.p_value, 4), plain.num_rows) == (0.0011, 19)
    linear = cohen_kappa(table, distance_KK=[[0, 1, 2], [1, 0, 1], [2, 1, 0]])
    assert [round(value, 4) for value in linear[:6]] == [0.4701, 0.1457, 0.1845, 0.7558, 0.1426, 3.2971]
    with pytest.raises(DataError, match="expected a square table with counts"):
        cohen_kappa([[1, 2, 3], [1, 2, 3]])
    with pytest.raises(DataError, match="one and the same label throughout"):
        cohen_kappa([[5, 0], [0, 0]])
    with pytest.raises(DataError, match="0 on the diagonal and some distance above 0"):
        cohen_kappa(table, distance_KK=np.ones((3, 3)))


def test_a_tie_is_stated_and_shares_its_credit() -> None:
    found = majority_vote(vote_table(votes_by_coder(["a a b", "a b b", "b * *"])))
    assert found.label_N.tolist() == [0, -1, 1]
    assert found.num_ties == 1
    assert found.share_NK.tolist() == [[1, 0], [0.5, 0.5], [0, 1]]


def test_the_newest_vote_of_an_annotator_counts() -> None:
    early = Vote(row_id="r", annotator="ana", value="a", at=AT)
    late = Vote(row_id="r", annotator="ana", value="b", at="2026-03-02T09:30:00.000000Z", seconds=3.0)
    for votes in ([early, late], [late, early]):
        table = vote_table([*votes, Vote(row_id="r", annotator="bo", value="a", at=AT)])
        assert [table.labels[code] for code in table.label_V] == ["b", "a"]
        assert (table.num_replaced, table.seconds_V[0]) == (1, 3.0)
        assert np.isnan(table.seconds_V[1])
    other = Vote(row_id="r", annotator="ana", value="b", at=AT)
    with pytest.raises(DataError, match="'ana' voted 'a' and 'b' at 2026-03-01T09:30:00.000000Z; expected one value"):
        vote_table([early, other])


def test_a_vote_is_whole_and_its_time_has_one_spelling() -> None:
    zone = timezone(timedelta(hours=2))
    assert vote_time(datetime(2026, 3, 1, 11, 30, tzinfo=zone)) == AT == vote_time(datetime(2026, 3, 1, 9, 30))
    assert vote_time(datetime(2026, 3, 1, 9, 30, tzinfo=UTC)) == AT
    whole = {"row_id": "r", "annotator": "ana", "value": "a", "at": AT}
    for wrong, message in [
        ({"value": ""}, "value ''; expected a row, an annotator and a value"),
        ({"at": "2026-03-01"}, "at is '2026-03-01'; expected UTC such as"),
        ({"at": "yesterday"}, "at is 'yesterday'; expected UTC such as"),
        ({"seconds": float("nan")}, "seconds is nan; expected 0 or more, or None"),
        ({"seconds": -1.0}, "seconds is -1.0; expected 0 or more, or None"),
    ]:
        with pytest.raises(DataError, match=message):
            Vote(**{**whole, **wrong})


def test_free_texts_are_no_labels() -> None:
    votes = [Vote(row_id=f"r{i}", annotator="ana", value=f"text {i}", at=AT) for i in range(1001)]
    with pytest.raises(DataError, match="1001 different values in 1001 votes; expected at most 1000"):
        vote_table(votes)


def test_the_score_interval_is_wilsons_for_whole_numbers() -> None:
    assert score_interval(0.85, 100) == pytest.approx((0.7672, 0.9069), abs=5e-5)
    assert score_interval(1.0, 20)[1] == 1.0
    assert score_interval(0.0, 20)[0] == 0.0
