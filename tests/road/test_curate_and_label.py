"""`metier curate` and `metier label`: rows put back by a person, rows out to be labelled, votes in, and what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from metier.ledger import Ledger, restored_rows, votes_of
from metier.road.annotators import GOLD
from tests.road.running import change, events_of, metier
from tests.road.small_project import LEAN, rows, write_project


@pytest.fixture
def with_copies(tmp_path: Path) -> Path:
    made = rows(90)
    made[4] = {**made[3], "day": made[4]["day"]}
    made[6] = {**made[5], "ask": made[5]["ask"].upper(), "day": made[6]["day"]}
    return write_project(tmp_path / "p", records=made)


def listed(project: Path, *options: str) -> dict[str, Any]:
    ran = metier("curate", "-C", project, "--json", *options)
    assert ran.code == 0, ran.err
    return ran.json


def test_rows_set_aside_are_listed_with_place_reason_and_survivor(with_copies: Path) -> None:
    found = listed(with_copies)
    assert (found["read"], found["kept"], found["reasons"]) == (90, 88, {"exact_duplicate": 2})
    assert [(row["where"], row["survivor"]) for row in found["rows"]] == [
        ("rows.jsonl:4", "rows.jsonl:5"),
        ("rows.jsonl:6", "rows.jsonl:7"),
    ]
    told = metier("curate", "-C", with_copies).out
    assert "     2  exact duplicate\n" in told
    assert f"{found['rows'][0]['origin_id']}  rows.jsonl:4, kept: rows.jsonl:5" in told


def test_a_row_put_back_is_there_in_the_next_run_and_its_history_says_so(with_copies: Path) -> None:
    origin = listed(with_copies)["rows"][0]["origin_id"]
    back = listed(with_copies, "--restore", origin[:12])
    assert (back["kept"], [row["where"] for row in back["rows"]]) == (89, ["rows.jsonl:6"])
    assert back["restored"] == [origin]
    assert listed(with_copies)["kept"] == 89
    history = metier("show", origin[:12], "--history", "-C", with_copies)
    assert history.code == 0, history.err
    assert "quarantined" in history.out
    assert "kept" in history.out


def test_what_cannot_be_put_back_is_told(with_copies: Path) -> None:
    ran = metier("curate", "-C", with_copies, "--restore", "nothing")
    assert ran.code == 1
    assert "--restore 'nothing': 0 of 2 rows set aside have an id that begins so; expected one." in ran.err
    made = rows(90)
    made[2]["consent"] = "denied"
    project = write_project(with_copies.parent / "q", records=made)
    origin = listed(project)["rows"][0]["origin_id"]
    ran = metier("curate", "-C", project, "--restore", origin)
    assert ran.code == 1
    assert "rows.jsonl:3: still set aside as consent_denied; a person cannot overrule consent" in ran.err


def test_one_row_that_must_stay_out_keeps_the_whole_request_from_being_recorded(with_copies: Path) -> None:
    made = [json.loads(line) for line in (with_copies / "rows.jsonl").read_text().splitlines()]
    made[20]["consent"] = "denied"
    write_project(with_copies, records=made)
    listed(with_copies)
    before = events_of(with_copies)
    ran = metier("curate", "-C", with_copies, "--restore", "rows.jsonl:4", "--restore", "rows.jsonl:21")
    assert ran.code == 1
    assert "rows.jsonl:21: still set aside as consent_denied" in ran.err
    assert events_of(with_copies) == before
    with Ledger.open(with_copies) as ledger:
        assert restored_rows(ledger) == frozenset()
    assert listed(with_copies)["reasons"] == {"consent_denied": 1, "exact_duplicate": 2}


def test_a_row_is_put_back_by_file_and_record_and_again_without_harm(with_copies: Path) -> None:
    ran = metier("curate", "-C", with_copies, "--restore", "rows.jsonl:4")
    assert (ran.code, "put back: 1\n" in ran.out, "already" in ran.out) == (0, True, False)
    assert ran.err.count("90 rows read") == 1, "the second reading is silent"
    events = events_of(with_copies)
    again = metier("curate", "-C", with_copies, "--restore", "rows.jsonl:4")
    assert again.code == 0, again.err
    assert "rows.jsonl:4: put back already; nothing to do\n" in again.out
    assert events_of(with_copies) == events
    both = listed(with_copies, "--restore", "rows.jsonl:4", "--restore", "rows.jsonl:6")
    assert (both["already"], both["kept"], len(both["restored"])) == (["rows.jsonl:4"], 90, 2)


def test_a_row_put_back_whose_consent_is_taken_back_stays_out(with_copies: Path) -> None:
    listed(with_copies, "--restore", "rows.jsonl:4")
    made = [json.loads(line) for line in (with_copies / "rows.jsonl").read_text().splitlines()]
    made[3]["consent"] = "denied"
    write_project(with_copies, records=made)
    ran = metier("curate", "-C", with_copies, "--restore", "rows.jsonl:4")
    assert ran.code == 1
    assert "rows.jsonl:4: still set aside as consent_denied" in ran.err


def test_a_beginning_of_several_ids_lists_them(tmp_path: Path) -> None:
    made = rows(90)
    for number in range(30, 60):
        made[number] = {**made[29], "day": made[number]["day"]}
    project = write_project(tmp_path / "p", records=made)
    aside = listed(project)["rows"]
    first = max("0123456789abcdef", key=lambda digit: sum(row["origin_id"][0] == digit for row in aside))
    ran = metier("curate", "-C", project, "--restore", first)
    assert ran.code == 1
    assert f"--restore '{first}': " in ran.err
    assert "rows have an id that begins so: " in ran.err
    assert "; expected one. Give more of the id, or file:record." in ran.err
    named = [row for row in aside if f"{row['origin_id']} ({row['where']})" in ran.err]
    assert 2 <= len(named) <= 5


def test_the_same_file_is_one_source_whatever_fails_in_it(tmp_path: Path) -> None:
    made = rows(90)
    for number, row in enumerate(made):
        row["other"] = row["day"] if number != 7 else "some day"
    project = write_project(tmp_path / "p", records=made)
    (project / "broken.jsonl").write_text('{"ask": 1\n')
    change(project, 'files = ["rows.jsonl"]', 'files = ["rows.jsonl", "broken.jsonl"]')
    first = listed(project)
    assert (first["read"], first["failed"]) == (91, 1), "a file of which no record is a row is a source too"
    change(project, 'time = "day"', 'time = "other"')
    assert listed(project)["failed"] == 2
    with Ledger.open(project) as ledger:
        assert [event.kind for event in ledger.events()].count("source_read") == 2


def annotated(tasks: list[dict[str, Any]], people: int = 3) -> list[dict[str, Any]]:
    """What Label Studio would export after so many people rated every task; the last one rates at random."""
    return [
        {
            "id": number,
            "data": task["data"],
            "annotations": [
                {
                    "id": number * 10 + who,
                    "completed_by": {"id": who},
                    "created_at": "2026-03-01T09:30:00Z",
                    "updated_at": "2026-03-01T09:30:00Z",
                    "lead_time": 4.0 + who,
                    "was_cancelled": False,
                    "ground_truth": False,
                    "result": [
                        {
                            "from_name": "label", "to_name": "text", "type": "choices",
                            "value": {"choices": ["good" if (number * (who + 1)) % 5 else "bad"]},
                        }
                    ],
                }
                for who in range(people)
            ],
            "predictions": [],
        }
        for number, task in enumerate(tasks)
    ]  # fmt: skip


def test_tasks_go_out_votes_come_in_and_the_report_reads_them(tmp_path: Path) -> None:
    project = write_project(tmp_path / "p", text=LEAN)
    out = metier("label", "-C", project, "--export", tmp_path / "tasks.json")
    assert (out.code, out.out) == (0, f"66 tasks written to {tmp_path / 'tasks.json'}\n")
    assert not (tmp_path / "tasks.xml").exists(), "replies have no set of labels"
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert len(tasks) == 66, "train and dev; the hold-out stays sealed"
    assert "customer" not in json.dumps(tasks)
    (tmp_path / "votes.json").write_text(json.dumps(annotated(tasks)))
    first = metier("label", "-C", project, "--import", tmp_path / "votes.json", "--guideline", "2", "--json")
    assert first.code == 0, first.err
    assert (first.json["num_votes"], first.json["num_new"], first.json["failed"]) == (198, 198, [])
    again = metier("label", "-C", project, "--import", tmp_path / "votes.json", "--guideline", "2", "--json")
    assert again.json["num_new"] == 0
    with Ledger.open(project) as ledger:
        assert len(votes_of(ledger, guideline_version="2")) == 198
    report = metier("label", "-C", project)
    assert report.code == 0, report.err
    assert "198 votes" in report.out
    checked = metier("check", "-C", project, "--json").json["readiness"]
    assert 0.5 < checked["label_ceiling"]["value"] <= 1
    page = (project / ".metier/report/data.html").read_text()
    assert "3 annotators" in page


def test_a_file_that_is_no_export_and_a_report_without_votes_are_told(tmp_path: Path) -> None:
    project = write_project(tmp_path / "p", text=LEAN)
    report = metier("label", "-C", project)
    assert report.code == 1
    assert "no votes on rows of train and dev; expected some. Export tasks with --export" in report.err
    strange = [{"id": 1, "data": {"row_id": "f" * 32}, "annotations": annotated([{"data": {}}])[0]["annotations"]}]
    (tmp_path / "votes.json").write_text(json.dumps(strange))
    ran = metier("label", "-C", project, "--import", tmp_path / "votes.json")
    assert ran.code == 1
    assert "votes.json: no vote on a row of this project; the first: " in ran.err


def test_known_answers_are_kept_and_judge_the_annotators(tmp_path: Path) -> None:
    project = write_project(tmp_path / "p", text=LEAN)
    assert metier("label", "-C", project, "--export", tmp_path / "tasks.json").code == 0
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    export = annotated(tasks)
    for task, known in zip(export[:20], annotated(tasks, people=1), strict=False):
        known["annotations"][0] |= {"id": 100_000 + task["id"], "completed_by": {"id": 9}, "ground_truth": True}
        task["annotations"] += known["annotations"]
    (tmp_path / "votes.json").write_text(json.dumps(export))
    told = metier("label", "-C", project, "--import", tmp_path / "votes.json")
    assert (told.code, told.out) == (0, "66 tasks, 198 votes, 198 of them new, 20 known answers\n")
    events = events_of(project)
    again = metier("label", "-C", project, "--import", tmp_path / "votes.json", "--json")
    assert (again.json["num_new"], again.json["num_gold"], events_of(project)) == (0, 20, events)
    page = metier("label", "-C", project, "--json").json
    assert page["num_votes"] == 198
    assert [(line["annotator"], line["gold"]["n"]) for line in page["annotators"]] == [("0", 20), ("1", 20), ("2", 20)]
    assert page["annotators"][0]["gold"]["value"] == 1.0
    assert page["gold_ceiling"]["n"] == 20
    assert metier("label", "-C", project, "--export", tmp_path / "later.json").code == 0
    assert GOLD not in (tmp_path / "later.json").read_text(), "a known answer does not go out to be repeated"
    for task in export[:20]:
        task["annotations"][-1]["result"][0]["value"]["choices"] = ["Good"]
    (tmp_path / "votes.json").write_text(json.dumps(export))
    assert metier("label", "-C", project, "--import", tmp_path / "votes.json").code == 0
    page = metier("label", "-C", project, "--json").json
    assert page["gold_ceiling"] is None
    assert "20 known answers left out: nobody voted such a value. Check their spelling." in page["notes"]


def test_an_export_never_takes_the_place_of_a_file(tmp_path: Path) -> None:
    made = [{**row, "kind": "late" if number % 3 else "lost"} for number, row in enumerate(rows(90))]
    text = LEAN.replace(
        'columns = { prompt = "ask", reply = "answer" }', 'columns = { prompt = "ask", label = "kind" }'
    )
    text = text[: text.index("[[convention]]")] + text[text.index("[[arm]]") : text.index("[[guard]]")]
    text += '[metric]\nname = "label"\n'
    project = write_project(tmp_path / "p", text=text, records=made)
    tasks, interface = tmp_path / "tasks.json", tmp_path / "tasks.xml"
    out = metier("label", "-C", project, "--export", tasks)
    assert out.code == 0, out.err
    assert out.out == f"66 tasks written to {tasks}, their interface to {interface}\n"
    assert '<Choice value="late" />' in interface.read_text()
    tasks.write_text("mine")
    ran = metier("label", "-C", project, "--export", tasks)
    assert (ran.code, tasks.read_text()) == (2, "mine")
    assert f"--export {tasks}: {tasks} exists; expected a new file. Move it away, or give another name." in ran.err
    tasks.unlink()
    interface.write_text("mine")
    ran = metier("label", "-C", project, "--export", tasks)
    assert (ran.code, interface.read_text(), tasks.exists()) == (2, "mine", False)
    assert f"--export {tasks}: {interface} exists; expected a new file." in ran.err
    ran = metier("label", "-C", project, "--export", tmp_path / "other.xml")
    assert ran.code == 2
    assert "other.xml: the interface gets this name; expected another ending, such as .json." in ran.err


def test_options_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    project = write_project(tmp_path / "p", text=LEAN)
    votes = tmp_path / "votes.json"
    ran = metier("label", "-C", project, "--guideline", "2")
    assert ran.code == 2
    assert "--guideline '2' without --import; it is the version votes followed. Add --import." in ran.err
    ran = metier("label", "-C", project, "--export", tmp_path / "tasks.json", "--import", votes)
    assert (ran.code, (tmp_path / "tasks.json").exists()) == (2, False)
    assert "--export and --import are both given; expected one. Import first, then export what is left." in ran.err


def test_votes_and_known_answers_on_an_erased_row_are_told_and_left_out(tmp_path: Path) -> None:
    text = LEAN.replace('groups = ["customer"]', 'groups = ["customer"]\nsubject = ["customer"]')
    project = write_project(tmp_path / "p", text=text)
    assert metier("label", "-C", project, "--export", tmp_path / "tasks.json").code == 0
    export = annotated(json.loads((tmp_path / "tasks.json").read_text()))
    export[0]["annotations"][2]["ground_truth"] = True
    (tmp_path / "votes.json").write_text(json.dumps(export))
    assert metier("label", "-C", project, "--import", tmp_path / "votes.json").code == 0
    row_id, prompt = export[0]["data"]["row_id"], export[0]["data"]["prompt"]
    person = next(row["customer"] for row in rows(90) if row["ask"].split(":")[0] in prompt)
    assert metier("erase", person, "-C", project).code == 0
    with Ledger.open(project) as ledger:
        assert votes_of(ledger, row_ids=[row_id]) == [], "a known answer is emptied as the votes are"
    ran = metier("label", "-C", project, "--import", tmp_path / "votes.json", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["num_gold"] == 0
    assert (
        f"votes.json: row {row_id} was erased, 2 votes on it left out; expected rows that are still there. Delete the "
        "task in Label Studio too."
    ) in ran.json["failed"]
    (tmp_path / "votes.json").write_text(json.dumps(export[:1]))
    ran = metier("label", "-C", project, "--import", tmp_path / "votes.json")
    assert ran.code == 1
    assert f"no vote on a row of this project; the first: votes.json: row {row_id} was erased" in ran.err


def test_a_licence_stated_later_is_recorded_as_a_change(tmp_path: Path) -> None:
    project = write_project(tmp_path / "p", text=LEAN)
    assert metier("curate", "-C", project).code == 0
    ran = metier("curate", "-C", project, "--set", "data.licence=CC0")
    assert ran.code == 0, ran.err
    history = metier("show", "rows.jsonl:3", "--history", "-C", project)
    assert "licence CC0" in history.out
    assert metier("verify", "-C", project).code == 0
