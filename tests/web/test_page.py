"""The page holds the report, works offline, and never shows an empty hole."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from metier.core import DataError
from metier.core.report import CurvePoint, Forecast, Outcome, report_from_json
from metier.web import render_report, write_report
from metier.web.charts import frontier
from metier.web.sentences import next_step
from tests.browser.chromium import text_of
from tests.web.sample_report import sample_report


def test_the_first_screen_answers_the_five_questions() -> None:
    page = render_report(sample_report())
    first = page.partition("Replies to 3 dev rows")[0]
    for text in (
        "Worth it",
        "+19.3 points",
        "Gain over small",
        "9.1 min",
        "110 of 800",
        "Next:",
        "Serve the tuned model",
    ):
        assert text in first


def test_the_curve_names_the_loss_its_end_and_a_checkpoint_that_was_kept() -> None:
    curve = (
        {"step": 0, "dev_loss_nats": 0.693},
        {"step": 4, "dev_loss_nats": 0.812},
        {"step": 8, "dev_loss_nats": 0.75},
    )
    model = {"config": {"objective": "dpo"}, "num_steps": 20}
    page = text_of(render_report(replace(sample_report(), dev_curve=curve, model=model)))
    assert "Loss of pairs set aside over 8 steps of 20 planned (it no longer fell): 0.693 to 0.750 nats a pair" in page
    assert "Dev loss over 20 steps: 2.100 to 1.000 nats a token" in text_of(render_report(sample_report()))


def test_the_page_needs_no_network_and_no_script() -> None:
    page = render_report(sample_report())
    assert not re.findall(r"(?:src|href)\s*=|url\(|@import|<script", page.replace("&lt;script", ""))
    assert "&lt;script&gt;alert(1)" in page


def test_no_python_value_stands_on_the_page() -> None:
    text = text_of(render_report(sample_report()))
    assert "dev loss" in text.lower(), "the folded details are part of the text"
    assert re.findall(r"\bNone\b|\bTrue\b|\bFalse\b|\bnan\b|\binf\b|\{'|\['|\bnull\b", text) == []


def test_the_first_screen_says_how_sure_the_interval_is() -> None:
    first = text_of(render_report(sample_report()).partition("Replies to 3 dev rows")[0])
    assert "+11.3 to +28.3 points (95 % sure of the lower end, 98.8 % of the upper) on 150 hold-out rows" in first
    assert "lines are 95 % intervals" in first
    assert "asked for: +10.0 points" in first


def test_numbers_carry_their_mark_and_their_rows() -> None:
    text = text_of(render_report(sample_report()))
    for said in (
        "Replies to 3 dev rows, chosen by their place alone measured",
        "prompt 1.3 % on 150 3.3 % on 40 140 / 55 on 150 1,210 / 1,822 on 40 USD 0.0412 full",
        "price assumed",
        "Hold-out rows needed in all estimated",
        "machine hour USD 0.10 assumed",
    ):
        assert said in text, said


def test_reasons_beyond_the_third_are_counted_on_the_first_screen() -> None:
    assert "9 with a reply that breaks your own conventions; 2 for other reasons" in render_report(sample_report())


def test_rows_the_split_set_aside_are_not_all_called_near_the_hold_out() -> None:
    text = text_of(render_report(sample_report()))
    assert "150 hold-out rows; 2 rows set aside by the split: 2 nearly the same as a hold-out row. measured" in text


def test_a_control_character_of_a_reply_does_not_reach_the_page() -> None:
    report = sample_report()
    example = replace(report.examples[0], tuned="a\x00b\x1bc\n\td")
    assert "a\ufffdb\ufffdc\n\td" in render_report(replace(report, examples=(example,)))


def test_every_tag_is_closed() -> None:
    open_tags: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag not in ("meta", "br"):
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

        def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            """`<polyline/>` opens nothing."""

    Checker().feed(render_report(sample_report()))
    assert open_tags == []


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_has_a_headline_and_a_next_step(outcome: Outcome) -> None:
    report = sample_report(outcome)
    assert next_step(report)
    assert "<h1>" in render_report(report)


def test_a_failed_guard_names_what_got_worse() -> None:
    report = sample_report(Outcome.NOT_WORTH_IT)
    report = replace(report, verdict=replace(report.verdict, reason="guard:refunds"))
    assert "refunds got worse" in next_step(report)


def test_a_skipped_arm_says_why() -> None:
    report = sample_report()
    skipped = replace(report.arms[0], status="skipped", reason="no_guidelines", score=None, low=None, high=None)
    assert "not run: no guidelines" in render_report(replace(report, arms=(skipped, *report.arms[1:])))


def test_the_report_survives_json() -> None:
    report = sample_report()
    assert report_from_json(json.loads(json.dumps(report.as_json()))) == report


def test_a_report_of_another_version_or_shape_is_refused() -> None:
    values = json.loads(json.dumps(sample_report().as_json()))
    version = values["schema_version"]
    with pytest.raises(DataError, match=f"schema_version {version + 1}; this metier reads {version}"):
        report_from_json({**values, "schema_version": version + 1})
    with pytest.raises(DataError, match="unknown field 'colour'"):
        report_from_json({**values, "colour": "red"})
    with pytest.raises(DataError, match="missing"):
        report_from_json({key: value for key, value in values.items() if key != "verdict"})


def test_the_page_is_written_whole(tmp_path: Path) -> None:
    path = write_report(sample_report(), tmp_path / "index.html")
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")


def test_the_learning_curve_has_a_dot_a_point_a_band_and_a_table() -> None:
    points = tuple(
        CurvePoint(num_train=num, chain_seed=chain, train_seed=chain, score=score)
        for num, chain, score in ((100, 1, 0.5), (100, 2, 0.54), (200, 1, 0.6), (400, 1, 0.66))
    )
    forecast = tuple(
        Forecast(num_train=num, low=low, high=high, level=0.8)
        for num, low, high in ((800, 0.64, 0.74), (1600, 0.65, 0.8))
    )
    spread = {"sd": 0.028, "low": 0.0126, "high": 0.9, "num_seeds": 2, "df": 1}
    page = render_report(replace(sample_report(), curve=points, forecast=forecast, retrain_spread=spread))
    section = page.partition("What more training rows would bring")[2].partition("</section>")[0]
    assert section.count("<circle") == 4
    drawn = [float(value) for value in re.findall(r'c[xy]="([\d.]+)"', section)]
    drawn += [float(v) for pair in re.findall(r'points="([^"]+)"', section)[0].split() for v in pair.split(",")]
    assert min(drawn) >= 8 and max(drawn) <= 322
    for text in ("50.0 %, 54.0 %", "66.0 %", "64.0 % to 74.0 %", "1,600", "80 of 100 times", "differ by 2.8 points"):
        assert text in section, text
    assert "Not measured in this run. With <code>[curve] fractions</code>" in render_report(
        replace(sample_report(), curve=())
    )
    gains = (Forecast(num_train=800, low=-0.01, high=0.06, level=0.8),)
    told = replace(sample_report(), curve=points, forecast=forecast, curve_p=0.03, gain_forecast={"small": gains})
    assert "\u22121.0 to +6.0 points" in text_of(render_report(told))
    assert "The score rises with the rows (p = 0.030)" in text_of(render_report(told))
    flat = text_of(render_report(replace(told, gain_forecast={}, curve_p=0.4)))
    assert "not shown to rise with the rows (p = 0.400), so none are asked for" in flat


def test_quality_against_cost_names_who_beats_an_arm_in_both_and_who_is_beaten_by_nobody() -> None:
    report = sample_report()
    first = next(arm for arm in report.arms if arm.score is not None)
    made = {"cheap": (0.5, 0.0), "dear": (0.4, 2.0), "tuned": (0.8, 1.0), "bought": (0.8, 3.0), "best": (0.9, 5.0)}
    arms = tuple(
        replace(first, name=name, score=score, low=score - 0.1, high=score + 0.1, cost_per_1k_requests=cost)
        for name, (score, cost) in made.items()
    )
    found = frontier(replace(report, arms=arms))
    assert found is not None
    beaten = {line["arm"].name: line["beaten_by"] for line in found["lines"]}
    assert beaten == {"cheap": "", "dear": "tuned", "tuned": "", "bought": "tuned", "best": ""}
    assert [line["arm"].name for line in found["lines"]] == ["cheap", "tuned", "dear", "bought", "best"], "by cost"
    assert float(found["lines"][0]["x"]) == 55.1 and float(found["lines"][-1]["x"]) == 310.9
    assert [line["number"] for line in found["lines"]] == [1, 2, 3, 4, 5]
    assert all(float(line["top"]) <= float(line["y"]) <= float(line["bottom"]) for line in found["lines"])
    assert frontier(replace(report, arms=arms[:1])) is None
    page = render_report(report)
    section = page.partition("Quality against cost")[2].partition("</section>")[0]
    assert section.count("<circle") == sum(arm.score is not None for arm in report.arms)
    assert "<td>none</td>" in section
