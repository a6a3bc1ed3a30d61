"""What a request and a run cost, from measured tokens and seconds and the project's price table.

A request of a language model is priced by tokens where the table has token prices, else by the time the
machine is busy with it at concurrency 1: the dearest way to serve, so no arm looks cheaper than it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from metier.core.arm_config import ArmConfig
from metier.core.errors import GateClosed
from metier.core.settings import BudgetConfig, PriceConfig, ValueConfig
from metier.core.trials import Reply
from metier.core.votes import Vote

if TYPE_CHECKING:
    from metier.assess import TuningCosts

__all__ = [
    "cheaper_from", "cost_ratio", "label_row_cost", "machine_cost", "measuring_cost", "price_entries",
    "request_costs", "require_affordable", "stale_prices", "tuning_costs",
]  # fmt: skip

SHARES_AT_MOST, NUM_SHARES = 1000.0, 200
"""Where a volume is looked for at which the cost turns: shares of the tuning up to so many times a rival's request, or
down to so small a part of the declared one, in so many steps."""
STALE_DAYS = 90
"""Prices of one machine differed 2.3-fold between vendors in 2026, and move within months."""


def request_costs(replies: Sequence[Reply], price: PriceConfig) -> list[float]:
    """Cost of every request, in the table's currency; by machine time where no token was read or written."""
    by_token = price.token_in > 0 or price.token_out > 0
    return [
        (r.tokens_in * price.token_in + r.tokens_out * price.token_out) / 1e6
        if by_token and r.tokens_in + r.tokens_out > 0
        else r.seconds / 3600 * price.machine_hour
        for r in replies
    ]


def machine_cost(minutes: float, price: PriceConfig) -> float:
    """Cost of minutes of the machine, in the table's currency."""
    return minutes / 60 * price.machine_hour


def tuning_costs(
    value: ValueConfig | None,
    price: PriceConfig,
    *,
    tune_minutes: float,
    measuring: float,
    request_before: float,
    request_after: float,
) -> TuningCosts:
    """What tuning costs: the tuning, the declared upkeep and, where it is declared, retraining within the horizon.

    A retraining is a tuning and what is measured around it again (`measuring`, in money).
    """
    from metier.assess import TuningCosts

    again = value is not None and value.retrain_months > 0
    return TuningCosts(
        one_off=machine_cost(tune_minutes, price),
        upkeep_per_month=value.upkeep_per_month if value is not None else 0.0,
        request_before=request_before,
        request_after=request_after,
        num_retrainings=max(0, ceil(value.horizon_months / value.retrain_months) - 1) if again and value else 0,
        measuring=measuring if again else 0.0,
    )


def measuring_cost(seconds: Mapping[str, float], price: PriceConfig, *, bought: float) -> float:
    """What one round of measuring costs, from predicted seconds by part of the run, and the answers it buys.

    The learning curve is left out: nobody needs it to tune again.
    """
    spent_s = sum(value for part, value in seconds.items() if part not in ("tune", "curve"))
    return machine_cost(spent_s / 60, price) + bought


def label_row_cost(price: PriceConfig, votes: Sequence[Vote]) -> float | None:
    """What one more row costs of a person's time; None where its minutes or their price are not known."""
    seconds = [vote.seconds for vote in votes if vote.seconds is not None]
    minutes = price.row_minutes or (float(np.median(seconds)) / 60 if seconds else 0.0)
    return price.label_minute * minutes if price.label_minute and minutes else None


def require_affordable(minutes: float, budget: BudgetConfig, price: PriceConfig, *, bought: float = 0.0) -> None:
    """Pass only where minutes of the machine, and what is bought, cost no more than `budget.money`; 0 sets no limit.

    Raises:
        GateClosed: they cost more; the message says how many minutes the money pays for.
    """
    cost = machine_cost(minutes, price) + bought
    if budget.money and bought and cost > budget.money:
        raise GateClosed(
            f"the run is predicted to cost {price.currency} {cost:.4f}, {bought:.4f} of it for answers of endpoints; "
            f"[budget] money is {budget.money:g}. Raise money, or drop the [[arm]] of kind 'endpoint'."
        )
    if budget.money and cost > budget.money:
        paid_minutes = 60 * budget.money / price.machine_hour
        raise GateClosed(
            f"the run is predicted to cost {price.currency} {cost:.4f}, [budget] money is {budget.money:g}. "
            f"Set [budget] minutes to {paid_minutes:.3g}, what the money pays for: the plan fits the tuning into "
            "it. Or raise money."
        )


