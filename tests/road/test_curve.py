"""The learning curve of a whole run: its points, what the verdict makes of them, and what is not computed again."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metier import Project
from metier.assess import fit_curve
from metier.core.report import CurvePoint
from metier.core.tune_config import TuneConfig
from metier.evaluate import ScoreTable
from metier.ledger import Ledger, spent
from metier.road.curve import _loss_rows
from metier.road.past import past_predictions, score_forecasts
from metier.road.run import open_session
from metier.road.verdict import paired_table
from metier.road.verify import _plain, differences
from metier.road.worth import gain_forecasts
from tests.road.running import copy_of, metier, one_core
from tests.road.small_project import LEAN, write_project

WITH_CURVE = LEAN.replace("fractions = []", "fractions = [0.25, 0.5]\nchains = 2")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> tuple[Path, dict[str, Any]]:
    project_dir = write_project(tmp_path_factory.mktemp("curve") / "project", text=WITH_CURVE)
    with pytest.MonkeyPatch.context() as patch, one_core():
        patch.setenv("METIER_CACHE", str(cache_dir))
        ran = metier("run", "-C", project_dir, "--json")
    assert ran.code == 0, ran.err
    assert "tuned on 14 rows: dev score" in ran.err
    return project_dir, ran.json


def test_the_report_holds_the_points_of_nested_parts_and_what_more_rows_would_bring(
    measured: tuple[Path, dict[str, Any]],
) -> None:
    _, report = measured
    points = [CurvePoint(**point) for point in report["curve"]]
    assert [point.num_train for point in points] == [14, 28, 14, 28, 56]
    chains = {point.chain_seed for point in points}
    assert len(chains) == 2 and points[-1].chain_seed == points[0].chain_seed
    assert len({(point.chain_seed, point.train_seed) for point in points}) == 3
    fit = fit_curve(points, num_dev=10)
    told = {each["num_train"]: each for each in report["forecast"]}
    assert sorted(told) == [84, 112, 168, 224]
    again = fit.forecast(112, num_rows=24)
    assert (told[112]["low"], told[112]["high"], told[112]["level"]) == pytest.approx((again.low, again.high, 0.8))
    assert report["retrain_spread"]["df"] == 2 and report["retrain_spread"]["num_seeds"] == 2


def test_the_rival_that_learns_from_rows_is_fitted_on_nested_parts_too(measured: tuple[Path, dict[str, Any]]) -> None:
    curve = measured[1]["provenance"]["before_look"]["curve"]
    assert list(curve["rivals"]) == ["small"], "a language model would have to answer all dev rows again"
    points = [CurvePoint(**point) for point in curve["rivals"]["small"]]
    assert [point.num_train for point in points] == [14, 28, 14, 28, 56]
    assert {point.chain_seed for point in points} == {point["chain_seed"] for point in measured[1]["curve"]}


def test_what_was_fixed_before_the_look_holds_the_money_of_the_report(measured: tuple[Path, dict[str, Any]]) -> None:
    _, report = measured
    costs, money = report["provenance"]["before_look"]["costs"], report["money"]
    assert (money["tuning"], money["evaluation"]) == (costs["one_off"], costs["evaluation"])
    assert money["tuning"] == pytest.approx(report["costs"]["tune_cost"])
    assert money["evaluation"] > 0 and money["num_retrainings"] == 0
    assert [each["name"] for each in money["assumptions"]] == ["margin"]
    margin = money["assumptions"][0]["zones"]
    below = min(each["high"] for each in report["comparisons"])
    assert margin[-1]["outcome"] == "NOT_WORTH_IT" and margin[-1]["low"] == pytest.approx(below if below > 0 else None)


def test_a_gain_below_the_margin_is_held_against_the_forecast(measured: tuple[Path, dict[str, Any]]) -> None:
    verdict = measured[1]["verdict"]
    assert (verdict["outcome"], verdict["reason"]) == ("NOT_WORTH_IT", "below_margin")
    assert "four times the training rows are not forecast to reach it" in verdict["sentence"]


def test_what_was_decided_follows_from_the_files(
    measured: tuple[Path, dict[str, Any]], cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METIER_CACHE", str(cache_dir))
    with one_core():
        ran = metier("verify", "-C", measured[0])
    assert ran.code == 0, ran.err


def test_a_part_chooses_its_checkpoint_by_its_share_of_the_dev_rows() -> None:
    parts = [set(_loss_rows(200, fraction, chain_seed=5)) for fraction in (0.125, 0.25, 0.5, 1.0)]
    assert [len(part) for part in parts] == [32, 50, 100, 200]
    assert all(smaller < larger for smaller, larger in pairwise(parts))
    assert _loss_rows(20, 0.125, chain_seed=5) == list(range(20)), "few dev rows are all used"
    assert _loss_rows(200, 0.25, chain_seed=5) != _loss_rows(200, 0.25, chain_seed=6)


def test_a_second_run_tunes_no_part_again_and_one_chain_is_one_of_the_two(
    measured: tuple[Path, dict[str, Any]], tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METIER_CACHE", str(cache_dir))
    project_dir = copy_of(measured[0], tmp_path / "project")

    def tuned_parts() -> int:
        return len(list((project_dir / ".metier" / "stages").glob("curve-*/*/point.json")))

    before = tuned_parts()
    assert before == 10, "five parts of the tuned arm, five of the small one"
    with one_core():
        again = metier("run", "-C", project_dir, "--json")
        assert again.code == 0 and again.json == measured[1]
        assert tuned_parts() == before
        plan = metier("plan", "-C", project_dir, "--json", "--set", "curve.chains=1")
        without = metier("plan", "-C", project_dir, "--json", "--set", "curve.fractions=[]")
    assert (plan.json["curve_chains"], without.json["curve_chains"]) == (1, 0)
    assert plan.json["predicted_s"]["curve"] > 0 and "curve" not in without.json["predicted_s"]


@pytest.mark.parametrize("settings", ["curve.chains=1", "curve.fractions=[]"])
def test_another_curve_tunes_the_model_not_again_and_verifies(
    settings: str,
    measured: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    cache_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("METIER_CACHE", str(cache_dir))
    project_dir = write_project(tmp_path / "project", text=WITH_CURVE)
    name, _, value = settings.removeprefix("curve.").partition("=")
    path = project_dir / "metier.toml"
    path.write_text(re.sub(rf"{name} = .*", f"{name} = {value}", path.read_text()), encoding="utf-8")
    with one_core():
        ran = metier("run", "-C", project_dir, "--json")
        assert ran.code == 0, ran.err
        assert len(ran.json["curve"]) == (3 if name == "chains" else 0)
        assert ran.json["retrain_spread"] is None
        verified = metier("verify", "-C", project_dir)
        assert verified.code == 0, verified.err + verified.out
        tuned = list((project_dir / ".metier" / "stages" / "tune").iterdir())
        path.write_text(WITH_CURVE.replace("chains = 2", "chains = 3"), encoding="utf-8")
        assert metier("run", "-C", project_dir, "--json").code == 0
    assert list((project_dir / ".metier" / "stages" / "tune").iterdir()) == tuned


@pytest.mark.parametrize(
    ("fractions", "told"),
    [
        ("[0.5, 0.25]", r"fractions are \[0.5, 0.25\]; expected rising numbers between 0 and 1"),
        ("[0.5, 1.0]", "expected rising numbers between 0 and 1"),
        ("[0.5]", "expected 2 or more: with all rows that makes the points of a curve"),
    ],
)
def test_parts_that_make_no_curve_are_refused(fractions: str, told: str, tmp_path: Path) -> None:
    project_dir = write_project(tmp_path, text=LEAN.replace("fractions = []", f"fractions = {fractions}"))
    ran = metier("plan", "-C", project_dir)
    assert ran.code == 2
    assert re.search(told, ran.err), ran.err


def test_a_budget_without_room_says_what_a_curve_would_take(
    tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METIER_CACHE", str(cache_dir))
    project_dir = write_project(tmp_path / "project", text=WITH_CURVE)
    with one_core():
        whole = metier("plan", "-C", project_dir, "--json").json
        seconds = whole["predicted_s"]
        tight = (sum(seconds.values()) - seconds["curve"]) / 60 / 0.9 * 1.001
        found = metier("plan", "-C", project_dir, "--json", "--set", f"budget.minutes={tight}").json
    assert found["curve_chains"] < 2
    assert any("learning curve" in sentence for sentence in found["gave_up"])


NO_SMALL = WITH_CURVE.replace('[[arm]]\nkind = "small"\n\n', "").replace("[0.25, 0.5]", "[0.125, 0.25]")
OPEN = NO_SMALL.replace("plan_gain = 0.3", "plan_gain = 0.6")


def test_assess_tries_a_quarter_of_the_rows_and_a_run_finds_the_parts_done(
    tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METIER_CACHE", str(cache_dir))
    project_dir = write_project(tmp_path / "project", text=OPEN, num_rows=170)
    with one_core():
        clear = metier("assess", "-C", project_dir, "--json", "--set", "decision.plan_gain=0.15")
        assert (clear.code, clear.json["pilot"]) == (3, None), "too few hold-out rows are known without a pilot"
        found = metier("assess", "-C", project_dir, "--json")
        pilot = found.json["pilot"]
        assert [point["num_train"] for point in pilot["points"]] == [8, 17, 34], found.err
        assert pilot["forecast"]["num_train"] == 136
        assert found.json["go"] == (pilot["forecast"]["high"] - 0 >= 0.1), "the prompted base scores nothing here"
        parts = sorted(
            path.parent.parent.name for path in (project_dir / ".metier" / "stages").glob("curve-*/*/point.json")
        )
        assert parts == ["curve-0-0.0625", "curve-0-0.125", "curve-0-0.25"]
        times = {
            path: path.stat().st_mtime_ns
            for path in (project_dir / ".metier" / "stages").glob("curve-0-*/*/point.json")
        }
        ran = metier("run", "-C", project_dir, "--json")
    assert ran.code == 0, ran.err
    assert {path: path.stat().st_mtime_ns for path in times} == times, "no part was tuned again"
    assert [point["num_train"] for point in ran.json["curve"]] == [17, 34, 17, 34, 136]
    within = pilot["forecast"]["low"] <= arm_score(ran.json, "tuned") <= pilot["forecast"]["high"]
    assert ran.json["past_predictions"] == {
        "tuned_score": {
            "runs": 1,
            "within": int(within),
            "median_difference": pytest.approx(arm_score(ran.json, "tuned") - pilot["expected"], abs=1e-3),
        }
    }


def arm_score(report: dict[str, Any], name: str) -> float:
    (score,) = (arm["score"] for arm in report["arms"] if arm["name"] == name)
    return float(score)


RISING = {14: 0.30, 28: 0.45, 56: 0.60}


@pytest.mark.parametrize("other", ["", "of", "prior", "flat", "never opened", "too far"])
def test_a_score_on_more_rows_is_held_against_the_curve_of_fewer_and_a_killed_run_does_it_again(
    measured: tuple[Path, dict[str, Any]], tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    """A real ledger with an opened look; its curve is put on a rising line, as the tiny model learns nothing here."""
    monkeypatch.setenv("METIER_CACHE", str(cache_dir))
    project_dir = copy_of(measured[0], tmp_path / "project")
    rows, of = (560 if other == "too far" else 112), "another base" if other == "of" else "alike"
    parts: Any = SimpleNamespace(train=range(rows))
    tuning: Any = SimpleNamespace(
        likeness=of, rendered=parts, inputs={}, sft_config=TuneConfig(), plan=SimpleNamespace(num_train_rows=rows)
    )
    flat = {**RISING, 28: 0.60, 56: 0.30} if other == "flat" else RISING
    curve = measured[1]["provenance"]["before_look"]["curve"]
    points = [{**point, "score": flat[point["num_train"]]} for point in curve["points"]]
    facts = {"curve": {**curve, "points": points, "of": "alike", **({"prior": "older"} if other == "prior" else {})}}
    look_id = "nobody" if other == "never opened" else measured[1]["provenance"]["look_id"]
    monkeypatch.setattr("metier.ledger.facts_of_looks", lambda _: {look_id: facts})
    sealed: Any = SimpleNamespace(split_id="of a later run")
    with open_session(project_dir, Project.load(project_dir).config, what="metier run") as session:

        def told() -> dict[str, float] | None:
            return past_predictions(session, sealed).get("tuned_score")

        with monkeypatch.context() as dying:
            dying.setattr("metier.ledger.record_actual", raising)
            if not other:
                with pytest.raises(KeyboardInterrupt):
                    score_forecasts(session, tuning, score=0.65, num_rows=24)
        assert told() is None
        for _ in range(2):
            score_forecasts(session, tuning, score=0.65, num_rows=24)
        if other:
            assert told() is None
            return
        fit = fit_curve([CurvePoint(**point) for point in points], num_dev=10)
        low, expected, high = (fit.quantile(112, at, num_rows=24) for at in (0.1, 0.5, 0.9))
        assert low <= 0.65 <= high
        assert told() == {"runs": 1, "within": 1, "median_difference": pytest.approx(0.65 - expected)}


def raising(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_report_written_anew_is_no_earlier_run_and_books_no_machine_time(
    measured: tuple[Path, dict[str, Any]], tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METIER_CACHE", str(cache_dir))
    project_dir = copy_of(measured[0], tmp_path / "project")
    with Ledger.open(project_dir) as ledger:
        before = spent(ledger)
    with one_core():
        again = metier("run", "-C", project_dir, "--json", "--set", "price.machine_hour=3")
    assert again.code == 0, again.err
    assert again.json["past_predictions"] == {}
    with Ledger.open(project_dir) as ledger:
        assert spent(ledger) == before and before["machine_hour"] > 0


def test_a_curve_that_another_metier_fitted_is_said_to_be_and_not_called_wrong(
    measured: tuple[Path, dict[str, Any]], cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METIER_CACHE", str(cache_dir))
    monkeypatch.setattr("metier.assess.prior_hash", lambda: "a later one")
    with one_core():
        found = metier("verify", "-C", measured[0])
    assert found.code == 3
    (problem,) = [line for line in found.err.splitlines() if "curve" in line]
    assert "was fitted by a metier with other forms" in problem and "Verify with metier " in problem
    assert "decided again" not in found.err and "forecast[" not in found.err


def test_a_report_whose_curve_rises_verifies_and_holds_the_band_of_every_gain(
    measured: tuple[Path, dict[str, Any]], cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny model learns nothing here, so the points are put on a rising line before they are judged."""
    rising = {14: 0.30, 28: 0.45, 56: 0.60}
    points = [{**point, "score": rising[point["num_train"]]} for point in measured[1]["curve"]]
    facts = {**measured[1]["provenance"]["before_look"]}
    facts["curve"] = {**facts["curve"], "points": points, "rivals": {}}
    table = ScoreTable.from_parquet((measured[0] / ".metier/report/scores.parquet").read_bytes())
    bands = {name: each.points for name, each in (gain_forecasts(paired_table(table, facts), facts) or {}).items()}
    assert set(bands) == set(facts["comparators"]) and all(len(each) == 4 for each in bands.values())
    written = json.loads(json.dumps({name: [asdict(band) for band in each] for name, each in bands.items()}))
    assert list(differences({"gain_forecast": _plain(bands)}, {"gain_forecast": written})) == []
    written["small"][0]["high"] += 0.1
    assert list(differences({"gain_forecast": _plain(bands)}, {"gain_forecast": written})) != []
