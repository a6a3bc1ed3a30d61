"""What a verdict rests on: fixed before the look, found again by verify, and told when the rows are not fresh."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metier.core.settings import DecisionConfig, ValueConfig
from metier.ledger import is_pack
from metier.road.cost import cheaper_from, cost_ratio
from metier.road.worth import cost_ratio_of
from tests.road.running import change, events_of, metier
from tests.road.small_project import LEAN, write_project

MARGIN = "margin = 0.1\nplan_gain = 0.3"
GUARD = LEAN[LEAN.index("[[guard]]") : LEAN.index("[budget]")]
VALUE = "\n[decision.value]\nworth = 0.001\nrequests_per_month = 50000.0\n\n"
BY_VALUE = LEAN.replace(MARGIN, "").replace(GUARD, VALUE + GUARD) + "\n[price]\nmachine_hour = 0.5\n"
FOR_LESS = LEAN.replace(MARGIN, 'claim = "as_good_for_less"\nlimit = 0.99')
FOR_LESS = FOR_LESS.replace('kind = "small"', 'kind = "few_shot"\nk = [1]') + "\n[price]\ntoken_in = 5.0\n"


def report_of(project: Path) -> dict[str, Any]:
    return json.loads((project / ".metier/report/report.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("text", "old", "new"),
    [(BY_VALUE, "machine_hour = 0.5", "machine_hour = 900.0"), (FOR_LESS, "token_in = 5.0", "token_out = 5.0")],
    ids=["value", "as good for less"],
)
def test_a_price_that_changes_after_the_look_changes_what_is_shown_and_no_verdict(
    tmp_path: Path, text: str, old: str, new: str
) -> None:
    project = write_project(tmp_path / "p", text=text)
    first = metier("run", "-C", project, "--json")
    assert first.code == 0, first.err
    change(project, old, new)
    second = metier("run", "-C", project, "--json")
    assert second.code == 0, second.err
    for name in ("verdict", "question", "looks", "guards", "comparisons"):
        assert second.json[name] == first.json[name], name
    assert second.json["provenance"]["before_look"] == first.json["provenance"]["before_look"]
    assert second.json["prices"] != first.json["prices"], "what a request costs today is told at today's prices"
    assert second.json["question"]["prices"] == first.json["prices"], "and decided at those of the look"
    assert events_of(project).count("look_prepared") == 1
    assert metier("verify", "-C", project).code == 0


def test_what_a_verdict_rests_on_is_recorded_before_the_hold_out_is_opened(lean: Path) -> None:
    from metier.ledger import Ledger, before_look

    events = events_of(lean)
    assert events.index("look_prepared") < events.index("look_opened")
    provenance = report_of(lean)["provenance"]
    with Ledger.open(lean) as ledger:
        recorded = before_look(ledger, provenance["look_id"])
    assert recorded is not None
    assert recorded.facts == provenance["before_look"]
    assert recorded.at == provenance["before_look_at"]
    assert recorded.facts["margin"] == 0.1
    assert report_of(lean)["question"]["prices"] == [], "this claim depends on no price"


def test_a_price_that_changes_before_the_look_counts(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import metier.road.run as road

    def stopped(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(road, "look_at_holdout", stopped)
        assert metier("run", "-C", fresh).code == 130
    ran = metier("run", "-C", fresh, "--set", "price.machine_hour=7.0", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["provenance"]["before_look"]["prices"][0]["amount"] == 7.0
    assert events_of(fresh).count("look_prepared") == 2
    assert metier("verify", "-C", fresh).code == 0


def sentence(report: dict[str, Any]) -> None:
    report["verdict"]["sentence"] = "Worth it: the tuned model scores 99 points above everything."


def arm(report: dict[str, Any]) -> None:
    report["arms"][-1]["score"] = 0.999


def alpha(report: dict[str, Any]) -> None:
    report["looks"]["alpha_this"] = 0.499


def margin(report: dict[str, Any]) -> None:
    report["provenance"]["before_look"]["margin"] = 0.0


def control(report: dict[str, Any]) -> None:
    report["controls"]["fingerprint"] = "differs on all rows"


def guard(report: dict[str, Any]) -> None:
    report["guards"][0]["state"] = "passed"


def rows_read(report: dict[str, Any]) -> None:
    report["data"]["read"] = 1_000_000


def money(report: dict[str, Any]) -> None:
    report["costs"]["run_cost"] = 0.0


EDITS = {
    sentence: 'verdict.sentence is "Worth it: the tuned model scores 99',
    arm: "arms[2].score is 0.999; expected 0.0.",
    alpha: "looks.alpha_this is 0.499; expected 0.01666",
    margin: "provenance.before_look.margin is 0.0; expected 0.1.",
    control: 'controls.fingerprint is "differs on all rows"; expected "differs from the base on',
    guard: 'guards[0].state is "passed"; expected "failed".',
    rows_read: "data.read is 1000000; expected 90.",
    money: "costs.run_cost is 0.0; expected ",
}
DERIVED = [edit for edit in EDITS if edit not in (rows_read, money)]


def problems_after(project: Path, edit: Callable[[dict[str, Any]], None]) -> str:
    report = report_of(project)
    edit(report)
    (project / ".metier/report/report.json").write_text(json.dumps(report), encoding="utf-8")
    ran = metier("verify", "-C", project, "--json")
    assert ran.code == 3
    return "\n".join(ran.json["problems"])


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_report_is_found_and_the_field_is_named(lean: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    found = problems_after(lean, edit)
    assert "report and page: " in found
    assert "is that of none of the 1 reports the ledger knows; run again to write it anew." in found
    assert EDITS[edit] in found


def record_as_written(project: Path) -> None:
    """What an editor would do next: change the stage's copy too, and append an event that names the new bytes."""
    from metier.core.hashing import file_sha256
    from metier.ledger import Ledger, WrittenReport, record_report

    path = project / ".metier/report/report.json"
    for copy in (project / ".metier/stages/report").glob("*/report.json"):
        copy.write_bytes(path.read_bytes())
    page = file_sha256(path.with_name("index.html"))
    with Ledger.open(project) as ledger:
        look_id = report_of(project)["provenance"]["look_id"]
        record_report(ledger, WrittenReport(report_sha256=file_sha256(path), page_sha256=page, look_id=look_id))


