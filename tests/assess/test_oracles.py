"""Our intervals, tests and row counts against three published packages: statsmodels, evalsig and ppi-python."""

from __future__ import annotations

import numpy as np
import pytest

from metier.assess import ScoreTable, decide
from metier.core.report import Outcome
from metier.core.settings import DecisionConfig
from metier.core.stats import (
    bonett_price,
    grouped_mean,
    mcnemar_exact,
    mcnemar_mid_p,
    min_detectable_gain,
    rows_for_precision,
    rows_to_clear,
)

MARGIN = 0.03


def paired(num_rows: int, seed: int, gain: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    common_N = rng.normal(size=num_rows)
    latent = [np.sqrt(0.5) * (common_N + rng.normal(size=num_rows)) for _ in range(2)]
    return (latent[0] < 0.5 + 3 * gain).astype(float), (latent[1] < 0.5).astype(float)


def grouped(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    group_N = np.repeat(np.arange(30), rng.integers(1, 12, 30))
    return rng.normal(0.0, 0.1, 30)[group_N] + rng.normal(0.05, 0.1, len(group_N)), group_N


@pytest.mark.parametrize(("gains", "losses"), [(13, 6), (0, 3), (40, 22), (7, 7), (1, 0)])
def test_mcnemars_exact_test_is_that_of_statsmodels(gains: int, losses: int) -> None:
    from scipy.stats import binom
    from statsmodels.stats.contingency_tables import mcnemar

    expected = float(mcnemar([[50, gains], [losses, 40]], exact=True).pvalue)
    assert mcnemar_exact(gains, losses) == pytest.approx(expected, abs=1e-12)
    # Mid-p, which statsmodels has not: less the probability of the table itself, of which there are two but in the middle.
    seen = float(binom.pmf(min(gains, losses), gains + losses, 0.5))
    mid = expected - seen if gains != losses else 1.0
    assert mcnemar_mid_p(gains, losses) == pytest.approx(mid, abs=1e-12)


@pytest.mark.parametrize("alpha", [0.05, 0.025])
def test_the_t_interval_of_rows_that_stand_alone_is_that_of_statsmodels(alpha: float) -> None:
    from statsmodels.stats.weightstats import DescrStatsW

    tuned, rival = paired(80, 1)
    graded = 0.7 * tuned + 0.2 * np.random.default_rng(2).random(80)
    table = ScoreTable.of(tuned=graded, rivals={"p": rival}, groups=range(80), binary=False)
    found = decide(DecisionConfig(margin=MARGIN), table, alpha_this_look=alpha).gain
    expected = DescrStatsW(graded - rival).tconfint_mean(alpha=2 * alpha)
    assert found.method == "cr2_t"
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-9)


def test_the_error_over_equal_groups_is_the_cluster_robust_one_of_statsmodels() -> None:
    """CR2 and the corrected CR1 are one where groups are of one size: 1 / (1 - 1/C) is C / (C - 1)."""
    import statsmodels.api as sm

    value_N = np.random.default_rng(3).normal(0.05, 0.2, 120) + np.repeat(
        np.random.default_rng(4).normal(0, 0.1, 20), 6
    )
    group_N = np.repeat(np.arange(20), 6)
    fit = sm.OLS(value_N, np.ones(120)).fit(cov_type="cluster", cov_kwds={"groups": group_N, "use_correction": True})
    ours = grouped_mean(value_N, group_N)
    # statsmodels also multiplies by (N - 1) / (N - 1) for one column: nothing.
    assert ours.stderr == pytest.approx(float(fit.bse[0]), rel=1e-9)
    assert (ours.estimate, ours.df) == (pytest.approx(float(fit.params[0])), pytest.approx(19))


def test_over_unequal_groups_our_error_is_never_below_the_uncorrected_one_of_statsmodels() -> None:
    """CR0 leaves out what the estimated mean takes: CR2 divides each group's square by 1 - n_c/N."""
    import statsmodels.api as sm

    for seed in range(5):
        value_N, group_N = grouped(seed)
        fit = sm.OLS(value_N, np.ones(len(value_N))).fit(
            cov_type="cluster", cov_kwds={"groups": group_N, "use_correction": False}
        )
        largest = np.bincount(group_N).max() / len(group_N)
        cr0, ours = float(fit.bse[0]), grouped_mean(value_N, group_N).stderr
        assert cr0 < ours < cr0 / (1 - largest) ** 0.5


@pytest.mark.parametrize(("distance", "spread"), [(0.05, 0.4), (0.02, 0.3)])
def test_row_counts_are_those_of_statsmodels(distance: float, spread: float) -> None:
    from statsmodels.stats.power import NormalIndPower

    by_formula = rows_for_precision(distance=distance, variance=spread**2, alpha=0.05)
    # Two samples of n against one of n: ratio 0 leaves the first sample alone.
    normal = NormalIndPower().solve_power(distance / spread, alpha=0.05, power=0.8, ratio=0, alternative="larger")
    assert by_formula == pytest.approx(np.ceil(normal), abs=1)


@pytest.mark.parametrize("effect", [0.3, 0.6, 0.9])
def test_rows_for_a_t_bound_are_those_of_statsmodels_power(effect: float) -> None:
    from statsmodels.stats.power import TTestPower

    value_N = np.random.default_rng(6).normal(0.0, 0.1, 50)
    measured = grouped_mean(value_N, np.arange(50))
    sd = measured.stderr * 50**0.5
    planned = rows_to_clear(measured, truth=0.0, limit=-effect * sd, alpha=0.05)
    exactly = TTestPower().solve_power(effect, alpha=0.05, power=0.8, alternative="larger")
    assert planned == pytest.approx(np.ceil(exactly), abs=1)
    power = TTestPower().power(effect, planned, 0.05, alternative="larger")
    assert 0.795 < power < 0.84
    detected = min_detectable_gain(measured, margin=0.0, alpha=0.05)
    assert TTestPower().power(detected / sd, 50, 0.05, alternative="larger") == pytest.approx(0.8, abs=0.005)


def test_means_and_gains_are_the_classical_ones_of_ppi_python() -> None:
    """We have no prediction-powered estimate; what it starts from is ours, but for n in place of n - 1 and z for t."""
    from ppi_py import classical_mean_ci

    tuned, rival = paired(400, 7)
    graded = 0.6 * tuned + 0.3 * np.random.default_rng(8).random(400)
    low, high = (float(np.ravel(end)[0]) for end in classical_mean_ci(graded - rival, alpha=0.1))
    ours = grouped_mean(graded - rival, np.arange(400))
    assert (ours.low(0.05), ours.high(0.05)) == pytest.approx((low, high), rel=0.01)
    half = (high - low) / 2 / 1.644854
    assert ours.stderr == pytest.approx(half * (400 / 399) ** 0.5, rel=1e-5)
    # Bonett-Price on yes-no scores comes to the same with many rows.
    low, high = (float(np.ravel(end)[0]) for end in classical_mean_ci(tuned - rival, alpha=0.1))
    gain = bonett_price(gains=int((tuned > rival).sum()), losses=int((tuned < rival).sum()), num_rows=400)
    assert (gain.low(0.05), gain.high(0.05)) == pytest.approx((low, high), abs=0.002)


def test_our_margin_rule_holds_where_that_of_evalsig_passes_every_second_time() -> None:
    """True gain = margin: evalsig asks for significance against 0 and an estimate of the margin, we for a bound of it."""
    from evalsig import gate
    from evalsig.types import ItemResult, RunFrame

    def frame(name: str, score_N: np.ndarray) -> RunFrame:
        items = [ItemResult(item_id=str(row), score=float(score)) for row, score in enumerate(score_N)]
        return RunFrame(run_id=name, model_id=name, task_id="t", metric_name="accuracy", items=items)

    rng, reps, num_rows = np.random.default_rng(9), 100, 1000
    theirs = ours = 0
    for _ in range(reps):
        draw_N = rng.random(num_rows)
        tuned, rival = (draw_N < 0.065).astype(float), ((draw_N >= 0.065) & (draw_N < 0.1)).astype(float)  # gain .03
        theirs += gate(frame("b", rival), frame("a", tuned), min_delta=MARGIN).verdict.value == "ALLOW"
        table = ScoreTable.of(tuned=tuned, rivals={"p": rival}, groups=range(num_rows), binary=True)
        outcome = decide(DecisionConfig(margin=MARGIN), table, alpha_this_look=0.05).verdict.outcome
        ours += outcome is Outcome.WORTH_IT
    assert 0.35 < theirs / reps < 0.65
    assert ours / reps <= 0.05 + 3 * (0.05 * 0.95 / reps) ** 0.5
