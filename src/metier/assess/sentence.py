"""The verdict in one sentence that a manager understands: what to do, by how much, against what, on how many rows."""

from __future__ import annotations

from collections.abc import Sequence

from metier.assess.needed import RowsNeeded
from metier.assess.value import CostRatio
from metier.core.report import Comparison, GuardReport, GuardState

__all__ = ["caution", "points", "verdict_sentence"]


def points(value: float) -> str:
    """A score of 0-1 as points of 100, one decimal, without a sign for zero."""
    text = f"{100 * value:.1f}"
    return "0.0" if text == "-0.0" else text


def verdict_sentence(
    *,
    reason: str,
    comparison: Comparison,
    margin: float,
    guards: Sequence[GuardReport],
    needed: RowsNeeded,
    train_rows: tuple[int, int] | None,
    cost_ratio: CostRatio | None,
    strongest: str,
) -> str:
    """The sentence for a reason code.

    `comparison` is the one that carries it; `strongest` is the rival over which the lower bound is smallest;
    `train_rows` are the wanted ones and those at hand, of which the tuning may have taken a part.
    """
    if reason.startswith("guard:"):
        return _guard_failed(next(g for g in guards if f"guard:{g.name}" == reason))
    measured = _measured(comparison, "its strongest rival" if comparison.versus == strongest else "its rival")
    asked = _asked(margin)
    if reason in ("margin_reached", "as_good_for_less"):
        if cost_ratio is None:
            return f"Worth it: {measured}, and {asked}."
        cost = f"{cost_ratio.of} costs at most {cost_ratio.high:.2f} times as much as {cost_ratio.versus}"
        return f"Worth it: {measured}, {asked}, and {cost}."
    if reason == "more_train_rows":
        wanted, at_hand = train_rows or (0, 0)
        rows, how = f"{wanted:,} training rows in all", "collect them"
        if wanted <= at_hand:
            rows, how = f"{wanted:,} of the {at_hand:,} training rows at hand", "give the tuning the minutes"
        what = f"with {rows} the learning curve may reach it, so {how} and run again"
        return f"Not yet: {measured}, and {asked}; {what}."
    if reason in ("not_cheaper", "no_curve", "below_margin"):
        return f"Not worth it: {measured}, and {_why_not(reason, asked, cost_ratio)}."
    return f"Undecided: {measured}, and {_what_next(reason, asked, guards, needed, cost_ratio)}."


def caution(other_questions: int) -> str:
    """What is added to a verdict on hold-out rows of which other questions were asked before; empty without any."""
    if not other_questions:
        return ""
    asked = "1 other question was" if other_questions == 1 else f"{other_questions} other questions were"
    return f" Caution: {asked} asked of the same hold-out rows before; the error rates of all of them add up."


def _measured(comparison: Comparison, rival: str) -> str:
    """Rows, gain, rival and interval."""
    rows = f"{comparison.num_rows:,} held-out rows"
    if comparison.num_groups < comparison.num_rows:
        rows += f" ({comparison.num_groups:,} groups)"
    text = points(abs(comparison.estimate))
    if text == "0.0":
        gap = f'level with {rival}, "{comparison.versus}"'
    else:
        side = "above" if comparison.estimate > 0 else "below"
        gap = f'{text} points {side} {rival}, "{comparison.versus}"'
    interval = f"(gain between {points(comparison.low)} and {points(comparison.high)} points of 100)"
    return f"on {rows} the tuned model scores {gap} {interval}"


def _asked(margin: float) -> str:
    if margin > 0:
        return f"a gain of at least {points(margin)} points was asked for"
    if margin == 0:
        return "a gain above zero was asked for"
    return f"a loss of at most {points(-margin)} points was accepted"


def _why_not(reason: str, asked: str, cost_ratio: CostRatio | None) -> str:
    if reason == "not_cheaper":
        assert cost_ratio is not None
        return (
            f"it was to cost less, but {cost_ratio.of} costs at least {cost_ratio.low:.2f} times as much as "
            f"{cost_ratio.versus}"
        )
    if reason == "no_curve":
        return f"{asked}; whether more training rows would help was not measured"
    return f"{asked}; four times the training rows are not forecast to reach it"


def _what_next(
    reason: str, asked: str, guards: Sequence[GuardReport], needed: RowsNeeded, cost_ratio: CostRatio | None
) -> str:
    """The end of an undecided verdict: what is missing and how many rows would do."""
    if reason.startswith("guard_unproven:"):
        guard = next(g for g in guards if f"guard_unproven:{g.name}" == reason)
        assert guard.state is GuardState.UNPROVEN
        rows = (
            f"about {guard.rows_needed:,} rows would prove it" if guard.rows_needed else "no number of rows proves it"
        )
        return (
            f"{asked}, but {guard.num_rows:,} rows cannot show that {guard.name!r} loses at most "
            f"{points(guard.limit)} points; {rows}"
        )
    if reason == "cost_unproven":
        assert cost_ratio is not None
        return (
            f"{asked}, but {cost_ratio.of} is not known to cost less than {cost_ratio.versus} ({cost_ratio.low:.2f} to "
            f"{cost_ratio.high:.2f} times); a changed question with token prices or a larger volume may show it"
        )
    if needed.to_collect is not None:
        return f"{asked}; hold out {_count(needed, needed.to_collect)} in all to decide"
    none = f"{asked}; no number of rows up to {needed.max_rows:,} is expected to show it"
    if needed.settle_below is not None and needed.settle_below > needed.num_rows:
        return f"{none}, but {_count(needed, needed.settle_below)} in all would settle that it falls short"
    return none


def _count(needed: RowsNeeded, rows: int) -> str:
    """A number of rows, in groups where groups count."""
    if needed.rows_per_group > 1:
        return f"{needed.groups(rows):,} groups (about {rows:,} rows)"
    return f"{rows:,} rows"


def _guard_failed(guard: GuardReport) -> str:
    return (
        f"Not worth it: on {guard.num_rows:,} held-out rows the tuned model loses {points(-guard.estimate)} points on "
        f"the guard {guard.name!r} (between {points(-guard.high)} and {points(-guard.low)}), and at most "
        f"{points(guard.limit)} were accepted."
    )
