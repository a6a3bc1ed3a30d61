"""The whole road with every method: a verdict, a release candidate, and a verify that looks at the tuned file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.road.running import change, copy_of, events_of, files_of, metier

FORMS = {
    "full": 'method = "full"',
    "dora": 'method = "dora"\nrank = 4\ntargets = ["q_proj", "v_proj", "down_proj"]',
    "rslora": 'method = "rslora"\nrank = 4',
}


def finished(keyed_project: Path, project_dir: Path, form: str) -> Path:
    """A finished run of the lean project with another method."""
    copy_of(keyed_project, project_dir)
    change(project_dir, "rank = 4", FORMS[form])
    ran = metier("run", "-C", project_dir, "--json")
    assert ran.code == 0, ran.err
    return project_dir


def report_of(project_dir: Path) -> dict:
    return json.loads((project_dir / ".metier/report/report.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("form", ["dora", "rslora"])
def test_a_run_with_another_adapter_ends_in_a_verdict_and_is_consistent(
    keyed_project: Path, tmp_path: Path, form: str
) -> None:
    project_dir = finished(keyed_project, tmp_path / form, form)
    report = report_of(project_dir)
    assert (report["model"]["method"], report["verdict"]["outcome"]) == (form, "NOT_WORTH_IT")
    assert report["controls"]["fingerprint"] == "differs from the base on 24 of 24 rows"
    ran = metier("verify", "-C", project_dir, "--json")
    assert (ran.code, ran.json["problems"]) == (0, [])


def test_a_fully_tuned_model_is_judged_registered_verified_and_kept(keyed_project: Path, tmp_path: Path) -> None:
    from metier.engine import load, tuned_file
    from metier.ledger import Ledger, registered_models

    project_dir = finished(keyed_project, tmp_path / "full", "full")
    report = report_of(project_dir)
    model = report["model"]
    assert (model["method"], report["verdict"]["outcome"]) == ("full", "NOT_WORTH_IT")
    assert report["controls"]["fingerprint"] == "differs from the base on 24 of 24 rows"
    model_dir = project_dir / model["adapter_path"]
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= {path.name for path in model_dir.iterdir()}
    assert load(model_dir).base_sha256 == model["adapter_sha256"] != model["base_sha256"]
    with Ledger.open(project_dir) as ledger:
        (record,) = registered_models(ledger)
    assert (record.model_id, record.identity.adapter_sha) == (model["id"], model["adapter_sha256"])

    ran = metier("verify", "-C", project_dir, "--json")
    assert (ran.code, ran.json["problems"]) == (0, [])
    before, events = files_of(project_dir / ".metier"), events_of(project_dir)
    assert metier("run", "-C", project_dir, "--json").code == 0
    after = files_of(project_dir / ".metier")
    assert {name for name in before if before[name] != after.get(name)} <= {"ledger.db"}
    assert events_of(project_dir) == events

    path = tuned_file(model_dir)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    problems = metier("verify", "-C", project_dir, "--json").json["problems"]
    assert any("model.safetensors: SHA-256" in problem for problem in problems)
    path.unlink()
    problems = metier("verify", "-C", project_dir, "--json").json["problems"]
    assert any("model.safetensors: missing; expected the tuned weights that were judged" in p for p in problems)


def test_a_person_is_erased_from_a_project_with_a_fully_tuned_model(keyed_project: Path, tmp_path: Path) -> None:
    project_dir = copy_of(keyed_project, tmp_path / "erase")
    change(project_dir, "rank = 4", FORMS["full"])
    change(project_dir, 'groups = ["customer"]', 'groups = ["customer"]\nsubject = ["customer"]')
    ran = metier("run", "-C", project_dir, "--json")
    assert ran.code == 0, ran.err
    talk = metier("chat", "A-1007: my lamp is lost.", "-C", project_dir, "--json")
    assert talk.code == 0, talk.err
    who = json.loads((project_dir / "rows.jsonl").read_text(encoding="utf-8").splitlines()[0])["customer"]
    erased = metier("erase", who, "-C", project_dir, "--json")
    assert erased.code == 0, erased.err
    assert [model["action"] for model in erased.json["models"]] == ["retire"]
    ran = metier("verify", "-C", project_dir, "--json")
    assert (ran.code, ran.json["problems"]) == (0, [])