def test_a_missing_page_hides_no_edited_field(lean: Path) -> None:
    (lean / ".metier/report/index.html").unlink()
    found = problems_after(lean, rows_read)
    assert EDITS[rows_read] in found
    assert "index.html: missing; expected the page that was written" in found


def test_of_several_copies_of_a_look_the_one_that_differs_least_names_the_edit(lean: Path) -> None:
    ran = metier("run", "-C", lean, "--set", "price.machine_hour=7.0", "--set", "project.name=renamed", "--json")
    assert ran.code == 0, ran.err
    assert len(list((lean / ".metier/stages/report").glob("*/report.json"))) == 2
    for name in ("renamed", "small"):
        if name == "small":
            assert metier("run", "-C", lean).code == 0
        assert report_of(lean)["project"] == name
        found = problems_after(lean, rows_read).splitlines()
        assert [line for line in found if "expected" in line] == [f"report and page: {EDITS[rows_read]}"], name


@pytest.mark.parametrize("edit", DERIVED)
def test_a_report_that_is_edited_everywhere_is_found_by_working_it_out_again(
    lean: Path, edit: Callable[[dict[str, Any]], None]
) -> None:
    problems_after(lean, edit)
    record_as_written(lean)
    ran = metier("verify", "-C", lean, "--json")
    assert ran.code == 3
    assert not [problem for problem in ran.json["problems"] if problem.startswith("report and page")]
    (found,) = (problem for problem in ran.json["problems"] if EDITS[edit] in problem)
    assert found.startswith("verdict: ")


