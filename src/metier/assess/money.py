"""Money over the horizon, and which assumption would turn the verdict.

    >>> found.money.assumptions[1]  # doctest: +SKIP
    Assumption(name='requests_per_month', value=1000, zones=(Zone(NOT_WORTH_IT, None, 244), Zone(NEED_HOLDOUT_ROWS, 244,
    625), Zone(WORTH_IT, 625, None)))

Every assumption is varied alone, all else as it is; the bounds of the gain are taken as measured. The margin is the
break-even rule solved for the gain; here it is solved for each of its other terms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf

from metier.assess.scores import MIN_DISCORDANT
from metier.assess.value import CostRatio, TuningCosts, break_even_requests
from metier.core.errors import DataError
from metier.core.report import Comparison
from metier.core.settings import DecisionConfig, ValueConfig
from metier.core.worth import Assumption, Outcome, Zone

__all__ = ["assumptions", "break_even", "net_worth"]

SMALLEST_LOSS = 0.001
"""The least accepted loss that is told from none, score units: a tenth of a point, as the report writes it."""


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
    saved = costs.request_before - costs.request_after
    spent = costs.over(value.horizon_months)
    return {name: num_requests * (value.worth * gain + saved) - spent for name, gain in gains.items()}


def assumptions(
    question: DecisionConfig,
    costs: TuningCosts,
    comparisons: Sequence[Comparison],
    *,
    cost_ratio: CostRatio | None = None,
) -> tuple[Assumption, ...]:
    """What the verdict would be at other values of what was assumed, guards and forecasts aside.

    WORTH_IT needs every lower bound to reach the margin, NOT_WORTH_IT one upper bound below it; a comparison in which
    too few rows differ says as little here as in the verdict. Under as_good_for_less the accepted loss is varied, and
    the volume where one is declared; where the cost is not known to be lower no loss makes it worth it, and where it
    is known to be higher none is.

    Raises:
        DataError: the volumes of `cost_ratio` are no numbers from 0 on, or contradict each other.
    """
    sure = [each for each in comparisons if _differing(each) >= MIN_DISCORDANT]
    believed = all(each.method == "bonett_price" or _differing(each) >= MIN_DISCORDANT for each in comparisons)
    lowest, high = min(each.low for each in comparisons), min((each.high for each in sure), default=inf)
    if question.claim == "as_good_for_less":
        return _for_less(question, lowest, high, cost_ratio, believed=believed)
    low = lowest if believed else -inf
    if question.value is None:
        margin = question.margin if question.margin is not None else 0.0
        return (Assumption(name="margin", value=margin, zones=_zones(low, high, more=False)),)
    return _of_value(question.value, costs, low, high)


def _for_less(
    question: DecisionConfig, low: float, high: float, cost_ratio: CostRatio | None, *, believed: bool
) -> tuple[Assumption, ...]:
    """The accepted loss, and the volume over which the tuning is shared out.

    Where few rows differ the lower bound is believed for a loss that is accepted, and not for none at all.
    """
    reached = low >= -question.limit and (believed or question.limit > 0)
    worth_at, not_at = max(0.0 if believed else SMALLEST_LOSS, -low), -high
    if cost_ratio is None or cost_ratio.high >= 1:
        worth_at = inf
    if cost_ratio is not None and cost_ratio.low >= 1:
        not_at = inf
    found = [Assumption(name="limit", value=question.limit, zones=_zones(worth_at, not_at, more=True))]
    if question.value is not None and cost_ratio is not None and cost_ratio.cheaper_from is not None:
        shown_from, possible_from = cost_ratio.cheaper_from
        if not 0 <= possible_from <= shown_from:  # also refuses NaN
            raise DataError(
                f"cheaper from {shown_from} and perhaps from {possible_from} requests a month; expected what is shown "
                "to be possible, and neither below 0. Measure the costs again."
            )
        worth_at = shown_from if reached else inf
        not_at = possible_from if high >= -question.limit else inf
        zones = _zones(worth_at, not_at, more=True)
        found.append(Assumption(name="requests_per_month", value=question.value.requests_per_month, zones=zones))
    return tuple(found)


def _differing(comparison: Comparison) -> int:
    """Rows on which the two arms differ."""
    return round(comparison.discordance * comparison.num_rows)


def _of_value(value: ValueConfig, costs: TuningCosts, low: float, high: float) -> tuple[Assumption, ...]:
    """The terms of the margin, each solved for; with retraining the months are left out: costs come in steps then."""
    months, volume = value.horizon_months, value.requests_per_month
    dearer = costs.request_after - costs.request_before
    per_request = costs.over(months) / months / volume + dearer
    upkeep, again = costs.upkeep_per_month, costs.num_retrainings
    on_machines = (costs.over(months) - upkeep * months) / months / volume + dearer

    def pays(gain: float) -> float:
        """What a gain leaves of each request before what is fixed."""
        return value.worth * gain - dearer

    def worth(gain: float) -> float:
        if per_request <= 0:
            return 0.0
        return per_request / gain if gain > 0 else inf

    def requests(gain: float) -> float:
        return costs.over(months) / months / pays(gain) if pays(gain) > 0 else inf

    def horizon(gain: float) -> float:
        left = pays(gain) * volume - upkeep
        return costs.one_off / left if left > 0 else inf

    def tuning(gain: float) -> float:
        return ((pays(gain) * volume - upkeep) * months - again * costs.measuring) / (1 + again)

    def prices(gain: float) -> float:
        return (value.worth * gain - upkeep / volume) / on_machines

    terms: list[tuple[str, float, Callable[[float], float], bool]] = [
        ("worth", value.worth, worth, True),
        ("requests_per_month", volume, requests, True),
        ("tuning_cost", costs.one_off, tuning, False),
    ]
    if not again:
        terms.insert(2, ("horizon_months", months, horizon, True))
    if on_machines > 0:  # else tuning saves money at any price
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
