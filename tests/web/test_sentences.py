"""Codes and values as words: the tables hold what the code gives, and no number of rows is a sentence."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from metier.core.report import LooksReport, Outcome, Report
from metier.core.trials import SkipReason
from metier.evaluate import controls
from metier.web.numbers import confidence, duration, money, number, points
from metier.web.page import dropped_lines
from metier.web.sentences import (
    DROP_REASONS,
    NONE_DECIDES,
    SKIP_REASONS,
    SPLIT_REASONS,
    base_label,
    cross_check_lines,
    fact_lines,
    looks_sentence,
    next_step,
    rows_needed_lines,
    setting_words,
    split_aside,
)
from tests.web.sample_report import sample_report

SOURCE = Path(__file__).parents[2] / "src" / "metier"
LAST_ARGUMENT = ("_purge", "purge_near", "_parted")
RETURNED_BY = ("_permission", "_length")


def reasons_in(tree: ast.AST) -> Iterator[str]:
    """Every reason the code of a module gives a row it sets aside."""

    def literals(*values: ast.AST | None) -> Iterator[str]:
        yield from (v.value for v in values if isinstance(v, ast.Constant) and isinstance(v.value, str) and v.value)

    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in ("Quarantined", "Purged") and len(node.args) > 1:
                yield from literals(node.args[1])
            elif node.func.id in LAST_ARGUMENT:
                yield from literals(node.args[-1])
        elif isinstance(node, ast.FunctionDef) and node.name in RETURNED_BY:
            for answer in (item.value for item in ast.walk(node) if isinstance(item, ast.Return)):
                yield from literals(*((answer.body, answer.orelse) if isinstance(answer, ast.IfExp) else (answer,)))
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).startswith("reasons["):
            yield from literals(node.value)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "REASONS":
            assert isinstance(node.value, ast.Tuple)
            yield from literals(*node.value.elts)


def reason_codes(tree: ast.Module) -> Iterator[str]:
    """Every public constant of a module that is a text: in `evaluate/controls.py` these are the reason codes."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            yield from (node.value.value for name in names if name.isupper() and not name.startswith("_"))


