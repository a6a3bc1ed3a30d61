"""What tuning costs and brings, and where the verdict turns: held against the margin rule itself, value by value."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from metier.assess import CostRatio, TuningCosts, assumptions, break_even, net_worth, value_margin
from metier.core.errors import DataError
from metier.core.report import Comparison, Outcome
from metier.core.settings import DecisionConfig, ValueConfig

COSTS = TuningCosts(one_off=120.0, upkeep_per_month=0.0, request_before=0.002, request_after=0.001)
FOR_LESS = DecisionConfig(claim="as_good_for_less")
VALUE = ValueConfig(worth=0.5, requests_per_month=1000, horizon_months=12)


def outcome_at(value: ValueConfig, costs: TuningCosts, low: float, high: float) -> Outcome:
    """The rule of the verdict, guards and forecast aside."""
    margin = value_margin(value, costs)
    if low >= margin:
        return Outcome.WORTH_IT
    return Outcome.NOT_WORTH_IT if high < margin else Outcome.NEED_HOLDOUT_ROWS


def assumed(name: str, new: float, value: ValueConfig, costs: TuningCosts) -> tuple[ValueConfig, TuningCosts]:
    """Value and costs with one assumption replaced."""
    if name == "tuning_cost":
        return value, replace(costs, one_off=new)
    if name == "prices":
        parts = ("one_off", "request_before", "request_after", "measuring")
        return value, replace(costs, **{part: new * getattr(costs, part) for part in parts})
    return replace(value, **{name: new}), costs


def compared(low: float, high: float, *, method: str = "bonett_price", differing: int = 40) -> list[Comparison]:
    """One comparison of 200 rows with these bounds."""
    return [
        Comparison(
            versus="prompt", estimate=(low + high) / 2, low=low, high=high, side_alpha=0.05, high_alpha=0.05, method=method,
            num_rows=200, num_groups=200, discordance=differing / 200,
        )
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
def test_a_verdict_turns_where_the_margin_passes_a_bound_and_nowhere_else(seed: int) -> None:
    rng = np.random.default_rng(seed)
    low, high = sorted(rng.uniform(-0.05, 0.15, size=2).tolist())
    value = ValueConfig(
        worth=float(rng.lognormal(-1, 1)),
        requests_per_month=float(rng.lognormal(6, 1.5)),
        horizon_months=float(rng.uniform(1, 36)),
    )
    costs = TuningCosts(
        one_off=float(rng.lognormal(3, 1.5)),
        upkeep_per_month=float(rng.choice([0.0, 2.0])),
        request_before=float(rng.uniform(0, 0.004)),
        request_after=float(rng.uniform(0, 0.004)),
        num_retrainings=int(rng.choice([0, 0, 3])),
        measuring=float(rng.lognormal(3, 1.5)),
    )
    found = assumptions(DecisionConfig(value=value), costs, compared(low, high))
    assert {each.name for each in found} >= {"worth", "requests_per_month", "tuning_cost"}
    assert ("horizon_months" in {each.name for each in found}) == (costs.num_retrainings == 0)
    for each in found:
        assert each.zones[0].low is None
        assert each.zones[-1].high is None
        for before, after in zip(each.zones, each.zones[1:], strict=False):
            assert before.high == after.low
        for zone in each.zones:
            start = zone.low or 0.0
            end = zone.high if zone.high is not None else max(10 * start, 10 * each.value)
            for share in (0.01, 0.5, 0.99):
                new = start + share * (end - start)
                if new > 0:
                    told = outcome_at(*assumed(each.name, new, value, costs), low, high)
                    assert told is zone.outcome, (each.name, new, zone)
        here = [z for z in each.zones if (z.low or 0.0) <= each.value and (z.high is None or each.value < z.high)]
        assert [zone.outcome for zone in here] == [outcome_at(value, costs, low, high)]


def test_a_plain_margin_turns_at_the_bounds_and_an_accepted_loss_at_what_was_lost() -> None:
    (margin,) = assumptions(DecisionConfig(margin=0.03), COSTS, compared(0.01, 0.05))
    assert [(zone.outcome.name, zone.low, zone.high) for zone in margin.zones] == [
        ("WORTH_IT", None, 0.01), ("NEED_HOLDOUT_ROWS", 0.01, 0.05), ("NOT_WORTH_IT", 0.05, None),
    ]  # fmt: skip
    cheaper = CostRatio(0.4, 0.6, "prompt")
    (limit,) = assumptions(FOR_LESS, COSTS, compared(-0.05, -0.03), cost_ratio=cheaper)
    assert [(zone.outcome.name, zone.low, zone.high) for zone in limit.zones] == [
        ("NOT_WORTH_IT", None, 0.03), ("NEED_HOLDOUT_ROWS", 0.03, 0.05), ("WORTH_IT", 0.05, None),
    ]  # fmt: skip


def test_no_accepted_loss_makes_worth_it_what_is_not_cheaper() -> None:
    (open_cost,) = assumptions(FOR_LESS, COSTS, compared(-0.01, 0.02), cost_ratio=CostRatio(0.9, 1.1, "prompt"))
    assert [zone.outcome for zone in open_cost.zones] == [Outcome.NEED_HOLDOUT_ROWS]
    (dearer,) = assumptions(FOR_LESS, COSTS, compared(-0.01, 0.02), cost_ratio=CostRatio(1.1, 1.4, "prompt"))
    assert [zone.outcome for zone in dearer.zones] == [Outcome.NOT_WORTH_IT]


def test_an_accepted_loss_has_a_volume_from_which_the_tuning_pays() -> None:
    question = replace(FOR_LESS, value=VALUE)
    ratio = CostRatio(0.4, 0.6, "prompt", cheaper_from=(400.0, 150.0))

    def volume(low: float, high: float, ratio: CostRatio) -> list[tuple[str, float | None, float | None]]:
        _, found = assumptions(question, COSTS, compared(low, high), cost_ratio=ratio)
        assert (found.name, found.value) == ("requests_per_month", 1000)
        return [(zone.outcome.name, zone.low, zone.high) for zone in found.zones]

    assert volume(-0.01, 0.02, ratio) == [
        ("NOT_WORTH_IT", None, 150.0), ("NEED_HOLDOUT_ROWS", 150.0, 400.0), ("WORTH_IT", 400.0, None),
    ]  # fmt: skip
    assert volume(-0.09, 0.02, ratio) == [("NOT_WORTH_IT", None, 150.0), ("NEED_HOLDOUT_ROWS", 150.0, None)]
    assert volume(-0.2, -0.1, ratio) == [("NOT_WORTH_IT", None, None)], "no volume makes up for a loss"
    never = ratio._replace(high=1.1, cheaper_from=(np.inf, 150.0))
    assert volume(-0.01, 0.02, never) == [("NOT_WORTH_IT", None, 150.0), ("NEED_HOLDOUT_ROWS", 150.0, None)]
    (limit,) = assumptions(question, COSTS, compared(-0.01, 0.02), cost_ratio=ratio._replace(cheaper_from=None))
    assert limit.name == "limit", "of a look that an earlier metier fixed the volumes are not known"


@pytest.mark.parametrize("volumes", [(100.0, 400.0), (np.nan, 1.0), (1.0, -1.0)])
def test_volumes_that_contradict_each_other_are_refused(volumes: tuple[float, float]) -> None:
    ratio = CostRatio(0.4, 0.6, "prompt", cheaper_from=volumes)
    with pytest.raises(DataError, match="expected what is shown to be possible"):
        assumptions(replace(FOR_LESS, value=VALUE), COSTS, compared(-0.01, 0.02), cost_ratio=ratio)


@pytest.mark.parametrize(("limit", "worth_it"), [(0.0, False), (0.01, True)])
def test_a_handful_of_differing_rows_shows_no_loss_of_nothing_at_any_volume(limit: float, worth_it: bool) -> None:
    few = compared(0.001, 0.02, method="cr2_t", differing=2)
    ratio = CostRatio(0.4, 0.6, "prompt", cheaper_from=(400.0, 150.0))
    loss, volume = assumptions(replace(FOR_LESS, limit=limit, value=VALUE), COSTS, few, cost_ratio=ratio)
    assert (Outcome.WORTH_IT in {zone.outcome for zone in volume.zones}) is worth_it
    assert [zone.outcome for zone in loss.zones] == [Outcome.NEED_HOLDOUT_ROWS, Outcome.WORTH_IT]
    assert loss.zones[0].high == 0.001


def test_a_handful_of_differing_rows_says_as_little_here_as_in_the_verdict() -> None:
    """200 rows, one won and one lost: undecided at every margin that the lower bound does not reach."""
    (few,) = assumptions(DecisionConfig(margin=0.05), COSTS, compared(-0.02, 0.02, differing=2))
    assert [zone.outcome for zone in few.zones] == [Outcome.NEED_HOLDOUT_ROWS]
    (graded,) = assumptions(DecisionConfig(margin=0.05), COSTS, compared(0.01, 0.02, method="cr2_t", differing=5))
    assert [zone.outcome for zone in graded.zones] == [Outcome.NEED_HOLDOUT_ROWS]


def test_retraining_is_tuning_and_measuring_again_within_the_horizon() -> None:
    """Worked by hand: 10 + 3 x (10 + 20) over 12 months and 1,000 requests each is .00833 a request."""
    costs = TuningCosts(
        one_off=10.0, upkeep_per_month=0.0, request_before=0.0, request_after=0.0, num_retrainings=3, measuring=20.0
    )
    assert costs.over(12) == 100.0
    assert value_margin(VALUE, costs) == pytest.approx(100 / 12 / 1000 / 0.5)
    found = {each.name: each.zones for each in assumptions(DecisionConfig(value=VALUE), costs, compared(0.03, 0.08))}
    # .5 x .03 x 12,000 = 180 pay for 4 tunings and 60 of measuring, or for 1.8 times the prices.
    assert found["tuning_cost"][0].high == pytest.approx((180 - 60) / 4)
    assert found["prices"][0].high == pytest.approx(1.8)


def test_a_model_shown_to_be_worse_is_not_worth_it_under_any_assumption() -> None:
    for each in assumptions(DecisionConfig(value=VALUE), COSTS, compared(-0.05, -0.01)):
        assert [zone.outcome for zone in each.zones] == [Outcome.NOT_WORTH_IT]


def test_break_even_and_money_left_by_hand() -> None:
    gains = {"low": 0.01, "estimate": 0.02, "high": -0.01}
    # 120 / 12 = 10 a month over .001 + .5 x gain a request.
    assert break_even(COSTS, VALUE, gains) == {
        "low": pytest.approx(10 / 0.006), "estimate": pytest.approx(10 / 0.011), "high": None,
    }  # fmt: skip
    assert net_worth(COSTS, VALUE, gains)["estimate"] == pytest.approx(12000 * 0.011 - 120)
    assert break_even(COSTS, None, gains) == {}
    assert net_worth(COSTS, None, gains) == {}
