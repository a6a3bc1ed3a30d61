"""Intervals, tests and row counts against published figures and exact enumeration."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy.special import chdtrc, gammaln
from scipy.stats import binom

from metier.core.errors import DataError
from metier.core.stats import (
    average_within_rows,
    bell_mccaffrey_df,
    bonett_price,
    bonett_price_bounds,
    bootstrap_t,
    clopper_pearson,
    design_effect,
    grouped_mean,
    holm,
    intra_class_correlation,
    jeffreys,
    mcnemar_exact,
    mcnemar_mid_p,
    min_detectable_gain,
    rows_for_margin,
    rows_for_no_gain,
    wald,
    wilson,
)

Z95 = 1.6448536269514722


def tables(num_rows: int, discordance: float, gain: float):
    """Every table of gains and losses in `num_rows` rows, with its probability."""
    b, c = np.arange(num_rows + 1)[:, None], np.arange(num_rows + 1)[None, :]
    rest = np.maximum(num_rows - b - c, 0)
    p, q = (discordance + gain) / 2, (discordance - gain) / 2
    log = (
        gammaln(num_rows + 1)
        - gammaln(b + 1)
        - gammaln(c + 1)
        - gammaln(rest + 1)
        + b * np.log(p)
        + rest * np.log1p(-discordance)
    )
    log = log + (c * np.log(q) if q > 1e-12 else np.where(c > 0, -np.inf, 0))
    return b, c, np.where(b + c <= num_rows, np.exp(log), 0.0)


def rates(num_rows: int, discordance: float, margin: float, bounds) -> list[float]:
    """False WORTH_IT, false NOT_WORTH_IT and coverage of the two-sided 95 % interval at true gain = margin."""
    b, c, p = tables(num_rows, discordance, margin)
    low, high = bounds(b, c, num_rows, 0.05)
    low95, high95 = bounds(b, c, num_rows, 0.025)
    return [
        float(p[low >= margin].sum()),
        float(p[high < margin].sum()),
        float(p[(low95 <= margin) & (margin <= high95)].sum()),
    ]


def wald_bounds(b, c, num_rows, alpha):
    gain = (b - c) / num_rows
    half = -binom_z(alpha) * np.sqrt(np.maximum((b + c) / num_rows - gain**2, 0) / num_rows)
    return gain - half, gain + half


def adjusted_bounds(b, c, num_rows, alpha):
    return bonett_price_bounds(b, c, num_rows, alpha=alpha)


def binom_z(alpha: float) -> float:
    return {0.05: -Z95, 0.025: -1.959963984540054}[alpha]


def tango_rates(num_rows: int, discordance: float, margin: float) -> list[float]:
    """The same three rates for Tango's score interval (1998), by inverting its statistic at the margin."""
    b, c, p = tables(num_rows, discordance, margin)
    a2, b2, c2 = 2 * num_rows, -b - c + (2 * num_rows - b + c) * margin, -c * margin * (1 - margin)
    q21 = (np.sqrt(b2**2 - 4 * a2 * c2) - b2) / (2 * a2)
    t = (b - c - num_rows * margin) / np.sqrt(num_rows * (2 * q21 + margin * (1 - margin)))
    return [float(p[t >= Z95].sum()), float(p[t < -Z95].sum()), float(p[np.abs(t) <= 1.959963984540054].sum())]


def test_wilson_meets_the_published_anchors() -> None:
    assert wilson(85, 100) == pytest.approx((0.7672, 0.9069), abs=5e-5)
    assert wilson(170, 200) == pytest.approx((0.7939, 0.8929), abs=5e-5)


