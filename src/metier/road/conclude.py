"""The last part of the road: facts fixed before the look, the decision after it, and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from metier.core.errors import ConfigError
from metier.core.report import (
    ArmReport,
    ExampleReport,
    LooksReport,
    PlanEntry,
    PriceEntry,
    QuestionReport,
    Report,
)
from metier.core.settings import DecisionConfig
from metier.road.cost import cost_ratio, machine_cost, price_entries, request_costs
from metier.road.cut import Parts
from metier.road.look import Looked, frozen_comparators
from metier.road.plan import Plan
from metier.road.session import Session
from metier.road.trials import FittedTrial
from metier.road.verdict import decide_from_scores, paired_table

if TYPE_CHECKING:
    from metier.assess import Decision, RowsNeeded

__all__ = ["Before", "build_report", "fix_before_look"]

NUM_EXAMPLES = 3
EXAMPLE_CHARACTERS = 1200


@dataclass(frozen=True, kw_only=True, slots=True)
class Before:
    """What the decision rests on besides the scores; all of it known before the hold-out is opened."""

    decision: DecisionConfig
    """The question's decision with `value` turned into a margin."""
    facts: dict[str, Any]
    """tuned, comparators, guard_reference, binary_checks, cost_ratio."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Minutes and memory of the run so far."""

    run_minutes: float
    tune_minutes: float
    peak_memory_gib: float


def fix_before_look(session: Session, trials: Sequence[FittedTrial], tune_minutes: float) -> Before:
    """Fix comparators, guard reference, margin and cost ratio from dev and the price table.

    Raises:
        ConfigError: no gain would pay, or a claim of lower cost where nothing is known to cost anything.
    """
    from metier.assess import TuningCosts, resolved_question

    comparators = frozen_comparators(trials)
    tuned = next(trial for trial in trials if trial.kind == "tuned")
    rivals = [trial for trial in trials if trial.name in comparators]
    reference = max(rivals, key=lambda trial: float(np.mean(_dev(trial).scores)))
    price = session.config.price
    after = request_costs(_dev(tuned).replies, price)
    before = request_costs(_dev(reference).replies, price)
    costs = TuningCosts(
        one_off=machine_cost(tune_minutes, price),
        upkeep_per_month=0.0,
        request_before=float(np.mean(before)),
        request_after=float(np.mean(after)),
    )
    ratio = cost_ratio(after, before, alpha=session.config.decision.alpha)
    if ratio is None and session.config.decision.claim == "as_good_for_less":
        raise ConfigError(
            f"[decision] claim is as_good_for_less, but a request to {tuned.name} costs {np.mean(after):.2g} and one "
            f"to {reference.name} {np.mean(before):.2g}; expected both above 0. Correct [price], or claim = 'better'. "
            "The hold-out stays shut."
        )
    binary_checks = [convention.name for convention in session.conventions if convention.rule.binary]
    facts = {
        "tuned": tuned.name,
        "comparators": list(comparators),
        "guard_reference": reference.name,
        "binary_checks": binary_checks,
        "cost_ratio": ratio,
    }
    return Before(decision=resolved_question(session.config.decision, costs), facts=facts)


def _dev(trial: FittedTrial) -> Any:  # Any: DevReplies, present on every trial that ran
    assert trial.dev is not None, f"{trial.name} was skipped"
    return trial.dev


def build_report(
    session: Session,
    parts: Parts,
    plan: Plan,
    trials: Sequence[FittedTrial],
    looked: Looked,
    before: Before,
    extra: Mapping[str, Any],  # Any: finished report parts from the caller
) -> Report:
    """The decision and everything it rests on, as the typed report.

    `extra` holds the parts other stages wrote: data, split, model, provenance, costs, plan, dev_curve.
    """
    from metier.assess import cross_checks

    binary = session.grader.binary
    decided = decide_from_scores(
        looked.table, before.decision, session.config.guard, alpha=looked.alpha, binary=binary, facts=before.facts
    )
    paired = paired_table(looked.table, before.facts["tuned"], before.facts["comparators"], binary=binary)
    return Report(
        project=session.config.project.name,
        verdict=decided.verdict,
        question=_question(session, parts, before, decided),
        comparisons=decided.comparisons,
        gain=decided.gain,
        rows_needed=_rows_needed(decided),
        mde=decided.mde,
        arms=tuple(_arm(session, trial, looked) for trial in trials),
        looks=LooksReport(
            used=looked.used,
            budget=session.config.decision.max_looks,
            alpha_this=looked.alpha,
            alpha_left=looked.alpha_left,
        ),
        controls=looked.controls,
        prices=tuple(PriceEntry(**entry) for entry in price_entries(session.config.price)),
        cross_checks=tuple(cross_checks(paired, alpha=looked.alpha, seed=session.config.project.seed)),
        examples=_examples(parts, trials),
        gave_up=plan.gave_up,
        guards=decided.guards,
        files={"scores": "scores.parquet", "scores_sha256": looked.scores_sha256},
        **extra,
    )


def _question(session: Session, parts: Parts, before: Before, decided: Decision) -> QuestionReport:
    decision = before.decision
    margin = decision.margin if decision.margin is not None else 0.0
    return QuestionReport(
        hash=parts.question_hash,
        metric=session.config.metric.name,
        unit=session.grader.unit,
        margin=decided.margin,
        plan_gain=decision.plan_gain if decision.plan_gain is not None else 2 * margin,
        alpha=decision.alpha,
        comparators=tuple(before.facts["comparators"]),
        frozen_at=parts.frozen_at,
    )


