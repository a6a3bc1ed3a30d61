"""Runs with the template arm: one where standard replies are all there is, one where there are none."""

from __future__ import annotations

from pathlib import Path

from tests.road.running import change, metier
from tests.road.small_project import LEAN, rows, write_project

TEMPLATES = LEAN.replace('[[arm]]\nkind = "tuned"\n', '[[arm]]\nkind = "template"\n\n[[arm]]\nkind = "tuned"\n')


def replied(record: dict[str, str]) -> dict[str, str]:
    late = "came" in record["ask"] or "lost" in record["ask"]
    return {**record, "answer": record["answer"].replace(": ", ", we look for ") if late else record["answer"]}


def test_standard_replies_are_chosen_and_filled_and_found_again(tmp_path: Path) -> None:
    project = write_project(tmp_path / "p", text=TEMPLATES, records=[replied(record) for record in rows()])
    first = metier("run", "-C", project, "--json")
    assert first.code == 0, first.err
    arm = next(arm for arm in first.json["arms"] if arm["name"] == "template")
    assert (arm["kind"], arm["status"], arm["num_rows"], arm["tokens_in"]) == ("template", "ran", 24, 0.0)
    assert arm["score"] > 0.9
    assert arm["chosen_from"][0]["name"] == "templates=2, strength=1"
    assert "template" in first.json["question"]["comparators"]
    page = (project / ".metier/report/index.html").read_text(encoding="utf-8")
    assert "2 templates, inverse regularisation" in page
    change(project, 'name = "small"', 'name = "renamed"')
    again = metier("run", "-C", project, "--json")
    assert again.json["arms"] == first.json["arms"]
    assert metier("verify", "-C", project).code == 0


def test_one_standard_reply_is_nothing_to_choose_from(tmp_path: Path) -> None:
    project = write_project(tmp_path / "p", text=TEMPLATES)
    found = metier("assess", "-C", project, "--json")
    assert "template: not run (no_templates)" in found.err
    assert set(found.json["dev_scores"]) == {"prompt", "small"}
