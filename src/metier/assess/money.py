"""Money over the horizon, and which assumption would turn the verdict.

    >>> from metier.assess import TuningCosts
    >>> from metier.core.settings import DecisionConfig, ValueConfig
    >>> value = ValueConfig(worth=0.5, requests_per_month=1000, horizon_months=12)
    >>> costs = TuningCosts(one_off=120.0, upkeep_per_month=0.0, request_before=0.002, request_after=0.001)
    >>> for each in assumptions(DecisionConfig(value=value), costs, low=0.03, high=0.08):
    ...     print(each.name, each.zones[-1].outcome.name, "from", round(each.zones[-1].low, 2))
    worth WORTH_IT from 0.3
    requests_per_month WORTH_IT from 625.0
    horizon_months WORTH_IT from 7.5
    tuning_cost NOT_WORTH_IT from 492.0
    prices NOT_WORTH_IT from 4.44

Every assumption is varied alone, all else as it is; the bounds of the gain are taken as measured. The margin is the
break-even rule solved for the gain; here it is solved for each of its other terms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf

from metier.assess.value import TuningCosts, break_even_requests
from metier.core.settings import DecisionConfig, ValueConfig
from metier.core.worth import Assumption, Outcome, Zone

__all__ = ["assumptions", "break_even", "net_worth"]


def break_even(costs: TuningCosts, value: ValueConfig | None, gains: Mapping[str, float]) -> dict[str, float | None]:
    """Requests a month from which on tuning pays, for each of some gains; None: at no volume. Empty without a worth."""
    if value is None:
        return {}
    return {
        name: break_even_requests(costs, worth=value.worth, gain_low=gain, horizon_months=value.horizon_months)
        for name, gain in gains.items()
    }


def net_worth(costs: TuningCosts, value: ValueConfig | None, gains: Mapping[str, float]) -> dict[str, float]:
    """Money left over the horizon at the declared volume, for each of some gains; empty without a worth."""
    if value is None:
        return {}
    num_requests = value.requests_per_month * value.horizon_months
    spent = costs.one_off + costs.upkeep_per_month * value.horizon_months
    saved = costs.request_before - costs.request_after
    return {name: num_requests * (value.worth * gain + saved) - spent for name, gain in gains.items()}


def assumptions(question: DecisionConfig, costs: TuningCosts, *, low: float, high: float) -> tuple[Assumption, ...]:
    """What the verdict would be at other values of what was assumed.

    `low` is the smallest lower bound of the gain over all rivals: WORTH_IT needs it to reach the margin. `high` is the
    smallest upper bound: below the margin it says NOT_WORTH_IT. Under as_good_for_less only the accepted loss is
    varied, and whether the model is cheaper is taken as measured.
    """
    if question.claim == "as_good_for_less":
        return (Assumption(name="limit", value=question.limit, zones=_zones(max(0.0, -low), -high, more=True)),)
    if question.value is None:
        margin = question.margin if question.margin is not None else 0.0
        return (Assumption(name="margin", value=margin, zones=_zones(low, high, more=False)),)
    return _of_value(question.value, costs, low, high)


def _of_value(value: ValueConfig, costs: TuningCosts, low: float, high: float) -> tuple[Assumption, ...]:
    """The terms of the margin: worth x margin = (one-off / months + upkeep) / requests + cost after - cost before."""
    dearer = costs.request_after - costs.request_before
    fixed = costs.one_off / value.horizon_months + costs.upkeep_per_month
    per_request = fixed / value.requests_per_month + dearer
    spent_on_machines = costs.one_off / value.horizon_months / value.requests_per_month + dearer

    def pays(gain: float) -> float:
        """What a gain leaves of each request before what is fixed."""
        return value.worth * gain - dearer

    def worth(gain: float) -> float:
        if per_request <= 0:
            return 0.0
        return per_request / gain if gain > 0 else inf

    def requests(gain: float) -> float:
        return fixed / pays(gain) if pays(gain) > 0 else inf

    def months(gain: float) -> float:
        left = pays(gain) * value.requests_per_month - costs.upkeep_per_month
        return costs.one_off / left if left > 0 else inf

    def one_off(gain: float) -> float:
        return (pays(gain) * value.requests_per_month - costs.upkeep_per_month) * value.horizon_months

    def prices(gain: float) -> float:
        return (value.worth * gain - costs.upkeep_per_month / value.requests_per_month) / spent_on_machines

    terms: list[tuple[str, float, Callable[[float], float], bool]] = [
        ("worth", value.worth, worth, True),
        ("requests_per_month", value.requests_per_month, requests, True),
        ("horizon_months", value.horizon_months, months, True),
        ("tuning_cost", costs.one_off, one_off, False),
    ]
    if spent_on_machines > 0:  # else tuning saves money at any price
        terms.append(("prices", 1.0, prices, False))

    def turns(at: Callable[[float], float], gain: float, more: bool) -> float:
        """Where the margin is this gain; a margin is never below 0, so a gain below 0 reaches it nowhere."""
        return at(gain) if gain >= 0 else (inf if more else -1.0)

    return tuple(
        Assumption(name=name, value=now, zones=_zones(turns(at, low, more), turns(at, high, more), more=more))
        for name, now, at, more in terms
    )


def _zones(worth_at: float, not_at: float, *, more: bool) -> tuple[Zone, ...]:
    """The outcomes over the values of an assumption from 0 up; `more` of it speaks for tuning, or against it."""
    first, second = (not_at, worth_at) if more else (worth_at, not_at)
    outcomes = (Outcome.NOT_WORTH_IT, Outcome.NEED_HOLDOUT_ROWS, Outcome.WORTH_IT)
    ends = (0.0, max(0.0, first), max(0.0, second), inf)
    found = []
    for outcome, low, high in zip(outcomes if more else reversed(outcomes), ends, ends[1:], strict=False):
        if low < high and low < inf:
            found.append(Zone(outcome=outcome, low=low or None, high=None if high == inf else high))
    return tuple(found)
