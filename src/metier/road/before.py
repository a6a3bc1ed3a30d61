"""Before spending: what a run would take (`metier plan`) and whether it could pay (`metier assess`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metier.core.arm_config import NO_MODEL_KINDS
from metier.core.errors import DataError, GateClosed, counted
from metier.core.project_file import ProjectConfig
from metier.road.cost import machine_cost, request_costs, require_affordable
from metier.road.curve import Pilot, run_pilot
from metier.road.cut import Parts, cut_rows
from metier.road.ground import read_and_check
from metier.road.plan import Plan, make_plan
from metier.road.progress import Watcher, minutes_text
from metier.road.rehearsal import Rehearsed, rehearse_plan, require_room, with_rehearsal
from metier.road.run import open_session
from metier.road.session import Session
from metier.road.trials import FittedTrial, fit_untuned
from metier.road.tuning import Tuning

if TYPE_CHECKING:
    from metier.assess import TuningCosts
    from metier.tune import Servable

__all__ = ["Assessed", "Planned", "assess_project", "plan_project"]

HALF_80 = 1.2816
"""Half of an 80 % interval, in standard errors."""


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
    rehearsed: Rehearsed | None = None
    """What a rehearsal found; None where none was asked for."""

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        price = {"cost": self.cost, "currency": self.currency}
        servable = [asdict(one) for one in self.servable]
        rehearsed = None if self.rehearsed is None else self.rehearsed.as_json()
        found = {"servable": servable, "rehearsed": rehearsed}
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
        require_affordable(plan.predictions["run_minutes"][0], config.budget, config.price)
        rank = 0 if config.tune.method == "full" else config.tune.rank
        return Planned(
            servable=servability(TunedForm(method=config.tune.method, rank=rank)),
            rehearsed=found,
            plan=plan,
            rows={"train": len(parts.train), "dev": len(parts.dev), "hold-out": parts.num_holdout},
            cost=machine_cost(plan.predictions["run_minutes"][0], config.price),
            currency=config.price.currency,
            settings=asdict(config),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Assessed:
    """What is known before the spend."""

    dev_scores: Mapping[str, float]
    """Mean dev score of every arm that needs no tuning, 0-1."""
    num_dev: int
    best: str
    headroom: float
    """What is left above the best of them, score units."""
    margin: float
    """What the gain will be held against: the margin, also one that follows from `[decision.value]` and the predicted
    cost of the tuning; minus the accepted loss under as_good_for_less."""
    plan_gain: float
    """Gain the rows are planned for, score units; 0 under as_good_for_less."""
    rows_needed: int | None
    """Hold-out rows that show `plan_gain` to reach the margin with power .8; None: no number that can be collected."""
    num_holdout: int
    tune_minutes: float
    tune_cost: float
    currency: str
    pilot: Pilot | None = None
    """What a quarter of the rows says of all; None where the answer was clear before, or a quarter is too few rows."""

    @property
    def best_low(self) -> float:
        """What the best arm may really score: its dev score less an 80 % interval's half."""
        score = self.dev_scores[self.best]
        half = HALF_80 * float(np.sqrt(score * (1 - score) / self.num_dev))
        return max(0.0, score - half)

    @property
    def problems(self) -> list[str]:
        """Why tuning should not start yet."""
        found = []
        if self.headroom < self.plan_gain:
            score = self.dev_scores[self.best]
            gain = f"a gain of {self.plan_gain:.3g}"
            found.append(f"{self.best} already scores {score:.3f}: {gain} does not fit below 1.")
        if self.rows_needed is None:
            found.append(
                f"no number of hold-out rows that you could collect shows a gain of {self.plan_gain:.3g} to reach "
                f"{self.margin:.3g}; set decision.plan_gain to the gain you expect, further above it, or raise "
                "decision.max_holdout_rows."
            )
        elif self.rows_needed > self.num_holdout:
            found.append(
                f"the hold-out has {self.num_holdout} rows, about {self.rows_needed} are needed to show a gain of "
                f"{self.plan_gain:.3g}."
            )
        if self.pilot is not None and self.pilot.forecast.high - self.best_low < self.margin:
            told, tried = self.pilot.forecast, self.pilot.points[-1]
            found.append(
                f"tuned on {tried.num_train:,} rows it scores {tried.score:.3f}; on all {told.num_train:,} it is "
                f"forecast at {told.low:.3f} to {told.high:.3f} (80 %), while {self.best} scores {self.best_low:.3f} "
                f"or more: not even the upper end lies {self.margin:.3g} above it. Collect rows, or change the base."
            )
        return found

    def as_json(self) -> dict[str, Any]:
        """The answer as JSON values."""
        return {**asdict(self), "dev_scores": dict(self.dev_scores), "go": not self.problems, "problems": self.problems}

    def as_text(self) -> str:
        """The answer for a person."""
        lines = [f"{name:<10} {score:.3f} on {self.num_dev} dev rows" for name, score in self.dev_scores.items()]
        planned = f"planned gain {self.plan_gain:.3g}, to reach {self.margin:.3g}"
        lines.append(f"headroom above {self.best}: {self.headroom:.3f}; {planned}")
        needed = "no number decides" if self.rows_needed is None else f"about {self.rows_needed}"
        lines.append(f"hold-out rows: {self.num_holdout} at hand, {needed} needed (power .8)")
        if self.pilot is not None:
            tried = ", ".join(f"{point.score:.3f} on {point.num_train:,} rows" for point in self.pilot.points)
            told = self.pilot.forecast
            lines.append(f"tuned: {tried}; on all {told.num_train:,} forecast {told.low:.3f} to {told.high:.3f} (80 %)")
        lines.append(f"tuning: {minutes_text(self.tune_minutes)}, {self.currency} {self.tune_cost:.4f}")
        lines += ["go"] if not self.problems else [f"not yet: {problem}" for problem in self.problems]
        return "\n".join(lines)

    def require(self) -> None:
        """Pass only on go.

        Raises:
            GateClosed: something is missing.
        """
        if self.problems:
            raise GateClosed(self.problems[0])


