"""`metier assess`: go, no-go, or what is missing, before the spend; the hold-out stays shut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metier.core.arm_config import NO_MODEL_KINDS
from metier.core.errors import DataError, GateClosed, counted
from metier.core.precision import Holdout, Plan
from metier.core.project_file import ProjectConfig
from metier.core.rows import TargetKind
from metier.road.annotators import annotators_of, every_vote, label_ceiling
from metier.road.buying import bought_money
from metier.road.cost import (
    label_row_cost,
    machine_cost,
    measuring_cost,
    request_costs,
    require_affordable,
    tuning_costs,
)
from metier.road.curve import Pilot, pilot_minutes, run_pilot
from metier.road.cut import Parts, cut_rows
from metier.road.ground import read_and_check
from metier.road.holdout_rows import group_correlation, rows_to_plan
from metier.road.past import record_pilot
from metier.road.plan import Plan as RunPlan
from metier.road.plan import make_plan
from metier.road.progress import Watcher, minutes_text
from metier.road.readiness import holdout_of
from metier.road.rehearsal import require_room
from metier.road.run import open_session
from metier.road.session import Session
from metier.road.trials import FittedTrial, fit_untuned
from metier.road.tuning import Tuning

if TYPE_CHECKING:
    from metier.assess import TuningCosts
    from metier.core.votes import Estimate

__all__ = ["Assessed", "assess_project"]

LEVEL = 0.80
"""Of the interval a dev score and the forecast are told with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Money:
    """What is known of the money before the spend, in the price table's currency."""

    currency: str
    tune_cost: float
    run_cost: float
    """Of the whole run, the tuning and bought answers among it."""
    label_row: float | None
    """One more row of a person's time; None where it has no price."""
    break_even: float | None
    """Requests a month from which on tuning pays, at the planned gain; None: at no volume, or no worth declared."""
    left: float | None
    """Money left over the horizon at the declared volume and the planned gain; None without a declared worth."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Assessed:
    """What is known before the spend."""

    dev_scores: Mapping[str, float]
    """Mean dev score of every arm that needs no tuning, 0-1."""
    num_dev: int
    best: str
    ceiling: Estimate | None
    """The best score the labels allow, from votes on rows of train and dev; None without votes."""
    headroom: float
    """What is left between the best of them and the ceiling, score units; below 1 where no votes tell of a ceiling."""
    margin: float
    """What the gain will be held against: the margin, also one that follows from `[decision.value]` and the predicted
    cost of the tuning; minus the accepted loss under as_good_for_less."""
    plan_gain: float
    """Gain the rows are planned for, score units; 0 under as_good_for_less."""
    rows_needed: int | None
    """Hold-out rows that show `plan_gain` to reach the margin with power .8; None: no number that can be collected."""
    num_holdout: int
    num_groups: int
    """Groups they come from."""
    correlation: float | None
    """How alike dev scores within a group are, 0-1; None: not measured, and 0 is planned with."""
    design_effect: float
    """How many times the rows are needed because hold-out rows share groups; in `rows_needed`."""
    tune_minutes: float
    run_minutes: float
    money: Money
    pilot: Pilot | None = None
    """What a quarter of the rows says of all; None where the answer was clear before, or a quarter is too few rows."""
    spent_minutes: float = 0.0
    """What finding this out took, done again or found done."""

    @property
    def best_low(self) -> float:
        """What the best arm may really score at least: the lower end of Wilson's 80 % interval of its dev score."""
        from metier.core.stats import wilson

        return wilson(round(self.dev_scores[self.best] * self.num_dev), self.num_dev, LEVEL).low

    @property
    def top(self) -> float:
        """The best score the labels may allow: the upper end of the ceiling's interval, 1 without votes."""
        return 1.0 if self.ceiling is None else self.ceiling.high

    @property
    def answer(self) -> str:
        """go; missing: rows to collect first; no_go: tuning on these rows cannot show what was asked for."""
        if self._hopeless:
            return "no_go"
        return "missing" if self._missing else "go"

    @property
    def problems(self) -> list[str]:
        """Why tuning should not start yet."""
        return [*self._hopeless, *self._missing]

    @property
    def _hopeless(self) -> list[str]:
        """What no more hold-out rows would mend."""
        found = []
        if self.top - self.best_low < self.plan_gain:
            score, low, gain = self.dev_scores[self.best], self.best_low, f"a gain of {self.plan_gain:.3g}"
            top = "1" if self.ceiling is None else f"{self.top:.3f}, the most the labels may allow"
            found.append(
                f"{self.best} already scores {score:.3f} ({low:.3f} or more): {gain} does not fit below {top}."
            )
        if self.rows_needed is None and self.margin == self.plan_gain == 0:
            found.append(
                "tuning saves money at any gain, so the margin is 0 and no gain is planned for; set decision.plan_gain "
                "to the gain you expect."
            )
        elif self.rows_needed is None:
            found.append(
                f"no number of hold-out rows that you could collect shows a gain of {self.plan_gain:.3g} to reach "
                f"{self.margin:.3g}; set decision.plan_gain to the gain you expect, further above it, or raise "
                "decision.max_holdout_rows."
            )
        if self.pilot is not None and self.pilot.forecast.high - self.best_low < self.margin:
            told, tried = self.pilot.forecast, self.pilot.points[-1]
            found.append(
                f"tuned on {tried.num_train:,} rows it scores {tried.score:.3f}; on all {told.num_train:,} it is "
                f"forecast at {told.low:.3f} to {told.high:.3f} (80 %), while {self.best} scores {self.best_low:.3f} "
                f"or more: not even the upper end lies {self.margin:.3g} above it. Collect rows, or change the base."
            )
        return found

    @property
    def _missing(self) -> list[str]:
        """Rows to collect before the spend."""
        if self.rows_needed is None or self.rows_needed <= self.num_holdout:
            return []
        more, cost = self.rows_needed - self.num_holdout, ""
        if self.money.label_row is not None:
            cost = f" {more:,} more cost {self.money.currency} {more * self.money.label_row:,.2f} of a person's time."
        groups = ""
        if self.num_groups < self.num_holdout:
            groups = f" ({-(-self.rows_needed * self.num_groups // self.num_holdout):,} groups)"
        return [
            f"the hold-out has {self.num_holdout} rows, about {self.rows_needed}{groups} are needed to show a gain of "
            f"{self.plan_gain:.3g}.{cost}"
        ]

    @property
    def _sharing(self) -> str:
        """What groups do to the rows that are needed."""
        if self.num_groups == self.num_holdout:
            return ""
        if self.correlation is None:
            return "; rows share groups, and how alike they are was not measured"
        return f"; rows share groups: {self.design_effect:.2f} times as many" if self.design_effect >= 1.005 else ""

    def as_json(self) -> dict[str, Any]:
        """The answer as JSON values."""
        ceiling = None if self.ceiling is None else self.ceiling._asdict()
        found = {"answer": self.answer, "go": self.answer == "go", "problems": self.problems}
        return {**asdict(self), "dev_scores": dict(self.dev_scores), "ceiling": ceiling, **found}

    def as_text(self) -> str:
        """The answer for a person."""
        lines = [f"{name:<10} {score:.3f} on {self.num_dev} dev rows" for name, score in self.dev_scores.items()]
        if self.ceiling is not None:
            top = self.ceiling
            lines.append(f"label ceiling: {top.value:.3f} ({top.low:.3f} to {top.high:.3f}, {top.n:,} rows)")
        planned = f"planned gain {self.plan_gain:.3g}, to reach {self.margin:.3g}"
        lines.append(f"headroom above {self.best}: {self.headroom:.3f}; {planned}")
        needed = "no number decides" if self.rows_needed is None else f"about {self.rows_needed}"
        lines.append(f"hold-out rows: {self.num_holdout} at hand, {needed} needed (power .8{self._sharing})")
        if self.pilot is not None:
            tried = ", ".join(f"{point.score:.3f} on {point.num_train:,} rows" for point in self.pilot.points)
            told = self.pilot.forecast
            lines.append(f"tuned: {tried}; on all {told.num_train:,} forecast {told.low:.3f} to {told.high:.3f} (80 %)")
        money = self.money
        lines.append(f"tuning: {minutes_text(self.tune_minutes)}, {money.currency} {money.tune_cost:.4f}")
        lines.append(f"the whole run: {minutes_text(self.run_minutes)}, {money.currency} {money.run_cost:.4f}")
        if money.left is not None:
            volume = "at no volume" if money.break_even is None else f"from {money.break_even:,.0f} requests a month"
            lines.append(f"at the planned gain it pays {volume}; left at yours: {money.currency} {money.left:,.2f}")
        words = {"go": "go", "missing": "not yet", "no_go": "no-go"}
        lines += ["go"] if self.answer == "go" else [f"{words[self.answer]}: {problem}" for problem in self.problems]
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
        ground = read_and_check(session)
        parts = cut_rows(session, ground)
        plan = make_plan(session, parts)
        require_room(session, plan)
        minutes, bought = plan.predictions["run_minutes"][0], bought_money(session, parts)
        require_affordable(minutes, config.budget, config.price, bought=bought)
        by_label = all(row.target.kind is TargetKind.LABEL for row in parts.dev)  # else votes bound no score
        annotators = annotators_of(session, parts) if by_label else None
        ceiling = None if annotators is None else label_ceiling(annotators)
        trials = fit_untuned(session, parts, plan)
        holdout = holdout_of(session, ground, parts)
        found = _assessed(
            session, plan, trials, holdout,
            correlation=group_correlation(session, parts, trials, holdout), ceiling=ceiling, bought=bought,
        )  # fmt: skip
        if found.answer == "go" and _has_room(session, parts, plan):  # else it is clear, or there is no time
            tuning = Tuning(session, parts, plan)
            found = replace(found, pilot=run_pilot(session, parts, tuning))
            if found.pilot is not None:
                record_pilot(session, tuning, found.pilot)
        return replace(found, spent_minutes=spent_minutes(session))


