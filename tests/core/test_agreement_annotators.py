"""Gold rows, peers, pace and slices: by hand, and by simulation where the truth is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import chi2_contingency, fisher_exact

from metier.core.agreement import Metric
from metier.core.annotator_report import annotator_report
from metier.core.annotators import gold_accuracy, pace, peer_agreement
from metier.core.dawid_skene import dawid_skene
from metier.core.errors import DataError
from metier.core.label_slices import SliceFinding, independence, label_rates, slice_tests
from metier.core.stats import wilson
from metier.core.votes import Vote, vote_table

from .voting import AT, drawn_table, one_coin, votes_by_coder, votes_of_table

NORTH_SOUTH = ("north", "south")


def test_gold_rows_tell_each_annotators_accuracy() -> None:
    table = vote_table(votes_by_coder(["a b a b", "a a * b", "* * b *"]))
    found = gold_accuracy(table, {"r00": "a", "r01": "b", "r03": "b"})
    assert found == {"c0": (1.0, *wilson(3, 3), 3), "c1": (2 / 3, *wilson(2, 3), 3)}
    assert gold_accuracy(table, {}) == {}
    with pytest.raises(DataError, match="gold answers such as 'A' were never voted; expected values such as 'a'"):
        gold_accuracy(table, {"r00": "A"})


def test_agreement_is_with_the_majority_of_the_others() -> None:
    table = vote_table(votes_by_coder(["a b a *", "a b b b", "b b * *"]))
    # c0: r00 the others tie, r01 they say b, r02 b. c1: r00 tie, r01 b, r02 a, r03 nobody. c2: a, b.
    found = {name: (one.value, one.n) for name, one in peer_agreement(table).items()}
    assert found == {"c0": (0.5, 2), "c1": (0.5, 2), "c2": (0.5, 2)}


def test_who_is_implausibly_fast_is_flagged() -> None:
    def timed(annotator: str, seconds: float, num: int) -> list[Vote]:
        return [Vote(row_id=f"r{i}", annotator=annotator, value="a", at=AT, seconds=seconds) for i in range(num)]

    votes = [*timed("ana", 20, 12), *timed("bo", 10, 12), *timed("cy", 1.5, 12), *timed("di", 0.1, 9)]
    votes += [Vote(row_id="r0", annotator="el", value="a", at=AT)]
    found = pace(vote_table(votes))
    # Medians of the three with ten votes: 20, 10, 1.5; the usual pace is 10 s, a fifth of it 2 s.
    assert {name: one.too_fast for name, one in found.items()} == {"ana": False, "bo": False, "cy": True, "di": False}
    assert (found["cy"].median_s, found["cy"].num_timed) == (1.5, 12)
    assert not pace(vote_table(timed("cy", 0.01, 50)))["cy"].too_fast  # nobody to compare with


def test_independence_is_fishers_or_pearsons_test() -> None:
    rng = np.random.default_rng(0)
    small, large, sparse = [[3, 9], [8, 2]], [[30, 20, 10], [20, 25, 15]], [[4, 1, 0], [1, 3, 2]]
    assert independence(small, rng=rng) == (pytest.approx(fisher_exact(small).pvalue), "fisher")
    assert independence(large, rng=rng) == (pytest.approx(chi2_contingency(large).pvalue), "chi_square")
    p_value, method = independence(sparse, rng=rng, num_permutations=4000)
    assert method == "permutation"
    assert p_value == pytest.approx(fisher_exact(sparse).pvalue, abs=0.06)  # another statistic, the same margins
    with pytest.raises(DataError, match="votes in 1 slices and 2 labels; expected 2 of both"):
        independence([[3, 9], [0, 0]], rng=rng)


def two_slices(num_rows: int, table) -> dict[str, dict[str, str]]:
    return {"region": {row: NORTH_SOUTH[i >= num_rows // 2] for i, row in enumerate(table.rows)}}


def rows_that_differ(rng, num_rows: int) -> np.ndarray:
    """Label b on 30 % of the rows of the first half and 60 % of the second."""
    return (rng.random(num_rows) < np.where(np.arange(num_rows) < num_rows // 2, 0.3, 0.6)).astype(int)


def test_an_annotator_is_not_flagged_because_the_rows_differ() -> None:
    rng, reps, flagged, seen = np.random.default_rng(21), 60, 0, 0
    for _ in range(reps):
        truth = rows_that_differ(rng, 200)
        table = drawn_table(rng, truth, one_coin([0.9, 0.85, 0.8, 0.8, 0.75, 0.7]), 4)
        tests = slice_tests(dawid_skene(table), two_slices(200, table), rng=rng)
        flagged += any(test.flagged for test in tests)
        seen += sum(test.finding is SliceFinding.ROWS_DIFFER for test in tests)
    assert flagged / reps <= 0.05 + 3 * (0.05 * 0.95 / reps) ** 0.5  # one error rate for all six annotators
    assert seen > reps  # the plain test does see the rows differ, so it alone would accuse somebody each time


def test_an_annotator_who_labels_a_slice_differently_is_flagged() -> None:
    rng, reps, caught, accused = np.random.default_rng(22), 20, 0, 0
    for _ in range(reps):
        truth = rows_that_differ(rng, 300)
        table = drawn_table(rng, truth, one_coin([0.85] * 6), 4)
        harsh = (table.annotator_V == 2) & (table.row_V >= 150)  # says b of the south more often than not
        table.label_V[harsh & (rng.random(len(harsh)) < 0.5)] = 1
        for test in slice_tests(dawid_skene(table), two_slices(300, table), rng=rng):
            caught += test.flagged and test.annotator == "a02"
            accused += test.flagged and test.annotator != "a02"
    assert caught >= 18
    assert accused <= 3


def test_nobody_else_on_the_rows_leaves_the_difference_unexplained() -> None:
    votes = [Vote(row_id=f"r{i:02d}", annotator="ana", value="ab"[i % 10 < 8 * (i >= 30)], at=AT) for i in range(60)]
    table = vote_table(votes)
    region = {"region": {f"r{i:02d}": NORTH_SOUTH[i >= 30] for i in range(60)}}
    (test,) = slice_tests(dawid_skene(table), region, rng=np.random.default_rng(0))
    assert (test.finding, test.num_votes, test.num_compared) == (SliceFinding.UNEXPLAINED, 60, 0)
    assert (test.rates_method, test.beyond_p, test.flagged) == ("fisher", None, True)
    gold = {vote.row_id: vote.value for vote in votes}
    (test,) = slice_tests(dawid_skene(table), region, rng=np.random.default_rng(0), gold=gold)
    assert (test.finding, test.num_compared) == (SliceFinding.ROWS_DIFFER, 60)


def test_slices_with_few_votes_are_not_tested() -> None:
    table = vote_table(votes_by_coder(["a b a b a b a b a b a b a b", "a a a b a b a b b b a b a b"]))
    region = {"region": {row: NORTH_SOUTH[i >= 10] for i, row in enumerate(table.rows)}}
    first, _ = slice_tests(dawid_skene(table), region, rng=np.random.default_rng(0))
    assert (first.finding, first.slices, first.rates_p) == (SliceFinding.TOO_FEW, ("north",), None)
    with pytest.raises(DataError, match="none of 14 voted rows has a value of 'team'; expected row ids"):
        slice_tests(dawid_skene(table), {"team": {"zz": "x"}}, rng=np.random.default_rng(0))


def test_label_rates_count_votes_and_agreement_of_every_slice() -> None:
    table = vote_table(votes_by_coder(["a b a *", "a b b b"]))
    region = {"region": {"r00": "north", "r01": "south", "r02": "south"}}
    found = {(cell.annotator, cell.slice): cell for cell in label_rates(table, region)}
    south = found["c0", "south"]
    assert (south.num_votes, south.votes_by_label) == (2, {"a": 1, "b": 1})
    assert south.agreement == (0.5, *wilson(1, 2), 2)
    assert found["c1", "south"].num_votes == 2  # r03 has no region
    assert len(found) == 4


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(30)
    truth = rows_that_differ(rng, 300)
    table = drawn_table(rng, truth, one_coin([0.9, 0.8, 0.85, 0.8, 0.7]), 4)
    table.label_V[(table.annotator_V == 2) & (table.row_V >= 150)] = 1
    votes = [
        Vote(
            row_id=v.row_id, annotator=v.annotator, value=v.value, at=v.at, seconds=0.5 if v.annotator == "a04" else 9.0
        )
        for v in votes_of_table(table)
    ]
    gold = {table.rows[i]: "ab"[truth[i]] for i in range(0, 300, 3)}
    return votes, two_slices(300, table), gold


def test_the_report_names_who_to_look_at_and_every_number_has_its_n(drawn) -> None:
    votes, slices, gold = drawn
    report = annotator_report(votes, slices, gold, seed=1)
    flags = {line.annotator: line.flags for line in report.lines}
    assert flags["a02"] == ("annotator_differs:region",)
    assert flags["a04"] == ("too_fast",)
    assert {line.annotator for line in report.lines[:2]} == {"a02", "a04"}  # who is flagged stands first
    assert (report.num_votes, report.num_rows, report.alpha.n, report.gold_ceiling.n) == (1200, 300, 300, 100)
    assert report.ceiling.one_vote.value < report.ceiling.fitted.value
    assert report.converged
    assert report.notes == ()
    page = report.as_text()
    assert page.startswith("1200 votes of 5 annotators on 300 rows, ")
    for part in ("Krippendorff's alpha (nominal): 0.", "300 rows with two votes or more)", "Label ceiling: a faultless",
                 "fitted labels, by gold", "100 gold rows)", "0.5 (n ", "Labels by slice: 1 of 5 tested are flagged",
                 "a02, region: 'a' north", "differs beyond what is known of the rows (n "):  # fmt: skip
        assert part in page
    assert len(page.splitlines()) < 60


def test_who_guesses_is_flagged_and_who_is_merely_weak_is_not() -> None:
    rng = np.random.default_rng(31)
    truth = (rng.random(300) < 0.7).astype(int)
    confusion_JKK = one_coin([0.9, 0.85, 0.7, 0.9, 0.5])
    confusion_JKK[4] = [[0.3, 0.7], [0.3, 0.7]]  # right on .58 of these rows without reading any
    votes = votes_of_table(drawn_table(rng, truth, confusion_JKK, 4))
    for gold in ({}, {f"r{i:05d}": "ab"[truth[i]] for i in range(300)}):
        report = annotator_report(votes, gold=gold, seed=0)
        assert {line.annotator for line in report.lines if line.flags} == {"a04"}
        assert report.lines[0].flags == ("near_chance",)
    few = [vote for vote in votes if vote.annotator != "a04" or vote.row_id < "r00050"]
    assert not any(line.flags for line in annotator_report(few, seed=0).lines)  # under 50 votes nobody is judged


def test_the_report_as_json_is_plain_and_the_same_for_the_same_seed(drawn) -> None:
    votes, slices, gold = drawn
    report = annotator_report(votes, slices, gold, seed=1)
    values = json.loads(json.dumps(report.as_json(), allow_nan=False))
    assert values == json.loads(json.dumps(annotator_report(reversed(votes), slices, gold, seed=1).as_json()))
    assert values["alpha"] == {
        "value": report.alpha.value,
        "low": report.alpha.low,
        "high": report.alpha.high,
        "n": 300,
    }
    assert {line["annotator"] for line in values["annotators"]} == {"a00", "a01", "a02", "a03", "a04"}
    assert all(line["accuracy"]["n"] == line["num_votes"] for line in values["annotators"])
    assert sum(cell["num_votes"] for cell in values["slices"]) == 1200
    assert values["ceiling"]["fitted"]["n"] == 300
    assert {test["finding"] for test in values["slice_tests"]} >= {"annotator_differs"}


def test_the_report_says_what_these_votes_cannot_tell() -> None:
    lonely = annotator_report(votes_by_coder(["a b a"]), seed=0)
    assert (lonely.alpha, lonely.ceiling, lonely.gold_ceiling) == (None, None, None)
    assert any("0 of 3 rows have two votes or more" in note for note in lonely.notes)
    assert any("label noise cannot be seen" in note for note in lonely.notes)
    same = annotator_report(votes_by_coder(["a a", "a a"]), seed=0)
    assert (same.converged, same.lines[0].accuracy) == (None, None)
    assert any("every vote is 'a'" in note for note in same.notes)
    assert "Krippendorff's alpha (nominal): -" in same.as_text()
    two = [Vote(row_id="r", annotator=a, value=v, at=AT, guideline_version=g) for a, v, g in ["xa1", "yb2"]]
    assert any(
        "Votes under 2 guideline versions are taken together" in note for note in annotator_report(two, seed=0).notes
    )
    with pytest.raises(DataError, match="0 votes"):
        annotator_report([], seed=0)


def test_the_page_shows_twenty_annotators_and_counts_the_others() -> None:
    votes = votes_by_coder(["1 2 3 1 2 3"] * 24 + ["1 2 3 2 2 1"])
    report = annotator_report(votes, seed=0, metric=Metric.INTERVAL)
    page = report.as_text()
    assert "and 5 more annotators (all of them are in the JSON)" in page
    assert "No gold rows" in page
    assert len(report.as_json()["annotators"]) == 25