@pytest.mark.parametrize(
    ("interval", "method"), [(wilson, "wilson"), (jeffreys, "jeffreys"), (clopper_pearson, "beta"), (wald, "normal")]
)
@pytest.mark.parametrize("successes", [1, 15, 29])
def test_proportion_intervals_equal_statsmodels(interval, method, successes) -> None:
    from statsmodels.stats.proportion import proportion_confint

    expected = proportion_confint(successes, 30, method=method)
    found = interval(successes, 30)
    assert (max(found.low, 0), min(found.high, 1)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("num_rows", "interval", "expected"),
    [(100, wald, 0.877), (100, wilson, 0.966), (100, jeffreys, 0.935), (100, clopper_pearson, 0.983),
     (30, wald, 0.782), (30, wilson, 0.939), (300, wald, 0.926), (300, wilson, 0.955)],
)  # fmt: skip
def test_exact_coverage_at_a_share_of_95_percent(num_rows, interval, expected) -> None:
    k = np.arange(num_rows + 1)
    covers = [interval(int(i), num_rows).low <= 0.95 <= interval(int(i), num_rows).high for i in k]
    assert binom.pmf(k, num_rows, 0.95)[covers].sum() == pytest.approx(expected, abs=5e-4)


def test_zero_failures_leave_three_in_n_and_the_ends_stay_in_the_scale() -> None:
    assert clopper_pearson(0, 300, level=0.90).high == pytest.approx(3 / 300, rel=0.01)
    assert (jeffreys(0, 10).low, clopper_pearson(0, 10).low, wilson(0, 10).low) == (0, 0, 0)
    assert (jeffreys(10, 10).high, clopper_pearson(10, 10).high, wilson(10, 10).high) == (1, 1, 1)


@pytest.mark.parametrize("interval", [wilson, jeffreys, clopper_pearson, wald])
def test_a_share_of_no_rows_is_an_error_not_zero(interval) -> None:
    with pytest.raises(DataError, match="no rows; a share of nothing has no interval. Score at least one row."):
        interval(0, 0)
    with pytest.raises(DataError, match="11 successes in 10 rows; expected 0 to 10."):
        interval(11, 10)


def test_mcnemar_meets_its_anchor_and_its_edges() -> None:
    assert mcnemar_exact(13, 6) == pytest.approx(0.1671, abs=5e-5)
    assert chdtrc(1, (abs(13 - 6) - 1) ** 2 / 19) == pytest.approx(0.1687, abs=5e-4)
    assert mcnemar_exact(0, 0) == mcnemar_mid_p(0, 0) == 1.0
    assert mcnemar_exact(5, 5) == mcnemar_mid_p(5, 5) == 1.0
    assert mcnemar_exact(0, 3) == 0.25
    assert mcnemar_mid_p(0, 3) == pytest.approx(0.125)  # 2/8 less the 1/8 of the table itself
    assert mcnemar_exact(6, 13) == mcnemar_exact(13, 6)


def test_mcnemar_size_and_power_by_enumeration() -> None:
    b, c, null = tables(313, 0.10, 0.0)
    _, _, true = tables(313, 0.10, 0.05)
    asymptotic = chdtrc(1, (b - c) ** 2 / np.maximum(b + c, 1))
    found = [
        [float(p[test <= 0.05].sum()) for p in (null, true)]
        for test in (mcnemar_exact(b, c), mcnemar_mid_p(b, c), asymptotic)
    ]
    assert found == pytest.approx(np.array([[0.031, 0.765], [0.046, 0.811], [0.051, 0.827]]), abs=6e-4)


def test_bonett_price_adds_one_row_to_each_side() -> None:
    # (13 + 1) / 202 = .069307, (6 + 1) / 202 = .034653; se^2 = (.103960 - .034653^2) / 202 = .00050871
    gain = bonett_price(gains=13, losses=6, num_rows=200)
    assert gain.estimate == pytest.approx(0.035)
    assert (gain.low(0.05), gain.high(0.025)) == pytest.approx(
        (0.034653 - Z95 * 0.0225546, 0.034653 + 1.959964 * 0.0225546), abs=2e-6
    )
    low, high = bonett_price_bounds(13, 6, 200, alpha=0.05)
    assert (float(low), float(high)) == pytest.approx((gain.low(0.05), gain.high(0.05)))
    assert bonett_price(gains=6, losses=13, num_rows=200).high(0.05) == pytest.approx(-gain.low(0.05))


def test_bonett_price_refuses_counts_that_do_not_fit() -> None:
    with pytest.raises(DataError, match="8 gains and 5 losses in 10 rows; expected counts that fit."):
        bonett_price(gains=8, losses=5, num_rows=10)