@pytest.mark.parametrize("column", ["check:greeting", "group", "slice"])
def test_what_guards_and_intervals_are_made_of_is_bound_to_the_look(lean: Path, column: str) -> None:
    import polars as pl

    from metier.core.hashing import file_sha256

    path = lean / ".metier/report/scores.parquet"
    other = {"check:greeting": pl.lit(1.0), "group": pl.col("row_id"), "slice": pl.lit('{"region":"north"}')}
    pl.read_parquet(path).with_columns(other[column].alias(column)).write_parquet(path)
    report = report_of(lean)
    report["files"]["scores_sha256"] = file_sha256(path)
    (lean / ".metier/report/report.json").write_text(json.dumps(report), encoding="utf-8")
    record_as_written(lean)
    ran = metier("verify", "-C", lean, "--json")
    assert ran.code == 3
    assert [problem for problem in ran.json["problems"] if "its scores are not those look" in problem]


def test_an_arm_that_is_left_out_of_the_report_is_missed(lean: Path) -> None:
    def without_rival(report: dict[str, Any]) -> None:
        del report["arms"][1]

    problems_after(lean, without_rival)
    record_as_written(lean)
    (problem,) = metier("verify", "-C", lean, "--json").json["problems"]
    assert problem == "verdict: arms that ran are prompt, tuned; scored were prompt, small, tuned."


def test_an_edited_page_and_a_missing_one_are_found_and_written_anew(lean: Path) -> None:
    page = lean / ".metier/report/index.html"
    written = page.read_bytes()
    page.write_bytes(written.replace(b"Not worth it", b"Worth it"))
    ran = metier("verify", "-C", lean, "--json")
    assert ran.code == 3
    assert ran.json["problems"] == [
        f"report and page: {page}: not the page that was written; run again to write it anew."
    ]
    page.unlink()
    ran = metier("verify", "-C", lean, "--json")
    assert (ran.code, len(ran.json["problems"])) == (3, 1)
    assert ran.json["problems"][0].endswith("missing; expected the page that was written; run again to write it anew.")
    assert metier("run", "-C", lean).code == 0
    assert page.read_bytes() == written
    assert metier("verify", "-C", lean).code == 0


def test_another_question_of_the_same_rows_is_counted_and_told(lean: Path) -> None:
    looks = report_of(lean)["looks"]
    assert (looks["on_these_rows"], looks["other_questions"]) == (1, 0)
    assert "Caution" not in report_of(lean)["verdict"]["sentence"]
    change(lean, "margin = 0.1\n", "margin = 0.2\n")
    ran = metier("run", "-C", lean, "--json")
    assert ran.code == 0, ran.err
    looks = ran.json["looks"]
    assert (looks["used"], looks["on_these_rows"], looks["other_questions"]) == (1, 2, 1)
    assert ran.json["verdict"]["sentence"].endswith(
        " Caution: 1 other question was asked of the same hold-out rows before; the error rates of all of them add up."
    )
    assert metier("verify", "-C", lean).code == 0
    change(lean, "margin = 0.2\n", "margin = 0.1\n")
    again = metier("run", "-C", lean, "--json")
    assert again.json["looks"]["other_questions"] == 0, "when the first was asked, it was the only one"
    assert metier("verify", "-C", lean).code == 0


@pytest.mark.parametrize("verb", [("check",), ("plan",), ("assess",), ("show", "0"), ("run", "--dry-run")])
def test_a_verb_that_only_looks_freezes_seals_and_records_nothing(fresh: Path, verb: tuple[str, ...]) -> None:
    ran = metier(verb[0], "-C", fresh, "--set", "decision.margin=0.05", *verb[1:])
    assert ran.code in (0, 3), ran.err
    assert events_of(fresh) == ["ledger_created"]
    objects = [path.read_bytes() for path in (fresh / ".metier/objects").rglob("*") if path.is_file()]
    assert all(map(is_pack, objects)), "rows in their own packs, and no seal"


