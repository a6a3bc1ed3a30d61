"""The verdict: paired scores in, one of four outcomes out, first match of a fixed table.

    >>> decide(DecisionConfig(margin=0.03), table, alpha_this_look=0.05).verdict.outcome
    <Outcome.WORTH_IT: 'WORTH_IT'>

A pure function of the question and the scores, so that anyone with the score file can decide again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from metier.assess.guards import assess_guards
from metier.assess.needed import RowsNeeded, rows_needed_for
from metier.assess.scores import MIN_DISCORDANT, GainForecast, GuardScores, ScoreTable, paired_gain
from metier.assess.sentence import caution, verdict_sentence
from metier.assess.value import CostRatio, gain_bound, planned_gain
from metier.core.errors import ConfigError, DataError
from metier.core.report import Comparison, GuardReport, GuardState, Outcome, VerdictReport
from metier.core.settings import DecisionConfig
from metier.core.stats import GainEstimate, min_detectable_gain

__all__ = ["Decision", "decide"]

POWER = 0.80


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """A verdict with everything it rests on."""

    verdict: VerdictReport
    comparisons: tuple[Comparison, ...]
    """One for each comparator, in the order given."""
    gain: Comparison
    """The comparison with the smallest lower bound: the strongest rival."""
    guards: tuple[GuardReport, ...]
    rows_needed: RowsNeeded
    """Against the comparator that needs most, with power .8 over all comparators together."""
    rows_needed_by_rival: Mapping[str, RowsNeeded]
    """Against each comparator alone, with power .8."""
    train_rows_needed: int | None
    """Under NEED_TRAIN_ROWS: train rows in all at which the forecast reaches the margin over every rival."""
    mde: float
    """Smallest true gain that this hold-out shows to be above the margin over all comparators with power .8."""
    margin: float
    """The bound the gain was held against: the margin, or minus the accepted loss under as_good_for_less."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rival:
    """One comparator's numbers."""

    gain: GainEstimate
    comparison: Comparison
    num_discordant: int
    forecast: GainForecast | None


def decide(
    question: DecisionConfig,
    scores: ScoreTable,
    *,
    alpha_this_look: float,
    guards: Sequence[GuardScores] = (),
    forecast: Mapping[str, GainForecast] | None = None,
    cost_ratio: CostRatio | None = None,
    other_questions: int = 0,
    rows_at_hand: int = 0,
) -> Decision:
    """The verdict about the tuned arm.

    First match: a required guard failed; every lower bound (each at `alpha_this_look`) reaches the margin; some upper
    bound (at `alpha_this_look` / comparators) is below it; else undecided. `cost_ratio` is the interval of tuned cost
    over the rival's, wanted by the claim as_good_for_less. `other_questions` were asked of the same hold-out rows
    before, each at an error rate of its own: they change no outcome, but the sentence says so. `rows_at_hand` are train
    rows of which the tuning may have taken a part: rows that are missing are collected only beyond them.

    Raises:
        ConfigError: no margin (resolve `[decision.value]` first), or an alpha outside 0-0.5.
        DataError: a forecast for an unknown comparator; as_good_for_less without a cost ratio that is one.
    """
    margin = gain_bound(question)
    if not 0 < alpha_this_look < 0.5:
        raise ConfigError(f"alpha_this_look is {alpha_this_look}; expected 0 < alpha < 0.5, as `next_look` grants it.")
    if unknown := sorted(set(forecast or {}) - set(scores.rivals)):
        raise DataError(f"forecast for {unknown[0]!r}, which is no comparator; expected only {sorted(scores.rivals)}.")
    cost_ratio = _claimed_cost(question, cost_ratio)
    rivals = _rivals(scores, alpha_this_look, forecast or {})
    reports = assess_guards(guards, alpha=alpha_this_look)
    by_rival, overall = _rows(rivals, question, margin, alpha_this_look)
    outcome, reason = _outcome(rivals, reports, margin, cost_ratio)
    train_rows = _train_rows(rivals, margin) if outcome is Outcome.NEED_TRAIN_ROWS else None
    strongest = min((r.comparison for r in rivals), key=lambda c: c.low)
    shown = min((r.comparison for r in _shown_below(rivals, margin)), key=lambda c: c.high, default=strongest)
    sentence = verdict_sentence(
        reason=reason,
        comparison=shown if reason in ("below_margin", "no_curve", "more_train_rows") else strongest,
        margin=margin,
        guards=reports,
        needed=overall,
        train_rows=None if train_rows is None else (train_rows, rows_at_hand),
        cost_ratio=cost_ratio,
        strongest=strongest.versus,
    ) + caution(other_questions)
    power = 1 - (1 - POWER) / len(rivals)
    return Decision(
        verdict=VerdictReport(outcome=outcome, reason=reason, claim=question.claim, sentence=sentence),
        comparisons=tuple(r.comparison for r in rivals),
        gain=strongest,
        guards=reports,
        rows_needed=overall,
        rows_needed_by_rival=by_rival,
        train_rows_needed=train_rows,
        mde=max(min_detectable_gain(r.gain, margin=margin, alpha=alpha_this_look, power=power) for r in rivals),
        margin=margin,
    )


