"""One score a row."""

import math

import pytest

from metier.conventions import CheckResult
from metier.core.errors import ConfigError, DataError
from metier.evaluate import Grader
from tests.conventions.builders import row
from tests.evaluate.builders import GREETING, POLITE, TICKET, grader, tickets


def test_all_pass_needs_every_convention():
    both = grader([TICKET, GREETING])
    on = tickets(1)[0]
    assert (both.binary, both.unit) == (True, "share of replies that obey every convention")
    good = both.score(on, "Dear Ana, T-0 is solved.")
    assert (good.score, dict(good.checks), dict(good.reasons)) == (1.0, {"ticket": 1.0, "greeting": 1.0}, {})
    bad = both.score(on, "T-0 is solved.")
    assert (bad.score, bad.checks["ticket"], bad.row_id) == (0.0, 1.0, on.row_id)
    assert bad.reasons == {"greeting": "The reply begins 'T-0 is solved.', not with 'Dear'."}


def test_all_pass_does_not_take_half_a_convention():
    on = row("Please look at T-1 and T-2.", "Dear T-1, T-2.")
    half = grader([TICKET, GREETING]).score(on, "Dear T-1")
    assert (half.checks["ticket"], half.score) == (0.5, 0.0)


def test_mean_weighs_the_conventions():
    mean = grader([TICKET, GREETING], name="mean")
    on = tickets(1)[0]
    assert not mean.binary
    assert mean.weights == {"ticket": 3.0, "greeting": 1.0}
    assert mean.row_specific_share == 0.75
    assert mean.score(on, "T-0").score == 0.75
    assert mean.score(on, "Dear").score == 0.25
    assert mean.score(on, "Dear T-0").score == 1.0


def test_a_mean_of_ones_is_one_whatever_the_weights():
    thirds = [{**GREETING, "name": f"c{i}", "weight": 0.1} for i in range(3)]
    assert grader(thirds, name="mean").score(row(), "Dear").score == 1.0


def test_a_convention_can_be_the_metric():
    chosen = grader([TICKET, GREETING], name="greeting")
    assert (chosen.binary, chosen.unit) == (True, "share of replies that obey 'greeting'")
    assert chosen.score(tickets(1)[0], "Dear").score == 1.0
    shared = grader([TICKET, GREETING], name="ticket")
    assert (shared.binary, shared.unit) == (False, "mean score of 'ticket' (0-1)")


@pytest.mark.parametrize(
    ("metric", "gold", "good", "bad", "binary"),
    [
        ("exact", "yes sir", "yes  sir", "yes", True),
        ("numeric", "it is 4", "4", "5", True),
        ("rouge_l", "a b c", "a b c", "x", False),
        ("chrf", "abc", "abc", "xyz", False),
    ],
)
def test_built_in_metrics_need_no_convention(metric, gold, good, bad, binary):
    built = grader(name=metric)
    assert built.binary is binary
    assert built.unit
    assert built.score(row(gold=gold), good).score == 1.0
    failed = built.score(row(gold=gold), bad)
    assert failed.score == 0.0
    assert list(failed.reasons) == [metric]
    assert failed.checks == {}


def test_label_takes_the_bare_label_only():
    on = row(gold="refund", label="refund")
    label = grader(name="label")
    assert label.score(on, " refund\n").score == 1.0
    for text in ("Refund", "refund.", "It is refund", ""):
        assert label.score(on, text).score == 0.0
    assert label.score(on, "x").reasons == {"label": "The label is 'refund', not 'x'."}
    assert label.score(row(gold=""), "").reasons == {"label": "The row has no label."}


def test_a_convention_wins_over_a_built_in_metric_of_its_name():
    own = grader([{"name": "exact", "check": "exact", "args": {"ignore_case": True}}], name="exact")
    assert own.score(row(gold="Yes"), "yes").score == 1.0


@pytest.mark.parametrize(
    ("conventions", "metric", "message"),
    [
        (
            [],
            "all_pass",
            r"\[metric\] name is 'all_pass', but there is no \[\[convention\]\]. Add conventions, or name another",
        ),
        ([], "mean", r"\[metric\] name is 'mean', but there is no"),
        ([GREETING], "greting", r"\[metric\] name is 'greting'; did you mean 'greeting'\?"),
        ([{**GREETING, "name": "mean"}], "mean", r"\[\[convention\]\] 'mean': the name is taken by a metric"),
        (
            [{"name": "near", "check": "rouge_l"}],
            "all_pass",
            "'near' is 1 only for the gold reply itself. Give it a least value",
        ),
    ],
)
def test_a_metric_that_says_nothing_is_refused(conventions, metric, message):
    with pytest.raises(ConfigError, match=message):
        grader(conventions, name=metric)


def test_all_pass_takes_overlap_with_a_least_value():
    near = grader([{"name": "near", "check": "rouge_l", "args": {"min": 0.5}}])
    assert near.score(row(gold="a b c d"), "a b c").score == 1.0


@pytest.mark.parametrize("value", [math.nan, 1.2, -0.1])
def test_a_score_outside_0_1_is_an_error(value):
    broken = Grader(
        metric="m", unit="u", binary=False, pass_mark=0.5, conventions=(), measure=lambda *_: CheckResult(value)
    )
    with pytest.raises(DataError, match=rf"m scored {value} for t.jsonl:1 \(row {row().row_id}\); expected a number"):
        broken.score(row(), "x")


def test_score_all_wants_one_reply_a_row():
    with pytest.raises(DataError, match="1 replies for 2 rows; expected one reply a row"):
        grader([GREETING]).score_all(tickets(2), ["x"])
    assert grader([GREETING]).score_all([], []) == []


def test_score_all_collects_the_rows_it_cannot_score(tmp_path):
    (tmp_path / "own.py").write_text("def score(row, text):\n    return 1.2 if 'bad' in text else 1.0\n")
    own = grader([{"name": "own", "check": "python", "args": {"function": "own:score"}}], tmp_path)
    rows = tickets(9)
    with pytest.raises(DataError) as err:
        own.score_all(rows, ["bad"] * 7 + ["good"] * 2)
    lines = str(err.value).splitlines()
    assert lines[0] == "7 of 9 replies could not be scored:"
    assert len(lines) == 7
    assert "own:score returned 1.2 for t.jsonl:0 (row " in lines[1]
    assert lines[-1] == "  ... and 2 more"


def test_the_question_decides_the_grader():
    assert grader([POLITE], pass_mark=0.9).pass_mark == 0.9
