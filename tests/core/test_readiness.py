"""Readiness: numbers worked by hand, the expected bound beside the one a verdict gets, gate and warnings apart."""

from __future__ import annotations

import json

import numpy as np
import pytest

from metier.core.errors import ConfigError, DataError, GateClosed
from metier.core.precision import Holdout, Plan, effective_rows, expected_gain, kindest_half_width, rows_to_show
from metier.core.readiness import AgeFacts, readiness
from metier.core.stats import Interval, bonett_price, grouped_mean, rows_for_margin
from metier.core.votes import Estimate

ALONE = Holdout.of(groups=range(200), binary=True)
PLAN = Plan(margin=0.05, plan_gain=0.15)


def ages(**changes) -> AgeFacts:
    facts = {
        "num_rows": 500,
        "num_dated": 500,
        "num_future": 0,
        "median_days": 90.0,
        "num_superseded": 0,
        "shifted": False,
    }
    return AgeFacts(**{**facts, "sentence": "Half of 500 rows are older than 90 days.", **changes})


def test_groups_are_counted_by_name() -> None:
    holdout = Holdout.of(groups=["a", "b", "a", "c"], binary=True)
    assert (holdout.sizes, holdout.num_rows, holdout.num_groups, holdout.grouped) == ((2, 1, 1), 4, 3, True)
    assert not ALONE.grouped
    assert Holdout.of(groups=[], binary=True).num_rows == 0


def test_effective_rows_by_hand() -> None:
    # Groups of 4, 2, 2, 1, 1: (sum n)^2 / sum n^2 = 100 / 26 when rows of a group say the same.
    holdout = Holdout.of(groups=list("aaaabbccde"), binary=True)
    assert effective_rows(holdout, PLAN) == Interval(pytest.approx(100 / 26), 10.0)
    # Measured correlation .5: 10 / (1 + (26/10 - 1) .5) = 10 / 1.8.
    measured = Plan(margin=0.05, plan_gain=0.15, correlation=0.5)
    assert effective_rows(holdout, measured) == Interval(pytest.approx(10 / 1.8), pytest.approx(10 / 1.8))
    assert effective_rows(ALONE, PLAN) == Interval(200.0, 200.0)


def test_expected_bound_of_yes_no_rows_is_that_of_the_verdict() -> None:
    # 200 rows, 45 gains and 15 losses: discordance .30, gain .15.
    verdict = bonett_price(gains=45, losses=15, num_rows=200)
    expected = expected_gain(ALONE, Plan(margin=0.05, plan_gain=0.15, discordance=0.30), worst=True)
    assert (expected.method, expected.stderr) == ("bonett_price", pytest.approx(verdict.stderr, rel=1e-12))


def test_expected_bound_of_groups_is_that_of_the_verdict_on_average() -> None:
    """400 drawn hold-outs of 40 unequal groups, correlation .3: expected variance within 5 % of the mean CR2 variance."""
    rng = np.random.default_rng(8)
    sizes = rng.integers(1, 9, size=40)
    group_N = np.repeat(np.arange(40), sizes)
    variances, dfs = [], []
    for _ in range(400):
        value_N = rng.normal(0, 0.3**0.5, 40)[group_N] + rng.normal(0, 0.7**0.5, len(group_N))
        found = grouped_mean(0.2 * value_N + 0.1, group_N)
        variances.append(found.stderr**2)
        dfs.append(found.df)
    plan = Plan(margin=0.05, plan_gain=0.1, spread=0.2, correlation=0.3)
    expected = expected_gain(Holdout.of(groups=group_N, binary=False), plan, worst=True)
    assert expected.method == "cr2_t"
    assert expected.stderr**2 == pytest.approx(np.mean(variances), rel=0.05)
    assert expected.df == pytest.approx(np.mean(dfs), rel=0.1)


