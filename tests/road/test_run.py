"""One finished run: what the report holds, and that a second run changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from metier.core.report import __file__ as report_file
from metier.core.report import report_from_json
from tests.road.running import Ran, change, events_of, files_of, metier

SCHEMA = Path(report_file).parent / "schemas" / "report.json"
ARMS = ["prompt", "few_shot", "retrieval", "small", "tuned"]


@pytest.fixture(scope="module")
def report(finished_project: Path) -> dict:
    return json.loads((finished_project / ".metier" / "report" / "report.json").read_text(encoding="utf-8"))


def test_the_report_obeys_its_published_schema(report: dict) -> None:
    jsonschema.validate(report, json.loads(SCHEMA.read_text(encoding="utf-8")))
    assert report_from_json(report).as_json() == report_from_json(json.loads(json.dumps(report))).as_json()


def test_stdout_is_the_report_and_nothing_else(first_run: tuple[Path, Ran], report: dict) -> None:
    assert first_run[1].json == report
    assert "frozen, 24 hold-out rows sealed" in first_run[1].err
    assert "trunk: none (a row is read 1." in first_run[1].err, "what tuning chose is told before its first step"


def test_every_row_read_is_kept_set_aside_or_failed(report: dict) -> None:
    data = report["data"]
    assert data["kept"] + sum(data["quarantined"].values()) + data["failed"] == data["read"] == 90
    split = report["split"]
    assert split["train"] + split["dev"] + split["holdout"] == data["kept"]
    assert (split["dev"], split["holdout"]) == (10, 24)


def test_every_arm_is_scored_on_the_same_rows(report: dict) -> None:
    assert [arm["name"] for arm in report["arms"]] == ARMS
    for arm in report["arms"]:
        assert (arm["status"], arm["num_rows"]) == ("ran", 24)
        assert 0 <= arm["low"] <= arm["score"] <= arm["high"] <= 1
        assert arm["latency_ms"]["num_rows"] == 10
        assert set(arm["checks"]) == {"order", "greeting"}
    by_name = {arm["name"]: arm for arm in report["arms"]}
    assert by_name["tuned"]["carries_instruction"] == "none"
    assert by_name["prompt"]["carries_instruction"] == "full"
    assert len(by_name["prompt"]["chosen_from"]) == 3, "three wordings are tried on dev"
    assert by_name["small"]["score"] == 1.0, "the nearest reply with its slots filled solves these rows"


def test_a_model_that_knows_nothing_is_not_worth_it(report: dict) -> None:
    verdict = report["verdict"]
    assert verdict["outcome"] == "NOT_WORTH_IT"
    assert verdict["sentence"].startswith("Not worth it: on 24 held-out rows the tuned model scores 100.0 points below")
    assert report["question"]["comparators"] == ["prompt", "few_shot", "retrieval", "small"]
    assert [c["versus"] for c in report["comparisons"]] == report["question"]["comparators"]
    assert report["gain"]["versus"] == "small"
    assert report["gain"]["estimate"] == -1.0


def test_the_first_look_spends_its_share_of_the_error_rate(report: dict) -> None:
    looks = report["looks"]
    assert (looks["used"], looks["budget"]) == (1, 3)
    assert looks["alpha_this"] == pytest.approx(0.05 / 3)
    assert looks["alpha_left"] == pytest.approx(0.05 * 2 / 3)


def test_controls_and_fingerprint_stand_in_the_report(report: dict) -> None:
    controls = report["controls"]
    assert (controls["gold"], controls["empty"], controls["shuffled"]) == (1.0, 0.0, 0.0)
    assert controls["fingerprint"] == "differs from the base on 24 of 24 rows"
    assert "24 cut at the longest reply allowed, of 24 of prompt" in controls["broken_replies"]
    assert "small" not in controls["broken_replies"]


def test_the_guard_is_told_with_its_state(report: dict) -> None:
    (guard,) = report["guards"]
    assert (guard["name"], guard["limit"], guard["required"]) == ("greeting kept", 0.2, False)
    assert guard["state"] == "failed", "the comparator greets in every reply, the random model in none"


def test_the_adapter_is_a_release_candidate_in_peft_format(finished_project: Path, report: dict) -> None:
    from metier.ledger import Ledger, ModelState, registered_models

    adapter_dir = finished_project / report["model"]["adapter_path"]
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {path.name for path in adapter_dir.iterdir()}
    with Ledger.open(finished_project) as ledger:
        (record,) = registered_models(ledger)
    assert (record.model_id, record.state) == (report["model"]["id"], ModelState.CANDIDATE)


def test_predictions_stand_beside_what_happened(report: dict) -> None:
    plan = {entry["quantity"]: entry for entry in report["plan"]}
    assert set(plan) == {"run_minutes", "tune_minutes", "peak_memory_gib"}
    for entry in plan.values():
        assert 0 < entry["low"] < entry["predicted"] < entry["high"]
        assert entry["actual"] > 0


def test_no_text_of_the_hold_out_leaves_the_seal(finished_project: Path) -> None:
    from metier.core.columns import read_parquet
    from metier.ledger import Ledger, ObjectStore, SubjectKeys, find_seal, seal_key, unpack_rows

    report = json.loads((finished_project / ".metier/report/report.json").read_text(encoding="utf-8"))
    with Ledger.open(finished_project) as ledger:
        seal = find_seal(ledger, report["provenance"]["split_id"])
    assert seal is not None
    sealed = ObjectStore(finished_project).get_encrypted(seal.object_ref, seal_key(finished_project))
    rows = unpack_rows(sealed, SubjectKeys.open(finished_project), where=finished_project)
    orders = [row.gold.split()[-1].rstrip(".").encode() for row in rows if row is not None]
    assert len(orders) == 24
    # The raw file is the user's own data; in the workspace the hold-out stands nowhere in clear.
    for name, data in files_of(finished_project / ".metier").items():
        text = str(read_parquet(data).to_dicts()).encode() if name.endswith(".parquet") else data
        assert not [order for order in orders if order in text], name


def test_a_second_run_changes_nothing(project: Path) -> None:
    before, events = files_of(project / ".metier"), events_of(project)
    again = metier("run", "-C", project, "--json")
    assert again.code == 0
    after = files_of(project / ".metier")
    assert {name for name in before if before[name] != after.get(name)} <= {"ledger.db"}
    assert before["report/report.json"] == after["report/report.json"]
    assert before["report/index.html"] == after["report/index.html"]
    assert set(after) == set(before)
    assert events_of(project) == events


def test_verify_finds_a_finished_run_consistent(project: Path) -> None:
    ran = metier("verify", "-C", project, "--json")
    assert ran.code == 0, ran.out
    found = ran.json
    assert (found["consistent"], found["problems"], found["notes"]) == (True, [], [])
    assert found["checked"] == [
        "chain", "objects", "erasures", "seal and certificate", "report and page", "scores", "verdict", "model",
    ]  # fmt: skip
    report = json.loads((project / ".metier/report/report.json").read_text(encoding="utf-8"))
    assert len(found["ledger_head"]) == len(report["provenance"]["ledger_head"]) == 64


def test_a_moved_project_is_still_the_finished_one(project: Path, tmp_path: Path) -> None:
    moved = project.rename(tmp_path / "elsewhere")
    events = events_of(moved)
    assert metier("run", "-C", moved).code == 0
    assert events_of(moved) == events


def test_a_new_price_list_makes_a_new_report_and_no_new_look(project: Path) -> None:
    change(project, "[budget]", '[price]\nmachine_hour = 2.0\ndate = "2025-11-01"\nsource = "list"\n\n[budget]')
    ran = metier("run", "-C", project, "--json")
    assert ran.code == 0
    assert ran.json["looks"]["used"] == 1
    assert {entry["item"]: entry["amount"] for entry in ran.json["prices"]} == {"machine_hour": 2.0}
    assert events_of(project).count("look_opened") == 1
