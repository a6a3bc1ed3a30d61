"""From money to a margin: the gain that pays for the tuning, and the volume at which a gain pays.

>>> costs = TuningCosts(one_off=120.0, upkeep_per_month=0.0, request_before=0.002, request_after=0.001)
>>> value_margin(ValueConfig(worth=0.5, requests_per_month=1000, horizon_months=12), costs)
0.018
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from metier.core.errors import ConfigError, DataError
from metier.core.settings import DecisionConfig, ValueConfig

__all__ = [
    "CostRatio", "TuningCosts", "break_even_requests", "fixed_per_request", "gain_bound", "planned_gain",
    "resolved_question", "value_margin",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class TuningCosts:
    """What tuning costs, in the currency of the price table."""

    one_off: float
    """One tuning. What finding out cost, arms and measuring, is spent either way; rows at hand are paid for."""
    upkeep_per_month: float
    """Watching and serving, a month, beside the requests."""
    request_before: float
    """One request to the arm that would be used otherwise."""
    request_after: float
    """One request to the tuned arm."""
    num_retrainings: int = 0
    """Tunings after the first, within the horizon."""
    measuring: float = 0.0
    """What is measured again with each of them: arms, hold-out, bought answers."""

    def over(self, months: float) -> float:
        """All that does not hang on the requests, over so many months: tunings, measuring, upkeep."""
        again = self.num_retrainings * (self.one_off + self.measuring)
        return self.one_off + again + self.upkeep_per_month * months


class CostRatio(NamedTuple):
    """Interval of the tuned arm's cost over its rival's."""

    low: float
    high: float
    versus: str
    """The rival: the one that would be used otherwise, best on dev; not always the strongest on the hold-out."""
    of: str = "a request"
    """What is compared, as the sentence names it: whether the tuning is in it, and at which volume."""
    cheaper_from: tuple[float, float] | None = None
    """Requests a month from which `high`, and from which `low`, is below 1; infinity: at no volume. None: not known, or
    no volume is declared."""


def fixed_per_request(value: ValueConfig, costs: TuningCosts) -> float:
    """What the tuning adds to each request at the declared volume: what it costs over the horizon, over all of them."""
    return costs.over(value.horizon_months) / value.horizon_months / value.requests_per_month


def value_margin(value: ValueConfig, costs: TuningCosts) -> float:
    """The gain (score units, 0 or more) from which on the tuned model pays over the horizon.

    worth x gain x requests = (tunings + measuring again + upkeep) / months + requests x (cost after - cost before); 0
    where it already saves more than it costs. Above 1 no gain pays.
    """
    per_request = fixed_per_request(value, costs) + costs.request_after - costs.request_before
    return max(0.0, per_request / value.worth)


def resolved_question(question: DecisionConfig, costs: TuningCosts) -> DecisionConfig:
    """The question with `[decision.value]` turned into a margin; unchanged where a margin stands.

    Under as_good_for_less the value declares the volume alone, and there is no margin: the bound is the accepted loss.

    Raises:
        ConfigError: not even perfect replies would pay, or no cost is above 0: where all is free, nothing is weighed.
        DataError: a cost that is negative or no number.
    """
    if question.value is None:
        return question
    amounts = (costs.over(question.value.horizon_months), costs.request_before, costs.request_after)
    if not all(0 <= amount < math.inf for amount in amounts):
        raise DataError(f"decision.value: {costs}; expected costs of 0 or more. Measure them again.")
    if question.claim == "as_good_for_less":
        return replace(question, value=None)
    if not any(amounts):
        raise ConfigError(
            "decision.value: neither the tuning nor a request costs anything, so no gain is too small to pay. "
            "Set [price], or give decision.margin instead."
        )
    margin = value_margin(question.value, costs)
    if margin >= 1:
        raise ConfigError(
            f"decision.value: the gain that pays for tuning is {margin:.2f}, and a score cannot rise by more than 1. "
            "Tuning does not pay at this volume and worth; raise horizon_months or leave it."
        )
    return replace(question, margin=margin, value=None)


def gain_bound(question: DecisionConfig) -> float:
    """What every lower bound of the gain must reach: the margin, or minus the accepted loss under as_good_for_less.

    Raises:
        ConfigError: no margin; `resolved_question` comes first.
    """
    if question.claim == "as_good_for_less":
        return -question.limit
    if question.margin is None:
        raise ConfigError("decision.margin is not set; `resolved_question` turns [decision.value] into a margin first.")
    return question.margin


def planned_gain(question: DecisionConfig) -> float:
    """The gain rows are planned for: twice the margin unless one is set; no change at all under as_good_for_less."""
    return question.plan_gain if question.plan_gain is not None else max(0.0, 2 * gain_bound(question))


def break_even_requests(costs: TuningCosts, *, worth: float, gain_low: float, horizon_months: float) -> float | None:
    """Requests a month from which on tuning pays, at the lower bound of the gain; None: at no volume.

    What it costs a month over the horizon / (cost before - after + worth x gain).
    """
    per_request = costs.request_before - costs.request_after + worth * gain_low
    if per_request <= 0:
        return None
    return costs.over(horizon_months) / horizon_months / per_request