def spent_minutes(session: Session) -> float:
    """Minutes of every stage so far."""
    return sum(stage.seconds for stage in session.stages.values()) / 60


def _has_room(session: Session, parts: Parts, plan: RunPlan) -> bool:
    """Whether the pilot fits into what `[budget] minutes` leaves; where not, that is said."""
    minutes = pilot_minutes(session.config, plan, num_dev=len(parts.dev), num_holdout=parts.num_holdout)
    left = session.config.budget.minutes - spent_minutes(session)
    if minutes > left:
        session.progress.say(
            f"no pilot: tuning on up to a quarter of the rows would take {minutes_text(minutes)}, and [budget] minutes "
            f"leaves {minutes_text(max(0.0, left))}."
        )
    return minutes <= left


def _assessed(
    session: Session,
    plan: RunPlan,
    trials: list[FittedTrial],
    holdout: Holdout,
    *,
    correlation: float | None = None,
    ceiling: Estimate | None = None,
    bought: float = 0.0,
) -> Assessed:
    """The answer of the arms that need no tuning, and of what is predicted of the tuning."""
    from metier.assess import gain_bound, planned_gain, resolved_question
    from metier.core.stats import design_effect

    decision = session.config.decision
    scores = {t.name: float(np.mean(t.dev.scores)) for t in trials if t.dev is not None}
    if not scores:
        raise DataError(
            f"none of {counted(len(trials), 'untuned arm')} could run on these rows, so there is nothing to compare "
            "tuning with; expected at least one. Add an [[arm]] of kind 'prompt', or see `metier run --dry-run`."
        )
    best = max(scores, key=lambda name: scores[name])
    costs = _predicted_costs(session, trials, best, plan, bought=bought)
    question = resolved_question(decision, costs)
    margin, plan_gain = gain_bound(question), planned_gain(question)
    # The tuned arm is not measured yet: the disagreement planned for is that of two arms that err independently.
    expected = min(1.0, scores[best] + plan_gain)
    discordance = min(1.0, scores[best] * (1 - expected) + expected * (1 - scores[best]))
    wanted = Plan(
        margin=margin,
        plan_gain=plan_gain,
        alpha=decision.alpha / decision.max_looks,
        discordance=discordance,
        spread=max(discordance - plan_gain**2, 0.0) ** 0.5,  # graded scores vary no more than yes-no ones
        correlation=correlation or 0.0,
    )
    return Assessed(
        dev_scores=scores,
        num_dev=max(len(t.dev.scores) for t in trials if t.dev is not None),
        best=best,
        ceiling=ceiling,
        headroom=(1.0 if ceiling is None else ceiling.value) - scores[best],
        margin=margin,
        plan_gain=plan_gain,
        rows_needed=rows_to_plan(decision, holdout, wanted, num_rivals=len(scores)),
        num_holdout=holdout.num_rows,
        num_groups=holdout.num_groups,
        correlation=correlation,
        design_effect=design_effect(holdout.sizes, correlation or 0.0),
        tune_minutes=plan.predictions["tune_minutes"][0],
        run_minutes=plan.predictions["run_minutes"][0],
        money=_money(session, plan, costs, plan_gain, bought=bought),
    )


