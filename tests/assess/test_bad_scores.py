"""Bad input to the verdict: a clear error or an honest "undecided", never a crash and never a made-up verdict."""

from __future__ import annotations

import math

import numpy as np
import pytest

from metier.assess import CostRatio, GainForecast, GuardScores, ScoreTable, TuningCosts, decide, resolved_question
from metier.core.errors import ConfigError, DataError
from metier.core.report import Forecast, GuardState, Outcome
from metier.core.settings import DecisionConfig, GuardConfig, PriceConfig, ValueConfig
from metier.road.cost import cost_ratio, request_costs
from tests.assess.test_decide import BAD, GOOD, answer, table

FOR_LESS = DecisionConfig(claim="as_good_for_less", limit=0.02)


def of(tuned, rival, groups=None, *, binary: bool = False) -> ScoreTable:
    return ScoreTable.of(
        tuned=tuned, rivals={"p": rival}, groups=range(len(tuned)) if groups is None else groups, binary=binary
    )


def guard(tuned, reference, groups=None) -> GuardScores:
    config = GuardConfig(name="g", on="metric", limit=0.05)
    groups = range(len(tuned)) if groups is None else groups
    return GuardScores.of(config, tuned=tuned, reference=reference, groups=groups, binary=False)


@pytest.mark.parametrize("margin", [0.0, 0.03])
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("in_groups", [False, True])
def test_arms_with_one_constant_score_are_undecided(margin: float, level: float, in_groups: bool) -> None:
    groups = np.arange(60) // (6 if in_groups else 1)
    found = answer(of([level] * 60, [level] * 60, groups), DecisionConfig(margin=margin))
    assert (found.verdict.outcome, found.verdict.reason) == (Outcome.NEED_HOLDOUT_ROWS, "too_few_discordant")
    assert found.gain.low < 0 < found.gain.high, "an interval of no width would claim certainty"


@pytest.mark.parametrize("in_groups", [False, True])
@pytest.mark.parametrize("gain", [True, False])
def test_one_row_that_differs_decides_nothing(gain: bool, in_groups: bool) -> None:
    first, second = [1.0] * 120, [1.0] * 119 + [0.0]
    tuned, rival = (first, second) if gain else (second, first)
    groups = np.arange(120) // (6 if in_groups else 1)
    for question in (DecisionConfig(margin=0.0), DecisionConfig(margin=0.03)):
        found = answer(of(tuned, rival, groups), question)
        assert (found.verdict.outcome, found.verdict.reason) == (Outcome.NEED_HOLDOUT_ROWS, "too_few_discordant")


def test_graded_scores_that_all_differ_by_the_same_on_five_rows_decide_nothing() -> None:
    for tuned, rival in (([0.8] * 5, [0.5] * 5), ([0.0] * 5, [1.0] * 5)):
        assert answer(of(tuned, rival)).verdict.outcome is Outcome.NEED_HOLDOUT_ROWS


def test_losses_on_few_graded_rows_are_not_taken_for_harmless() -> None:
    """Two losses in 60 rows: without the added rows the t bound says at most 7.3 points, with them 9.6."""
    lossy = guard([0.0] * 2 + [1.0] * 58, [1.0] * 60)
    found = answer(GOOD, guards=[lossy]).guards[0]
    assert found.state is GuardState.UNPROVEN
    # centre -2/62, se^2 = (4 - 62 x centre^2) / 62^2, t(59, .95) = 1.671093
    assert found.low == pytest.approx(-0.0857, abs=1e-4)


def test_a_guard_over_one_row_is_unproven() -> None:
    found = answer(GOOD, guards=[guard([1.0], [1.0])])
    assert (found.verdict.reason, found.guards[0].state) == ("guard_unproven:g", GuardState.UNPROVEN)
    assert (found.guards[0].low, found.guards[0].high) == (-1.0, 1.0)


@pytest.mark.parametrize(
    ("tuned", "groups", "message"),
    [([1.0] * 6, [None, *"abcde"], r"row 0 has no group \(1 such row\); expected a name for each row. Give rows that stand alone"),
     ([1.0] * 6, [1.0, math.nan, 2.0, 3.0, math.nan, 4.0], r"row 1 has no group \(2 such rows\)"),
     (["yes"] * 6, "abcdef", "could not convert string to float: 'yes'; expected one number from 0 to 1 for each row."),
     ([[1.0], [1.0, 0.0], 1.0, 1.0, 1.0, 1.0], "abcdef", "expected one number from 0 to 1 for each row."),
     ([[1.0]] * 6, "abcdef", r"\(6, 1\) numbers; expected one for each row. Average samples of a row first.")],
)  # fmt: skip
def test_scores_and_groups_that_are_none_are_named(tuned, groups, message: str) -> None:
    with pytest.raises(DataError, match=message):
        of(tuned, [0.0] * 6, groups)
    with pytest.raises(DataError, match=f"guard 'g'.*{message}"):
        guard(tuned, [0.0] * 6, groups)


