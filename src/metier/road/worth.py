"""What more rows would bring and cost, and what tuning costs and brings: from the scores and facts of one look.

Costs were fixed before the look, gains are those it measured; `metier verify` takes the same step again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from metier.core.report import Comparison, Forecast, MissingRows, MoneyReport, Outcome
from metier.core.settings import DecisionConfig, ValueConfig
from metier.road.curve import fitted, fitted_rivals

if TYPE_CHECKING:
    from metier.assess import CostRatio, Decision, GainForecast, ScoreTable, TuningCosts

__all__ = ["FORECAST_TIMES", "cost_ratio_of", "gain_forecasts", "worth"]

FORECAST_TIMES = (1.5, 2.0, 3.0, 4.0)
"""Times the rows at hand that are forecast."""
DOUBLE = 2.0


def gain_forecasts(scores: ScoreTable, facts: Mapping[str, Any]) -> dict[str, GainForecast] | None:  # Any: JSON values
    """What more train rows would make of the gain over every rival; None where no curve was measured."""
    from metier.assess import forecasts

    fit, rivals = fitted(facts.get("curve")), fitted_rivals(facts.get("curve"))
    return None if fit is None else forecasts(fit, scores, times=FORECAST_TIMES, rivals=rivals)


def cost_ratio_of(recorded: Mapping[str, Any] | None, *, versus: str) -> CostRatio | None:  # Any: JSON values
    """The interval of the cost as it was fixed before the look; None where no cost was above 0."""
    if recorded is None:
        return None
    from metier.assess import CostRatio

    ends = recorded.get("cheaper_from")  # a look fixed by an earlier metier has none
    volumes = ends and tuple(math.inf if ends[bound] is None else ends[bound] for bound in ("high", "low"))
    return CostRatio(recorded["low"], recorded["high"], versus, recorded["of"], volumes)


def worth(
    decision: DecisionConfig,
    decided: Decision,
    forecasts: Mapping[str, GainForecast] | None,
    facts: Mapping[str, Any],  # Any: JSON values
) -> dict[str, Any]:  # Any: parts of the report
    """The fields `gain_forecast` and `money` of the report; the latter is None where no costs were fixed."""
    from metier.assess import TuningCosts, assumptions

    bands = {name: each.points for name, each in (forecasts or {}).items() if each.points}
    if "costs" not in facts:  # recorded by a metier that fixed none
        return {"gain_forecast": bands, "money": None}
    known, value = facts["costs"], decision.value
    decided_with = TuningCosts(**{name: known[name] for name in TuningCosts.__dataclass_fields__ if name in known})
    found = [
        _against(each, replace(decided_with, request_before=known["requests"][each.versus]), value)
        for each in decided.comparisons
    ]
    worst = min(found, key=lambda one: one.net["estimate"]) if value is not None else None
    shown = worst or next(one for one in found if one.versus == decided.gain.versus)
    money = MoneyReport(
        currency=known["currency"],
        versus=shown.versus,
        tuning=decided_with.one_off,
        evaluation=known["evaluation"],
        num_retrainings=decided_with.num_retrainings,
        upkeep_per_month=decided_with.upkeep_per_month,
        request_before=known["requests"][shown.versus],
        request_after=decided_with.request_after,
        label_row=known["label_row"],
        break_even=shown.break_even,
        net=shown.net,
        assumptions=assumptions(
            decision,
            decided_with,
            decided.comparisons,
            cost_ratio=cost_ratio_of(facts["cost_ratio"], versus=facts["guard_reference"]),
        ),
        missing=_missing(decided, (forecasts or {}).get(decided.gain.versus), facts),
    )
    return {"gain_forecast": bands, "money": money}


class _Against(NamedTuple):
    """What tuning brings over one rival, at the ends of the gain and its estimate."""

    versus: str
    break_even: dict[str, float | None]
    net: dict[str, float]


def _against(gain: Comparison, costs: TuningCosts, value: ValueConfig | None) -> _Against:
    """Gain and saving over the same rival."""
    from metier.assess import break_even, net_worth

    gains = {"low": gain.low, "estimate": gain.estimate, "high": gain.high}
    return _Against(gain.versus, break_even(costs, value, gains), net_worth(costs, value, gains))


def _missing(decided: Decision, forecast: GainForecast | None, facts: Mapping[str, Any]) -> tuple[MissingRows, ...]:
    """Rows to collect: those of the hold-out where they decide, and train rows with the gain they would bring."""
    label_row, found = facts["costs"]["label_row"], []

    def missing(part: str, purpose: str, rows: int, gain: Forecast | None = None, groups: int | None = None) -> None:
        cost = None if label_row is None else rows * label_row
        found.append(MissingRows(part=part, purpose=purpose, rows=rows, groups=groups, cost=cost, gain=gain))

    needed, (code, _, name) = decided.rows_needed, decided.verdict.reason.partition(":")
    if code == "guard_unproven":
        guard = next(each for each in decided.guards if each.name == name)
        if guard.rows_needed is not None and guard.rows_needed > guard.num_rows:
            missing("hold-out", "prove_guard", guard.rows_needed - guard.num_rows)
    elif decided.verdict.outcome is Outcome.NEED_HOLDOUT_ROWS and code != "cost_unproven" and needed.to_collect:
        more = needed.to_collect - needed.num_rows
        missing("hold-out", "decide", more, groups=needed.groups(more) if needed.rows_per_group > 1 else None)
    for band in forecast.points if forecast is not None else ():
        more = band.num_train - max(forecast.num_train, facts["num_train_rows"]) if forecast else 0
        if more > 0 and forecast and band.num_train == round(DOUBLE * forecast.num_train):
            missing("train", "double", more, band)
        if more > 0 and band.num_train == decided.train_rows_needed:
            missing("train", "reach_margin", more, band)
    return tuple(found)
