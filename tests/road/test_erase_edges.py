"""Erasing where it is hard: others wrote the same, records are broken, copies, other files, damage, kills."""

from __future__ import annotations

import csv
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from metier.ledger import ObjectStore, is_pack
from tests.road.killing import die, forks
from tests.road.running import metier, one_core
from tests.road.small_project import LEAN, rows, write_project

PERSON = "Zuzana Quill-77"
TEXT = LEAN.replace('groups = ["customer"]', 'groups = ["house"]\nsubject = ["customer"]')


def made(num: int = 90) -> list[dict[str, str]]:
    found = rows(num)
    for number, record in enumerate(found):
        record["house"] = f"h-{number % 30}"
        record["customer"] = f"Person {number}"
    return found


def erased(project: Path, *options: str, person: str = PERSON) -> dict[str, Any]:
    ran = metier("erase", person, "-C", project, "--json", *options)
    assert ran.code == 0, ran.err
    found: dict[str, Any] = ran.json
    return found


def lines_of(project: Path, name: str = "rows.jsonl") -> list[str]:
    return (project / name).read_text().splitlines()


def test_what_others_wrote_in_the_same_words_stays(tmp_path: Path) -> None:
    records = made()
    for number in range(30, 60):
        records[number] |= {"ask": "please cancel my order A-1", "answer": "Hi, done: A-1."}
    records[44]["customer"] = PERSON
    project = write_project(tmp_path / "p", text=TEXT + "\n", records=records)
    assert metier("curate", "-C", project).code == 0
    told = erased(project)
    assert (told["num_records"], told["num_copies"], len(told["rows"])) == ({"rows.jsonl": 1}, 0, 1)
    assert len(told["kept_copies"]) >= 1, "rows like hers about others are named and stay"
    assert [number for number, line in enumerate(lines_of(project)) if not line] == [44]


def test_copies_about_nobody_go_too_also_when_nothing_was_recorded_before(tmp_path: Path) -> None:
    records = made()
    records[10]["customer"] = PERSON
    records[20] = {**records[10], "customer": "", "day": records[20]["day"]}
    project = write_project(tmp_path / "p", text=TEXT, records=records)
    told = erased(project)
    assert (told["num_records"], told["num_copies"]) == ({"rows.jsonl": 2}, 1)
    assert [number for number, line in enumerate(lines_of(project)) if not line] == [10, 20]


def test_broken_records_of_the_person_go_and_those_of_others_stay(tmp_path: Path) -> None:
    project = write_project(tmp_path / "p", text=TEXT, records=made())
    broken = [
        json.dumps({"ask": "", "answer": "x", "customer": PERSON}),  # about her, and no row
        '{"ask": "call Zuzana Quill-77 back", "answer": "x", ',  # cut off, and about her
        '{"ask": "Zuzana\\u0020Quill-77 again", "answer": ',
        '{"ask": "zuzanaquill-777", "answer": ',
        json.dumps({"ask": "", "answer": "x", "customer": "Al"}),
    ]
    with (project / "rows.jsonl").open("a") as file:
        file.write("\n".join(broken) + "\n")
    planned = erased(project, "--dry-run")
    assert planned["failed"] == ["rows.jsonl:91", "rows.jsonl:92", "rows.jsonl:93"]
    assert lines_of(project)[90] == broken[0]
    told = erased(project)
    assert told["num_records"] == {"rows.jsonl": 3}
    assert lines_of(project)[90:] == ["", "", "", broken[3], broken[4]]
    assert erased(project, person="Al")["num_records"] == {"rows.jsonl": 1}, "not those with 'al' inside a word"


