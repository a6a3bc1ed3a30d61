"""`metier tune` and `metier plan --rehearse`: as far as the adapter, never the hold-out; what is stored is used."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from metier.core.errors import GateClosed
from metier.core.hashing import file_sha256
from metier.core.project_file import load_project_file
from metier.core.tune_config import LINEAR_NAMES
from metier.ledger import Ledger, registered_models, runs_of, spent
from metier.models import resolve
from metier.road import rehearsal
from metier.road.cut import cut_rows
from metier.road.ground import read_and_check
from metier.road.plan import make_plan
from metier.road.run import open_session
from tests.road.running import copy_of, metier, one_core
from tests.road.small_project import LEAN, rows, write_project

SEARCHED = ("--set", "tune.lr=0.0")
OF_PERSONS = LEAN.replace('groups = ["customer"]', 'groups = ["customer"]\nsubject = ["customer"]')


def listed(project_dir: Path) -> set[str]:
    return {str(path.relative_to(project_dir)) for path in project_dir.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project rehearsed, then searched and tuned, never run."""
    project_dir = write_project(tmp_path_factory.mktemp("tuned") / "project", text=OF_PERSONS)
    with one_core():
        assert metier("plan", "-C", project_dir, *SEARCHED).code == 0
        before = listed(project_dir)
        ran = metier("plan", "-C", project_dir, *SEARCHED, "--rehearse", "--json")
        assert ran.code == 0, ran.err
        (project_dir / "rehearsed.json").write_text(ran.out)
        (project_dir / "new.json").write_text(json.dumps(sorted(listed(project_dir) - before - {"rehearsed.json"})))
        ran = metier("tune", "-C", project_dir, *SEARCHED, "--search", "2", "--json")
        assert ran.code == 0, ran.err
        (project_dir / "tuned.json").write_text(ran.out)
    return project_dir


def test_a_rehearsal_leaves_nothing_but_itself_and_the_layout_it_measured(tuned: Path) -> None:
    new = json.loads((tuned / "new.json").read_text())
    kept = [name for name in new if not name.endswith(("-wal", "-shm"))]
    (layout,) = [name for name in kept if name.startswith(".metier/layout-")]
    kept.remove(layout)
    assert all(name.startswith(".metier/stages/rehearsal/") for name in kept)
    assert {Path(name).name for name in kept} == {"done.json", "rehearsal.json", "spent.json"}


def test_a_rehearsal_says_what_it_found_and_who_can_serve(tuned: Path) -> None:
    planned = json.loads((tuned / "rehearsed.json").read_text())
    found = planned["rehearsed"]
    assert found["seconds"] < 90 and found["tune_gib"] > 0.2 and len(found["replies"]) == 4
    assert planned["predictions"]["tune_minutes"][0] == pytest.approx(found["tune_minutes"])
    assert [one["can_serve"] for one in planned["servable"]] == [True, True]


def test_a_later_plan_uses_the_rehearsed_speeds_and_says_so(tuned: Path) -> None:
    with one_core():
        ran = metier("plan", "-C", tuned, *SEARCHED, "--json")
    found = json.loads((tuned / "rehearsed.json").read_text())["rehearsed"]
    assert "rehearsed: tuning takes" in ran.err
    assert ran.json["predictions"]["tune_minutes"][0] == pytest.approx(found["tune_minutes"])


def test_tuning_shows_the_dev_curve_and_leaves_the_holdout_alone(tuned: Path) -> None:
    found = json.loads((tuned / "tuned.json").read_text())
    assert Path(found["adapter_dir"], "adapter_model.safetensors").exists()
    steps = [point["step"] for point in found["dev_curve"]]
    assert steps[0] == 0 and steps[-1] == found["last_step"] and found["best_step"] in steps
    stages = {path.name for path in (tuned / ".metier" / "stages").iterdir()}
    assert "tune" in stages and not stages & {"look", "seal", "report"}


def test_a_search_is_logged_and_the_lowest_dev_loss_is_kept(tuned: Path) -> None:
    found = json.loads((tuned / "tuned.json").read_text())
    (log_path,) = (tuned / ".metier" / "stages" / "search").rglob("search.jsonl")
    lines = [json.loads(line) for line in log_path.read_text().splitlines()]
    assert len(lines) == len(found["search"]) == 2
    assert {(line["purpose"], line["part"]) for line in lines} == {("search", "dev")}
    assert lines[1]["lr"] == pytest.approx(lines[0]["lr"] / 2)
    # A run of under 100 steps: the factor is 15 (docs/tune.md), whatever a candidate's own number of steps.
    assert found["num_steps"] < 100
    width = json.loads((resolve("tiny").dir / "config.json").read_text())["hidden_size"]
    assert lines[0]["lr"] == pytest.approx(5e-5 * 15 * (2000 / width) ** 0.781)
    assert found["lr"] == min(lines, key=lambda line: line["dev_loss_nats"])["lr"]
    assert not list(log_path.parent.glob("candidate-*"))