def stale_prices(price: PriceConfig, arms: Sequence[ArmConfig], *, today: date) -> list[str]:
    """A sentence for every dated price that was looked up more than `STALE_DAYS` ago."""
    dated = {"[price]": price.date}
    dated |= {
        f"[arm.endpoint] of {arm.name or arm.kind}": arm.endpoint.date for arm in arms if arm.endpoint is not None
    }
    ages = {name: (today - date.fromisoformat(day)).days for name, day in dated.items() if day}
    return [
        f"the prices of {name} were looked up {age} days ago; prices move: look again."
        for name, age in ages.items()
        if age > STALE_DAYS
    ]


def cost_ratio(tuned: Sequence[float], rival: Sequence[float], *, alpha: float) -> dict[str, float] | None:
    """Tuned cost over the rival's, with one-sided bounds at `alpha`; None where one costs nothing or of one request.

    Delta method on the log of the ratio of means over the same requests, with bounds that allow for skewed costs: a few
    long replies cost most, and a sample that misses them looks cheap.
    """
    from metier.core.stats import skewed_mean

    ours, theirs = np.asarray(tuned, float), np.asarray(rival, float)
    assert ours.shape == theirs.shape, "both arms answered the same requests"
    if len(ours) < 2 or not theirs.mean() > 0 or not ours.mean() > 0:
        return None
    ratio = float(ours.mean() / theirs.mean())
    low, high = skewed_mean(ours / ours.mean() - theirs / theirs.mean(), alpha=alpha)
    return {"estimate": ratio, "low": ratio * float(np.exp(low)), "high": ratio * float(np.exp(high))}


def cheaper_from(
    tuned: Sequence[float],
    rival: Sequence[float],
    *,
    fixed_per_month: float,
    requests_per_month: float,
    bound: str,
    alpha: float,
) -> float | None:
    """Requests a month from which a bound of `cost_ratio`, each with its share of what is fixed, is below 1.

    The turn next to the declared volume, for a bound need not fall all the way: a larger share evens out costs that
    scatter. None: at no volume, or of one request; 0: nothing turns it at fewer requests.
    """
    if len(tuned) < 2:
        return None

    def is_below(share: float) -> bool:
        ratio = cost_ratio([cost + share for cost in tuned], rival, alpha=alpha)
        if ratio is None:  # one side costs nothing
            return share == 0 and not any(tuned) and any(rival)
        return ratio[bound] < 1

    declared = fixed_per_month / requests_per_month
    if declared == 0:
        return 0.0 if is_below(0.0) else None
    was_below = is_below(declared)
    if was_below:
        shares = np.geomspace(declared, max(2 * declared, SHARES_AT_MOST * float(np.mean(rival))), NUM_SHARES)
    else:
        shares = np.append(np.geomspace(declared, declared / SHARES_AT_MOST, NUM_SHARES), 0.0)
    turn = next((i for i, share in enumerate(shares[1:], 1) if is_below(float(share)) != was_below), None)
    if turn is None:
        return 0.0 if was_below else None
    low, high = sorted((float(shares[turn - 1]), float(shares[turn])))
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if is_below(middle) else (low, middle)
    return fixed_per_month / high


def price_entries(price: PriceConfig, arms: Sequence[ArmConfig] = ()) -> list[dict[str, Any]]:
    """The prices used, as they go into the report, those of endpoints among them; unused token prices are left out."""
    items: Mapping[str, float] = {
        "machine_hour": price.machine_hour,
        "million_tokens_in": price.token_in,
        "million_tokens_out": price.token_out,
        "label_minute": price.label_minute,
    }
    used = {item: amount for item, amount in items.items() if amount > 0 or item == "machine_hour"}
    common = {"currency": price.currency, "date": price.date, "source": price.source}
    found = [{"item": item, "amount": amount, **common} for item, amount in used.items()]
    for arm in arms:
        if arm.endpoint is not None:
            asked = arm.endpoint
            where = {"currency": price.currency, "date": asked.date, "source": asked.source}
            amounts = {"million_tokens_in": asked.token_in, "million_tokens_out": asked.token_out}
            found += [
                {"item": f"{arm.name or arm.kind}_{item}", "amount": each, **where} for item, each in amounts.items()
            ]
    return found
