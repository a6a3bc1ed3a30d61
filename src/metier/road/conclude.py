"""The last part of the road: facts fixed before the look, the decision after it, and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from metier.core.arm_config import NO_MODEL_KINDS, TUNED_KINDS
from metier.core.errors import ConfigError
from metier.core.report import ArmReport, ExampleReport, PlanEntry, PriceEntry, Report
from metier.core.settings import DecisionConfig
from metier.road.annotators import every_vote
from metier.road.cost import cheaper_from, cost_ratio, label_row_cost, price_entries, request_costs, tuning_costs
from metier.road.curve import Curve
from metier.road.cut import Parts, Sealed
from metier.road.look import Looked, frozen_comparators, granted_alpha, look_id, scored_beside
from metier.road.other_bases import num_weights_of
from metier.road.plan import Plan
from metier.road.session import Session
from metier.road.trials import FittedTrial
from metier.road.verdict import holdout_numbers, judged, paired_table

if TYPE_CHECKING:
    from metier.assess import TuningCosts
    from metier.ledger import BeforeLook

__all__ = ["Measured", "build_report", "fix_before_look", "plan_entries", "recorded_before"]

NUM_EXAMPLES = 3
EXAMPLE_CHARACTERS = 1200


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Minutes and memory of the run so far."""

    run_minutes: float
    tune_minutes: float
    peak_memory_gib: float


def recorded_before(session: Session, sealed: Sealed, trials: Sequence[FittedTrial]) -> BeforeLook | None:
    """What was recorded for the look at these arms, where that look was opened already."""
    from metier.ledger import before_look, find_look

    wanted = look_id(sealed, trials)
    return before_look(session.ledger, wanted) if find_look(session.ledger, wanted) is not None else None


def fix_before_look(
    session: Session,
    sealed: Sealed,
    trials: Sequence[FittedTrial],
    curve: Curve | None,
    *,
    tune_minutes: float,
    measuring: float,
    num_train_rows: int,
    tuned_as: str,
) -> BeforeLook:
    """Comparators, guard reference, margin, cost ratio, prices and curve: recorded before the look, read back after it.

    Raises:
        ConfigError: no gain would pay, or a claim of lower cost where nothing is known to cost anything.
        GateClosed: the looks of this question are used up.
        StoreError: the look was opened before anything was recorded for it.
    """
    from metier.assess import prior_hash
    from metier.ledger import record_before_look

    wanted = look_id(sealed, trials)
    recorded = recorded_before(session, sealed, trials)
    if recorded is not None:
        return recorded
    facts = _facts(
        session, sealed, trials, tune_minutes=tune_minutes, measuring=measuring, num_train_rows=num_train_rows
    )
    facts["curve"] = None if curve is None else {**curve.as_json(), "prior": prior_hash(), "of": tuned_as}
    return record_before_look(session.ledger, look_id=wanted, facts=facts)


def _facts(
    session: Session,
    sealed: Sealed,
    trials: Sequence[FittedTrial],
    *,
    tune_minutes: float,
    measuring: float,
    num_train_rows: int,
) -> dict[str, Any]:  # Any: JSON values
    """What the verdict will rest on besides the scores, from dev and the price table."""
    from metier.assess import resolved_question

    comparators = frozen_comparators(trials)
    tuned = next(trial for trial in trials if trial.kind == "tuned")
    rivals = [trial for trial in trials if trial.name in comparators]
    reference = max(rivals, key=lambda trial: float(np.mean(_dev(trial).scores)))
    price = session.config.price
    after = request_costs(_dev(tuned).replies, session.price_of(tuned.name))
    before = request_costs(_dev(reference).replies, session.price_of(reference.name))
    costs = tuning_costs(
        session.config.decision.value,
        price,
        tune_minutes=tune_minutes,
        measuring=measuring,
        request_before=float(np.mean(before)),
        request_after=float(np.mean(after)),
    )
    alpha = granted_alpha(session, sealed, trials)
    ratio = _cost_ratio(session.config.decision, costs, after, before, alpha=alpha)
    if ratio is None and session.config.decision.claim == "as_good_for_less":
        raise ConfigError(
            f"[decision] claim is as_good_for_less, but a request to {tuned.name} costs {np.mean(after):.2g} and one "
            f"to {reference.name} {np.mean(before):.2g}; expected both above 0. Correct [price], or claim = 'better'. "
            "The hold-out stays shut."
        )
    beside = scored_beside(trials)
    return {
        **({"beside": list(beside)} if beside else {}),
        "tuned": tuned.name,
        "comparators": list(comparators),
        "guard_reference": reference.name,
        "unit": session.grader.unit,
        "binary": session.grader.binary,
        "binary_checks": [convention.name for convention in session.conventions if convention.rule.binary],
        "margin": resolved_question(session.config.decision, costs).margin,
        "cost_ratio": ratio,
        "tune_minutes": tune_minutes,
        "costs": {
            **asdict(costs),
            "requests": {rival.name: _mean_cost(session, rival) for rival in rivals},
            "evaluation": measuring,
            "label_row": label_row_cost(price, every_vote(session.ledger)),
            "currency": price.currency,
        },
        "num_train_rows": num_train_rows,
        "prices": price_entries(price, session.config.arm),
    }


