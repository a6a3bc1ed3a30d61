"""A grader that replies without knowledge can please is refused before any model is scored."""

import pytest

from metier.conventions import fold, gold_reply
from metier.core.errors import DataError
from metier.evaluate import GOLD_FAILS, other_golds, run_controls
from tests.conventions.builders import row
from tests.evaluate.builders import GREETING, POLITE, TICKET, grader, tickets


def test_a_sound_grader_passes_with_its_numbers():
    result = run_controls(tickets(40), grader([TICKET, GREETING]), seed=0)
    assert (result.gold, result.empty, result.echo, result.shuffled, result.num_rows) == (1.0, 0.0, 0.0, 0.0, 40)
    assert result.quarantined == {}
    assert result.as_json()["num_gold_fails"] == 0


def test_a_grader_that_accepts_the_empty_reply_is_caught(tmp_path):
    (tmp_path / "own.py").write_text("def score(row, text):\n    return 1.0 if not text or text == row.gold else 0.0\n")
    lenient = grader([{"name": "own", "check": "python", "args": {"function": "own:score"}}], tmp_path)
    with pytest.raises(
        DataError, match=r"Control 'empty': mean score 1.000 over 10 rows; expected below the pass mark 0.5. An empty"
    ):
        run_controls(tickets(10), lenient, seed=0)


def test_a_grader_that_sees_only_form_is_caught_by_the_other_golds():
    with pytest.raises(DataError, match=r"Control 'shuffled': mean score 1.000 .* Another row's gold reply passes"):
        run_controls(tickets(10), grader([GREETING]), seed=0)


def test_a_grader_pleased_by_the_prompt_is_caught():
    with pytest.raises(DataError, match=r"Control 'echo': mean score 1.000 .* The echoed prompt passes"):
        run_controls(tickets(10), grader([TICKET]), seed=0)


def test_a_grader_that_forbids_only_is_caught():
    with pytest.raises(DataError, match="Control 'empty'"):
        run_controls(tickets(10), grader([POLITE]), seed=0)


def test_a_template_that_states_its_answer_is_caught():
    rows = [row(f"Question {i}. The answer is 4.", f"That is 4, {i} times. So 4", number=i) for i in range(10)]
    with pytest.raises(DataError, match="Control 'shuffled'"):
        run_controls(rows, grader(name="numeric"), seed=0)


def test_the_pass_mark_is_the_bound_itself():
    half = grader([{**TICKET, "weight": 1.0}, GREETING], name="mean", pass_mark=0.5)
    with pytest.raises(DataError, match=r"Control 'shuffled': mean score 0.500"):
        run_controls(tickets(10), half, seed=0)
    stricter = grader([{**TICKET, "weight": 1.0}, GREETING], name="mean", pass_mark=0.6)
    assert run_controls(tickets(10), stricter, seed=0).shuffled == 0.5


def test_golds_that_fail_are_quarantined_with_their_reason():
    rows = [*tickets(39), row("Please look at T-99.", "Dear customer, it is solved.", number=99)]
    result = run_controls(rows, grader([TICKET, GREETING]), seed=0)
    assert dict(result.quarantined) == {rows[-1].row_id: "ticket: The reply does not contain 'T-99'."}
    assert (result.gold, result.num_rows, GOLD_FAILS) == (1.0, 39, "gold_fails_grader")
    sealed = run_controls(rows, grader([TICKET, GREETING]), seed=0, sealed=True)
    assert dict(sealed.quarantined) == {rows[-1].row_id: "fails ticket"}


def test_more_than_five_percent_failing_golds_are_refused():
    bad = [row(f"Please look at T-9{i}.", "Dear customer, solved.", number=90 + i) for i in range(2)]
    assert run_controls([*tickets(38), *bad], grader([TICKET, GREETING]), seed=0).num_rows == 38  # exactly 5 %
    with pytest.raises(DataError) as err:
        run_controls([*tickets(37), *bad], grader([TICKET, GREETING]), seed=0)
    assert str(err.value).startswith("2 of 39 gold replies fail their own grader; at most 5% may.")
    assert f"row {bad[0].row_id}: ticket: The reply does not contain 'T-90'." in str(err.value)


