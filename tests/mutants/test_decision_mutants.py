"""Silent failures put into the curve and the verdict, one at a time; each must be caught by the named test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from metier.assess import curve, guards, needed, scores
from metier.core.report import GuardState
from metier.core.stats import clustered, rows_for_precision, skewed
from tests.assess import test_bad_scores, test_curve, test_decide
from tests.core import test_planning, test_stats

PatchIt = pytest.MonkeyPatch
Place = tuple[Any, str, Any]
"""Where the mutant is put: module or class, name, what it becomes."""

deciding = import_module("metier.assess.decide")  # `metier.assess.decide` is the verb


def without_scored_rows() -> Place:
    real = curve.CurveFit._predicted
    return curve.CurveFit, "_predicted", lambda self, num_train, _num_rows: real(self, num_train, None)


def without_runs() -> Place:
    real = curve.CurveFit._predicted
    return curve.CurveFit, "_predicted", lambda self, *given: real(
        replace(self, run_var_S=np.zeros_like(self.run_var_S)), *given
    )  # fmt: skip


def without_error_of_gain() -> Place:
    real = curve.CurveFit.forecast_gain
    return curve.CurveFit, "forecast_gain", lambda self, gain, *given, **named: real(
        self, replace(gain, stderr=0.0), *given, **named
    )  # fmt: skip


def always_rising() -> Place:
    return curve, "flat_p_value", lambda _points: 0.0


def any_number_of_times() -> Place:
    return curve.CurveFit, "_require_near", lambda _self, _num_train: None


def eight_times() -> Place:
    real = scores.GainForecast.rows_to_reach
    return scores.GainForecast, "rows_to_reach", lambda self, margin: real(self, margin, max_times=8.0)


@pytest.mark.parametrize(
    ("mutant", "test"),
    [
        (without_scored_rows, test_curve.test_more_runs_and_more_dev_rows_narrow_a_band_and_new_rows_widen_it),
        (without_runs, test_curve.test_a_band_holds_the_next_run_and_not_only_the_mean_of_runs),
        (
            without_error_of_gain,
            test_curve.test_a_forecast_of_the_gain_starts_from_what_was_measured_and_rises_with_the_curve,
        ),
        (always_rising, test_curve.test_a_curve_that_is_not_shown_to_rise_asks_for_no_rows),
        (any_number_of_times, test_curve.test_what_cannot_be_forecast_is_refused),
        (eight_times, test_decide.test_need_train_rows_when_the_band_reaches_the_margin_within_four_times_the_rows),
    ],
)
def test_a_forecast_that_promises_too_much(
    mutant: Callable[[], Place], test: Callable[[], None], monkeypatch: PatchIt
) -> None:
    caught(mutant, test, monkeypatch)


def upper_bounds_not_shared() -> Place:
    real = deciding._rivals

    def each_alone(table: Any, alpha: float, forecast: Any) -> Any:
        return [
            replace(rival, comparison=replace(rival.comparison, high=rival.gain.high(alpha)))
            for rival in real(table, alpha, forecast)
        ]

    return deciding, "_rivals", each_alone


def estimate_for_bound() -> Place:
    return deciding, "_reached", lambda rival, margin: rival.comparison.estimate >= margin


def rows_for_groups() -> Place:
    real = scores.paired_gain

    def alone(first: Any, second: Any, groups: Any, *, binary: bool, num_groups: int) -> Any:
        return real(first, second, np.arange(len(groups)), binary=binary, num_groups=len(groups))

    return deciding, "paired_gain", alone


def any_spread_believed() -> Place:
    return deciding, "MIN_DISCORDANT", 0


def no_groups_added() -> Place:
    real = scores.grouped_mean
    return scores, "grouped_mean", lambda values, groups, **_: real(values, groups)


def each_guard_alone() -> Place:
    return guards, "holm", lambda p_values, *, alpha: [p <= alpha for p in p_values]


def unproven_is_passed() -> Place:
    real = deciding.assess_guards

    def lenient(given: Any, *, alpha: float) -> Any:
        reports = real(given, alpha=alpha)
        return tuple(replace(r, state=GuardState.PASSED) if r.state is GuardState.UNPROVEN else r for r in reports)

    return deciding, "assess_guards", lenient


def planned_by_the_formula() -> Place:
    def formula(measured: Any, *, truth: float, limit: float, **named: Any) -> int | None:
        variance = measured.stderr**2 * measured.num_rows
        return rows_for_precision(distance=abs(truth - limit), variance=variance, **named)

    return needed, "rows_to_clear", formula


def rows_of_a_group_independent() -> Place:
    return clustered, "_correlation", lambda _groups: 0.0


def skewness_ignored() -> Place:
    return skewed, "_untransformed", lambda quantile, _skewness: quantile


@pytest.mark.parametrize(
    ("mutant", "test"),
    [
        (upper_bounds_not_shared, test_decide.test_upper_bounds_are_shared_among_rivals_and_lower_bounds_are_not),
        (estimate_for_bound, test_decide.test_open_says_how_many_rows_would_decide),
        (rows_for_groups, test_decide.test_rows_are_counted_in_groups_where_groups_count),
        (any_spread_believed, test_decide.test_below_ten_differing_rows_not_worth_it_is_not_available),
        (no_groups_added, test_bad_scores.test_losses_on_few_graded_rows_are_not_taken_for_harmless),
        (each_guard_alone, test_decide.test_harm_is_corrected_for_the_number_of_guards_and_passing_is_not),
        (unproven_is_passed, test_decide.test_an_unproven_required_guard_keeps_a_good_verdict_open),
        (planned_by_the_formula, test_decide.test_open_says_how_many_rows_would_decide),
        (rows_of_a_group_independent, test_stats.test_correlated_rows_in_unequal_groups_leave_fewer_degrees_of_freedom),
        (skewness_ignored, test_planning.test_bounds_are_wider_on_the_long_side_only_and_mirror),
    ],
)
def test_a_verdict_that_is_too_sure(
    mutant: Callable[[], Place], test: Callable[[], None], monkeypatch: PatchIt
) -> None:
    caught(mutant, test, monkeypatch)


def caught(mutant: Callable[[], Place], test: Callable[[], None], monkeypatch: PatchIt) -> None:
    """The named test passes, and fails by its own assertion, or for want of the error it waits for, with the mutant."""
    test()
    monkeypatch.setattr(*mutant())
    with pytest.raises((AssertionError, pytest.fail.Exception)) as failed:
        test()
    assert failed.type is AssertionError or "DID NOT RAISE" in str(failed.value)