def _claimed_cost(question: DecisionConfig, cost_ratio: CostRatio | None) -> CostRatio | None:
    """The ratio where the claim is about cost, checked; else None."""
    if question.claim == "better":
        return None
    if cost_ratio is None:
        raise DataError("claim as_good_for_less without a cost ratio; measure cost per request of both arms first.")
    if not 0 <= cost_ratio.low <= cost_ratio.high:  # also refuses NaN
        raise DataError(
            f"cost ratio from {cost_ratio.low} to {cost_ratio.high}; expected two numbers, 0 <= low <= high. Measure "
            "the cost per request of both arms again."
        )
    return cost_ratio


def _rivals(scores: ScoreTable, alpha: float, forecast: Mapping[str, GainForecast]) -> list[_Rival]:
    """Every comparator with its interval."""
    num_groups = len(np.unique(scores.group_N))
    rivals = []
    for name, rival_N in scores.rivals.items():
        gain = paired_gain(scores.tuned_N, rival_N, scores.group_N, binary=scores.binary, num_groups=num_groups)
        num_discordant = int((scores.tuned_N != rival_N).sum())
        comparison = Comparison(
            versus=name,
            estimate=gain.estimate,
            low=gain.low(alpha),
            high=gain.high(alpha / len(scores.rivals)),
            side_alpha=alpha,
            high_alpha=alpha / len(scores.rivals),
            method=gain.method,
            num_rows=gain.num_rows,
            num_groups=gain.num_groups,
            discordance=num_discordant / gain.num_rows,
        )
        rivals.append(
            _Rival(gain=gain, comparison=comparison, num_discordant=num_discordant, forecast=forecast.get(name))
        )
    return rivals


def _shown_below(rivals: list[_Rival], margin: float) -> list[_Rival]:
    """Comparators over which the gain is shown to be below the margin, by enough rows that differ."""
    return [r for r in rivals if r.comparison.high < margin and r.num_discordant >= MIN_DISCORDANT]


def _reached(rival: _Rival, margin: float) -> bool:
    """Whether the gain is shown to reach the margin. The t interval is not believed on a handful of differing rows."""
    enough = rival.comparison.method == "bonett_price" or rival.num_discordant >= MIN_DISCORDANT
    return rival.comparison.low >= margin and (enough or margin < 0)


def _outcome(
    rivals: list[_Rival], guards: tuple[GuardReport, ...], margin: float, cost_ratio: CostRatio | None
) -> tuple[Outcome, str]:
    """Outcome and reason, first match (design, section 8)."""
    required = [guard for guard in guards if guard.required]
    unproven = [guard.name for guard in required if guard.state is GuardState.UNPROVEN]
    for guard in required:
        if guard.state is GuardState.FAILED:
            return Outcome.NOT_WORTH_IT, f"guard:{guard.name}"
    reached = all(_reached(r, margin) for r in rivals)
    cheaper = cost_ratio is None or cost_ratio.high < 1
    if reached and cheaper and not unproven:
        return Outcome.WORTH_IT, "margin_reached" if cost_ratio is None else "as_good_for_less"
    if cost_ratio is not None and cost_ratio.low >= 1:
        return Outcome.NOT_WORTH_IT, "not_cheaper"
    if below := _shown_below(rivals, margin):
        if any(r.forecast is None for r in below):
            return Outcome.NOT_WORTH_IT, "no_curve"
        if _train_rows(rivals, margin) is not None:
            return Outcome.NEED_TRAIN_ROWS, "more_train_rows"
        return Outcome.NOT_WORTH_IT, "below_margin"
    if reached and cheaper:
        return Outcome.NEED_HOLDOUT_ROWS, f"guard_unproven:{unproven[0]}"
    if reached:
        return Outcome.NEED_HOLDOUT_ROWS, "cost_unproven"
    if any(r.num_discordant < MIN_DISCORDANT for r in rivals):
        return Outcome.NEED_HOLDOUT_ROWS, "too_few_discordant"
    return Outcome.NEED_HOLDOUT_ROWS, "holdout_too_small"


def _train_rows(rivals: list[_Rival], margin: float) -> int | None:
    """Train rows at which the forecast reaches the margin over every comparator shown below it; None if it does not."""
    counts = [
        r.forecast.rows_to_reach(margin) if r.forecast is not None else None for r in _shown_below(rivals, margin)
    ]
    known = [count for count in counts if count is not None]
    return max(known) if known and len(known) == len(counts) else None


def _rows(
    rivals: list[_Rival], question: DecisionConfig, margin: float, alpha: float
) -> tuple[dict[str, RowsNeeded], RowsNeeded]:
    """Rows needed against each comparator alone, and against all together (the most demanding one decides).

    With K comparators each must be passed with power 1 - .2 / K for .8 over all; falling short of one settles it.
    """
    plan_gain = planned_gain(question)

    def needed(rival: _Rival, power: float) -> RowsNeeded:
        return rows_needed_for(
            rival.gain,
            comparison=rival.comparison,
            plan_gain=plan_gain,
            margin=margin,
            alpha=alpha,
            alpha_below=alpha / len(rivals),
            power=power,
            max_rows=question.max_holdout_rows,
        )

    joint = [needed(r, 1 - (1 - POWER) / len(rivals)) for r in rivals]
    none_decides = float("inf")
    hardest = max(
        joint,
        key=lambda n: (
            n.plan_gain if n.plan_gain is not None else none_decides,
            n.estimate if n.estimate is not None else none_decides,
        ),
    )
    alone = {r.comparison.versus: needed(r, POWER) for r in rivals}
    settled = [each.settle_below for each in alone.values() if each.settle_below is not None]
    return alone, replace(hardest, settle_below=min(settled, default=None))
