"""A project tuned on pairs, from its files and from the model's own faults, goes to the verdict and survives a kill."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metier.core.errors import ConfigError, GateClosed
from metier.core.hashing import file_sha256
from metier.core.project_file import load_project_file
from metier.core.rows import Row
from metier.ledger import Ledger, registered_models
from metier.road import rehearsal
from metier.road.cut import cut_rows
from metier.road.ground import read_and_check
from metier.road.plan import make_plan, pairs_estimate, tune_estimate
from metier.road.run import open_session
from tests.road.comparing import comparable, scores
from tests.road.killing import killed, run_until
from tests.road.running import change, copy_of, files_of, metier
from tests.road.small_project import LEAN, rows, write_project

MINED = LEAN.replace("[decision]", 'objective = "dpo"\n\n[tune.dpo]\nlr = 0.001\nsamples = 2\n\n[decision]')
FILE = MINED.replace("samples = 2", 'pairs = "file"').replace('columns = { prompt = "ask", reply = "answer" }\n', "")


def pair_records(num_rows: int = 90) -> list[dict[str, Any]]:
    """The invented rows as preference pairs: the worse reply does not name the order."""
    return [
        {**record, "prompt": record.pop("ask"), "chosen": record["answer"], "rejected": f"Hi, thing {number} is gone."}
        for number, record in enumerate(rows(num_rows))
        if record.pop("region")
    ]


def stage_file(project: Path, name: str) -> Any:
    """The one JSON file of this name below the stages."""
    (path,) = (project / ".metier/stages").glob(name)
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def new_mined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with its keys, never run."""
    from metier.ledger import project_key, seal_key

    project = write_project(tmp_path_factory.mktemp("new") / "project", text=MINED)
    project_key(project)
    seal_key(project)
    return project


