"""Every verb: its help, what it prints where, and how it ends."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from metier.cli import main
from metier.core.errors import ConfigError
from tests.road.running import change, events_of, files_of, metier

VERBS = [
    "assess", "chat", "check", "curate", "doctor", "erase", "init", "label", "plan", "report", "run", "show", "status", "tune",
    "verify",
]  # fmt: skip


def test_help_lists_every_verb() -> None:
    ran = metier("--help")
    assert ran.code == 0
    listed = [line.split()[0] for line in ran.out.split("Commands:")[1].splitlines() if line.strip()]
    assert sorted(listed) == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_ends_in_an_example(verb: str) -> None:
    ran = metier(verb, "--help")
    assert ran.code == 0
    told = ran.out.split("Options:")[0].split("Arguments:")[0].rstrip()
    assert f"Example: metier {verb}" in told.splitlines()[-1] or f"Example: metier {verb}" in " ".join(
        line.strip() for line in told.splitlines()[-2:]
    )
    assert "--json" in ran.out


def test_version_and_no_arguments() -> None:
    from metier import __version__

    assert metier("--version").out == f"metier {__version__}\n"
    ran = metier()
    assert ran.code == 2
    assert "Usage: metier" in ran.out + ran.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rnu"], "No such command 'rnu'"),
        (["run", "--jsn"], "No such option: --jsn"),
        (["run", "--set"], "requires an argument"),
        (
            ["run", "--set", "minutes=5"],
            "--set 'minutes=5': expected table.key=value, for example --set budget.minutes=5.",
        ),
        (["run", "--set", "budget.minuets=5"], "unknown setting 'minuets'; did you mean 'minutes'?"),
        (["init", "x", "--from", "suport"], "--from 'suport': no such example; did you mean 'support'?"),
    ],
)
def test_wrong_usage_exits_2_and_says_what_is_right(fresh: Path, arguments: list[str], said: str) -> None:
    os.chdir(fresh)
    ran = metier(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err


def test_init_makes_a_project_and_never_writes_into_one(tmp_path: Path) -> None:
    ran = metier("init", tmp_path / "mine", "--from", "support", "--json")
    assert ran.code == 0, ran.err
    assert ran.json == {"project": str(tmp_path / "mine"), "from": "support"}
    made = files_of(tmp_path / "mine")
    assert "metier.toml" in made
    again = metier("init", tmp_path / "mine", "--from", "support")
    assert again.code == 2
    assert "mine: exists and is not empty; nothing was written. Name a new folder." in again.err
    assert files_of(tmp_path / "mine") == made


def test_check_says_ready(fresh: Path) -> None:
    ran = metier("check", "-C", fresh, "--set", "decision.plan_gain=0.4")
    assert ran.code == 0, ran.err
    assert ran.out.startswith("read 90, kept 90, set aside 0, failed 0\n")
    assert "split (later): 56 train, 10 dev, 24 hold-out\n" in ran.out
    assert "\nready: Ready: of 90 usable rows 24 are held out" in ran.out
    assert ran.out.endswith(f"Page: {fresh / '.metier/report/data.html'}\n")
    assert "small" in (fresh / ".metier/report/data.html").read_text()


def test_check_closes_the_gate_when_the_hold_out_could_not_show_the_gain(fresh: Path) -> None:
    ran = metier("check", "-C", fresh)
    assert ran.code == 3
    assert "error: 24 held-out rows cannot show a gain of 30.0 points to reach 10.0: the bound lies " in ran.err


def test_check_closes_the_gate_when_rows_are_missing(fresh: Path) -> None:
    ran = metier("check", "-C", fresh, "--set", "split.holdout_rows=85", "--json")
    assert ran.code == 3
    assert ran.json["ready"] is False
    assert ran.json["problem"].startswith("dev: 10 rows asked for, but 5 rows are left")
    assert f"error: {ran.json['problem']}" in ran.err


def test_plan_and_dry_run_train_nothing(fresh: Path) -> None:
    planned = metier("plan", "-C", fresh, "--json")
    assert planned.code == 0, planned.err
    assert planned.json["rows"] == {"train": 56, "dev": 10, "hold-out": 24}
    assert set(planned.json["predictions"]) == {"run_minutes", "tune_minutes", "peak_memory_gib"}
    dry = metier("run", "-C", fresh, "--dry-run", "--json")
    assert dry.code == 0, dry.err
    assert dry.json == planned.json, "the measured plan is kept and followed"
    assert dry.json["settings"]["budget"]["minutes"] == 600
    text = metier("run", "-C", fresh, "--dry-run").out
    assert "rows: 56 train, 10 dev, 24 hold-out\n" in text
    assert re.search(r"^run: [\d.]+ s \([\d.]+ s to [\d.]+ s\)$", text, re.MULTILINE), text
    assert re.search(r"^tune: [\d.]+ s ", text, re.MULTILINE) and re.search(r"^peak memory: [\d.]+ GiB ", text, re.M)
    assert re.search(r"^cost: [A-Z]{3} [\d.]+ of machine time, at an assumed [\d.]+ an hour$", text, re.MULTILINE), text
    change(fresh, "[budget]", '[price]\ndate = "2026-11-23"\nsource = "a list"\n\n[budget]')
    dated = metier("run", "-C", fresh, "--dry-run").out
    assert re.search(r"^cost: [A-Z]{3} [\d.]+ of machine time$", dated, re.MULTILINE), dated
    assert not (fresh / ".metier/stages/tune").exists()
    assert "look_opened" not in events_of(fresh)


def test_a_budget_that_nothing_fits_closes_the_gate(fresh: Path) -> None:
    ran = metier("run", "-C", fresh, "--set", "budget.minutes=0.001")
    assert ran.code == 3
    assert "the budget is 0.001" in ran.err
    assert "Set [budget] minutes to" in ran.err


def test_assess_says_what_is_missing_before_the_spend(fresh: Path) -> None:
    ran = metier("assess", "-C", fresh, "--json")
    assert ran.code == 3, "small already scores 1.000: nothing is left to gain"
    found = ran.json
    assert (found["go"], found["best"], found["headroom"]) == (False, "small", 0.0)
    assert found["problems"][0] == "small already scores 1.000 (0.859 or more): a gain of 0.3 does not fit below 1."
    assert "look_opened" not in events_of(fresh)
    assert not (fresh / ".metier/stages/tune").exists()


def test_gate_exits_3_unless_worth_it_and_still_prints_the_verdict(lean: Path) -> None:
    ran = metier("run", "-C", lean, "--gate", "--json")
    assert ran.code == 3
    assert ran.json["verdict"]["outcome"] == "NOT_WORTH_IT"
    assert "error: the verdict is NOT_WORTH_IT (" in ran.err
    assert "not WORTH_IT." in ran.err
    assert metier("run", "-C", lean).code == 0


def test_under_json_stdout_holds_one_object_and_progress_goes_to_stderr(lean: Path) -> None:
    for verb in ("run", "check", "plan", "status", "report", "verify", "show", "doctor"):
        arguments = [verb, "--json"] if verb == "doctor" else [verb, "-C", lean, "--json"]
        if verb == "check":
            arguments += ["--set", "decision.plan_gain=0.4"]
        ran = metier(*arguments)
        assert ran.code == 0, (verb, ran.err)
        assert isinstance(json.loads(ran.out), dict), verb
        assert ran.out.count("\n") == 1, verb
    assert "24 hold-out rows sealed" in metier("run", "-C", lean, "--json").err


def test_report_prints_the_sentence_and_where_the_page_lies(lean: Path) -> None:
    ran = metier("report", "-C", lean)
    assert ran.code == 0
    sentence, path = ran.out.splitlines()
    assert sentence.startswith("Not worth it: on 24 held-out rows")
    assert path == f"Report: {lean / '.metier/report/index.html'}"
    assert Path(path.removeprefix("Report: ")).is_file()


def test_report_without_a_run_says_how_to_start_one(fresh: Path) -> None:
    ran = metier("report", "-C", fresh)
    assert ran.code == 1
    assert f"report.json: no finished run here. Start one: metier run -C {fresh}" in ran.err


def test_status_before_and_after(fresh: Path, lean: Path) -> None:
    before = metier("status", "-C", fresh, "--json").json
    assert set(before["stages"].values()) == {"not begun"}
    assert (before["verdict"], before["running"]) == ("", False)
    assert metier("status", "-C", fresh).out.splitlines()[-1] == "verdict  none yet"
    after = metier("status", "-C", lean, "--json").json
    assert set(after["stages"].values()) == {"finished"}
    assert after["verdict"].startswith("Not worth it")


def test_status_tells_of_a_run_at_work(lean: Path) -> None:
    from metier.core.folders import exclusive

    with exclusive(lean / ".metier/run.lock", what="test"):
        ran = metier("status", "-C", lean)
    assert ran.code == 0
    assert ran.out.endswith("a metier process is at work in this project\n")


def test_show_marks_exactly_the_reply_as_trained(lean: Path) -> None:
    ran = metier("show", "0", "-C", lean, "--json")
    assert ran.code == 0, ran.err
    trained = [segment["text"] for segment in ran.json["segments"] if segment["trained"]]
    assert trained == ["Hi Eli: A-1000.<|im_end|>"] or (
        len(trained) == 1 and trained[0].startswith("Hi ") and trained[0].endswith(".<|im_end|>")
    )
    asked = "".join(segment["text"] for segment in ran.json["segments"] if not segment["trained"])
    assert "<|im_start|>user\n" in asked
    text = metier("show", ran.json["row_id"][:12], "-C", lean).out
    assert f"[[{trained[0]}]]" in text
    assert f"(train, {ran.json['source']})" in text


def test_show_never_shows_a_hold_out_row(lean: Path) -> None:
    from metier.evaluate import ScoreTable

    table = ScoreTable.from_parquet((lean / ".metier/report/scores.parquet").read_bytes())
    ran = metier("show", table.row_id[0], "-C", lean)
    assert (ran.code, ran.out) == (1, "")
    assert "0 rows of train and dev begin so; expected one." in ran.err
    assert "rows of the hold-out are never shown." in ran.err


def test_chat_answers_with_base_and_tuned(lean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = metier("chat", "A-1: my lamp is lost. Ana", "-C", lean, "--json")
    assert ran.code == 0, ran.err
    assert set(ran.json) == {"base", "tuned"}
    assert ran.json["base"] != ran.json["tuned"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n\ntwo\n"))
    typed = metier("chat", "-C", lean)
    assert typed.code == 0, typed.err
    assert typed.out.count("--- base\n") == typed.out.count("--- tuned\n") == 2


def test_chat_before_a_run_says_what_is_missing(fresh: Path) -> None:
    ran = metier("chat", "hello", "-C", fresh)
    assert ran.code == 1
    assert f"no finished run, so no tuned model yet. Run: metier run -C {fresh}" in ran.err


def test_doctor_says_what_the_machine_offers() -> None:
    ran = metier("doctor", "--json")
    assert ran.code == 0
    assert set(ran.json) == {"facts", "missing"}
    assert {"python", "torch", "cpu", "memory", "model cache"} <= set(ran.json["facts"])
    assert metier("doctor").out.splitlines()[0].startswith("python ")


def test_doctor_names_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    used = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: used._replace(free=1 << 29))
    ran = metier("doctor", "--json")
    assert ran.code == 0
    assert ran.json["missing"][0].startswith("0.5 GiB free for models in ")


def test_verify_without_a_run_checks_the_ledger_and_with_one_everything(fresh: Path, lean: Path) -> None:
    ran = metier("verify", "-C", fresh)
    assert ran.code == 0
    assert (
        "checked: chain, objects, erasures\nnote: no run has finished here, so there is no report to check.\n"
        in ran.out
    )
    ran = metier("verify", "-C", lean)
    assert ran.code == 0, ran.out
    assert ran.out.splitlines()[-1].startswith("consistent; ledger head ")


@pytest.mark.parametrize("damage", ["adapter", "sealed", "ledger", "missing scores", "train rows", "template"])
def test_verify_names_what_was_damaged(lean: Path, damage: str) -> None:
    report = json.loads((lean / ".metier/report/report.json").read_text(encoding="utf-8"))
    if damage == "adapter":
        path = lean / report["model"]["adapter_path"] / "adapter_model.safetensors"
        path.write_bytes(path.read_bytes()[:-4] + b"\0\1\2\3")
        said = "model: "
    elif damage == "sealed":
        for path in (lean / ".metier/objects").rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes()[:-1])
        said = "seal and certificate: "
    elif damage == "ledger":
        import sqlite3

        with sqlite3.connect(lean / ".metier/ledger.db") as connection:
            connection.execute("UPDATE look SET alpha = 0.5")
        said = "chain: "
    elif damage == "train rows":
        from metier.ledger import is_pack

        (path,) = (p for p in (lean / ".metier/objects").rglob("*") if p.is_file() and is_pack(p.read_bytes()))
        path.write_bytes(path.read_bytes()[:100])
        said = f"seal and certificate: {path}: the bytes changed"
    elif damage == "missing scores":
        (lean / ".metier/report/scores.parquet").unlink()
        said = "scores: "
    else:
        report["model"]["template_sha256"] = "0" * 64
        (lean / ".metier/report/report.json").write_text(json.dumps(report), encoding="utf-8")
        said = "model: template_sha256 is "
    ran = metier("verify", "-C", lean, "--json")
    assert ran.code == 3, ran.out
    assert [problem for problem in ran.json["problems"] if problem.startswith(said)], ran.json["problems"]


def test_verify_tells_of_a_changed_question_and_checks_the_report_under_its_own(lean: Path) -> None:
    change(lean, "margin = 0.1\n", "margin = 0.2\n")
    ran = metier("verify", "-C", lean, "--json")
    assert (ran.code, ran.json["problems"]) == (0, [])
    (note,) = ran.json["notes"]
    assert note.startswith(
        "metier.toml asks another question now than the report answers; the report was checked under"
    )
    assert f"note: {note}" in metier("verify", "-C", lean).out


def test_a_traceback_is_shown_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METIER_TRACEBACK", "1")
    with pytest.raises(ConfigError, match="not found"):
        main(["run", "-C", str(tmp_path)])


def test_a_reader_that_has_gone_is_no_error(lean: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "metier.cli", "report", "-C", str(lean)]
    done = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, text=True)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (0, "")
