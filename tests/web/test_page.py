"""The page holds the report, works offline, and never shows an empty hole."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from metier.core import DataError
from metier.core.report import Outcome, report_from_json
from metier.web import render_report, write_report
from metier.web.page import next_step
from tests.web.sample_report import sample_report


def test_the_first_screen_answers_the_five_questions() -> None:
    page = render_report(sample_report())
    first = page.partition("Three replies")[0]
    for text in ("Worth it", "+19.3 points", "Gain over small", "9.1 min", "110 of 800", "Next:", "Serve the adapter"):
        assert text in first


def test_the_page_needs_no_network_and_no_script() -> None:
    page = render_report(sample_report())
    assert not re.findall(r"(?:src|href)\s*=|url\(|@import|<script", page.replace("&lt;script", ""))
    assert "&lt;script&gt;alert(1)" in page


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
    with pytest.raises(DataError, match="schema_version 2; this metier reads 1"):
        report_from_json({**values, "schema_version": 2})
    with pytest.raises(DataError, match="unknown field 'colour'"):
        report_from_json({**values, "colour": "red"})
    with pytest.raises(DataError, match="missing"):
        report_from_json({key: value for key, value in values.items() if key != "verdict"})


def test_the_page_is_written_whole(tmp_path: Path) -> None:
    path = write_report(sample_report(), tmp_path / "index.html")
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