def test_a_run_that_is_refused_by_its_budget_freezes_nothing(fresh: Path) -> None:
    assert metier("run", "-C", fresh, "--set", "budget.minutes=0.0001").code == 3
    assert events_of(fresh) == ["ledger_created"]


def test_a_run_under_set_is_verified_under_the_question_it_asked(fresh: Path) -> None:
    ran = metier("run", "-C", fresh, "--set", "decision.margin=0.2", "--set", "decision.alpha=0.04", "--json")
    assert ran.code == 0, ran.err
    assert (ran.json["question"]["margin"], ran.json["question"]["alpha"]) == (0.2, 0.04)
    found = metier("verify", "-C", fresh, "--json")
    assert (found.code, found.json["problems"]) == (0, [])
    assert len(found.json["notes"]) == 1


def test_the_tuning_is_in_the_cost_where_the_volume_is_declared() -> None:
    from metier.assess import TuningCosts
    from metier.road.conclude import _cost_ratio

    costs = TuningCosts(one_off=60.0, upkeep_per_month=0.0, request_before=2.0, request_after=1.0)
    value = ValueConfig(worth=1.0, requests_per_month=10, horizon_months=12)  # 60 / 120 = .5 a request
    after, before = [1.0, 1.0, 1.0], [2.0, 2.0, 2.0]
    shared = _cost_ratio(DecisionConfig(value=value, claim="as_good_for_less"), costs, after, before, alpha=0.05)
    alone = _cost_ratio(DecisionConfig(claim="as_good_for_less"), costs, after, before, alpha=0.05)
    assert shared is not None and alone is not None
    assert (shared["estimate"], alone["estimate"]) == (0.75, 0.5)
    assert shared["of"] == "a request with its share of the tuning (10 requests a month for 12 months)"
    assert alone["of"] == "a request"
    better = _cost_ratio(DecisionConfig(value=value), costs, after, before, alpha=0.05)
    assert "cheaper_from" not in alone and better is not None and "cheaper_from" not in better
    # 60 over 12 months is 5 a month, and a share of 1 a request makes both alike.
    assert shared["cheaper_from"] == {"high": pytest.approx(5.0), "low": pytest.approx(5.0)}


def test_the_volume_from_which_an_accepted_loss_pays_is_fixed_before_the_look(tmp_path: Path) -> None:
    text = FOR_LESS.replace(GUARD, VALUE + GUARD).replace("[price]", "[price]\nmachine_hour = 900.0")
    project = write_project(tmp_path / "p", text=text)
    report = metier("run", "-C", project, "--json").json
    fixed = report["provenance"]["before_look"]["cost_ratio"]["cheaper_from"]
    (limit, volume) = report["money"]["assumptions"]
    assert (limit["name"], volume["name"], volume["value"]) == ("limit", "requests_per_month", 50000.0)
    assert 0 < fixed["low"] <= fixed["high"]
    assert volume["zones"][0] == {"outcome": "NOT_WORTH_IT", "low": None, "high": pytest.approx(fixed["low"])}
    assert metier("verify", "-C", project).code == 0


Costs = tuple[float, ...]


def volume_of(bound: str, tuned: Costs, rival: Costs, *, fixed: float = 3.0, declared: float = 1.0) -> float | None:
    return cheaper_from(tuned, rival, fixed_per_month=fixed, requests_per_month=declared, bound=bound, alpha=0.05)


@pytest.mark.parametrize("declared", [0.01, 1.0, 3000.0])
def test_where_costs_scatter_the_lower_cost_is_shown_from_a_larger_volume_on_than_it_is_possible(
    declared: float,
) -> None:
    rng = np.random.default_rng(6)
    before, after = rng.lognormal(1, 0.8, size=40), rng.lognormal(0, 0.8, size=40)
    shown, possible = (volume_of(bound, tuple(after), tuple(before), declared=declared) for bound in ("high", "low"))
    assert shown is not None and possible is not None and possible < shown
    for turn, bound in ((shown, "high"), (possible, "low")):
        sides = [cost_ratio(after + 3.0 / (turn * by), before, alpha=0.05)[bound] for by in (0.999, 1.001)]
        assert sides[0] > 1 > sides[1], "the bound is 1 there"
    dear = tuple(3 * before)
    assert volume_of("high", dear, tuple(before)) is None and volume_of("low", dear, tuple(before)) is None