def booked(project_dir: Path) -> list[tuple[str, float]]:
    """The runs of the ledger with their machine seconds."""
    with Ledger.open(project_dir) as ledger:
        return [(run.stage, 3600 * spent(ledger, run.run_id)["machine_hour"]) for run in runs_of(ledger)]


def test_machine_time_of_search_and_tuning_is_booked(tuned: Path) -> None:
    (stage,) = (tuned / ".metier" / "stages" / "tune").glob("*/done.json")
    found = json.loads((tuned / "tuned.json").read_text())
    searched_s = sum(trial["seconds"] for trial in found["search"])
    assert booked(tuned) == [
        ("search", pytest.approx(searched_s)),
        ("tune", pytest.approx(json.loads(stage.read_text())["seconds"])),
    ]


def test_the_status_tells_of_rehearsal_and_search_where_there_were_any(tuned: Path, tmp_path: Path) -> None:
    told = metier("status", "-C", tuned, "--json").json["stages"]
    assert list(told)[:7] == ["ground", "split", "plan", "rehearsal", "search", "seal", "tune"]
    assert told["rehearsal"] == told["search"] == told["tune"] == "finished"
    assert "pairs" not in told and "tune-dpo" not in told
    shutil.rmtree(next((copy_of(tuned, tmp_path / "p") / ".metier" / "stages" / "search").iterdir()))
    assert "search" not in metier("status", "-C", tmp_path / "p", "--json").json["stages"]


def test_what_was_tuned_is_registered_and_an_erasure_names_it(tuned: Path) -> None:
    with Ledger.open(tuned) as ledger:
        (model,) = registered_models(ledger)
    found = json.loads((tuned / "tuned.json").read_text())
    assert model.identity.adapter_sha == file_sha256(Path(found["adapter_dir"], "adapter_model.safetensors"))
    ran = metier("erase", rows()[0]["customer"], "-C", tuned, "--dry-run")
    assert model.model_id[:12] in ran.out, ran.err


def test_what_costs_more_than_the_budget_is_not_tuned(tuned: Path, tmp_path: Path) -> None:
    project = copy_of(tuned, tmp_path / "p")
    with one_core():
        ran = metier("tune", "-C", project, *SEARCHED, "--set", "budget.money=1e-9")
    assert ran.code == 3 and "[budget] money is 1e-09" in ran.err


def test_tuning_again_trains_nothing(tuned: Path) -> None:
    before = booked(tuned)
    with one_core():
        ran = metier("tune", "-C", tuned, *SEARCHED, "--search", "2", "--json")
    assert ran.code == 0
    assert booked(tuned) == before
    assert {**ran.json, "minutes": 0} == {**json.loads((tuned / "tuned.json").read_text()), "minutes": 0}


def test_a_run_takes_the_searched_rate_and_reports_how_many_were_tried(tuned: Path, tmp_path: Path) -> None:
    project = copy_of(tuned, tmp_path / "p")
    found = json.loads((tuned / "tuned.json").read_text())
    with one_core():
        report = metier("run", "-C", project, *SEARCHED, "--json").json
    assert report["model"]["config"]["lr"] == found["lr"]
    told = report["model"]
    assert told["search"] == [{name: one[name] for name in ("lr", "dev_loss_nats")} for one in found["search"]]
    assert (told["last_step"], told["num_steps"]) == (found["last_step"], found["num_steps"])
    assert told["config"]["targets"] == list(LINEAR_NAMES) and "dpo" not in told["config"]
    assert told["execution"]["checkpointing"].startswith("off (a step needs ")
    assert "nats a token" in (project / ".metier" / "report" / "index.html").read_text(encoding="utf-8")
    assert report["model"]["config"]["searched_lr"] == [trial["lr"] for trial in found["search"]]
    assert report["model"]["adapter_path"] in found["adapter_dir"]
    *_, (_, tuned_s), (last, run_s) = booked(project)
    assert last == "run" and tuned_s + run_s == pytest.approx(60 * report["costs"]["run_minutes"])
    with Ledger.open(project) as ledger:
        assert [model.model_id for model in registered_models(ledger)] == [report["model"]["id"]]