@pytest.mark.parametrize(
    ("num_rows", "discordance", "by_wald", "by_tango", "by_bonett_price"),
    [(100, 0.05, (0.021, 0.100, 0.902), (0.087, 0.039, 0.939), (0.010, 0.039, 0.974)),
     (200, 0.10, (0.045, 0.056, 0.948), (0.052, 0.049, 0.950), (0.038, 0.049, 0.959))],
)  # fmt: skip
def test_error_rates_of_paired_intervals_at_true_gain_equal_to_margin(
    num_rows, discordance, by_wald, by_tango, by_bonett_price
) -> None:
    assert rates(num_rows, discordance, 0.03, wald_bounds) == pytest.approx(by_wald, abs=6e-4)
    assert tango_rates(num_rows, discordance, 0.03) == pytest.approx(by_tango, abs=6e-4)
    assert rates(num_rows, discordance, 0.03, adjusted_bounds) == pytest.approx(by_bonett_price, abs=6e-4)


def test_bonett_price_never_says_worth_it_falsely_more_often_than_one_time_in_twenty() -> None:
    worst = 0.0
    for num_rows in (50, 100, 150, 200, 300, 500, 800):
        for discordance in (0.05, 0.1, 0.2, 0.3, 0.5):
            for margin in (0.01, 0.02, 0.03, 0.05, 0.1):
                if margin <= discordance:
                    b, c, p = tables(num_rows, discordance, margin)
                    low, _ = bonett_price_bounds(b, c, num_rows, alpha=0.05)
                    worst = max(worst, float(p[low >= margin].sum()))
    assert worst == pytest.approx(0.0499, abs=5e-5)


def test_connor_row_counts_equal_the_published_table() -> None:
    expected = {
        0.01: (3923, 7847, 15696, 23545), 0.02: (979, 1960, 3923, 5885), 0.03: (434, 870, 1742, 2614),
        0.05: (None, 312, 626, 940), 0.10: (None, None, 155, 234),
    }  # fmt: skip
    for gain, row in expected.items():
        for discordance, num_rows in zip((0.05, 0.10, 0.20, 0.30), row, strict=True):
            if num_rows is None:
                with pytest.raises(DataError, match=r"expected 0 < \|gain\| < discordance <= 1"):
                    rows_for_no_gain(gain=gain, discordance=discordance)
            else:
                assert rows_for_no_gain(gain=gain, discordance=discordance) == num_rows


def test_the_margin_rule_has_little_power_at_connors_rows_and_enough_at_its_own() -> None:
    at_connor, at_own = [], []
    for gain, discordance in ((0.05, 0.10), (0.05, 0.20), (0.05, 0.30), (0.10, 0.20), (0.10, 0.30)):
        own = rows_for_margin(plan_gain=gain, margin=0.03, discordance=discordance, alpha=0.05)
        assert own is not None
        for found, num_rows in (
            (at_connor, rows_for_no_gain(gain=gain, discordance=discordance)),
            (at_own, min(own, 1500)),
        ):
            b, c, p = tables(num_rows, discordance, gain)
            low, _ = bonett_price_bounds(b, c, num_rows, alpha=0.05)
            if num_rows < 1500:
                found.append(float(p[low >= 0.03].sum()))
    assert (min(at_connor), max(at_connor)) == pytest.approx((0.281, 0.626), abs=1e-3)
    assert len(at_own) >= 2
    assert all(0.77 < power < 0.83 for power in at_own)


