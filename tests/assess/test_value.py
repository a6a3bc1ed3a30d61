"""Margins from money, and break-even volumes."""

from __future__ import annotations

import pytest

from metier.assess import (
    TuningCosts,
    break_even_requests,
    fixed_per_request,
    gain_bound,
    planned_gain,
    resolved_question,
    value_margin,
)
from metier.core.errors import ConfigError
from metier.core.settings import DecisionConfig, ValueConfig

COSTS = TuningCosts(one_off=120.0, upkeep_per_month=0.0, request_before=0.002, request_after=0.001)


def test_the_margin_is_the_gain_that_pays_for_the_tuning() -> None:
    # 120 / 12 = 10 a month; 10 / 1000 - .001 = .009 a request; / .5 = .018
    value = ValueConfig(worth=0.5, requests_per_month=1000, horizon_months=12)
    assert value_margin(value, COSTS) == pytest.approx(0.018)
    question = resolved_question(DecisionConfig(value=value), COSTS)
    assert (question.margin, question.value) == (pytest.approx(0.018), None)


def test_tuning_that_saves_more_than_it_costs_needs_no_gain() -> None:
    assert value_margin(ValueConfig(worth=0.5, requests_per_month=1e6), COSTS) == 0.0


def test_a_question_with_a_margin_is_left_as_it_is() -> None:
    question = DecisionConfig(margin=0.04)
    assert resolved_question(question, COSTS) is question


def test_a_gain_that_cannot_be_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="the gain that pays for tuning is 2.00, and a score cannot rise by more than 1."
    ):
        resolved_question(
            DecisionConfig(value=ValueConfig(worth=0.5, requests_per_month=10)),
            TuningCosts(one_off=120, upkeep_per_month=0, request_before=0, request_after=0),
        )


def test_break_even_volume_by_hand_and_never() -> None:
    # 10 a month / (.001 + .5 x .018) = 1000 requests: the inverse of the margin above
    assert break_even_requests(COSTS, worth=0.5, gain_low=0.018, horizon_months=12) == pytest.approx(1000)
    assert break_even_requests(COSTS, worth=0.5, gain_low=-0.002, horizon_months=12) is None


def test_the_tuning_is_spread_over_the_declared_requests() -> None:
    value = ValueConfig(worth=0.5, requests_per_month=1000, horizon_months=12)
    assert fixed_per_request(value, COSTS) == pytest.approx(0.01)  # 120 / (12 x 1000)


def test_as_good_for_less_takes_the_volume_from_the_value_and_no_margin() -> None:
    value = ValueConfig(worth=0.5, requests_per_month=1, horizon_months=1)  # a margin of 240: no gain would pay
    question = resolved_question(DecisionConfig(value=value, claim="as_good_for_less", limit=0.05), COSTS)
    assert (question.margin, question.value, question.limit) == (None, None, 0.05)


def test_a_gain_is_held_against_the_margin_or_the_accepted_loss_and_planned_for_accordingly() -> None:
    better = DecisionConfig(margin=0.04)
    assert (gain_bound(better), planned_gain(better)) == (0.04, 0.08)
    assert planned_gain(DecisionConfig(margin=0.04, plan_gain=0.1)) == 0.1
    for_less = DecisionConfig(claim="as_good_for_less", limit=0.03)
    assert (gain_bound(for_less), planned_gain(for_less)) == (-0.03, 0.0)