@pytest.fixture(scope="module")
def mined(new_mined: Path, tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Path:
    """A finished run on mined pairs. Never changed: copy it."""
    from tests.road.conftest import finished

    project = copy_of(new_mined, tmp_path_factory.mktemp("mined") / "project")
    finished(project, cache_dir)
    return project


def test_mined_pairs_lead_to_a_verdict_on_the_adapter_of_dpo(mined: Path) -> None:
    report = metier("report", "-C", mined, "--json").json
    assert report["verdict"]["outcome"]
    assert "/tune-dpo/" in report["model"]["adapter_path"]
    assert report["model"]["config"]["objective"] == "dpo"
    assert metier("verify", "-C", mined, "--json").json["problems"] == []
    counts = stage_file(mined, "pairs/*/pairs.json")["counts"]
    assert counts["rows"] == counts["pairs"] + counts["all_pass"] + counts["no_room"]
    assert counts["replies"] == 2 * counts["rows"], "the project file says samples = 2"
    facts, sft = stage_file(mined, "tune-dpo/*/facts.json"), stage_file(mined, "tune/*/facts.json")
    model, pairs_counts = report["model"], stage_file(mined, "pairs/*/pairs.json")["counts"]
    assert model["config"]["dpo"]["beta"] == 0.1 and model["config"]["dpo"]["pairs"] == "mined", "defaults are told"
    assert model["config"]["dpo"]["lr"] == facts["lr"] == 0.001 and model["config"]["lr"] == sft["lr"] == 0.002
    assert model["pairs"]["train"] + model["pairs"]["dev"] == pairs_counts["pairs"]
    assert pairs_counts.items() <= model["pairs"].items()
    assert (model["last_step"], model["sft"]["last_step"]) == (facts["last_step"], sft["last_step"])
    page = (mined / ".metier/report/index.html").read_text(encoding="utf-8")
    assert "Loss of pairs set aside over" in page and "nats a pair" in page and "nats a token" not in page
    mining_s = stage_file(mined, "pairs/*/done.json")["seconds"]
    assert mining_s > 0
    assert report["costs"]["tune_minutes"] == pytest.approx((facts["seconds"] + sft["seconds"] + mining_s) / 60)
    reference = stage_file(mined, "tune-dpo/*/run/reference.json")
    assert len(reference["train"]) + len(reference["dev"]) == 2 * counts["pairs"]
    assert len(reference["dev"]) == 2 * round(0.1 * counts["pairs"])


def test_a_second_run_computes_nothing_again(mined: Path, tmp_path: Path) -> None:
    project = copy_of(mined, tmp_path / "p")
    before = files_of(project / ".metier/stages")
    assert metier("run", "-C", project).code == 0
    assert files_of(project / ".metier/stages") == before


def test_texts_of_pairs_lie_encrypted(mined: Path) -> None:
    (folder,) = (mined / ".metier/stages/pairs").iterdir()
    for name, data in files_of(folder).items():
        assert b"Hi " not in data and b"A-1" not in data, name


def test_dev_and_hold_out_are_never_sampled_for_pairs(
    new_mined: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metier.road import mining, trials

    asked: list[str] = []
    dev: list[str] = []
    real, real_measure = mining.mine_pairs, trials.measure

    def noting(replier: Any, rows: Sequence[Row], *arguments: Any, **named: Any) -> Any:
        asked.extend(row.row_id for row in rows)
        return real(replier, rows, *arguments, **named)

    def noting_dev(session: Any, arm: Any, rows: Sequence[Row]) -> Any:
        dev.extend(row.row_id for row in rows)
        return real_measure(session, arm, rows)

    monkeypatch.setattr(mining, "mine_pairs", noting)
    monkeypatch.setattr(trials, "measure", noting_dev)
    project = copy_of(new_mined, tmp_path / "p")
    ran = metier("run", "-C", project, "--json")
    assert ran.code == 0, ran.err
    held_out = {row_id for _, row_id in scores(project)}
    assert len(asked) == len(set(asked)) == ran.json["split"]["train"]
    assert dev and held_out and not set(asked) & {*dev, *held_out}


@pytest.mark.parametrize(
    ("module", "name", "call", "within"),
    [
        ("metier.road.mining", "mine_pairs", 1, False),
        ("metier.road.mining", "write_json", 1, True),
        ("metier.tune.dpo", "write_json", 1, True),
        ("metier.tune.dpo", "pair_losses", 12, False),
        ("metier.tune.running", "save_state", 3, True),
        ("metier.road.tuning", "write_json", 2, False),
    ],
    ids=["after sft", "while pairs are written", "reference", "step", "checkpoint of dpo", "tuned"],
)
def test_a_run_killed_between_and_inside_its_stages_ends_as_if_it_were_not(
    new_mined: Path, mined: Path, cache_dir: Path, tmp_path: Path, module: str, name: str, call: int, within: bool
) -> None:
    project = copy_of(new_mined, tmp_path / "p")
    assert killed(run_until, project, cache_dir, module, name, call, within=within)
    again = metier("run", "-C", project, "--json")
    assert again.code == 0, again.err
    assert comparable(again.json) == comparable(metier("report", "-C", mined, "--json").json)
    assert scores(project) == scores(mined)
    assert metier("verify", "-C", project, "--json").json["problems"] == []


def test_pairs_of_the_files_lead_to_a_verdict_too(tmp_path: Path) -> None:
    text = FILE.replace('attributes = ["region"]\n', "")
    project = write_project(tmp_path / "p", text=text, records=pair_records())
    ran = metier("run", "-C", project, "--json")
    assert ran.code == 0, ran.err
    assert not (project / ".metier/stages/pairs").exists(), "nothing was sampled"
    split = ran.json["split"]
    reference = stage_file(project, "tune-dpo/*/run/reference.json")
    assert (len(reference["train"]), len(reference["dev"])) == (2 * split["train"], 2 * split["dev"])
    assert metier("verify", "-C", project, "--json").json["problems"] == []


def test_dpo_takes_a_tenth_of_the_rate_that_sft_had(new_mined: Path, tmp_path: Path) -> None:
    project = copy_of(new_mined, tmp_path / "p")
    change(project, "lr = 0.001\n", "")
    ran = metier("tune", "-C", project, "--json")
    assert ran.code == 0, ran.err
    assert stage_file(project, "tune/*/facts.json")["lr"] == 0.002, "the project file says so"
    assert ran.json["lr"] == pytest.approx(0.0002)


def test_a_rehearsed_plan_holds_mining_and_dpo(new_mined: Path, tmp_path: Path) -> None:
    project = copy_of(new_mined, tmp_path / "p")
    config = load_project_file(project, [])
    with open_session(project, config, what="test") as session:
        parts = cut_rows(session, read_and_check(session))
        plan = make_plan(session, parts)
        found = rehearsal.rehearse_plan(session, parts, plan)
        work = rehearsal.measure_workload(session, parts, rehearsal.render_parts(session, parts))
        speeds, tune = rehearsal._speeds(plan, found), rehearsal._config(session, plan)
        sft = tune_estimate(session, tune, work, speeds.tune, num_rows=plan.num_train_rows)
        pairs = pairs_estimate(session, tune, work, speeds.tune, num_rows=plan.num_train_rows)
        assert found.tune_gib == max(sft.gib, pairs.gib)
        drawn_s = 2 * plan.num_train_rows * work.gold_tokens / plan.speeds["decode_tok_s"]
        assert 60 * (found.tune_minutes - sft.minutes - pairs.minutes) > drawn_s
        assert rehearsal.with_rehearsal(session, parts, plan).predictions["tune_minutes"][0] == found.tune_minutes
        # A decoder this slow draws for 13.5 hours, in a budget of ten.
        slow = replace(
            plan, speeds={**plan.speeds, "decode_tok_s": 2 * plan.num_train_rows * work.gold_tokens / 48_600}
        )
        told = rehearsal._repredicted(session, slow, work, found)
        assert told.tune_minutes > 810
        with pytest.raises(GateClosed, match="minutes, .* of them tuning"):
            rehearsal._require_fit(session, slow, work, told)


def test_files_without_pairs_say_what_to_do(new_mined: Path, tmp_path: Path) -> None:
    project = copy_of(new_mined, tmp_path / "p")
    change(project, "samples = 2", 'pairs = "file"')
    ran = metier("run", "-C", project)
    assert ran.code == 1
    assert "pairs = 'file': 0 to train on and 0 for the dev loss (rows " in ran.err
    assert "Give more rows with a chosen and a rejected reply" in ran.err


def test_a_model_without_faults_gives_no_pairs_and_says_so(
    new_mined: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metier.road import mining

    monkeypatch.setattr(mining, "_breaks_more", lambda _score, _gold: False)
    ran = metier("run", "-C", copy_of(new_mined, tmp_path / "p"))
    assert ran.code == 1
    assert "pairs = 'mined': 0 to train on" in ran.err
    assert "set tune.objective = 'sft'" in ran.err


def test_mining_without_conventions_is_refused_before_anything_runs(tmp_path: Path) -> None:
    start, end = MINED.index("[[convention]]"), MINED.index("[[arm]]")
    text = (MINED[:start] + '[metric]\nname = "exact"\n\n' + MINED[end:]).replace(
        '[[guard]]\nname = "greeting kept"\non = "greeting"\nlimit = 0.2\nrequired = false\n', ""
    )
    project = write_project(tmp_path / "p", text=text)
    with pytest.raises(ConfigError, match=r"there is no \[\[convention\]\] that a reply could break"):
        load_project_file(project)


def test_the_plan_counts_the_draws_and_the_pairs(new_mined: Path, tmp_path: Path) -> None:
    project = copy_of(new_mined, tmp_path / "p")

    def tune_minutes(*settings: str) -> float:
        ran = metier("plan", "-C", project, "--json", *(part for each in settings for part in ("--set", each)))
        assert ran.code == 0, ran.err
        return float(ran.json["predictions"]["tune_minutes"][0])

    few = tune_minutes("tune.dpo.samples=1")
    assert tune_minutes("tune.dpo.samples=500") > 5 * few
    assert tune_minutes("tune.dpo.samples=1", "tune.dpo.passes=400.0") > 5 * few


def pairs_of(project: Path, *settings: str) -> list[str]:
    """The rejected replies a run mines with other settings."""
    from metier.ledger import SubjectKeys, unpack_rows

    ran = metier("run", "-C", project, *(part for setting in settings for part in ("--set", setting)))
    assert ran.code == 0, ran.err
    path = max((project / ".metier/stages/pairs").glob("*/pairs.pack"), key=lambda each: each.stat().st_mtime_ns)
    found = unpack_rows(path.read_bytes(), SubjectKeys.open(project), where=path)
    return [str(row.target.rejected) for row in found if row is not None]


@pytest.mark.parametrize(("name", "other"), [("samples", "samples = 3"), ("temperature", "temperature = 0.3")])
def test_draws_follow_the_settings(mined: Path, tmp_path: Path, name: str, other: str) -> None:
    project = copy_of(mined, tmp_path / "p")
    first = pairs_of(project)
    assert pairs_of(project, f"tune.dpo.{other.replace(' ', '')}") != first, name


def test_erasing_a_person_takes_the_mined_pairs_and_names_the_model(tmp_path: Path) -> None:
    text = MINED.replace('groups = ["customer"]', 'groups = ["customer"]\nsubject = ["customer"]')
    project = write_project(tmp_path / "p", text=text)
    assert metier("run", "-C", project).code == 0
    assert list((project / ".metier/stages/pairs").glob("*/pairs.pack"))
    person = rows(90)[0]["customer"]
    dry = metier("erase", person, "-C", project, "--dry-run", "--json").json["models"]
    with Ledger.open(project) as ledger:
        sha_by_id = {model.model_id: model.identity.adapter_sha for model in registered_models(ledger)}
    shas = [
        file_sha256(next(project.glob(f".metier/stages/{stage}/*/run/adapter/adapter_model.safetensors")))
        for stage in ("tune", "tune-dpo")
    ]
    assert [sha_by_id[model["model_id"]] for model in dry] == shas, "the model that dpo went on from comes first"
    assert [model["after"] for model in dry] == [[], [dry[0]["model_id"]]]
    erased = metier("erase", person, "-C", project, "--json")
    assert erased.code == 0, erased.err
    assert [model["action"] for model in erased.json["models"]] == ["retire"] * 2, "they were never released"
    assert erased.json["still_holding"] == []
    assert not (project / ".metier/stages/pairs").exists()
    assert list((project / ".metier/stages/tune-dpo").glob("*/run/adapter"))
