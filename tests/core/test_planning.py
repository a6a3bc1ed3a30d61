"""Rows planned with the interval's own arithmetic, and bounds of a mean of skewed values."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import gammaln

from metier.core.errors import DataError
from metier.core.stats import (
    bonett_price,
    bonett_price_bounds,
    grouped_mean,
    rows_for_margin,
    rows_to_clear,
    skewed_mean,
)


def power(num_rows: int, discordance: float, gain: float, margin: float) -> float:
    """Probability by enumeration that Bonett-Price's lower bound reaches the margin."""
    most = min(num_rows, int(num_rows * discordance + 9 * (num_rows * discordance) ** 0.5 + 20))
    b, c = np.arange(most + 1)[:, None], np.arange(most + 1)[None, :]
    rest = np.maximum(num_rows - b - c, 0)
    p, q = (discordance + gain) / 2, (discordance - gain) / 2
    log = gammaln(num_rows + 1) - gammaln(b + 1) - gammaln(c + 1) - gammaln(rest + 1)
    log = log + rest * np.log1p(-discordance) + b * np.log(p) + c * np.log(q)
    low, _ = bonett_price_bounds(b, c, num_rows, alpha=0.05)
    return float(np.where(b + c <= num_rows, np.exp(log), 0.0)[low >= margin].sum())


@pytest.mark.parametrize(
    ("gain", "margin", "discordance"),
    [(0.10, 0.05, 0.2), (0.10, 0.05, 0.5), (0.20, 0.10, 0.3), (0.0, -0.05, 0.06), (0.0, -0.05, 0.1), (0.06, 0.03, 0.1)],
)
def test_planned_rows_have_the_power_they_are_planned_for(gain, margin, discordance) -> None:
    half = [round(10**6 * (discordance + side * gain) / 2) for side in (1, -1)]
    measured = bonett_price(gains=half[0], losses=half[1], num_rows=10**6)
    planned = rows_to_clear(measured, truth=gain, limit=margin, alpha=0.05)
    assert 0.797 < power(planned, discordance, gain, margin) < 0.82  # counts are whole numbers


def test_the_formula_alone_is_four_points_of_power_short_where_few_rows_differ() -> None:
    num_rows = rows_for_margin(plan_gain=0.0, margin=-0.05, discordance=0.06, alpha=0.05)
    assert num_rows == 149
    assert power(num_rows, 0.06, 0.0, -0.05) == pytest.approx(0.762, abs=5e-4)


def test_few_groups_need_more_rows_than_the_normal_quantile_says() -> None:
    value_N = np.random.default_rng(1).normal(0.0, 0.1, 20)
    measured = grouped_mean(value_N, np.arange(20))
    exactly = 20 * measured.stderr**2
    found = rows_to_clear(measured, truth=0.0, limit=-0.085, alpha=0.05)
    by_formula = 6.182557 * exactly / 0.085**2
    # With n rows: (t(n-1, .95) + t(n-1, .8))^2 x variance <= n x .085^2
    from scipy.stats import t

    enough = [n for n in range(5, 40) if (t.ppf(0.95, n - 1) + t.ppf(0.8, n - 1)) ** 2 * exactly <= n * 0.085**2]
    assert found == enough[0]
    assert found >= by_formula + 1.5


def test_planned_rows_hold_five_groups_at_least_and_none_may_decide() -> None:
    measured = grouped_mean(np.tile([0.0, 0.02], 30), np.repeat(np.arange(10), 6))
    assert rows_to_clear(measured, truth=0.9, limit=0.1, alpha=0.05) == 30
    plan = {"truth": 0.06, "alpha": 0.05}
    seen = bonett_price(gains=30, losses=15, num_rows=500)
    assert rows_to_clear(seen, limit=0.03, **plan) == 637
    assert rows_to_clear(seen, limit=0.03, max_rows=636, **plan) is None
    assert rows_to_clear(seen, limit=0.03, max_rows=637, **plan) == 637
    assert rows_to_clear(seen, limit=0.06, **plan) is None


def test_bounds_of_values_that_are_not_skewed_are_those_of_t() -> None:
    # Mean 2, sd 1, n 3: t(2, .95) = 2.919986; 2 -+ 2.919986 / sqrt(3)
    assert skewed_mean([1.0, 2.0, 3.0], alpha=0.05) == pytest.approx((2 - 1.685855, 2 + 1.685855), abs=1e-5)
    assert skewed_mean([4.0, 4.0], alpha=0.05) == (4.0, 4.0)


def test_bounds_are_wider_on_the_long_side_only_and_mirror() -> None:
    values = np.array([1.0, 1.0, 1.0, 2.0, 9.0, 1.0, 1.5, 1.0])
    mean, half = values.mean(), 1.894579 * values.std(ddof=1) / 8**0.5  # t(7, .95)
    found, mirrored = skewed_mean(values, alpha=0.05), skewed_mean(-values, alpha=0.05)
    assert found.low == pytest.approx(mean - half, abs=1e-5)
    assert found.high > mean + 1.2 * half
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))


def test_a_long_tail_is_covered_by_the_skewed_bound_and_missed_by_the_normal_one() -> None:
    rng, reps, missed, normal = np.random.default_rng(6), 2000, 0, 0
    for _ in range(reps):
        values = rng.lognormal(-0.125, 0.5, 60)  # mean 1
        missed += skewed_mean(values, alpha=0.05).high < 1
        normal += values.mean() + 1.644854 * values.std(ddof=1) / 60**0.5 < 1
    assert missed / reps <= 0.05 + 3 * (0.05 * 0.95 / reps) ** 0.5
    assert normal / reps > 0.07


def test_a_mean_of_one_skewed_value_is_refused() -> None:
    for values in ([1.0], [], [1.0, np.nan]):
        with pytest.raises(DataError, match=f"{len(values)} values; expected two finite numbers or more."):
            skewed_mean(values, alpha=0.05)