def reasons_of(*rooms: str) -> set[str]:
    """Every reason the code of these rooms gives."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for room in rooms for path in (SOURCE / room).glob("*.py")]
    return {reason for tree in trees for reason in reasons_in(tree)}


def test_the_table_of_reasons_is_what_the_code_gives() -> None:
    codes = set(reason_codes(ast.parse((SOURCE / "evaluate" / "controls.py").read_text(encoding="utf-8"))))
    assert {controls.GOLD_FAILS, controls.NOTHING_TO_CHECK} <= codes
    assert reasons_of("curate", "split", "evaluate", "road") | codes == set(DROP_REASONS)


def test_the_reasons_of_the_split_are_those_its_code_gives() -> None:
    assert set(SPLIT_REASONS) == reasons_of("split")


def test_rows_set_aside_by_the_split_are_named_by_every_reason_of_the_split() -> None:
    report = sample_report()
    quarantined = {**report.data.quarantined, "near_holdout": 2, "not_older": 5, "holdout_unused": 1100}
    many = replace(report, split=replace(report.split, purged=1107), data=replace(report.data, quarantined=quarantined))
    assert split_aside(many) == (
        "1,107 rows set aside by the split: 2 nearly the same as a hold-out row, 5 newer than the oldest hold-out row, "
        "1,100 in the given test set, not asked for"
    )
    none = replace(report, data=replace(report.data, quarantined={"near_duplicate": 61}))
    assert split_aside(replace(none, split=replace(report.split, purged=1))) == "1 row set aside by the split"


def test_every_reason_to_skip_an_arm_has_words() -> None:
    assert set(SKIP_REASONS) == {str(reason) for reason in SkipReason}


def test_a_reason_without_words_is_still_shown() -> None:
    report = sample_report()
    report = replace(report, data=replace(report.data, quarantined={"of_tomorrow": 3}, failed=2))
    assert [(line["text"], line["n"]) for line in dropped_lines(report)] == [
        ("of tomorrow", 3), ("not readable as a row", 2),
    ]  # fmt: skip


@pytest.mark.parametrize("none", [None, "none"])
def test_rows_needed_are_sentences(none: object) -> None:
    report = sample_report()
    needed = {key: none if value is None else value for key, value in report.rows_needed.items() if key != "by_rival"}
    needed["by_rival"] = {"prompt": none, "few_shot": 30, "retrieval": none, "small": 1800}
    by_name = {c.versus: c for c in report.comparisons}
    undecided = replace(by_name["retrieval"], low=0.05, high=0.2)
    comparisons = tuple(undecided if c.versus == "retrieval" else c for c in report.comparisons)
    lines = rows_needed_lines(replace(report, rows_needed=needed, comparisons=comparisons))
    assert lines == [
        ("to aim for next", "120 groups (about 180 rows)"),
        ("if the true gain over small is the planned +20.0 points", "180 rows"),
        ("if it is the measured one", NONE_DECIDES),
        ("if it is the lower end of its interval", NONE_DECIDES),
        ("if it is the upper end", "90 rows"),
        ("against prompt alone", "shown already"),
        ("against few_shot alone", "30 rows"),
        ("against retrieval alone", NONE_DECIDES),
        ("against small alone", "1,800 rows"),
    ]


def test_a_hold_out_that_has_enough_is_not_told_to_have_too_little() -> None:
    report = sample_report()
    enough = {**report.rows_needed, "holdout": None, "groups": None, "if_plan_gain": 90, "if_estimate": 40}
    assert rows_needed_lines(replace(report, rows_needed=enough))[0].text == "the 150 at hand are enough"
    never = {**enough, "if_plan_gain": None, "if_estimate": None}
    assert rows_needed_lines(replace(report, rows_needed=never))[0].text == NONE_DECIDES


def undecided(reason: str, **rows: object) -> Report:
    report = sample_report(Outcome.NEED_HOLDOUT_ROWS)
    guard = replace(report.guards[0], rows_needed=rows.pop("guard", None))
    needed = {**report.rows_needed, **rows}
    return replace(report, verdict=replace(report.verdict, reason=reason), rows_needed=needed, guards=(guard,))


def test_the_next_step_of_an_undecided_verdict_follows_its_reason() -> None:
    assert next_step(undecided("holdout_too_small")) == (
        "Collect hold-out rows until there are about 180, then run again (look 2 of 3 at this question)."
    )
    assert "No number of hold-out rows you could collect" in next_step(undecided("holdout_too_small", holdout=None))
    assert "until there are about 410," in next_step(undecided("guard_unproven:refunds", guard=410))
    assert "proves that refunds is unharmed" in next_step(undecided("guard_unproven:refunds"))
    assert next_step(undecided("cost_unproven")).startswith("Ask a changed question with token prices in [price],")
    spent = undecided("holdout_too_small")
    spent = replace(spent, looks=replace(spent.looks, used=3))
    assert "its looks are used up, so with a changed question" in next_step(spent)


def test_the_next_step_of_the_other_verdicts_names_what_to_use() -> None:
    report = sample_report(Outcome.NOT_WORTH_IT)
    below = replace(report, verdict=replace(report.verdict, reason="below_margin"))
    assert next_step(replace(below, gave_up=())) == (
        'Use "small" instead (it scores 42 % itself): on these rows tuning does not gain enough over it.'
    )
    assert next_step(below) == (
        'Use "small" for now (it scores 42 % itself). The budget made this tuning smaller than wanted (adapted the top '
        "20 of 30 layers): give it more minutes before you drop it."
    )
    dear = next_step(replace(report, verdict=replace(report.verdict, reason="not_cheaper")))
    assert dear == 'Use "few_shot" instead: the tuned model was to cost less, and does not.', "whose cost counts"
    more = sample_report(Outcome.NEED_TRAIN_ROWS)
    more = replace(more, rows_needed={**more.rows_needed, "train": 2400})
    assert next_step(more).startswith("Collect training rows until there are about 2,400:")
    left = replace(more, rows_needed={**more.rows_needed, "train_at_hand": 2400})
    assert next_step(left).startswith(
        "Give the tuning more minutes: 2,400 training rows are at hand, and with 2,400 of"
    )


@pytest.mark.parametrize(
    ("used", "on_these_rows", "other_questions", "said"),
    [
        (1, 1, 0, "Opened once, after every choice was made."),
        (2, 2, 0, "Look 2 of 3 at this question; rows of this hold-out were opened 2 times: choices made since"),
        (1, 2, 1, "Look 1 of 3 at this question; rows of this hold-out were opened 2 times, for 1 other question too:"),
        (2, 5, 2, "were opened 5 times, for 2 other questions too: choices made since the first look could know"),
    ],
)
def test_opened_once_is_said_only_where_it_is_true(
    used: int, on_these_rows: int, other_questions: int, said: str
) -> None:
    looks = LooksReport(
        used=used, budget=3, alpha_this=0.0167, alpha_left=0.0333, on_these_rows=on_these_rows, other_questions=other_questions,
    )  # fmt: skip
    assert said in looks_sentence(looks)
    assert ("Opened once" in looks_sentence(looks)) == (said == "Opened once, after every choice was made.")


def test_cross_checks_say_why_there_is_no_number() -> None:
    prompt, few_shot, *_ = cross_check_lines(sample_report())
    assert prompt == {
        "versus": "prompt", "gains": "41", "losses": "12", "mid_p": "0.00012",
        "bounds": "none: every row differs by the same",
    }  # fmt: skip
    assert few_shot["mid_p"].startswith("does not apply: rows share groups")
    assert few_shot["bounds"] == "+11.0 to +24.0 points, 95 % sure of either end"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "model=nearest, analyzer=char_wb, slots=True, masked=True",
            "nearest reply, compared by characters, values filled in, values replaced by their kind",
        ),
        (
            "model=nearest, analyzer=word, slots=False, masked=False",
            "nearest reply, compared by words, values left as they are",
        ),
        ("model=classifier, analyzer=word, strength=10.0", "classifier, compared by words, inverse regularisation 10"),
        ("set 2, k=3", "set 2, 3 examples"),
        ("k=1", "1 example"),
        ("shortest row, k=1", "shortest row, 1 example"),
        ("guidelines_letter.md", "guidelines_letter.md"),
    ],
)
def test_settings_tried_are_told_in_words(name: str, words: str) -> None:
    assert setting_words(name) == words


def test_every_setting_of_the_small_arm_has_words() -> None:
    from metier.arms.small import ANALYZERS, STRENGTHS

    pieces = [f"analyzer={a}" for a in ANALYZERS] + [f"strength={s}" for s in STRENGTHS]
    pieces += ["model=nearest", "model=classifier"] + [f"{k}={v}" for k in ("slots", "masked") for v in (True, False)]
    assert [piece for piece in pieces if "=" in setting_words(piece)] == []


def test_the_base_column_says_whose_reply_it_is() -> None:
    report = sample_report()
    assert base_label(report) == "Base model, prompted"
    skipped = replace(report.arms[0], status="skipped")
    assert base_label(replace(report, arms=(skipped, *report.arms[3:]))) == "Not tuned: small"


def test_facts_are_flat_and_plain() -> None:
    nested = {
        "groups": {"train": 45},
        "newest_train": None,
        "ok": True,
        "share": 0.285714285714,
        "names": ["a", "b"],
        "gone": [],
        "prices": [{"item": "hour", "amount": 0.1}, {"item": ""}],
    }
    assert fact_lines(nested) == [
        ("groups, train", "45"), ("newest train", "not known"), ("ok", "yes"), ("share", "0.285714"), ("names", "a, b"),
        ("gone", "none"), ("prices 1, item", "hour"), ("prices 1, amount", "0.1"), ("prices 2, item", "not given"),
    ]  # fmt: skip


def test_numbers_are_told_from_zero() -> None:
    shown = [money(value, "USD") for value in (0.0, 0.00002, 0.00015, 0.0152, 0.1, 1234.5, None)]
    assert shown == [
        "USD 0.00", "less than USD 0.0001", "USD 0.00015", "USD 0.0152", "USD 0.10", "USD 1,234.50", "\u2013",
    ]  # fmt: skip
    assert [number(value, 2) for value in (0.0, 0.0020451, 0.12, 1234.5, None)] == [
        "0.00",
        "0.002",
        "0.12",
        "1,234.50",
        "\u2013",
    ]
    assert [duration(value) for value in (0.002, 0.5, 9.12, 119.96, 150.0, None)] == [
        "0.1 s", "30 s", "9.1 min", "120.0 min", "2.5 h", "\u2013",
    ]  # fmt: skip
    assert [points(value) for value in (0.193, -0.724, 0.0, -0.0001)] == ["+19.3", "\u221272.4", "0.0", "0.0"]
    assert [confidence(alpha) for alpha in (0.05, 0.0167, 0.0125, 0.004167)] == ["95 %", "98.3 %", "98.8 %", "99.6 %"]
