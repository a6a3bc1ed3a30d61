"""A project that is changed after its run: what is asked anew, what is paid for, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.road.running import change, events_of, metier
from tests.road.small_project import LEAN, write_project


def test_another_tuning_is_a_second_look_at_a_quarter_of_the_error_rate(lean: Path) -> None:
    change(lean, "lr = 0.002", "lr = 0.004")
    ran = metier("run", "-C", lean, "--json")
    assert ran.code == 0, ran.err
    looks = ran.json["looks"]
    assert looks["used"] == 2
    assert looks["alpha_this"] == pytest.approx(0.05 / 4), "look k at alpha 2^-k"
    assert looks["alpha_left"] == pytest.approx(0.05 - 0.05 / 3 - 0.05 / 4)
    assert ran.json["model"]["config"]["lr"] == 0.004
    assert metier("verify", "-C", lean).code == 0


def test_going_back_to_the_first_tuning_shows_its_report_and_costs_no_look(lean: Path) -> None:
    first = (lean / ".metier/report/report.json").read_bytes()
    change(lean, "lr = 0.002", "lr = 0.004")
    assert metier("run", "-C", lean).code == 0
    assert (lean / ".metier/report/report.json").read_bytes() != first
    change(lean, "lr = 0.004", "lr = 0.002")
    events = events_of(lean)
    again = metier("run", "-C", lean)
    assert again.code == 0, again.err
    assert (lean / ".metier/report/report.json").read_bytes() == first
    assert events_of(lean) == events


def test_a_curve_asked_for_after_the_look_is_refused_before_it_is_paid_for(lean: Path) -> None:
    first = metier("report", "-C", lean, "--json").json
    change(lean, "fractions = []", "fractions = [0.25, 0.5]")
    ran = metier("run", "-C", lean, "--json")
    assert ran.code == 0, ran.err
    assert "no learning curve: the hold-out was opened for these arms before it was asked for" in ran.err
    assert not list((lean / ".metier/stages").glob("curve-*"))
    assert ran.json["verdict"] == first["verdict"]


def test_a_renamed_project_is_told_by_its_new_name_and_costs_no_look(lean: Path) -> None:
    change(lean, 'name = "small"', 'name = "orders"')
    ran = metier("run", "-C", lean, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["project"] == "orders"
    assert "orders" in (lean / ".metier/report/index.html").read_text(encoding="utf-8")
    assert events_of(lean).count("look_opened") == 1
    assert metier("verify", "-C", lean).code == 0


def test_another_decision_is_a_new_question_with_its_own_error_rate(lean: Path) -> None:
    first = metier("report", "-C", lean, "--json").json["question"]["hash"]
    change(lean, "margin = 0.1\nplan_gain = 0.3", "margin = 0.2\nplan_gain = 0.3")
    ran = metier("run", "-C", lean, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["question"]["hash"] != first
    assert ran.json["question"]["margin"] == 0.2
    assert (ran.json["looks"]["used"], ran.json["looks"]["alpha_this"]) == (1, pytest.approx(0.05 / 3))
    assert events_of(lean).count("look_opened") == 2


def test_a_look_that_is_not_covered_is_refused_and_shows_nothing(tmp_path: Path) -> None:
    once = LEAN.replace("plan_gain = 0.3", "plan_gain = 0.3\nmax_looks = 1")
    project = write_project(tmp_path / "project", text=once)
    assert metier("run", "-C", project).code == 0
    report = (project / ".metier/report/report.json").read_bytes()
    change(project, "lr = 0.002", "lr = 0.004")
    ran = metier("run", "-C", project, "--json")
    assert ran.code == 3
    assert ran.out == ""
    assert "error: look 2 would spend 0.0125 of the error rate 0.05, of which 0.0000 is left." in ran.err
    assert "A changed question, on fresh hold-out rows, starts a new budget." in ran.err
    assert (project / ".metier/report/report.json").read_bytes() == report, "the first verdict stands"
    assert events_of(project).count("look_opened") == 1


def test_another_column_of_the_same_rows_is_split_and_scored_anew(lean: Path) -> None:
    change(lean, 'attributes = ["region"]', 'attributes = ["customer"]')
    ran = metier("run", "-C", lean, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["looks"]["used"] == 1, "what a group or a slice is belongs to the question"
    assert metier("verify", "-C", lean).code == 0


def test_an_edited_python_convention_is_a_new_question(tmp_path: Path) -> None:
    own = LEAN.replace(
        '[[convention]]\nname = "greeting"',
        '[[convention]]\nname = "signed"\ncheck = "python"\nargs = { function = "rules:signed" }\n\n'
        '[[convention]]\nname = "greeting"',
    )
    project = write_project(tmp_path / "project", text=own)
    rule = 'def signed(row, text):\n    """End with a full stop."""\n    return 1.0 if text.endswith(".") else 0.0\n'
    (project / "rules.py").write_text(rule, encoding="utf-8")
    first = metier("run", "-C", project, "--json")
    assert first.code == 0, first.err
    assert set(first.json["arms"][0]["checks"]) == {"order", "signed", "greeting"}
    (project / "rules.py").write_text(rule.replace('endswith(".")', 'startswith("Hi")'), encoding="utf-8")
    second = metier("run", "-C", project, "--json")
    assert second.code == 0, second.err
    assert second.json["question"]["hash"] != first.json["question"]["hash"]
    assert metier("verify", "-C", project).code == 0


def test_a_corrected_date_is_recorded_and_needs_new_hold_out_rows(lean: Path) -> None:
    rows = (lean / "rows.jsonl").read_text(encoding="utf-8")
    assert rows.count("2025-06-26") == 1
    (lean / "rows.jsonl").write_text(rows.replace("2025-06-26", "2025-06-27"), encoding="utf-8")
    ran = metier("run", "-C", lean)
    assert ran.code == 1
    assert "hold-out of 24 rows after one of 24; the same question may be asked again of more rows only." in ran.err
    assert events_of(lean).count("look_opened") == 1
