"""What was replaced is nowhere in the workspace: a byte search of every file after a whole run, database pages too."""

from __future__ import annotations

from pathlib import Path

from tests.road.running import metier
from tests.road.small_project import LEAN, rows, write_project

TEXT = LEAN.replace('groups = ["customer"]', 'groups = ["house"]\nsubject = ["customer"]')
PERSON = "Zuzana Quillfeather"
PLANTED = {
    "mail": "z.quill@post.example.net",
    "card": "4539 1488 0343 6467",
    "iban": "GB82 WEST 1234 5698 7654 32",
    "phone": "+44 20 7946 0123",
    "address": "192.0.2.177",
    "key": "AKIA4ZTQ7WMXK2PLN8RD",
}
MARKS = [PERSON, "Quillfeather", "zuzana", *PLANTED.values(), "4539148803436467", "GB82WEST12345698765432"]


def test_no_byte_of_what_was_replaced_is_left_and_a_person_has_one_surrogate(tmp_path: Path) -> None:
    made = rows(90)
    for number, record in enumerate(made):
        record["house"] = f"h-{number % 30}"
    for number, (kind, value) in zip((2, 17, 31, 49, 60, 68, 77), PLANTED.items(), strict=False):
        made[number]["ask"] += f" My {kind} is {value}."
    for number in (5, 25, 45, 65, 85):
        order = f"A-{1000 + 7 * number}"
        made[number] |= {
            "customer": PERSON,
            "ask": f"{order}: my lamp is lost. Zuzana Quillfeather",
            "answer": f"Hi Zuzana: {order}.",
        }
    project = write_project(tmp_path / "p", text=TEXT, records=made)
    ran = metier("run", "-C", project, "--json")
    assert ran.code == 0, ran.err
    private = ran.json["data"]["private"]
    assert {kind: private.get(kind) for kind in ("email", "card", "iban", "phone", "ip", "secret", "name")} == {
        "email": 1, "card": 1, "iban": 1, "phone": 1, "ip": 1, "secret": 1, "name": 5,
    }  # fmt: skip
    found = {
        str(path.relative_to(project)): mark
        for path in sorted((project / ".metier").rglob("*"))
        if path.is_file()
        for mark in MARKS
        if mark.lower().encode() in path.read_bytes().lower()
    }
    assert found == {}
    assert metier("verify", "-C", project).code == 0
    history = metier("show", "0", "--history", "-C", project)
    assert history.code == 0, history.err