def test_group_names_of_several_types_are_taken_as_text() -> None:
    mixed = of([1.0] * 6, [0.0] * 6, [1, 1.5, "a", "b", "c", ("d",)])
    assert len(set(mixed.group_N.tolist())) == 6


@pytest.mark.parametrize("value", [math.nan, 1.2])
def test_a_guard_whose_grader_gives_no_score_is_an_error(value: float) -> None:
    with pytest.raises(DataError, match=rf"guard 'g', tuned\": row 1 is {value}"):
        guard([1.0, value, 1.0], [1.0] * 3)


@pytest.mark.parametrize("ends", [(math.nan, math.nan), (0.5, math.nan), (-1.0, -0.5), (1.5, 0.5)])
def test_a_cost_ratio_that_is_none_decides_nothing(ends: tuple[float, float]) -> None:
    with pytest.raises(DataError, match="expected two numbers, 0 <= low <= high. Measure the cost per request of both"):
        answer(table(20, 20, 3000), FOR_LESS, cost_ratio=CostRatio(*ends, "few_shot"))


def test_a_cost_without_an_upper_end_is_unproven() -> None:
    found = answer(table(20, 20, 3000), FOR_LESS, cost_ratio=CostRatio(0.1, math.inf, "few_shot"))
    assert (found.verdict.outcome, found.verdict.reason) == (Outcome.NEED_HOLDOUT_ROWS, "cost_unproven")


def test_no_ratio_of_costs_comes_of_nothing_one_request_or_free_ones() -> None:
    assert request_costs([], PriceConfig()) == []
    for ours, theirs in (([], []), ([1.0], [2.0]), ([0.0, 0.0], [1.0, 2.0]), ([1.0, 2.0], [0.0, 0.0])):
        assert cost_ratio(ours, theirs, alpha=0.05) is None
    assert cost_ratio([1.0, math.nan], [1.0, 1.0], alpha=0.05) is None
    assert cost_ratio([1.0, 1.0], [2.0, 2.0], alpha=0.05) == {"estimate": 0.5, "low": 0.5, "high": 0.5}
    with pytest.raises(DataError, match="claim as_good_for_less without a cost ratio"):
        answer(table(20, 20, 3000), FOR_LESS)


def test_value_without_any_price_is_an_error_and_no_margin_of_zero() -> None:
    value = DecisionConfig(value=ValueConfig(worth=1.0, requests_per_month=10))
    free = TuningCosts(one_off=0.0, upkeep_per_month=0.0, request_before=0.0, request_after=0.0)
    with pytest.raises(ConfigError, match=r"neither the tuning nor a request costs anything.*Set \[price\], or give"):
        resolved_question(value, free)
    for wrong in (math.nan, -1.0, math.inf):
        costs = TuningCosts(one_off=wrong, upkeep_per_month=0.0, request_before=1.0, request_after=1.0)
        with pytest.raises(DataError, match="expected costs of 0 or more. Measure them again."):
            resolved_question(value, costs)


def test_a_forecast_without_an_upper_end_promises_nothing() -> None:
    point = Forecast(num_train=1000, low=math.nan, high=math.nan, level=0.8)
    with pytest.raises(DataError, match="the band at 1,000 train rows ends at nan; expected a number."):
        answer(BAD, forecast={"few_shot": GainForecast(num_train=500, points=(point,))})


def test_an_error_rate_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="alpha_this_look is nan"):
        decide(DecisionConfig(margin=0.03), GOOD, alpha_this_look=math.nan)


def test_few_groups_that_nearly_all_differ_have_a_spread_of_their_own() -> None:
    rng = np.random.default_rng(5)
    tuned, rival = (rng.random(60) * 0.3 + level for level in (0.5, 0.4))
    groups = np.arange(60) // 10
    found = answer(of(tuned, rival, groups)).gain
    assert (found.method, found.num_groups) == ("cr2_t", 6)
    assert found.high - found.low < 0.2
