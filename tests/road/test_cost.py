"""What a run may cost: the limit is compared with the predicted minutes, before anything long starts."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from metier.core.arm_config import ArmConfig, EndpointConfig
from metier.core.errors import GateClosed
from metier.core.settings import BudgetConfig, PriceConfig
from metier.road.cost import require_affordable, stale_prices
from tests.road.running import events_of, metier
from tests.road.small_project import write_project


def test_a_run_at_its_limit_passes_and_one_above_it_is_refused_with_the_minutes_the_money_pays_for() -> None:
    price = PriceConfig(currency="GBP", machine_hour=6.0)  # 0.10 a minute
    require_affordable(20.0, BudgetConfig(money=2.0), price)
    require_affordable(20.0, BudgetConfig(), price)
    with pytest.raises(GateClosed) as caught:
        require_affordable(25.0, BudgetConfig(money=2.0), price)
    assert str(caught.value) == (
        "the run is predicted to cost GBP 2.5000, [budget] money is 2. Set [budget] minutes to 20, what the money pays "
        "for: the plan fits the tuning into it. Or raise money."
    )


def test_no_verb_goes_beyond_the_plan_of_a_run_that_costs_too_much(tmp_path: Path) -> None:
    project = write_project(tmp_path / "project")
    for verb in ("plan", "assess", "run"):
        ran = metier(verb, "-C", project, "--set", "budget.money=0.000001")
        assert (ran.code, ran.out) == (3, ""), ran.err
        assert "error: the run is predicted to cost" in ran.err
    assert not list((project / ".metier").rglob("arm.json"))
    assert "look_opened" not in events_of(project)


def test_prices_that_were_looked_up_more_than_ninety_days_ago_are_told() -> None:
    asked = EndpointConfig(
        url="https://x/v1", model="m", key="K", max_money=1, token_in=1, token_out=1, date="2026-08-01"
    )
    arms = [ArmConfig(kind="endpoint", name="bought", endpoint=asked), ArmConfig(kind="prompt")]
    today = date(2026, 11, 26)
    assert stale_prices(PriceConfig(date="2026-08-28"), arms, today=today) == [
        "the prices of [arm.endpoint] of bought were looked up 117 days ago; prices move: look again."
    ]
    assert stale_prices(PriceConfig(date="2026-08-27"), arms[1:], today=today) == [
        "the prices of [price] were looked up 91 days ago; prices move: look again."
    ]
    assert stale_prices(PriceConfig(), arms[1:], today=today) == [], "assumed prices are told as assumed"
