"""A grader that replies without knowledge can please is refused before any model is scored."""

import pytest

from metier.conventions import fold, gold_reply
from metier.core.errors import DataError
from metier.evaluate import GOLD_FAILS, NOTHING_TO_CHECK, GoldGrader, controls, other_golds, run_controls
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
    bad = rows[-1].row_id
    assert dict(result.quarantined) == {bad: f"t.jsonl:99 (row {bad}): ticket: The reply does not contain 'T-99'."}
    assert dict(result.reasons) == {bad: GOLD_FAILS}
    assert (result.gold, result.num_rows, GOLD_FAILS) == (1.0, 39, "gold_fails_grader")
    sealed = run_controls(rows, grader([TICKET, GREETING]), seed=0, sealed=True)
    assert dict(sealed.quarantined) == {bad: f"row {bad}: fails ticket"}


def test_more_than_five_percent_failing_golds_are_refused():
    bad = [row(f"Please look at T-9{i}.", "Dear customer, solved.", number=90 + i) for i in range(2)]
    assert run_controls([*tickets(38), *bad], grader([TICKET, GREETING]), seed=0).num_rows == 38  # exactly 5 %
    with pytest.raises(DataError) as err:
        run_controls([*tickets(37), *bad], grader([TICKET, GREETING]), seed=0)
    head, first, _ = str(err.value).splitlines()
    assert head.startswith("2 of 39 gold replies fail their own grader; at most 5% may. Correct the conventions, the")
    assert first == f"  t.jsonl:90 (row {bad[0].row_id}): ticket: The reply does not contain 'T-90'."


def test_sealed_rows_leave_no_text_in_the_refusal():
    bad = [row(f"Please look at T-9{i}.", "Dear customer, solved.", number=90 + i) for i in range(9)]
    with pytest.raises(DataError) as err:
        run_controls([*tickets(9), *bad], grader([TICKET, GREETING]), seed=0, sealed=True)
    assert "T-9" not in str(err.value)
    assert "t.jsonl" not in str(err.value)
    assert "fails ticket" in str(err.value)


def test_graded_metrics_quarantine_below_the_pass_mark():
    mean = grader([TICKET, GREETING, {**GREETING, "name": "hi"}], name="mean", pass_mark=0.7)
    rows = [*tickets(39), row("Please look at T-99.", "T-99 is solved.", number=99)]
    assert list(run_controls(rows, mean, seed=0).quarantined) == [rows[-1].row_id]  # 3 of 5
    ending = {"name": "ending", "check": "ends_with", "args": {"any": ["solved."]}}
    kept = run_controls(rows, grader([TICKET, GREETING, ending], name="mean", pass_mark=0.7), seed=0)  # 4 of 5
    assert (kept.quarantined, kept.num_rows) == ({}, 40)
    assert kept.gold == pytest.approx((39 + 0.8) / 40)


def test_a_row_in_which_a_row_specific_convention_finds_nothing_is_set_aside_with_its_place():
    rows = [*tickets(39), row("No number.", "Dear customer.", number=99)]
    result = run_controls(rows, grader([TICKET, GREETING]), seed=0)
    assert dict(result.reasons) == {rows[-1].row_id: NOTHING_TO_CHECK}
    (sentence,) = result.quarantined.values()
    assert sentence.startswith(f"t.jsonl:99 (row {rows[-1].row_id}): convention 'ticket': the pattern 'T-\\d+' finds")
    assert (result.num_rows, result.gold) == (39, 1.0)
    counts = result.as_json()
    assert (counts["num_gold_fails"], counts["num_nothing_to_check"]) == (0, 1)


def test_both_reasons_are_counted_apart():
    vague, wrong = row("No number.", "Dear customer.", number=98), row("T-99, please.", "Dear customer.", number=99)
    result = run_controls([*tickets(38), vague, wrong], grader([TICKET, GREETING]), seed=0)
    assert dict(result.reasons) == {vague.row_id: NOTHING_TO_CHECK, wrong.row_id: GOLD_FAILS}


def test_a_row_specific_convention_that_finds_nothing_in_many_rows_is_refused_with_counts():
    rows = [*tickets(10), *[row(f"No number, {i}.", "Dear customer.", number=50 + i) for i in range(6)]]
    with pytest.raises(DataError) as err:
        run_controls(rows, grader([TICKET, GREETING]), seed=0)
    lines = str(err.value).splitlines()
    assert lines[0] == ("a row-specific convention has nothing to check in 6 of 16 rows; at most 5% may. The first:")
    assert lines[1].startswith(f"  t.jsonl:50 (row {rows[10].row_id}): convention 'ticket': the pattern 'T-\\d+' finds")
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


def test_golds_graded_as_they_come_give_the_controls_of_all_rows_at_once(monkeypatch):
    rows = tickets(40)
    bad = rows[7].model_copy(update={"messages": (*rows[7].prompt, rows[8].messages[-1]), "row_id": "0" * 32})
    rows = [*rows[:7], bad, *rows[8:]]
    made = grader([TICKET, GREETING, POLITE])
    whole = run_controls(rows, made, seed=3)
    assert whole.reasons == {"0" * 32: GOLD_FAILS}
    for limit in (5000, 25):  # all rows in one piece, and a part of them drawn for the replies that know nothing
        monkeypatch.setattr(controls, "MAX_CONTROL_ROWS", limit)
        golds = GoldGrader(made)
        for start in range(0, len(rows), 9):
            golds.add(rows[start : start + 9])
        read = []
        found = golds.controls(
            [row.row_id for row in rows], lambda places, read=read: [(read.append(p), rows[p])[1] for p in places], 3
        )
        assert (found.gold, found.num_rows, found.reasons) == (whole.gold, whole.num_rows, whole.reasons)
        assert dict(found.quarantined) == dict(whole.quarantined)
        assert found.empty < made.pass_mark
        assert len(read) == min(limit, len(rows))


def test_too_many_bad_golds_among_many_rows_are_refused(monkeypatch):
    rows = tickets(40)
    worse = [
        row.model_copy(update={"messages": (*row.prompt, rows[0].messages[-1]), "row_id": f"{i:032x}"})
        for i, row in enumerate(rows[:4], start=1)
    ]
    golds = GoldGrader(grader([TICKET, GREETING, POLITE]))
    golds.add([*worse, *rows[4:]])
    monkeypatch.setattr(controls, "MAX_CONTROL_ROWS", 20)
    everything = [*worse, *rows[4:]]
    with pytest.raises(DataError, match="of 40 gold replies fail their own grader|gold replies fail their own grader"):
        golds.controls([row.row_id for row in everything], lambda places: [rows[4:][p % 36] for p in places], 0)
