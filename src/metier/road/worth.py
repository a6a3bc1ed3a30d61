"""What more rows would bring and cost, and what tuning costs and brings: from the scores and facts of one look.

Costs were fixed before the look, gains are those it measured; `metier verify` takes the same step again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from metier.core.report import Forecast, MissingRows, MoneyReport
from metier.core.settings import DecisionConfig
from metier.road.curve import fitted, fitted_rivals

if TYPE_CHECKING:
    from metier.assess import Decision, GainForecast, ScoreTable

__all__ = ["FORECAST_TIMES", "gain_forecasts", "worth"]

FORECAST_TIMES = (1.5, 2.0, 3.0, 4.0)
"""Times the rows at hand that are forecast."""
DOUBLE = 2.0


def gain_forecasts(scores: ScoreTable, facts: Mapping[str, Any]) -> dict[str, GainForecast] | None:  # Any: JSON values
    """What more train rows would make of the gain over every rival; None where no curve was measured."""
    from metier.assess import forecasts

    fit, rivals = fitted(facts.get("curve")), fitted_rivals(facts.get("curve"))
    return None if fit is None else forecasts(fit, scores, times=FORECAST_TIMES, rivals=rivals)


def worth(
    decision: DecisionConfig,
    decided: Decision,
    forecasts: Mapping[str, GainForecast] | None,
    facts: Mapping[str, Any],  # Any: JSON values
) -> dict[str, Any]:  # Any: parts of the report
    """The fields `gain_forecast` and `money` of the report; the latter is None where no costs were fixed."""
    from metier.assess import TuningCosts, assumptions, break_even, net_worth

    bands = {name: each.points for name, each in (forecasts or {}).items() if each.points}
    if "costs" not in facts:  # recorded by a metier that fixed none
        return {"gain_forecast": bands, "money": None}
    known = facts["costs"]
    costs = TuningCosts(**{name: known[name] for name in TuningCosts.__dataclass_fields__})
    gain, value = decided.gain, decision.value
    gains = {"low": gain.low, "estimate": gain.estimate, "high": gain.high}
    low, high = (min(bounds) for bounds in zip(*((c.low, c.high) for c in decided.comparisons), strict=True))
    money = MoneyReport(
        versus=facts["guard_reference"],
        tuning=costs.one_off,
        evaluation=known["evaluation"],
        upkeep_per_month=costs.upkeep_per_month,
        request_before=costs.request_before,
        request_after=costs.request_after,
        label_row=known["label_row"],
        break_even=break_even(costs, value, gains),
        net=net_worth(costs, value, gains),
        assumptions=assumptions(decision, costs, low=low, high=high),
        missing=_missing(decided, (forecasts or {}).get(gain.versus), known["label_row"]),
    )
    return {"gain_forecast": bands, "money": money}


def _missing(decided: Decision, forecast: GainForecast | None, label_row: float | None) -> tuple[MissingRows, ...]:
    """Rows to collect: those of the hold-out that decide, and train rows with the gain they would bring."""

    def missing(part: str, purpose: str, rows: int, gain: Forecast | None = None) -> MissingRows:
        cost = None if label_row is None else rows * label_row
        return MissingRows(part=part, purpose=purpose, rows=rows, cost=cost, gain=gain)

    found, needed = [], decided.rows_needed
    if needed.to_collect is not None:
        found.append(missing("hold-out", "decide", needed.to_collect - needed.num_rows))
    if forecast is None:
        return tuple(found)
    double = round(DOUBLE * forecast.num_train)
    for band in forecast.points:
        more = band.num_train - forecast.num_train
        if band.num_train == double:
            found.append(missing("train", "double", more, band))
        if band.num_train == decided.train_rows_needed:
            found.append(missing("train", "reach_margin", more, band))
    return tuple(found)