def test_a_search_after_a_run_is_followed_by_a_run_of_another_model(tmp_path: Path) -> None:
    project = write_project(tmp_path / "p")
    ran = metier("run", "-C", project, *SEARCHED, "--json")
    assert ran.code == 0, ran.err
    searched = metier("tune", "-C", project, *SEARCHED, "--search", "5", "--json").json
    assert searched["lr"] != ran.json["model"]["config"]["lr"], "a random base gains from four times the rule's rate"
    again = metier("run", "-C", project, *SEARCHED, "--json")
    assert again.code == 0, again.err
    assert again.json["model"]["id"] != ran.json["model"]["id"]
    assert metier("verify", "-C", project, "--json").json["problems"] == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((*SEARCHED, "--search", "1"), "--search 1: expected 2 to 8"),
        ((*SEARCHED, "--search", "9"), "--search 9: expected 2 to 8"),
        (("--search", "3", "--dry-run"), "--search 3 has no effect with --dry-run"),
        (("--search", "2"), "--search 2, but tune.lr is 0.002; set it to 0"),
    ],
)
def test_a_search_that_means_nothing_is_refused(tmp_path: Path, given: tuple[str, ...], told: str) -> None:
    ran = metier("tune", "-C", write_project(tmp_path / "project"), *given)
    assert ran.code == 2 and told in ran.err
    assert not (tmp_path / "project" / ".metier" / "stages").exists()


def test_the_table_needs_no_project(tmp_path: Path) -> None:
    ran = metier("plan", "-C", tmp_path, "--table", "--json")
    assert ran.code == 0
    for given in (("--rehearse",), ("--set", "nonsense=1")):
        refused = metier("plan", "-C", tmp_path, "--table", *given)
        assert refused.code == 2 and "--rehearse and --set have no effect with it" in refused.err
    assert {"base", "method", "device", "gib", "fits", "hours", "low", "high"} <= ran.json["rows"][0].keys()


def test_what_does_not_fit_is_refused_with_the_setting_that_does(tuned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_project_file(tuned, ["tune.lr=0.0"])
    with one_core(), open_session(tuned, config, what="test") as session:
        parts = cut_rows(session, read_and_check(session))
        plan = make_plan(session, parts)
        found = rehearsal.rehearse_plan(session, parts, plan)
        work = rehearsal.measure_workload(session, parts, rehearsal.render_parts(session, parts))
        tokens = sum(work.train_tokens)
        # Three hours of tuning in a budget of 600 minutes fit; thirteen and a half do not, half of them do.
        for minutes, told in ((180, None), (810, r"Set tune.passes = 0.5. Or set budget.minutes = \d+")):
            slow = {**found.speed, "train_tokens_per_s": tokens / 60 / minutes}
            if told is None:
                rehearsal._require_fit(
                    session, plan, work, rehearsal._repredicted(session, plan, work, replace(found, speed=slow))
                )
                continue
            with pytest.raises(GateClosed, match=told):
                rehearsal._require_fit(
                    session, plan, work, rehearsal._repredicted(session, plan, work, replace(found, speed=slow))
                )
        monkeypatch.setattr("metier.tune.available_gib", lambda: -10.0)
        with pytest.raises(GateClosed, match="tuning is predicted to need .*the machine's available memory is"):
            rehearsal._require_fit(session, plan, work, found)
        with pytest.raises(GateClosed, match="GiB of memory, the machine's available memory is"):
            rehearsal.require_room(session, plan)
        # A budget above what the machine has does not add memory to it.
        session.config = replace(session.config, budget=replace(session.config.budget, memory_gib=500.0))
        with pytest.raises(GateClosed, match="GiB of memory, the machine's available memory is"):
            rehearsal.require_room(session, plan)
        with pytest.raises(GateClosed, match="tuning is predicted to need .*the machine's available memory is"):
            rehearsal._require_fit(session, plan, work, found)
        monkeypatch.setattr("metier.tune.available_gib", lambda: 1e4)
        small = replace(session.config, budget=replace(session.config.budget, memory_gib=0.01))
        session.config = small
        with pytest.raises(GateClosed, match=r"\[budget\] memory_gib is 0.01 GiB"):
            rehearsal._require_fit(session, plan, work, found)
        monkeypatch.setattr("metier.road.rehearsal.SPARE_DISK_GIB", 1e9)
        with pytest.raises(GateClosed, match="GiB of disk are free, the run needs"):
            rehearsal._require_disk(session, 0.1)
        assert rehearsal._fix(session, plan, lambda tried: tried.step_tokens == 512) == "", "256 are set"
        session.config = replace(session.config, tune=replace(session.config.tune, step_tokens=0))
        assert rehearsal._fix(session, plan, lambda tried: tried.step_tokens == 512) == "Set tune.step_tokens = 512."
        assert rehearsal._fix(session, plan, lambda _: False) == ""