def test_rows_to_show_a_gain_follow_the_margin_formula() -> None:
    plan = Plan(margin=0.05, plan_gain=0.15, discordance=0.30)
    by_formula = rows_for_margin(plan_gain=0.15, margin=0.05, discordance=0.30, alpha=0.05)
    expected = expected_gain(Holdout.of(groups=range(100_000), binary=True), plan, worst=False)
    assert rows_to_show(expected, plan) == pytest.approx(by_formula, abs=1)
    four = Holdout.of(groups=np.arange(2000) // 4, binary=True)
    alike = expected_gain(four, plan, worst=True)  # groups of four rows that all say the same
    assert rows_to_show(alike, plan) == pytest.approx(4 * by_formula, abs=4)


def test_ready_rows_say_so_in_a_sentence() -> None:
    found = readiness(ALONE, PLAN, num_usable=900)
    assert (found.ready, found.problems, found.num_usable, found.num_holdout) == (True, (), 900, 200)
    # psi .15 (at least every differing row is a gain) to .30: 1.645 * sqrt((psi' - d'^2) / 202).
    low, high = (1.6449 * ((((p * 200 + 2) / 202) - (30 / 202) ** 2) / 202) ** 0.5 for p in (0.15, 0.30))
    assert found.half_width == Interval(pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
    assert found.smallest_gain.high == pytest.approx(0.05 + found.half_width.high * (1 + 0.8416 / 1.6449), abs=1e-3)
    assert found.sentence == (
        "Ready: of 900 usable rows 200 are held out; they count as 200 independent rows, and the gain will be known to "
        "4.3 to 6.2 points of 100."
    )
    assert found.assumed == ("two arms differ on 10% to 30% of rows (no pilot measured it)",)
    found.require()


def test_measured_numbers_leave_no_range_and_no_assumption() -> None:
    groups = np.arange(200) // 2
    plan = Plan(margin=0.02, plan_gain=0.1, spread=0.25, correlation=0.4)
    found = readiness(Holdout.of(groups=groups, binary=False), plan, num_usable=200)
    assert found.assumed == ()
    assert found.effective_rows.low == found.effective_rows.high == pytest.approx(200 / 1.4)
    assert found.half_width.low == found.half_width.high
    assert "held out in 100 groups; they count as 143 independent rows" in found.sentence


def test_unmeasured_groups_and_spread_are_named_as_assumed() -> None:
    found = readiness(Holdout.of(groups=np.arange(200) // 2, binary=False), PLAN, num_usable=200)
    assert found.effective_rows == Interval(100.0, 200.0)
    assert found.half_width.low < found.half_width.high
    assert found.assumed == (
        "a row's difference has a standard deviation of 0.15 to 0.35 (no pilot measured it)",
        "rows of one group are anything from independent to all alike (no pilot measured it)",
    )


@pytest.mark.parametrize(
    ("groups", "problem"),
    [
        ([], "no row is held out, so nothing can be decided. Read more rows."),
        (["a"] * 30, "30 held-out rows of 1 group; a verdict needs at least 5 groups. Hold out rows of more groups."),
    ],
)
def test_too_few_rows_or_groups_close_the_gate(groups, problem) -> None:
    found = readiness(Holdout.of(groups=groups, binary=True), PLAN, num_usable=100)
    assert found.problems == (problem,)
    assert found.sentence == f"Not ready: {problem}"
    assert (found.effective_rows, found.half_width, found.rows_needed) == (None, None, None)
    with pytest.raises(GateClosed, match="Not ready: "):
        found.require()
    assert f"problem: {problem}" in found.as_text()


def test_a_gain_out_of_reach_of_the_kindest_models_closes_the_gate() -> None:
    small = Holdout.of(groups=range(40), binary=True)
    plan = Plan(margin=0.05, plan_gain=0.10)
    # Kindest: 4 gains, no loss. Bonett-Price: p1 = 5/42, p2 = 1/42, half-width 1.645 sqrt((6/42 - (4/42)^2) / 42).
    width = 1.6449 * ((6 / 42 - (4 / 42) ** 2) / 42) ** 0.5
    assert kindest_half_width(small, plan) == pytest.approx(width, abs=1e-4)
    found = readiness(small, plan, num_usable=400)
    assert found.problems == (
        "40 held-out rows cannot show a gain of 10.0 points to reach 5.0: the bound lies 9.3 points below the estimate, "
        "even if every row on which they differ were a gain. Hold out more rows, or plan for a larger gain.",
    )
    assert found.warnings == ()
    measured = readiness(small, Plan(margin=0.05, plan_gain=0.10, discordance=0.2), num_usable=400)
    assert "points below the estimate, as measured." in measured.problems[0]


def test_a_gain_that_may_stay_undecided_is_a_warning_with_the_rows() -> None:
    found = readiness(ALONE, Plan(margin=0.05, plan_gain=0.12), num_usable=900)
    assert found.ready
    low, high = (rows_for_margin(plan_gain=0.12, margin=0.05, discordance=psi, alpha=0.05) for psi in (0.12, 0.30))
    assert found.rows_needed == Interval(pytest.approx(low, abs=12), pytest.approx(high, abs=12))
    assert found.warnings[0].startswith("a gain of 12.0 points may stay undecided on 200 held-out rows; ")
    assert found.warnings[0].endswith("rows show it with power 0.8.")
    likely = readiness(ALONE, Plan(margin=0.05, plan_gain=0.10), num_usable=900)
    assert likely.warnings[0].startswith("a gain of 10.0 points is likely to stay undecided on 200 held-out rows; ")


def test_continuous_scores_of_unknown_spread_never_close_the_gate_by_width() -> None:
    small = Holdout.of(groups=range(10), binary=False)
    assert kindest_half_width(small, PLAN) is None
    found = readiness(small, Plan(margin=0.05, plan_gain=0.06), num_usable=10)
    assert found.ready
    assert "is likely to stay undecided" in found.warnings[0]


def test_a_plan_at_the_margin_has_no_row_count() -> None:
    found = readiness(ALONE, Plan(margin=0.0, plan_gain=0.0), num_usable=300)
    assert (found.ready, found.rows_needed) == (True, None)
    assert found.warnings == (
        "a planned gain of 0.0 points is not above the 0.0 asked for: no number of rows shows it; set decision.plan_gain "
        "to the gain you expect.",
    )


def test_slices_under_twenty_rows_are_named_smallest_first() -> None:
    slices = {f"region={i}": 10 + i for i in range(11)}
    holdout = Holdout.of(groups=range(200), binary=True, slices=slices)
    found = readiness(holdout, PLAN, num_usable=900)
    assert len(found.small_slices) == 10  # 10 to 19 rows; 20 is enough
    assert found.warnings == (
        "too few hold-out rows to judge region=0 (10), region=1 (11), region=2 (12), region=3 (13), region=4 (14) and 5 "
        "more; 20 each are needed.",
    )


def test_label_ceiling_warns_when_more_labels_are_wrong_than_the_gain() -> None:
    low = Estimate(value=0.80, low=0.75, high=0.85, n=240)
    found = readiness(ALONE, PLAN, num_usable=900, ceiling=low)
    assert found.warnings == (
        "20% of the labels are likely wrong (label ceiling 0.80), more than the gain of 15.0 points planned for. Review "
        "labels first.",
    )
    assert "label ceiling: 0.800 (0.750 to 0.850, 240 rows)" in found.as_text()
    assert "label ceiling: not measured" in readiness(ALONE, PLAN, num_usable=900).as_text()
    assert found.as_json()["label_ceiling"] == {"value": 0.80, "low": 0.75, "high": 0.85, "n": 240}
    high = Estimate(value=0.95, low=0.9, high=0.97, n=240)
    assert readiness(ALONE, PLAN, num_usable=900, ceiling=high).warnings == ()


def test_age_warns_of_what_a_person_can_change() -> None:
    assert readiness(ALONE, PLAN, num_usable=900, ages=ages()).warnings == ()
    found = readiness(ALONE, PLAN, num_usable=900, ages=ages(num_superseded=12, num_future=1, shifted=True))
    assert found.warnings == (
        "12 usable rows of superseded policy versions; list them in retired_policies to leave them out.",
        "old rows differ from new ones. Half of 500 rows are older than 90 days.",
        "1 usable row dated in the future. Check the time column.",
    )
    assert found.ready
    assert "age: Half of 500 rows are older than 90 days." in found.as_text()


def test_result_is_json_with_named_ends() -> None:
    values = json.loads(json.dumps(readiness(ALONE, PLAN, num_usable=900, ages=ages()).as_json()))
    assert values["ready"] is True
    assert values["effective_rows"] == {"low": 200.0, "high": 200.0}
    assert values["ages"]["median_days"] == 90.0
    assert (
        json.loads(json.dumps(readiness(Holdout.of(groups=[], binary=True), PLAN, num_usable=0).as_json()))[
            "half_width"
        ]
        is None
    )


def test_text_has_the_numbers_one_a_line() -> None:
    assert readiness(ALONE, PLAN, num_usable=900).as_text().splitlines()[1:5] == [
        "usable rows: 900; held out: 200 in 200 groups",
        "they count as 200 independent rows",
        "the gain will be known to 4.3 to 6.2 points of 100, up or down",
        "smallest gain that can be shown: 11.5 to 14.3 points of 100",
    ]


def test_wrong_plans_and_counts_say_what_to_do() -> None:
    with pytest.raises(DataError, match=r"readiness: 100 usable rows, but 200 held out; count the rows of all parts\."):
        readiness(ALONE, PLAN, num_usable=100)
    with pytest.raises(ConfigError, match=r"alpha is 0\.6; expected 0 < alpha < 0\.5\."):
        Plan(margin=0.05, plan_gain=0.1, alpha=0.6)
    with pytest.raises(ConfigError, match=r"discordance is 2; expected 0 to 1, or None where it was not measured\."):
        Plan(margin=0.05, plan_gain=0.1, discordance=2)
    with pytest.raises(ConfigError, match=r"correlation is -1; expected 0 to 1"):
        Plan(margin=0.05, plan_gain=0.1, correlation=-1)
    with pytest.raises(ConfigError, match=r"spread is 1\.5; expected 0 to 1"):
        Plan(margin=0.05, plan_gain=0.1, spread=1.5)
