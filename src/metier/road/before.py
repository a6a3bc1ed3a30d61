"""`metier plan`: what a run would take, before anything is spent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metier.core.project_file import ProjectConfig
from metier.road.buying import Forecast, bought_money, forecasts
from metier.road.cost import machine_cost, require_affordable
from metier.road.cut import cut_rows
from metier.road.ground import read_and_check
from metier.road.plan import Plan, make_plan
from metier.road.progress import Watcher, minutes_text
from metier.road.rehearsal import Rehearsed, rehearse_plan, require_room, with_rehearsal
from metier.road.run import open_session

if TYPE_CHECKING:
    from metier.tune import Servable

__all__ = ["Planned", "plan_project"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """What a run would do and take."""

    plan: Plan
    rows: Mapping[str, int]
    cost: float
    currency: str
    settings: Mapping[str, Any]
    servable: tuple[Servable, ...]
    """Which servers can load what the tuning will leave."""
    bought: Sequence[Forecast] = ()
    """What endpoints will be asked."""
    rehearsed: Rehearsed | None = None
    """What a rehearsal found; None where none was asked for."""

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        price = {"cost": self.cost, "currency": self.currency}
        servable = [asdict(one) for one in self.servable]
        rehearsed = None if self.rehearsed is None else self.rehearsed.as_json()
        found = {"servable": servable, "bought": [asdict(one) for one in self.bought], "rehearsed": rehearsed}
        return {**self.plan.as_json(), "rows": dict(self.rows), **price, "settings": dict(self.settings), **found}

    def as_text(self) -> str:
        """The plan for a person."""
        plan = self.plan
        lines = [f"rows: {', '.join(f'{n} {part}' for part, n in self.rows.items())}"]
        for name, (predicted, low, high) in plan.predictions.items():
            say = minutes_text if name.endswith("_minutes") else "{:.2f} GiB".format
            what = name.removesuffix("_minutes").removesuffix("_gib").replace("_", " ")
            lines.append(f"{what}: {say(predicted)} ({say(low)} to {say(high)})")
        price = self.settings["price"]
        assumed = "" if price["date"] else f", at an assumed {price['machine_hour']:g} an hour"
        lines.append(f"cost: {self.currency} {self.cost:.4f} of machine time{assumed}")
        lines += [one.as_text() for one in self.bought]
        lines.append(f"tuning: {plan.size}")
        lines += [f"given up for the budget: {sentence}" for sentence in plan.gave_up]
        lines += [f"served by {one.as_text()} ({one.date})" for one in self.servable]
        if self.rehearsed is not None:
            lines.append(self.rehearsed.as_text())
        return "\n".join(lines)


def plan_project(
    project_dir: Path, config: ProjectConfig, *, rehearse: bool = False, watcher: Watcher | None = None
) -> Planned:
    """Predict minutes, memory and money of `metier run`; rows are read and split, nothing is trained.

    With `rehearse` everything the tuning does is done once; nothing but the stored rehearsal changes.

    Raises:
        GateClosed: not even the smallest run fits the budget, or the rehearsed one does not fit the machine.
    """
    from metier.tune import TunedForm, servability

    with open_session(project_dir, config, watcher=watcher, what="metier plan") as session:
        parts = cut_rows(session, read_and_check(session))
        plan = make_plan(session, parts)
        require_room(session, plan)
        found = rehearse_plan(session, parts, plan) if rehearse else None
        plan = with_rehearsal(session, parts, plan)
        minutes, bought = plan.predictions["run_minutes"][0], bought_money(session, parts)
        require_affordable(minutes, config.budget, config.price, bought=bought)
        rank = 0 if config.tune.method == "full" else config.tune.rank
        return Planned(
            servable=servability(TunedForm(method=config.tune.method, rank=rank)),
            rehearsed=found,
            plan=plan,
            rows={"train": len(parts.train), "dev": len(parts.dev), "hold-out": parts.num_holdout},
            cost=machine_cost(minutes, config.price),
            bought=forecasts(session, parts),
            currency=config.price.currency,
            settings=asdict(config),
        )