def _rows_needed(decided: Decision) -> dict[str, Any]:
    """Hold-out rows to decide, over all rivals and against each, and train rows where a forecast names them."""

    def shown(needed: RowsNeeded) -> dict[str, Any]:
        rows = needed.to_collect
        return {
            "holdout": rows if rows is not None else "none",
            "groups": needed.groups(rows) if rows is not None else "none",
            "versus": needed.versus,
            "if_plan_gain": needed.plan_gain,
            "if_estimate": needed.estimate,
            "if_low": needed.low,
            "if_high": needed.high,
        }

    found = shown(decided.rows_needed)
    found["by_rival"] = {name: shown(needed)["holdout"] for name, needed in decided.rows_needed_by_rival.items()}
    if decided.train_rows_needed is not None:
        found["train"] = decided.train_rows_needed
    return found


def _arm(session: Session, trial: FittedTrial, looked: Looked) -> ArmReport:
    """One arm's line: hold-out score with its interval, dev score, tokens, cost, latency, choices."""
    if trial.arm is None or trial.dev is None:
        return ArmReport(name=trial.name, kind=trial.kind, status="skipped", reason=trial.skip_reason)
    table = looked.table
    scores, groups = table.scores_of(trial.name), table.groups()
    interval = score_interval(
        list(scores.values()), [groups[row_id] for row_id in scores], binary=session.grader.binary
    )
    tokens = [
        (tokens_in, tokens_out)
        for name, tokens_in, tokens_out in zip(
            looked.table.arm, looked.table.tokens_in, looked.table.tokens_out, strict=True
        )
        if name == trial.name
    ]
    costs = request_costs(trial.dev.replies, session.config.price)
    return ArmReport(
        name=trial.name,
        kind=trial.kind,
        status="ran",
        score=_rounded(float(np.mean(list(scores.values())))),
        low=_rounded(interval[0]),
        high=_rounded(interval[1]),
        num_rows=len(scores),
        dev_score=float(np.mean(trial.dev.scores)),
        chosen_from=tuple({"name": c.name, "score": c.score, "num_rows": c.num_rows} for c in trial.arm.chosen_from),
        carries_instruction=trial.carries,
        tokens_in=float(np.mean([t[0] for t in tokens])),
        tokens_out=float(np.mean([t[1] for t in tokens])),
        cost_per_1k_requests=1000 * float(np.mean(costs)),
        latency_ms=trial.dev.latency_ms,
        checks={
            name: _rounded(float(np.mean(list(looked.table.scores_of(trial.name, check=name).values()))))
            for name in looked.table.checks
        },
    )


def _rounded(value: float) -> float:
    """Hold-out scores leave the seal to three decimals."""
    return round(value, 3)


def score_interval(scores: Sequence[float], groups: Sequence[str], *, binary: bool) -> tuple[float, float]:
    """Two-sided 95 % interval of a mean score: Wilson for yes-no rows that stand alone, else CR2 t over groups."""
    from metier.core.stats import grouped_mean, wilson

    if binary and len(set(groups)) == len(groups):
        bounds = wilson(round(sum(scores)), len(scores))
        return bounds.low, bounds.high
    mean = grouped_mean(np.asarray(scores, float), np.asarray(groups))
    return max(0.0, mean.low(0.025)), min(1.0, mean.high(0.025))


def _examples(parts: Parts, trials: Sequence[FittedTrial]) -> tuple[ExampleReport, ...]:
    """Three dev rows with base and tuned reply: the first, middle and last measured, chosen by position alone."""
    tuned = next((t for t in trials if t.kind == "tuned" and t.dev), None)
    base = next((t for t in trials if t.kind == "prompt" and t.dev), None)
    base = base or next((t for t in trials if t.kind in ("few_shot", "retrieval", "small") and t.dev), None)
    if tuned is None or base is None:
        return ()
    ours, theirs = _dev(tuned), _dev(base)
    row_by_id = {row.row_id: row for row in parts.dev}
    places = np.unique(np.linspace(0, len(ours.row_ids) - 1, NUM_EXAMPLES).astype(int))
    found = []
    for place in (int(p) for p in places):
        row = row_by_id[ours.row_ids[place]]
        found.append(
            ExampleReport(
                row_id=row.row_id,
                prompt=row.prompt_text[:EXAMPLE_CHARACTERS],
                gold=row.gold[:EXAMPLE_CHARACTERS],
                base=theirs.replies[place].text[:EXAMPLE_CHARACTERS],
                tuned=ours.replies[place].text[:EXAMPLE_CHARACTERS],
                base_score=theirs.scores[place],
                tuned_score=ours.scores[place],
                base_reasons=theirs.reasons[place],
                tuned_reasons=ours.reasons[place],
            )
        )
    return tuple(found)


def plan_entries(plan: Plan, measured: Measured) -> tuple[PlanEntry, ...]:
    """Predictions beside what happened."""
    actual = {
        "run_minutes": measured.run_minutes,
        "tune_minutes": measured.tune_minutes,
        "peak_memory_gib": measured.peak_memory_gib,
    }
    return tuple(
        PlanEntry(quantity=name, predicted=low_high[0], low=low_high[1], high=low_high[2], actual=actual.get(name))
        for name, low_high in plan.predictions.items()
    )
