"""Money on the page: what it costs and brings, what would change the answer, which rows are missing."""

from __future__ import annotations

import doctest
from dataclasses import replace

import pytest

import metier.web.worth_words as words
from metier.assess import TuningCosts, assumptions, break_even, net_worth
from metier.core.report import Forecast, MissingRows, MoneyReport, Report
from metier.core.settings import DecisionConfig, ValueConfig
from metier.web import render_report
from tests.assess.test_money import compared
from tests.browser.chromium import text_of
from tests.web.sample_report import sample_report

COSTS = TuningCosts(one_off=120.0, upkeep_per_month=2.0, request_before=0.002, request_after=0.001)
VALUE = ValueConfig(worth=0.5, requests_per_month=1000, horizon_months=12)
MISSING = (
    MissingRows(part="hold-out", purpose="decide", rows=130, groups=90, cost=97.5, gain=None),
    MissingRows(
        part="train",
        purpose="double",
        rows=1458,
        groups=None,
        cost=None,
        gain=Forecast(num_train=916, low=-0.01, high=0.06, level=0.8),
    ),
)


def with_money(question: DecisionConfig, *, low: float, high: float, label_row: float | None = 0.75) -> Report:
    gains = {"low": low, "estimate": (low + high) / 2, "high": high}
    money = MoneyReport(
        currency="USD", versus="few_shot", tuning=120.0, evaluation=33.0, num_retrainings=0, upkeep_per_month=2.0,
        request_before=0.002, request_after=0.001,
        label_row=label_row, break_even=break_even(COSTS, question.value, gains), net=net_worth(COSTS, question.value, gains),
        assumptions=assumptions(question, COSTS, compared(low, high)), missing=MISSING,
    )  # fmt: skip
    past = {"run_minutes": {"runs": 4.0, "within": 3.0, "median_ratio": 1.08}}
    return replace(sample_report(), money=money, past_predictions=past)


def test_the_example_prints_what_it_says() -> None:
    assert doctest.testmod(words).failed == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.5, "0.5"),
        (1234567.0, "1,230,000"),
        (999.9, "1,000"),
        (12.34, "12.3"),
        (1e-5, "0.00001"),
        (100.0, "100"),
    ],
)
def test_three_digits_that_count(value: float, text: str) -> None:
    assert words.significant(value) == text


def test_the_page_says_what_it_costs_what_it_brings_and_what_would_change_the_answer() -> None:
    text = " ".join(text_of(render_report(with_money(DecisionConfig(value=VALUE), low=0.03, high=0.09))).split())
    for part in (
        "one tuning USD 120.00",
        "upkeep, a month USD 2.00",
        "1,000 requests, few_shot USD 2.00",
        "one more row, a person's time USD 0.75",
        "requests a month from which it pays, over few_shot 387 (261 to 750)",
        "left at the declared volume, over few_shot USD 228.00 (USD 48.00 to USD 408.00)",
        "requests a month: 1,000 not worth it below 261, undecided from 261 to 750, worth it from 750",
        "cost of the tuning: USD 120.00 worth it below USD 168.00",
        "hold-out rows, to decide 90 groups (130 rows) USD 97.50 a decision",
        "training rows, twice as many 1,458 not priced a gain of \u22121.0 to +6.0 points (80 %) over small",
        "Earlier predictions here, run, minutes: 3 of 4 within their range; what happened was 1.08 times the prediction",
    ):
        assert part in text, part


def test_without_a_declared_value_only_the_margin_can_turn_the_answer() -> None:
    report = with_money(DecisionConfig(margin=0.05), low=0.03, high=0.09, label_row=None)
    text = " ".join(text_of(render_report(report)).split())
    assert "gain asked for, in points: 5.0 worth it below 3.0, undecided from 3.0 to 9.0, not worth it from 9.0" in text
    assert "what a right reply is worth not declared" in text
    assert "no price was set in [price] label_minute before the look" in text


def test_a_gain_that_pays_at_no_volume_says_so() -> None:
    lost = words.money_lines(with_money(DecisionConfig(value=VALUE), low=-0.05, high=-0.01))
    assert dict(lost)["requests a month from which it pays, over few_shot"] == "at no volume"
    open_low = words.money_lines(with_money(DecisionConfig(value=VALUE), low=-0.05, high=0.08))
    pays = "requests a month from which it pays, over few_shot"
    assert dict(open_low)[pays] == "1,410 (293 to no volume at all)"
    only_high = words.money_lines(with_money(DecisionConfig(value=VALUE), low=-0.09, high=0.01))
    assert dict(only_high)[pays].startswith("at no volume; at the upper end of the gain 2,")


def test_retraining_stands_in_a_line_of_its_own() -> None:
    report = with_money(DecisionConfig(value=VALUE), low=0.03, high=0.09)
    assert report.money is not None
    again = replace(report, money=replace(report.money, num_retrainings=3))
    line = dict(words.money_lines(again))["3 more tunings within the horizon, each measured"]
    assert line == "USD 459.00"


def test_a_report_of_an_older_metier_has_no_money_and_no_hole() -> None:
    page = render_report(replace(sample_report(), money=None))
    assert "<h2>Money" not in page
    assert "What would change the answer" not in page