def test_rows_for_margin_by_hand_and_when_no_number_decides() -> None:
    # (1.644854 + .841621)^2 = 6.182557; psi - d^2 = .19; d - m = .05: 6.182557 x .19 / .0025 = 469.87
    plan = {"plan_gain": 0.10, "margin": 0.05, "discordance": 0.20, "alpha": 0.05}
    assert rows_for_margin(**plan) == 470
    assert rows_for_margin(**plan, design_effect=2.0) == 940
    assert rows_for_margin(**plan, max_rows=469) is None
    assert rows_for_margin(**plan, max_rows=470) == 470
    assert rows_for_margin(plan_gain=0.05, margin=0.05, discordance=0.2, alpha=0.05) is None
    assert rows_for_margin(plan_gain=0.02, margin=0.05, discordance=0.2, alpha=0.05) is None
    # Guards: an unharmed slice, arms differing on a tenth of the rows, power .9.
    assert rows_for_margin(plan_gain=0, margin=-0.05, discordance=0.1, alpha=0.05, power=0.9) == 343
    assert rows_for_margin(plan_gain=0, margin=-0.02, discordance=0.1, alpha=0.05, power=0.9) == 2141
    # A gain larger than the share of differing rows cannot be: the share is raised to it. 6.182557 x .09 / .0025 = 222.6
    assert rows_for_margin(plan_gain=0.10, margin=0.05, discordance=0.0, alpha=0.05) == 223
    with pytest.raises(DataError, match="discordance is 20; expected a share, 0 to 1."):
        rows_for_margin(plan_gain=0.1, margin=0.05, discordance=20, alpha=0.05)


def test_min_detectable_gain_is_margin_plus_two_and_a_half_standard_errors() -> None:
    gain = bonett_price(gains=13, losses=6, num_rows=200)
    assert min_detectable_gain(gain, margin=0.03, alpha=0.05) == pytest.approx(
        0.03 + (1.644854 + 0.841621) * 0.0225546, abs=1e-6
    )


def test_grouped_mean_by_hand_sees_groups_not_copies() -> None:
    # Deviations from .6: -.6 .4 .4 -.6 .4; squares sum to 1.2; / (1 - 1/5) = 1.5; / 25 = .06
    score_N, group_N = np.array([0.0, 1.0, 1.0, 0.0, 1.0]), np.array(list("abcde"))
    once = grouped_mean(score_N, group_N)
    assert (once.stderr**2, once.df) == pytest.approx((0.06, 4.0))
    copies = grouped_mean(score_N.repeat(4), group_N.repeat(4))
    assert (copies.stderr, copies.df) == pytest.approx((once.stderr, once.df), rel=1e-12)
    assert once.low(0.05) == pytest.approx(0.6 - 2.131847 * 0.06**0.5, abs=1e-6)  # t(4), .95


def test_grouped_mean_of_single_rows_is_the_plain_standard_error() -> None:
    value_N = np.random.default_rng(3).normal(size=40)
    mean = grouped_mean(value_N, np.arange(40))
    assert mean.stderr == pytest.approx(value_N.std(ddof=1) / 40**0.5)
    assert mean.df == pytest.approx(39)


def test_degrees_of_freedom_equal_those_of_the_eigenvalues() -> None:
    size_C = np.array([3.0, 7, 1, 20, 9])
    total = size_C.sum()
    a = np.diag((1 - size_C / total) ** -0.5 / total)
    eigen = np.linalg.eigvalsh(a @ (np.diag(size_C) - np.outer(size_C, size_C) / total) @ a)
    assert bell_mccaffrey_df(size_C) == pytest.approx(eigen.sum() ** 2 / (eigen**2).sum())
    centring = np.eye(5) - np.outer(size_C, np.ones(5)) / total
    eigen = np.linalg.eigvalsh(a @ centring @ np.diag(size_C * (1 + (size_C - 1) * 0.3)) @ centring.T @ a)
    assert bell_mccaffrey_df(size_C, 0.3) == pytest.approx(eigen.sum() ** 2 / (eigen**2).sum())
    assert bell_mccaffrey_df([4, 4, 4, 4, 4, 4]) == pytest.approx(5)
    assert bell_mccaffrey_df([4, 4, 4, 4, 4, 4], 0.3) == pytest.approx(5)


def test_correlated_rows_in_unequal_groups_leave_fewer_degrees_of_freedom() -> None:
    size_C = np.array([40, 20, 10, 5, 5, 5, 2, 2, 1])
    group_N = np.repeat(np.arange(9), size_C)
    alike = np.repeat([0.9, 0.1, 0.5, 0.7, 0.2, 0.4, 0.6, 0.3, 0.8], size_C) + np.tile([0.01, -0.01], 45)
    assert grouped_mean(alike, group_N).df < bell_mccaffrey_df(size_C) - 0.5
    assert grouped_mean(np.tile([0.0, 1.0], 45), group_N).df == pytest.approx(bell_mccaffrey_df(size_C))


