"""From the table of scores to the decision: a pure step that `metier verify` takes again from the files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from metier.core.errors import ConfigError, DataError
from metier.core.report import CurvePoint, PriceEntry, QuestionReport
from metier.core.settings import DecisionConfig, GuardConfig
from metier.road.curve import fitted
from metier.road.look import looks_report
from metier.road.worth import FORECAST_TIMES, cost_ratio_of, gain_forecasts, worth

if TYPE_CHECKING:
    from metier.assess import Decision, GuardScores, RowsNeeded, ScoreTable
    from metier.evaluate import ScoreTable as ScoreFile
    from metier.ledger import Ledger, Look, Question

__all__ = ["decide_from_scores", "holdout_numbers", "judged", "paired_table"]


def decide_from_scores(
    table: ScoreFile,
    decision: DecisionConfig,
    guards: Sequence[GuardConfig],
    *,
    alpha: float,
    facts: Mapping[str, Any],  # Any: JSON values
    other_questions: int,
) -> Decision:
    """The verdict over the scores of one look.

    `decision` and `guards` are the frozen question's; `facts` are what was recorded before the look: tuned (arm name),
    comparators, guard_reference (also the rival of the cost ratio), binary, binary_checks, margin (None under
    as_good_for_less) and cost_ratio (low, high, of; cheaper_from where as_good_for_less has a volume; or None); beside,
    where arms were scored that are no comparators.

    Raises:
        DataError: the table's arms are not the tuned arm and the frozen comparators.
        ConfigError: a guard watches something that is not scored.
    """
    from metier.assess import decide

    paired = paired_table(table, facts)
    watched = [_guard(table, guard, facts, binary=facts["binary"]) for guard in guards]
    return decide(
        replace(decision, margin=facts["margin"], value=None),
        paired,
        alpha_this_look=alpha,
        guards=watched,
        forecast=gain_forecasts(paired, facts),
        cost_ratio=cost_ratio_of(facts["cost_ratio"], versus=facts["guard_reference"]),
        other_questions=other_questions,
        rows_at_hand=facts.get("num_train_rows", 0),
    )


def judged(
    ledger: Ledger,
    look: Look,
    facts: Mapping[str, Any],  # Any: JSON values
    table: ScoreFile,
) -> dict[str, Any]:  # Any: parts of the report
    """The fields of the report that follow from the ledger and the scores alone, by name.

    `metier run` writes them, `metier verify` compares them. Settings are those of the frozen question, never those of
    today's project file.

    Raises:
        StoreError: the question of the look is not on record.
    """
    from metier.ledger import find_question

    frozen = find_question(ledger, look.question)
    decision = DecisionConfig.from_mapping(frozen.body["decision"], where=f"question {frozen.hash[:12]}")
    guards = [GuardConfig.from_mapping(each, where=f"question {frozen.hash[:12]}") for each in frozen.body["guard"]]
    looks = looks_report(ledger, look, decision)
    decided = decide_from_scores(
        table, decision, guards, alpha=look.alpha, facts=facts, other_questions=looks.other_questions
    )
    paired = paired_table(table, facts)
    return {
        "question": _question(frozen, decision, facts, decided.margin),
        "verdict": decided.verdict,
        "comparisons": decided.comparisons,
        "gain": decided.gain,
        "guards": decided.guards,
        "rows_needed": _rows_needed(decided, rows_at_hand=facts.get("num_train_rows", 0)),
        "mde": decided.mde,
        "looks": looks,
        **_curve(facts.get("curve"), num_holdout=len(table.groups())),
        **worth(decision, decided, gain_forecasts(paired, facts), facts),
    }


def _curve(values: Mapping[str, Any] | None, *, num_holdout: int) -> dict[str, Any]:  # Any: parts of the report
    """The learning curve, where more rows will bring the score on so many new rows, and the spread between runs."""
    from metier.assess import retrain_spread

    fit = fitted(values)
    if fit is None or values is None:
        return {"curve": (), "forecast": (), "retrain_spread": None, "curve_p": None}
    points = tuple(CurvePoint(**point) for point in values["points"])
    spread = retrain_spread(points)
    return {
        "curve": points,
        "forecast": tuple(fit.forecast(round(times * fit.num_train), num_rows=num_holdout) for times in FORECAST_TIMES),
        "retrain_spread": None if spread is None else asdict(spread),
        "curve_p": fit.flat_p,
    }


def _question(
    frozen: Question,
    decision: DecisionConfig,
    facts: Mapping[str, Any],  # Any: JSON values
    margin: float,
) -> QuestionReport:
    """What was asked; `margin` is the bound the gain was held against."""
    hangs_on_prices = decision.value is not None or decision.claim == "as_good_for_less"
    return QuestionReport(
        hash=frozen.hash,
        metric=frozen.body["metric"]["name"],
        unit=facts["unit"],
        margin=margin,
        plan_gain=decision.plan_gain if decision.plan_gain is not None else max(0.0, 2 * margin),
        alpha=decision.alpha,
        comparators=tuple(facts["comparators"]),
        frozen_at=frozen.frozen_at,
        prices=tuple(PriceEntry(**entry) for entry in facts["prices"]) if hangs_on_prices else (),
    )


def _rows_needed(decided: Decision, *, rows_at_hand: int) -> dict[str, Any]:  # Any: JSON values
    """Hold-out rows to decide, over all rivals and against each, and train rows where a forecast names them."""

    def shown(needed: RowsNeeded) -> dict[str, Any]:  # Any: JSON values
        return {
            "holdout": needed.to_collect,
            "groups": needed.groups(needed.to_collect),
            "versus": needed.versus,
            "if_plan_gain": needed.plan_gain,
            "if_estimate": needed.estimate,
            "if_low": needed.low,
            "if_high": needed.high,
        }

    found = shown(decided.rows_needed)
    found["by_rival"] = {name: needed.to_collect for name, needed in decided.rows_needed_by_rival.items()}
    if decided.train_rows_needed is not None:
        found["train"] = decided.train_rows_needed
        found["train_at_hand"] = rows_at_hand
    return found


def holdout_numbers(table: ScoreFile, arm: str, *, binary: bool) -> dict[str, Any]:  # Any: JSON values
    """What the report says of one arm on the hold-out: score with its interval, rows, tokens, mean of every check.

    Scores leave the seal to three decimals.
    """
    scores, groups = table.scores_of(arm), table.groups()
    values = list(scores.values())
    low, high = score_interval(values, [groups[row_id] for row_id in scores], binary=binary)
    places = [place for place, name in enumerate(table.arm) if name == arm]
    return {
        "score": round(float(np.mean(values)), 3),
        "low": round(low, 3),
        "high": round(high, 3),
        "num_rows": len(scores),
        "tokens_in": float(np.mean([table.tokens_in[place] for place in places])),
        "tokens_out": float(np.mean([table.tokens_out[place] for place in places])),
        "checks": {
            name: round(float(np.mean(list(table.scores_of(arm, check=name).values()))), 3) for name in table.checks
        },
    }


def score_interval(scores: Sequence[float], groups: Sequence[str], *, binary: bool) -> tuple[float, float]:
    """Two-sided 95 % interval of a mean score: Wilson for yes-no rows that stand alone, else CR2 t over groups."""
    from metier.core.stats import grouped_mean, wilson

    if binary and len(set(groups)) == len(groups):
        bounds = wilson(round(sum(scores)), len(scores))
        return bounds.low, bounds.high
    mean = grouped_mean(np.asarray(scores, float), np.asarray(groups))
    return max(0.0, mean.low(0.025)), min(1.0, mean.high(0.025))


def paired_table(table: ScoreFile, facts: Mapping[str, Any]) -> ScoreTable:  # Any: JSON values
    """Scores of the tuned arm and of the frozen comparators, row by row; arms that were scored beside are left out.

    Raises:
        DataError: an arm that was frozen is missing, or one stands there that was not.
    """
    from metier.assess import ScoreTable as Paired

    tuned, comparators, beside = facts["tuned"], facts["comparators"], facts.get("beside", ())
    expected = {tuned, *comparators}
    if set(table.arms) != expected | set(beside):
        odd = sorted(set(table.arms) ^ (expected | set(beside)))
        raise DataError(
            f"the scores hold arms {', '.join(table.arms)}; frozen before the look were {tuned} against "
            f"{', '.join(comparators)} ({', '.join(odd)} differs). A comparator is never chosen on the hold-out."
        )
    groups = table.groups()
    order = list(groups)
    by_arm = {arm: table.scores_of(arm) for arm in expected}
    return Paired.of(
        tuned=[by_arm[tuned][row_id] for row_id in order],
        rivals={name: [by_arm[name][row_id] for row_id in order] for name in comparators},
        groups=np.array([groups[row_id] for row_id in order]),
        binary=facts["binary"],
    )


def _guard(table: ScoreFile, guard: GuardConfig, facts: Mapping[str, Any], *, binary: bool) -> GuardScores:
    """What one guard watches: a convention, the metric, or the metric on a slice."""
    from metier.assess import GuardScores

    check, rows, yes_no = "", frozenset(table.row_id), binary
    attribute, equals, value = guard.on.partition("=")
    if equals:
        rows = table.in_slice(attribute.strip(), value.strip())
    elif guard.on in table.checks:
        check, yes_no = guard.on, guard.on in facts["binary_checks"]
    elif guard.on != "metric":
        known = ", ".join(["metric", *table.checks])
        raise ConfigError(
            f"[[guard]] {guard.name!r} is on {guard.on!r}; expected {known}, or a slice such as region=north."
        )
    groups = table.groups()
    order = [row_id for row_id in groups if row_id in rows]
    tuned = table.scores_of(facts["tuned"], check=check)
    reference = table.scores_of(facts["guard_reference"], check=check)
    return GuardScores.of(
        guard,
        tuned=[tuned[row_id] for row_id in order],
        reference=[reference[row_id] for row_id in order],
        groups=np.array([groups[row_id] for row_id in order]),
        binary=yes_no,
    )
