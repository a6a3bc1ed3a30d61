"""Bad files, bad settings, a full disk, an interrupt: a clear error or a finished run, and nothing lost."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from metier.core.settings import DataConfig
from metier.curate import read_chunks
from tests.road.running import events_of, files_of, metier
from tests.road.small_project import LEAN, rows, write_project, write_records

NO_TIME = LEAN.replace('time = "day"\n', "").replace(
    "holdout_rows = 24", 'holdout_rows = 24\ngeneralise_to = "new_groups"'
)
CONVENTIONS = LEAN[LEAN.index("[[convention]]") : LEAN.index("[[arm]]")]

SHOWABLE = ("--set", "decision.plan_gain=0.4")
"""A gain that the small hold-out could show: these tests are about rows."""


def labelled(text: str) -> str:
    """The project file with labels in place of replies."""
    text = text.replace(CONVENTIONS, '[metric]\nname = "label"\n\n').replace('reply = "answer"', 'label = "topic"')
    return text.replace('on = "greeting"', 'on = "metric"')


LABELS = labelled(LEAN)
RANDOM_ROWS = NO_TIME.replace('groups = ["customer"]\n', "")


def edited(old: str, new: str) -> str:
    assert LEAN.count(old) == 1, old
    return LEAN.replace(old, new)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (edited("margin = 0.1\n", ""), "metier.toml [decision]: found neither of margin and value; give exactly one"),
        (edited("margin = 0.1", "margni = 0.1"), "metier.toml [decision]: unknown setting 'margni'; did you mean 'margin'?"),
        (edited("[split]", "[spilt]"), "metier.toml: unknown table [spilt]; did you mean 'split'?"),
        (edited("margin = 0.1", "margin = 10"), "metier.toml [decision]: margin is 10.0; expected a number in [0, 1)."),
        (edited("margin = 0.1", 'margin = "much"'), "metier.toml [decision]"),
        (edited('files = ["rows.jsonl"]\n', ""), "metier.toml [data]: 'files' is missing; add it (Files, folders or globs with rows"),
        (edited('check = "contains"', 'check = "contain"'), "did you mean 'contains'?"),
        (edited('kind = "tuned"', 'kind = "tune"'), "metier.toml [[arm]] 3 kind is 'tune'; did you mean 'tuned'?"),
        (edited('name = "tiny"', 'name = "tinny"'), "did you mean 'tiny'?"),
        (LEAN + "minutes = 3\n", "metier.toml: not valid TOML: "),
        (edited('name = "tiny"', 'name = "tiny"\nrevision = "main"'), "base.revision is 'main', but the short name 'tiny' is pinned"),
        (edited('name = "tiny"', 'name = "hub:a/b@main"'), "base.name is 'hub:a/b@main' with the revision 'main'; expected a commit of 40 hex digits."),
        (edited("seed = 3", 'seed = 3\nguidelines = ["nope.md"]'), "metier.toml [project] guidelines: there is no file 'nope.md'"),
        (edited('files = ["rows.jsonl"]', 'files = ["rowz.jsonl"]'), "rowz.jsonl: no file with rows there, seen from"),
        (edited('kind = "prompt"', 'kind = "prompt"\nname = "../../../evil"'), "metier.toml [[arm]] 1: name is '../../../evil'; expected 1 to 80 letters"),
        (LEAN.replace("[budget]\nminutes = 600", "[budget]\nminutes = 0"), "metier.toml [budget]: minutes is 0.0; expected more than 0."),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_before_anything_runs(tmp_path: Path, text: str, said: str) -> None:
    project = write_project(tmp_path / "p", text=text)
    ran = metier("run", "-C", project)
    assert ran.code == 2, ran.err
    assert ran.out == ""
    assert said in ran.err


@pytest.mark.parametrize("name", ["hub:a/b@main", "zzz", "all-minilm-l6-v2"])
def test_a_base_that_no_machine_could_find_is_refused_before_a_row_is_read(tmp_path: Path, name: str) -> None:
    project = write_project(tmp_path / "p", text=edited('name = "tiny"', f'name = "{name}"'))
    ran = metier("check", *SHOWABLE, "-C", project)
    assert ran.code == 2
    assert ran.err.startswith(f"error: base.name is '{name}'"), ran.err
    assert not (project / ".metier").exists()


def test_a_folder_without_a_project_file_says_how_to_make_one(tmp_path: Path) -> None:
    ran = metier("run", "-C", tmp_path)
    assert ran.code == 2
    assert (
        f"{tmp_path / 'metier.toml'}: not found. Go to a project folder, name one with -C DIR, or make one:" in ran.err
    )


def lines_of(records: list[dict]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


ROWS = rows()
ONE_CLASS = [{**row, "answer": "Hi there: A-1."} for row in ROWS]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "rows.jsonl: empty file; expected rows."),
        (b"\n\n", "rows.jsonl: no rows at all; expected at least one record"),
        (lines_of(ROWS[:1]), "rows.jsonl: 1 row left of 1 record read (nothing was set aside); expected at least 2."),
        (lines_of(ROWS[:30]), "dev: 10 rows asked for, but 6 rows are left, and train needs rows too."),
        (lines_of(ONE_CLASS), "90 of 90 gold replies fail their own grader; at most 5% may."),
        (lines_of([{**row, "day": "2025-01-01"} for row in ROWS]), "carry the same time, 2025-01-01"),
        ("\n".join(json.dumps(row) for row in ROWS).encode("utf-16"), "rows.jsonl: UTF-16 text; expected UTF-8."),
        (b"PK\x03\x04" + bytes(range(256)) * 40, "rows.jsonl:1: "),
    ],
    ids=["empty", "blank", "one-row", "few", "one-class", "one-time", "utf-16", "binary"],
)  # fmt: skip
def test_rows_that_cannot_be_used_are_a_clear_error(tmp_path: Path, data: bytes, said: str) -> None:
    project = write_project(tmp_path / "p")
    (project / "rows.jsonl").write_bytes(data)
    ran = metier("run", "-C", project)
    assert ran.code == 1, ran.err
    assert said in ran.err, ran.err
    assert "Traceback" not in ran.err
    assert not (project / ".metier/report").exists()


def test_a_column_that_no_row_has_is_a_wrong_setting(tmp_path: Path) -> None:
    project = write_project(tmp_path / "p", records=[{"question": row["ask"], "answer": row["answer"]} for row in ROWS])
    ran = metier("run", "-C", project)
    assert ran.code == 2
    assert "[data] columns.prompt names the column 'ask', which no record has; known: answer, question." in ran.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LEAN, "hold-out: 1 group (customer) in 24 rows; expected 5 or more, as rows of one group move together."),
        (NO_TIME, "hold-out: 24 rows asked for, but 90 rows in 1 group are left"),
    ],
    ids=["later", "new-groups"],
)
def test_rows_of_one_group_are_refused_before_anything_is_frozen(tmp_path: Path, text: str, said: str) -> None:
    project = write_project(tmp_path / "p", text=text, records=[{**row, "customer": "Ana"} for row in ROWS])
    ran = metier("run", "-C", project)
    assert ran.code == 1
    assert said in ran.err, ran.err
    assert "question_frozen" not in events_of(project)


def test_a_hold_out_of_one_class_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    records = [{**row, "topic": "late" if i < 60 else "lost"} for i, row in enumerate(ROWS)]
    project = write_project(tmp_path / "p", text=LABELS, records=records)
    ran = metier("run", "-C", project)
    assert ran.code == 1
    assert "error: hold-out: all 24 rows have the label 'lost', the 66 others have 2 labels;" in ran.err
    assert "Is the file sorted by label? Use generalise_to = 'new_groups'" in ran.err
    assert "question_frozen" not in events_of(project)


def with_lines(*bad: bytes) -> bytes:
    """The rows of the project with bad lines among them."""
    good = [json.dumps(row).encode() for row in ROWS]
    return b"\n".join([*good[:5], *bad, *good[5:]]) + b"\n"


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (b'{"ask": "A-1: \xff\xfe my lamp", "answer": "Hi"}', "rows.jsonl:6: byte 15 of the line (0xff) is not UTF-8"),
        (b'{"ask": "A-1: my\x00lamp", "answer": "Hi"}', "rows.jsonl:6: a NUL byte at character 17"),
        (b'{"ask": "A-1: my lamp", "ans', "rows.jsonl:6: broken JSON"),
        (b'["not", "an", "object"]', "rows.jsonl:6: a JSON list; expected a JSON object"),
    ],
    ids=["not-utf-8", "nul", "cut-off", "list"],
)
def test_a_broken_line_is_counted_and_the_rest_is_used(tmp_path: Path, bad: bytes, said: str) -> None:
    project = write_project(tmp_path / "p")
    (project / "rows.jsonl").write_bytes(with_lines(bad))
    ran = metier("check", *SHOWABLE, "-C", project, "--json")
    assert ran.code == 0, ran.err
    data = ran.json["data"]
    assert (data["read"], data["kept"], data["failed"]) == (91, 90, 1)
    assert data["failures"][0].startswith(said)
    assert said in ran.err


def test_a_line_of_100_mb_is_skipped_in_bounded_memory(tmp_path: Path) -> None:
    project = write_project(tmp_path / "p")
    with (project / "rows.jsonl").open("wb") as file:
        file.write(lines_of(ROWS[:5]) + b'{"ask": "')
        for _ in range(100):
            file.write(b"a" * 1_000_000)
        file.write(b'", "answer": "Hi"}\n' + lines_of(ROWS[5:]))
    data = DataConfig(files=("rows.jsonl",), columns={"prompt": "ask", "reply": "answer"})
    tracemalloc.start()
    read = sum(chunk.num_read for chunk in read_chunks(data, project, key=b"a key"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (read, peak < 40e6) == (len(ROWS) + 1, True), peak
    ran = metier("check", *SHOWABLE, "-C", project, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["data"]["failures"] == [
        "rows.jsonl:6: a line of 95 MiB; expected at most 16 MiB. Look for a missing line break, or split the record."
    ]


def test_a_second_row_with_an_id_is_refused(tmp_path: Path) -> None:
    project = write_project(tmp_path / "p", text=edited('reply = "answer" }', 'reply = "answer", id = "number" }'))
    records = [{**row, "number": str(i)} for i, row in enumerate(ROWS)]
    write_records(project / "rows.jsonl", [*records, {**records[3], "ask": "A-9999: my hat is torn. Ana"}])
    ran = metier("check", *SHOWABLE, "-C", project, "--json")
    assert ran.code == 0, ran.err
    (failure,) = ran.json["data"]["failures"]
    assert failure.startswith("rows.jsonl:91: id '3' already stands at rows.jsonl:4; expected one row an id.")


def test_one_id_for_all_rows_is_told_with_counts_and_places(tmp_path: Path) -> None:
    text = edited('reply = "answer" }', 'reply = "answer", id = "number" }')
    project = write_project(tmp_path / "p", text=text, records=[{**row, "number": "1"} for row in ROWS])
    ran = metier("check", *SHOWABLE, "-C", project)
    assert ran.code == 1
    assert "rows.jsonl: 1 row left of 90 records read (failed 89); expected at least 2." in ran.err
    assert "\n  rows.jsonl:2: id '1' already stands at rows.jsonl:1; expected one row an id." in ran.err


def test_a_wrong_column_is_told_with_the_lines_it_spoils(tmp_path: Path) -> None:
    ran = metier(
        "check", *SHOWABLE, "-C", write_project(tmp_path / "p", text=edited('reply = "answer"', 'reply = "day"'))
    )
    assert ran.code == 1
    assert "or [data] columns if they name the wrong one. The first:\n  rows.jsonl:1 (row " in ran.err


def test_a_row_without_what_a_convention_looks_for_is_set_aside_and_the_rest_is_used(tmp_path: Path) -> None:
    records = [dict(row) for row in ROWS]
    records[40] |= {"ask": "my lamp is lost. Ana", "answer": "Hi Ana: A-9."}
    ran = metier("check", *SHOWABLE, "-C", write_project(tmp_path / "p", records=records), "--json")
    assert ran.code == 0, ran.err
    data = ran.json["data"]
    assert (data["read"], data["kept"], data["quarantined"]) == (90, 89, {"nothing_to_check": 1})
    (path,) = (tmp_path / "p/.metier/stages/ground").glob("*/controls.json")
    (sentence,) = json.loads(path.read_text(encoding="utf-8"))["sentences"].values()
    assert sentence.startswith("rows.jsonl:41 (row ")
    assert "convention 'order': the pattern '(A-\\d+)' finds nothing in the prompt" in sentence


def test_a_file_where_a_folder_should_be_is_a_clear_error(tmp_path: Path) -> None:
    project = write_project(tmp_path / "p")
    ran = metier("check", *SHOWABLE, "-C", project / "metier.toml")
    assert ran.code == 2
    assert f"{project / 'metier.toml'}: a file; expected the folder of a project. Name the folder: -C" in ran.err
    (project / ".metier").write_text("a file")
    ran = metier("check", *SHOWABLE, "-C", project)
    assert ran.code == 1
    assert f"{project / '.metier'}: a file; expected a folder that metier makes. Move it away and run again." in ran.err


def test_rows_beyond_the_context_are_counted_and_the_run_finishes(tmp_path: Path) -> None:
    records = [dict(row) for row in ROWS]
    records[10]["answer"] += " word" * 150
    records[-3]["ask"] += " word" * 1000
    text = edited("rank = 4", "rank = 4\nmax_row_tokens = 256")
    ran = metier("run", "-C", write_project(tmp_path / "p", text=text, records=records), "--json")
    assert ran.code == 0, ran.err
    assert "1 of 66 rows cannot be trained on; the first: " in ran.err
    by_name = {arm["name"]: arm for arm in ran.json["arms"]}
    assert by_name["prompt"]["num_rows"] == 24, "the row counts; its empty reply scores 0"


def test_a_file_sorted_by_class_gives_every_part_both_classes(tmp_path: Path) -> None:
    records = [{**row, "topic": "late" if "came" in row["ask"] else "broken"} for row in ROWS]
    records.sort(key=lambda row: row["topic"])
    ran = metier("run", "-C", write_project(tmp_path / "p", text=labelled(RANDOM_ROWS), records=records), "--json")
    assert ran.code == 0, ran.err
    by_name = {arm["name"]: arm for arm in ran.json["arms"]}
    assert by_name["small"]["score"] > 0.9, "a train part of one class would leave this arm out"


def test_a_broken_file_over_a_finished_run_overwrites_nothing(lean: Path) -> None:
    before, events = files_of(lean / ".metier"), events_of(lean)
    (lean / "rows.jsonl").write_bytes(b"\x00\x01 not rows at all")
    ran = metier("run", "-C", lean)
    assert ran.code == 1
    assert "rows.jsonl" in ran.err
    after = files_of(lean / ".metier")
    assert {name: after[name] for name in before if name != "ledger.db"} == {
        name: data for name, data in before.items() if name != "ledger.db"
    }
    assert events_of(lean) == events
    assert metier("verify", "-C", lean).code == 0


@pytest.mark.parametrize(
    "name", ["ground/table.npz", "ground/stored.npz", "split/parts.npz", "plan/plan.json", "arm-prompt/arm.json", "tune/facts.json",
             "tune/run/adapter/adapter_model.safetensors", "look/scores.parquet", "look/look.json", "report/report.json"],
)  # fmt: skip
def test_a_truncated_file_of_a_stage_is_made_again(lean: Path, name: str) -> None:
    report = (lean / ".metier/report/report.json").read_bytes()
    stage, _, rest = name.partition("/")
    (path,) = (lean / ".metier/stages" / stage).glob(f"*/{rest}")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    ran = metier("run", "-C", lean)
    assert ran.code == 0, ran.err
    if name != "plan/plan.json":  # speeds are measured anew there
        assert json.loads(report)["verdict"] == metier("report", "-C", lean, "--json").json["verdict"]
    assert metier("verify", "-C", lean).code == 0
    assert events_of(lean).count("question_frozen") == 1


@pytest.mark.parametrize("stage", ["ground", "tune", "look"])
def test_a_truncated_done_file_is_an_error_with_the_way_out(lean: Path, stage: str) -> None:
    (path,) = (lean / ".metier/stages" / stage).glob("*/done.json")
    path.write_bytes(path.read_bytes()[:20])
    ran = metier("run", "-C", lean)
    assert ran.code == 1
    assert f"{path}: not readable as JSON" in ran.err
    assert "delete its folder to compute it again." in ran.err


def test_without_a_price_list_prices_are_told_as_assumed(finished_project: Path) -> None:
    report = metier("report", "-C", finished_project, "--json").json
    assert report["prices"] == [
        {"item": "machine_hour", "amount": 0.1, "currency": "USD", "date": "", "source": "assumed"}
    ]


def test_lower_cost_cannot_be_claimed_where_nothing_costs_anything(tmp_path: Path) -> None:
    free = edited("[budget]", "[price]\nmachine_hour = 0.0\n\n[budget]")
    free = free.replace("margin = 0.1\nplan_gain = 0.3", 'claim = "as_good_for_less"')
    project = write_project(tmp_path / "p", text=free)
    ran = metier("run", "-C", project)
    assert ran.code == 2
    assert (
        "claim is as_good_for_less, but a request to tuned costs 0 and one to small 0; expected both above 0."
        in ran.err
    )
    assert "look_opened" not in events_of(project)


def test_of_two_runs_at_once_the_second_is_refused_and_the_first_finishes(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import metier.road.run as road

    refused = []

    def beside(real: Callable[..., object]) -> Callable[..., object]:
        def fit_arms(*arguments: object) -> object:
            refused.append(metier("run", "-C", fresh))
            return real(*arguments)

        return fit_arms

    monkeypatch.setattr(road, "fit_arms", beside(road.fit_arms))
    first = metier("run", "-C", fresh)
    assert first.code == 0, first.err
    assert refused[0].code == 1
    assert "metier run: another metier process is at work in this project. Wait for it, or stop it;" in refused[0].err