def test_a_broken_row_of_a_table_is_the_one_that_goes(tmp_path: Path) -> None:
    project = write_project(tmp_path / "p", text=TEXT.replace("rows.jsonl", "rows.csv"))
    (project / "rows.jsonl").unlink()
    records = made()
    with (project / "rows.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, fieldnames=list(records[0]))
        table.writeheader()
        table.writerows(records)
        file.write(f"broken,{PERSON}\nbroken,Somebody Else\n")
    before = lines_of(project, "rows.csv")
    told = erased(project)
    assert told["num_records"] == {"rows.csv": 1}
    after = lines_of(project, "rows.csv")
    assert [line for line in after if line.strip()] == [*before[:91], "broken,Somebody Else"]


def test_what_still_holds_the_name_is_named(tmp_path: Path) -> None:
    records = made()
    records[7]["customer"] = PERSON
    records[8]["ask"] += f" Tell {PERSON}."
    records[9]["ask"] += f" Not{PERSON}ish."
    project = write_project(tmp_path / "p", text=TEXT, records=records)
    (project / "old.bak").write_text(f"x {PERSON.upper()} y")
    told = erased(project)
    assert told["mentions"] == {"rows.jsonl": 1}
    assert told["still_holding"] == ["old.bak", "rows.jsonl"]
    out = metier("erase", PERSON, "-C", project).out
    assert "look at: old.bak still holds the name\n" in out
    assert "look at: 1 row of rows.jsonl with the name in it\n" in out


def test_a_damaged_object_is_told_before_anything_is_touched(tmp_path: Path) -> None:
    records = made()
    records[7]["customer"] = PERSON
    project = write_project(tmp_path / "p", text=TEXT, records=records)
    assert metier("curate", "-C", project).code == 0
    (path,) = (p for p in (project / ".metier/objects").rglob("*") if p.is_file() and is_pack(p.read_bytes()))
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    before = (project / "rows.jsonl").read_bytes()
    ran = metier("erase", PERSON, "-C", project)
    assert (ran.code, "the bytes changed" in ran.err) == (1, True)
    assert (project / "rows.jsonl").read_bytes() == before
    path.write_bytes(data)
    stray = ObjectStore(project).path_of("ab" * 32)  # rubbish that nothing names does not stand in the way
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_bytes(b"rubbish")
    assert erased(project)["num_records"] == {"rows.jsonl": 1}
    assert not stray.exists()


def test_an_edited_or_missing_certificate_is_found(tmp_path: Path) -> None:
    from metier.core.project_file import load_project_file
    from metier.road.run import open_session
    from metier.road.verify import _erasure_problems

    records = made()
    records[7]["customer"] = PERSON
    project = write_project(tmp_path / "p", text=TEXT, records=records)
    path = project / erased(project)["path"]
    data = path.read_text()

    def problems() -> list[str]:
        with open_session(project, load_project_file(project, ()), what="test") as session:
            return _erasure_problems(session)

    assert problems() == []
    verified = metier("verify", "-C", project)
    assert verified.code == 0, "without a report too"
    assert "checked: chain, objects, erasures\n" in verified.out
    path.write_text(data.replace('"num_copies": 0', '"num_copies": 9'))
    assert problems() == [f"{path}: not the certificate that was recorded."]
    path.unlink()
    assert problems() == [f"{path}: missing; expected the certificate of an erasure."]
    path.write_text(data)
    (project / ".metier/keys/signing.key").write_bytes(os.urandom(32))
    assert problems() == [f"{path}: its signature is not this project's."]


def erase_for(project_dir: Path, seconds: float) -> None:
    """Erase, and die after so many seconds."""
    import threading

    threading.Thread(target=lambda: (time.sleep(seconds), die()), daemon=True).start()
    with one_core():
        metier("erase", PERSON, "-C", project_dir)


@pytest.mark.parametrize("seed", range(6))
def test_an_erasure_killed_at_a_random_moment_is_ended_by_the_same_command(tmp_path: Path, seed: int) -> None:
    records = made()
    for number in (7, 40, 88):
        records[number]["customer"] = PERSON
    project = write_project(tmp_path / "p", text=TEXT, records=records)
    assert metier("curate", "-C", project).code == 0
    process = forks().Process(target=erase_for, args=(project, random.Random(seed).uniform(0.05, 1.5)))
    process.start()
    process.join(timeout=120)
    told = erased(project)
    assert (told["num_records"], len(told["rows"])) == ({"rows.jsonl": 3}, 3)
    assert told["still_holding"] == []
    assert [number for number, line in enumerate(lines_of(project)) if not line] == [7, 40, 88]
    assert metier("curate", "-C", project, "--json").json["read"] == 87