def _money(session: Session, plan: RunPlan, costs: TuningCosts, plan_gain: float, *, bought: float) -> Money:
    """Money, as far as the predicted minutes and the declared value tell it."""
    from metier.assess import break_even, net_worth

    price, value, gains = session.config.price, session.config.decision.value, {"planned": plan_gain}
    return Money(
        currency=price.currency,
        tune_cost=machine_cost(plan.predictions["tune_minutes"][0], price),
        run_cost=machine_cost(plan.predictions["run_minutes"][0], price) + bought,
        label_row=label_row_cost(price, every_vote(session.ledger)),
        break_even=break_even(costs, value, gains).get("planned"),
        left=net_worth(costs, value, gains).get("planned"),
    )


def _predicted_costs(
    session: Session, trials: list[FittedTrial], best: str, plan: RunPlan, *, bought: float
) -> TuningCosts:
    """What tuning will cost, as far as it is known before: the predicted minutes and the requests measured on dev.

    A request to the tuned model is taken to cost what the cheapest one to its base does, as its prompt is no longer;
    where only arms without a language model ran, what one to the best arm costs.
    """
    price, ran = session.config.price, [t for t in trials if t.dev is not None]
    tune_minutes = plan.predictions["tune_minutes"][0]
    cost = {t.name: float(np.mean(request_costs(t.dev.replies, session.price_of(t.name)))) for t in ran if t.dev}
    of_base = [cost[t.name] for t in ran if t.kind not in (*NO_MODEL_KINDS, "endpoint") and not t.base]
    return tuning_costs(
        session.config.decision.value,
        price,
        tune_minutes=tune_minutes,
        measuring=measuring_cost(plan.predicted_s, price, bought=bought),
        request_before=cost[best],
        request_after=min(of_base, default=cost[best]),
    )