def test_grouped_mean_refuses_what_it_cannot_estimate() -> None:
    with pytest.raises(DataError, match="4 groups in 8 rows; expected at least 5. Hold out rows of more groups"):
        grouped_mean(np.arange(8.0), list("aabbccdd"))
    with pytest.raises(DataError, match="1 of 5 values are not finite numbers."):
        grouped_mean([0, 1, np.nan, 1, 0], list("abcde"))
    with pytest.raises(DataError, match="4 values and 5 groups; expected one group for each value."):
        grouped_mean([0, 1, 1, 0], list("abcde"))


def test_equal_groups_do_not_claim_certainty() -> None:
    # 18 groups at +1, one added at each end: centre 18/20 = .9, variance (1 - .81) / 20 = .0095
    mean = grouped_mean(np.ones(36), np.repeat(np.arange(18), 2))
    assert (mean.estimate, mean.centre, mean.method) == (1.0, pytest.approx(0.9), "cr2_adjusted")
    assert mean.stderr == pytest.approx(0.0095**0.5)
    assert mean.low(0.05) < 0.75


def test_samples_of_one_row_are_averaged_first() -> None:
    means, names = average_within_rows([1.0, 0.0, 1.0, 1.0], ["b", "a", "b", "a"])
    assert (means.tolist(), names.tolist()) == ([0.5, 1.0], ["a", "b"])
    with pytest.raises(DataError, match="2 values and 1 row names; expected one name for each value."):
        average_within_rows([1.0, 0.0], ["a"])


def test_bootstrap_t_agrees_with_the_t_interval_on_quiet_data_and_is_reproducible() -> None:
    value_N = np.random.default_rng(5).normal(0.1, 0.2, size=120)
    group_N = np.repeat(np.arange(40), 3)
    mean = grouped_mean(value_N, group_N)
    found = bootstrap_t(value_N, group_N, alpha=0.05, rng=np.random.default_rng(0))
    assert found is not None
    assert (found.low, found.high) == pytest.approx((mean.low(0.05), mean.high(0.05)), abs=0.3 * mean.stderr)
    assert found == bootstrap_t(value_N, group_N, alpha=0.05, rng=np.random.default_rng(0))
    assert bootstrap_t(np.ones(9), np.arange(9), alpha=0.05, rng=np.random.default_rng(0)) is None


def test_intra_class_correlation_and_design_effect_by_hand() -> None:
    group_N = np.repeat(np.arange(3), 2)
    assert intra_class_correlation([1, 1, 2, 2, 3, 3], group_N) == 1.0
    assert intra_class_correlation([1, 3, 1, 3, 1, 3], group_N) == 0.0
    # Group means 1.5, 3.5; between 2 x 2 x 1 / 1 = 4, within (.5 + .5) / 2 = .5: (4 - .5) / (4 + .5) = .7778
    assert intra_class_correlation([1, 2, 3, 4], [0, 0, 1, 1]) == pytest.approx(3.5 / 4.5)
    assert design_effect([4, 4, 4], 0.3) == pytest.approx(1.9)
    assert design_effect([1, 1, 1], 0.3) == 1.0
    with pytest.raises(DataError, match="3 groups in 3 rows; expected two groups or more, and more rows than groups."):
        intra_class_correlation([1, 2, 3], [0, 1, 2])


def test_holm_steps_down() -> None:
    assert holm([0.01, 0.04, 0.03], alpha=0.05) == [True, False, False]
    assert holm([0.01, 0.02, 0.04], alpha=0.05) == [True, True, True]
    assert holm([], alpha=0.05) == []


def test_importing_the_statistics_loads_no_scipy() -> None:
    code = "import sys, metier.core.stats, metier.assess; sys.exit(any(m.split('.')[0] in ('scipy', 'torch', 'polars') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
