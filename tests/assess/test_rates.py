"""Simulated error rates of the verdict where the truth is known: 500 repetitions a case, fixed seeds, one test a table.

`benchmarks/decision_rates.py` holds the simulations and repeats them 5,000 times with fresh seeds.
"""

from __future__ import annotations

import numpy as np
import pytest

from metier.core.stats import bonett_price_bounds

REPS, SEED = 500, 20261123


@pytest.fixture(scope="module")
def simulate():
    from benchmarks import decision_rates

    return decision_rates


def exceeded(rates) -> list[str]:
    """The cases whose rate is on the wrong side of its bound by more than three Monte-Carlo standard errors."""
    assert any(rate.bound is not None for rate in rates)
    return [f"{rate.case}: {rate.rate}, limit {rate.limit:.4f}" for rate in rates if not rate.holds]


def shown(rates) -> dict[str, float]:
    return {rate.case: rate.rate for rate in rates}


def test_several_rivals_hold_both_error_rates(simulate) -> None:
    assert exceeded(simulate.several_rivals(REPS, SEED)) == []


def test_choosing_the_comparator_on_the_holdout_or_on_dev_is_worse(simulate) -> None:
    found = shown(simulate.chosen_rival(REPS, SEED))
    limit = 0.05 + 3 * (0.05 * 0.95 / REPS) ** 0.5
    assert len(found) == 6
    assert {case: rate for case, rate in found.items() if rate <= limit} == {}
    for num_rows in (300, 1000):
        assert (
            found[f"n={num_rows}, best of 6 on the hold-out: false NOT_WORTH_IT"]
            > found[f"n={num_rows}, best of 3 on the hold-out: false NOT_WORTH_IT"]
        )


def test_unequal_groups_hold_the_level_that_independent_rows_do_not(simulate) -> None:
    rates = simulate.unequal_groups(REPS, SEED)
    assert exceeded(rates) == []
    naive = [rate.rate for rate in rates if "taken as independent" in rate.case]
    assert len(naive) == 10
    assert min(naive) > 0.12


def test_three_looks_together_hold_the_error_rate_of_one(simulate) -> None:
    rates = simulate.more_rows(REPS, SEED)
    assert exceeded(rates) == []
    assert shown(rates)[".05 each: false WORTH_IT"] > 0.07  # .096 published for three looks


def test_ten_models_on_the_same_rows_hold_the_error_rate_of_one(simulate) -> None:
    rates = simulate.new_models(REPS, SEED)
    assert exceeded(rates) == []
    assert shown(rates)[".05 each: some false WORTH_IT"] > 0.15


def test_guards_are_neither_failed_nor_passed_falsely(simulate) -> None:
    assert exceeded(simulate.guard_rates(REPS, SEED)) == []


def test_a_guard_is_passed_failed_or_unproven_and_the_verdict_follows(simulate) -> None:
    rates = simulate.guard_states(REPS, SEED)
    assert exceeded(rates) == []
    found = shown(rates)
    for kind in ("graded", "yes-no, groups of 4", "graded, unequal groups of 6"):
        for harm in ("0", "0.05", "0.2"):
            states = [found[f"{kind}, 240 rows, harm {harm}: {state}"] for state in ("passed", "failed", "unproven")]
            assert sum(states) == pytest.approx(1)
        assert states[1] > 0.85, "a harm of four times the limit is shown"


def test_the_rows_that_are_planned_decide_both_ways(simulate) -> None:
    assert exceeded(simulate.planned_rows(REPS, SEED)) == []


def test_the_interval_covers_and_is_not_much_too_wide(simulate) -> None:
    rates = simulate.coverage(REPS, SEED)
    assert exceeded(rates) == []
    wide = [rate.case for rate in rates if rate.bound is None]
    assert all("differing on 5%" in case for case in wide) and len(wide) == 3, "where 3 to 5 rows differ"


def test_as_good_for_less_is_falsely_claimed_no_more_often_than_the_level(simulate) -> None:
    assert exceeded(simulate.as_good_for_less(REPS, SEED)) == []


def test_scores_that_differ_on_few_rows_hold_the_error_rates(simulate) -> None:
    assert exceeded(simulate.few_discordant(REPS, SEED)) == []


def test_rows_planned_for_one_rival_are_too_few_for_several(simulate) -> None:
    found = [rate.rate for rate in simulate.power_with_rivals(REPS, SEED)]
    assert found == sorted(found, reverse=True)
    assert 0.70 < found[0] < 0.84  # about 300 rows give power .8 against one rival,
    assert found[2] < found[0] - 0.20  # and far less against six


@pytest.mark.parametrize(
    ("num_rows", "num_candidates", "expected"),
    [(100, 5, 0.033), (100, 20, 0.053), (300, 5, 0.021), (300, 20, 0.032), (1000, 5, 0.011), (1000, 20, 0.018)],
)
def test_the_best_of_many_candidates_on_one_holdout_looks_better_than_it_is(num_rows, num_candidates, expected) -> None:
    rng = np.random.default_rng([SEED, num_rows, num_candidates])
    best = []
    for _ in range(600):
        latent = np.sqrt(0.7) * rng.standard_normal(num_rows) + np.sqrt(0.3) * rng.standard_normal(
            (num_candidates, num_rows)
        )
        best.append((latent < 0.8416212).mean(axis=1).max() - 0.80)
    assert np.mean(best) == pytest.approx(expected, abs=0.0005 + 3 * np.std(best) / 600**0.5)


def test_a_rate_above_its_bound_is_reported(simulate) -> None:
    good = simulate.Rate(table="t", case="c", rate=0.07, reps=500, bound=0.05)
    bad = simulate.Rate(table="t", case="c", rate=0.09, reps=500, bound=0.05)
    assert (good.limit, good.holds, bad.holds) == (pytest.approx(0.05 + 3 * 0.009747, abs=1e-5), True, False)
    low = [simulate.Rate(table="t", case="c", rate=rate, reps=500, bound=0.8, at_least=True) for rate in (0.76, 0.74)]
    assert low[0].limit == pytest.approx(0.8 - 3 * 0.017889, abs=1e-5)
    assert [rate.holds for rate in low] == [True, False]


@pytest.mark.parametrize(("num_rows", "all_pass"), [(60, 0.000), (150, 0.004), (500, 0.718)])
def test_ten_unharmed_guards_all_pass_only_with_enough_rows(num_rows, all_pass) -> None:
    """Exact: a guard passes when Bonett-Price's lower bound is at least -5 points; the arms differ on a tenth."""
    from scipy.stats import multinomial

    k = np.arange(num_rows + 1)
    b, c = (grid.ravel() for grid in np.meshgrid(k, k))
    keep = b + c <= min(num_rows, 120)  # beyond 120 of 500 rows the probability is below 1e-20
    b, c = b[keep], c[keep]
    p = multinomial.pmf(np.stack([b, c, num_rows - b - c], axis=1), num_rows, [0.05, 0.05, 0.9])
    low, _ = bonett_price_bounds(b, c, num_rows, alpha=0.05)
    assert float(p[low >= -0.05].sum()) ** 10 == pytest.approx(all_pass, abs=0.005)