def test_a_model_that_costs_nothing_a_request_is_cheaper_from_where_its_tuning_is() -> None:
    free, rival = (0.0,) * 5, (2.0,) * 5
    assert volume_of("high", free, rival, fixed=5.0, declared=10.0) == pytest.approx(2.5)
    assert volume_of("high", free, rival, fixed=5.0, declared=1.0) == pytest.approx(2.5)
    assert volume_of("high", free, rival, fixed=0.0) == 0.0
    assert volume_of("high", rival, free) is None
    assert volume_of("high", free[:1], rival[:1]) is None, "one request has no bounds"


@pytest.mark.parametrize("seed", range(40))
def test_the_volume_agrees_with_the_cost_at_the_declared_one_however_costs_scatter(seed: int) -> None:
    """A share evens out costs that scatter: in some of these the upper bound falls below 1 as the share grows."""
    rng = np.random.default_rng(seed)
    after, before = rng.lognormal(0, rng.uniform(0.5, 2.2), size=59), rng.lognormal(0, 0.1, size=59)
    before *= cost_ratio(after, before, alpha=0.05)["high"] / rng.uniform(0.9, 1.2)
    declared = float(3.0 / after.mean() / rng.uniform(0.01, 1.0))
    ratio = cost_ratio(after + 3.0 / declared, before, alpha=0.05)
    found = {bound: volume_of(bound, tuple(after), tuple(before), declared=declared) for bound in ("high", "low")}
    shown, possible = (np.inf if volume is None else volume for volume in (found["high"], found["low"]))
    assert possible <= shown
    assert (ratio["high"] < 1) == (shown <= declared) and (ratio["low"] < 1) == (possible <= declared)


def test_volumes_are_read_as_they_were_fixed_and_an_earlier_look_knows_none() -> None:
    fixed = {"low": 0.5, "high": 1.2, "of": "a request"}
    assert cost_ratio_of(fixed, versus="prompt").cheaper_from is None
    read = cost_ratio_of({**fixed, "cheaper_from": {"high": None, "low": 3.0}}, versus="prompt")
    assert read.cheaper_from == (np.inf, 3.0) and read.versus == "prompt"


def test_the_bound_of_the_cost_spends_what_its_look_was_granted(lean: Path) -> None:
    first = report_of(lean)
    second = metier("run", "-C", lean, "--set", "tune.lr=0.004", "--json").json
    for report, granted in ((first, 0.05 / 3), (second, 0.05 / 4)):
        assert report["looks"]["alpha_this"] == pytest.approx(granted)
        assert report["provenance"]["before_look"]["cost_ratio"]["alpha"] == pytest.approx(granted)


def test_that_no_number_of_rows_decides_is_told_in_one_way(fresh: Path) -> None:
    ran = metier("run", "-C", fresh, "--set", "decision.max_holdout_rows=30", "--json")
    assert ran.code == 0, ran.err
    needed = ran.json["rows_needed"]
    assert (needed["holdout"], needed["groups"], needed["if_plan_gain"]) == (None, None, None)
    assert set(needed["by_rival"].values()) == {None}


def test_the_facts_are_those_of_the_run(lean: Path) -> None:
    from metier.core.project_file import load_project_file

    facts = report_of(lean)["provenance"]["before_look"]
    assert facts["comparators"] == ["prompt", "small"]
    assert facts["guard_reference"] == "small", "the best rival on dev"
    assert facts["binary"] is (asdict(load_project_file(lean).metric)["name"] == "all_pass")