def assess_project(project_dir: Path, config: ProjectConfig, *, watcher: Watcher | None = None) -> Assessed:
    """Fit the arms that need no tuning on dev, and say whether tuning could show its gain; the hold-out stays shut.

    Where nothing speaks against it yet, tuning is tried on up to a quarter of the rows and forecast to all of them.

    Raises:
        ConfigError: at the predicted cost of the tuning not even perfect replies would pay.
        GateClosed: the run does not fit the budget.
    """
    with open_session(project_dir, config, watcher=watcher, what="metier assess") as session:
        parts = cut_rows(session, read_and_check(session))
        plan = make_plan(session, parts)
        require_affordable(plan.predictions["run_minutes"][0], config.budget, config.price)
        found = _assessed(session, parts, plan, fit_untuned(session, parts, plan))
        if found.problems:
            return found  # the answer is clear, and a pilot would cost what it cannot change
        return replace(found, pilot=run_pilot(session, parts, Tuning(session, parts, plan)))


def _assessed(session: Session, parts: Parts, plan: Plan, trials: list[FittedTrial]) -> Assessed:
    from metier.assess import gain_bound, planned_gain, resolved_question
    from metier.core.stats import rows_for_margin

    decision, minutes = session.config.decision, plan.predictions["tune_minutes"][0]
    scores = {t.name: float(np.mean(t.dev.scores)) for t in trials if t.dev is not None}
    if not scores:
        raise DataError(
            f"none of {counted(len(trials), 'untuned arm')} could run on these rows, so there is nothing to compare "
            "tuning with; expected at least one. Add an [[arm]] of kind 'prompt', or see `metier run --dry-run`."
        )
    best = max(scores, key=lambda name: scores[name])
    question = resolved_question(decision, _predicted_costs(session, trials, best, minutes))
    margin, plan_gain = gain_bound(question), planned_gain(question)
    # The tuned arm is not measured yet: the disagreement planned for is that of two arms that err independently.
    expected = min(1.0, scores[best] + plan_gain)
    discordance = min(1.0, scores[best] * (1 - expected) + expected * (1 - scores[best]))
    return Assessed(
        dev_scores=scores,
        num_dev=max(len(t.dev.scores) for t in trials if t.dev is not None),
        best=best,
        headroom=1 - scores[best],
        margin=margin,
        plan_gain=plan_gain,
        rows_needed=rows_for_margin(
            plan_gain=plan_gain,
            margin=margin,
            discordance=discordance,
            alpha=decision.alpha / decision.max_looks,
            max_rows=decision.max_holdout_rows,
        ),
        num_holdout=parts.num_holdout,
        tune_minutes=minutes,
        tune_cost=machine_cost(minutes, session.config.price),
        currency=session.config.price.currency,
    )


def _predicted_costs(session: Session, trials: list[FittedTrial], best: str, tune_minutes: float) -> TuningCosts:
    """What tuning will cost, as far as it is known before: the predicted minutes and the requests measured on dev.

    A request to the tuned model is taken to cost what the cheapest one to its base does, as its prompt is no longer;
    where only arms without a language model ran, what one to the best arm costs.
    """
    from metier.assess import TuningCosts

    price, ran = session.config.price, [t for t in trials if t.dev is not None]
    cost = {t.name: float(np.mean(request_costs(t.dev.replies, session.price_of(t.name)))) for t in ran if t.dev}
    of_base = [cost[t.name] for t in ran if t.kind not in (*NO_MODEL_KINDS, "endpoint")]
    return TuningCosts(
        one_off=machine_cost(tune_minutes, price),
        upkeep_per_month=0.0,
        request_before=cost[best],
        request_after=min(of_base, default=cost[best]),
    )