def _mean_cost(session: Session, trial: FittedTrial) -> float:
    """A request to an arm, mean over its dev prompts."""
    return float(np.mean(request_costs(_dev(trial).replies, session.price_of(trial.name))))


def _cost_ratio(
    decision: DecisionConfig, costs: TuningCosts, after: Sequence[float], before: Sequence[float], *, alpha: float
) -> dict[str, Any] | None:  # Any: JSON values
    """Cost of a request to the tuned arm over one to its rival; the tuning is in it where the volume is declared.

    `alpha` is what the coming look may spend: the bound of the cost is wrong no more often than that of the gain.
    """
    from metier.assess import fixed_per_request

    value, share, of = decision.value, 0.0, "a request"
    if value is not None:
        share = fixed_per_request(value, costs)
        volume = f"{value.requests_per_month:,.0f} requests a month for {value.horizon_months:g} months"
        of = f"a request with its share of the tuning ({volume})"
    ratio = cost_ratio([cost + share for cost in after], before, alpha=alpha)
    if ratio is None:
        return None
    found = {**ratio, "alpha": alpha, "of": of}
    if value is not None and decision.claim == "as_good_for_less":
        volumes = {
            "fixed_per_month": costs.over(value.horizon_months) / value.horizon_months,
            "requests_per_month": value.requests_per_month,
        }
        found["cheaper_from"] = {
            bound: cheaper_from(after, before, **volumes, bound=bound, alpha=alpha) for bound in ("high", "low")
        }
    return found


def _dev(trial: FittedTrial) -> Any:  # Any: DevReplies, present on every trial that ran
    assert trial.dev is not None, f"{trial.name} was skipped"
    return trial.dev


def build_report(
    session: Session,
    parts: Parts,
    plan: Plan,
    trials: Sequence[FittedTrial],
    looked: Looked,
    before: BeforeLook,
    extra: Mapping[str, Any],  # Any: finished report parts from the caller
) -> Report:
    """The decision and everything it rests on, as the typed report.

    `extra` holds the parts other stages wrote: data, split, model, provenance, costs, plan, dev_curve.
    """
    from metier.assess import cross_checks

    config, facts = session.config, before.facts
    paired = paired_table(looked.table, facts)
    return Report(
        project=config.project.name,
        arms=tuple(_arm(session, trial, looked, binary=facts["binary"]) for trial in trials),
        controls=looked.controls,
        prices=tuple(PriceEntry(**entry) for entry in price_entries(config.price, config.arm)),
        cross_checks=tuple(cross_checks(paired, alpha=looked.look.alpha, seed=config.project.seed)),
        examples=_examples(parts, trials),
        gave_up=plan.gave_up,
        files={"scores": "scores.parquet", "scores_sha256": looked.scores_sha256},
        **judged(session.ledger, looked.look, facts, looked.table),
        **extra,
    )


def _arm(session: Session, trial: FittedTrial, looked: Looked, *, binary: bool) -> ArmReport:
    """One arm's line: hold-out score with its interval, dev score, tokens, cost, latency, choices."""
    if trial.arm is None or trial.dev is None:
        return ArmReport(name=trial.name, kind=trial.kind, status="skipped", reason=trial.skip_reason)
    costs = request_costs(trial.dev.replies, session.price_of(trial.name))
    return ArmReport(
        name=trial.name,
        kind=trial.kind,
        status="ran",
        dev_score=float(np.mean(trial.dev.scores)),
        chosen_from=tuple({"name": c.name, "score": c.score, "num_rows": c.num_rows} for c in trial.arm.chosen_from),
        base=trial.base,
        num_weights=_num_weights(session, trial),
        carries_instruction=trial.carries,
        cost_per_1k_requests=1000 * float(np.mean(costs)),
        latency_ms=trial.dev.latency_ms,
        **holdout_numbers(looked.table, trial.name, binary=binary),
    )


def _num_weights(session: Session, trial: FittedTrial) -> int | None:
    """Size of the language model that answers; None where there is none, or where it is somebody else's."""
    if trial.kind in (*NO_MODEL_KINDS, "endpoint"):
        return None
    return num_weights_of((session.other_bases[trial.base] if trial.base else session.base).dir)


def _examples(parts: Parts, trials: Sequence[FittedTrial]) -> tuple[ExampleReport, ...]:
    """Three dev rows with base and tuned reply: the first, middle and last measured, chosen by position alone."""
    tuned = next((t for t in trials if t.kind == "tuned" and t.dev), None)
    base = next((t for t in trials if t.kind == "prompt" and t.dev and not t.base), None)
    base = base or next((t for t in trials if t.kind not in TUNED_KINDS and t.dev), None)
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
