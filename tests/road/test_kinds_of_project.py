"""Projects that differ in what is decided, graded and held out, each to its report."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.road.running import events_of, metier
from tests.road.small_project import LEAN, rows, write_project, write_records

MARGIN = "margin = 0.1\nplan_gain = 0.3"
VALUE = "\n[decision.value]\nworth = 2.0\nrequests_per_month = 1000\nhorizon_months = 6\n"
CONVENTIONS = LEAN[LEAN.index("[[convention]]") : LEAN.index("[[arm]]")]
GUARD = LEAN[LEAN.index("[[guard]]") : LEAN.index("[budget]")]


def test_a_worth_of_a_reply_gives_the_margin_that_pays_for_the_tuning(tmp_path: Path) -> None:
    project = write_project(tmp_path / "p", text=LEAN.replace(MARGIN, "").replace(GUARD, VALUE + "\n" + GUARD))
    ran = metier("run", "-C", project, "--json")
    assert ran.code == 0, ran.err
    report = ran.json
    assert 0 <= report["question"]["margin"] < 0.01, "a tuning of seconds needs next to no gain to pay"
    assert report["question"]["margin"] == report["provenance"]["before_look"]["margin"]
    assert report["verdict"]["outcome"] == "NOT_WORTH_IT"
    assert metier("verify", "-C", project).code == 0


def test_as_good_for_less_is_refused_to_a_model_that_is_worse(tmp_path: Path) -> None:
    text = LEAN.replace(MARGIN, 'claim = "as_good_for_less"\nlimit = 0.05')
    project = write_project(tmp_path / "p", text=text)
    ran = metier("run", "-C", project, "--json")
    assert ran.code == 0, ran.err
    verdict = ran.json["verdict"]
    assert (verdict["claim"], verdict["outcome"]) == ("as_good_for_less", "NOT_WORTH_IT")
    assert "-0.0" not in verdict["sentence"]
    assert metier("verify", "-C", project).code == 0


@pytest.mark.parametrize("metric", ["label", "exact"])
def test_rows_with_labels_need_no_convention(tmp_path: Path, metric: str) -> None:
    text = LEAN.replace(CONVENTIONS, f'[metric]\nname = "{metric}"\n\n').replace('reply = "answer"', 'label = "topic"')
    text = text.replace('on = "greeting"', 'on = "metric"')
    records = [{**row, "topic": "lost" if "lost" in row["ask"] or "came" in row["ask"] else "broken"} for row in rows()]
    project = write_project(tmp_path / "p", text=text, records=records)
    ran = metier("run", "-C", project, "--json")
    assert ran.code == 0, ran.err
    by_name = {arm["name"]: arm for arm in ran.json["arms"]}
    assert by_name["small"]["score"] > 0.9, "a word decides: the classifier sees it"
    assert by_name["small"]["chosen_from"][0]["name"].startswith("model=classifier")
    unit = {"label": "share of labels right", "exact": "share of replies equal to the gold reply"}[metric]
    assert ran.json["question"]["unit"] == unit
    assert metier("verify", "-C", project).code == 0


def test_a_given_test_set_is_the_hold_out(tmp_path: Path) -> None:
    text = LEAN.replace("holdout_rows = 24", 'holdout_rows = 24\nholdout_files = ["test.jsonl"]')
    made = rows(90)
    project = write_project(tmp_path / "p", text=text, records=made[:66])
    write_records(project / "test.jsonl", made[66:])
    ran = metier("run", "-C", project, "--json")
    assert ran.code == 0, ran.err
    split = ran.json["split"]
    assert (split["train"], split["dev"], split["holdout"]) == (56, 10, 24)
    assert split["certificate"]["oldest_holdout"] > split["certificate"]["newest_train"]
    assert metier("verify", "-C", project).code == 0


def test_whole_customers_are_held_out_where_new_groups_are_claimed(tmp_path: Path) -> None:
    claim = 'holdout_rows = 24\ngeneralise_to = "new_groups"\nmax_purge = 0.5\nmin_holdout_groups = 10'
    text = LEAN.replace("holdout_rows = 24", claim)
    project = write_project(tmp_path / "p", text=text, records=rows(120))
    ran = metier("run", "-C", project, "--json")
    assert ran.code == 0, ran.err
    split = ran.json["split"]
    assert split["mode"] == "new_groups"
    assert split["certificate"]["shared_groups"] == 0
    assert split["holdout"] >= 24


def test_a_rival_that_costs_nothing_may_be_the_only_one(tmp_path: Path) -> None:
    arms = LEAN.replace('[[arm]]\nkind = "prompt"\n\n', "")
    ran = metier("run", "-C", write_project(tmp_path / "p", text=arms), "--json")
    assert ran.code == 0, ran.err
    assert ran.json["question"]["comparators"] == ["small"]
    assert ran.json["controls"]["fingerprint"] == "no prompted base to compare"
    assert len(ran.json["examples"]) == 3


def test_a_guard_on_a_slice_watches_its_rows_alone(tmp_path: Path) -> None:
    text = LEAN.replace('on = "greeting"', 'on = "region=north"').replace("holdout_rows = 24", "holdout_rows = 40")
    ran = metier("run", "-C", write_project(tmp_path / "p", text=text), "--json")
    assert ran.code == 0, ran.err
    (guard,) = ran.json["guards"]
    assert guard["num_rows"] == 20, "every other row is of the north"
    assert guard["state"] == "failed"


@pytest.mark.parametrize(
    ("on", "code", "said"),
    [
        ("greting", 2, "is on 'greting'; did you mean 'greeting'? Or name a slice: region=north."),
        ("chanel=mail", 2, "is on 'chanel=mail'; add 'chanel' to [data] attributes, so that rows carry it."),
        ("region=north", 1, "is on 'region=north': 12 of 24 hold-out rows; expected at least 20."),
        ("region=west", 1, "is on 'region=west': 0 of 24 hold-out rows; expected at least 20."),
    ],
)
def test_a_guard_that_says_nothing_is_refused_before_anything_is_frozen(
    tmp_path: Path, on: str, code: int, said: str
) -> None:
    project = write_project(tmp_path / "p", text=LEAN.replace('on = "greeting"', f'on = "{on}"'))
    ran = metier("run", "-C", project)
    assert ran.code == code
    assert f"[[guard]] 'greeting kept' {said}" in ran.err
    assert not {"question_frozen", "holdout_sealed"} & set(events_of(project))


def test_without_a_rival_nothing_is_tuned(tmp_path: Path) -> None:
    text = LEAN.replace(CONVENTIONS, '[metric]\nname = "exact"\n\n').replace('on = "greeting"', 'on = "metric"')
    project = write_project(tmp_path / "p", text=text.replace('[[arm]]\nkind = "small"\n\n', ""))
    ran = metier("run", "-C", project)
    assert ran.code == 1
    assert "no arm applies that the tuned one could be compared with (prompt: no_guidelines)." in ran.err
    assert not (project / ".metier/stages/tune").exists()