def test_sealed_rows_leave_no_text_in_the_refusal():
    bad = [row(f"Please look at T-9{i}.", "Dear customer, solved.", number=90 + i) for i in range(9)]
    with pytest.raises(DataError) as err:
        run_controls([*tickets(9), *bad], grader([TICKET, GREETING]), seed=0, sealed=True)
    assert "T-9" not in str(err.value)
    assert "fails ticket" in str(err.value)


def test_graded_metrics_quarantine_below_the_pass_mark():
    mean = grader([TICKET, GREETING, {**GREETING, "name": "hi"}], name="mean", pass_mark=0.7)
    rows = [*tickets(39), row("Please look at T-99.", "T-99 is solved.", number=99)]
    assert list(run_controls(rows, mean, seed=0).quarantined) == [rows[-1].row_id]  # 3 of 5
    ending = {"name": "ending", "check": "ends_with", "args": {"any": ["solved."]}}
    kept = run_controls(rows, grader([TICKET, GREETING, ending], name="mean", pass_mark=0.7), seed=0)  # 4 of 5
    assert (kept.quarantined, kept.num_rows) == ({}, 40)
    assert kept.gold == pytest.approx((39 + 0.8) / 40)


def test_a_row_specific_convention_with_nothing_to_check_names_the_rows():
    rows = [*tickets(10), *[row(f"No number, {i}.", "Dear customer.", number=50 + i) for i in range(6)]]
    with pytest.raises(DataError) as err:
        run_controls(rows, grader([TICKET, GREETING]), seed=0)
    lines = str(err.value).splitlines()
    assert lines[0] == "6 times a row-specific convention has nothing to check:"
    assert f"finds nothing in the prompt of row {rows[10].row_id}" in lines[1]
    assert lines[-1] == "  ... and 1 more"


@pytest.mark.parametrize("num", [0, 1])
def test_too_few_rows_are_refused(num):
    with pytest.raises(DataError, match=f"The controls need at least 2 rows to compare, found {num}"):
        run_controls(tickets(num), grader([TICKET]), seed=0)


def test_one_gold_for_all_is_refused():
    rows = [row(f"Q{i}", "refund", number=i, label="refund") for i in range(5)]
    with pytest.raises(DataError, match="All 5 rows have the same gold reply"):
        run_controls(rows, grader(name="label"), seed=0)


def test_a_rare_class_does_not_make_other_golds_look_right():
    rows = [row(f"Q{i}", label := ("late" if i == 3 else "refund"), number=i, label=label) for i in range(30)]
    assert run_controls(rows, grader(name="label"), seed=0).shuffled == 0.0


def test_other_golds_differ_from_the_row_and_repeat_with_the_seed():
    rows = [row(f"Q{i}", f"reply {i % 7}", number=i) for i in range(50)]
    others = other_golds(rows, seed=3)
    assert all(fold(other) != fold(gold_reply(r)) for other, r in zip(others, rows, strict=True))
    assert set(others) == {f"reply {i}" for i in range(7)}
    assert others == other_golds(rows, seed=3)
    assert others != other_golds(rows, seed=4)


@pytest.mark.parametrize("value", ["float('nan')", "1.2", "1 / 0"])
def test_a_broken_function_stops_the_controls_by_name(tmp_path, value):
    (tmp_path / "own.py").write_text(f"def score(row, text):\n    return {value}\n")
    own = grader([{"name": "own", "check": "python", "args": {"function": "own:score"}}], tmp_path)
    with pytest.raises(DataError, match=r"3 of 3 replies could not be scored:\n  convention 'own': own:score"):
        run_controls(tickets(3), own, seed=0)
