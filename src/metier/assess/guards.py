"""What must not get worse: passed, failed or unproven, and the rows an unproven guard needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metier.assess.scores import MIN_DISCORDANT, GuardScores, paired_gain
from metier.core.report import GuardReport, GuardState
from metier.core.stats import MIN_GROUPS, GainEstimate, holm, rows_for_precision, rows_to_clear

__all__ = ["assess_guards"]


@dataclass(frozen=True, slots=True)
class _Measured:
    """One guard's change, before the guards are looked at together."""

    guard: GuardScores
    estimate: float
    gain: GainEstimate | None
    num_discordant: int


def assess_guards(guards: Sequence[GuardScores], *, alpha: float) -> tuple[GuardReport, ...]:
    """The state of every guard.

    passed: the lower bound of the change is at least -limit, at `alpha` (all required ones must pass, so none is
    corrected for). failed: the upper bound is below 0 by Holm over all guards, or the estimate is beyond twice the
    limit with the upper bound below -limit. unproven: neither, with the rows for which an unharmed guard passes with
    power .8. Below 10 rows that differ nothing is failed; below 5 groups nothing is passed either.
    """
    measured = [_measure(guard) for guard in guards]
    p_values = [m.gain.p_harm() if m.gain is not None else 1.0 for m in measured]
    harmed = holm(p_values, alpha=alpha)
    return tuple(_report(m, harm, alpha=alpha) for m, harm in zip(measured, harmed, strict=True))


def _measure(guard: GuardScores) -> _Measured:
    change_N = guard.tuned_N - guard.reference_N
    num_groups = len(np.unique(guard.group_N))
    gain = None
    if num_groups >= MIN_GROUPS:
        gain = paired_gain(guard.tuned_N, guard.reference_N, guard.group_N, binary=guard.binary, num_groups=num_groups)
    return _Measured(guard, float(change_N.mean()), gain, int((change_N != 0).sum()))


def _report(measured: _Measured, harmed: bool, *, alpha: float) -> GuardReport:
    config, gain = measured.guard.config, measured.gain
    # With too few groups for an interval, all that is known is that scores lie in 0-1.
    low, high = (gain.low(alpha), gain.high(alpha)) if gain is not None else (-1.0, 1.0)
    beyond = measured.estimate < -2 * config.limit and high < -config.limit
    if low >= -config.limit:
        state = GuardState.PASSED
    elif (harmed or beyond) and measured.num_discordant >= MIN_DISCORDANT:
        state = GuardState.FAILED
    else:
        state = GuardState.UNPROVEN
    return GuardReport(
        name=config.name,
        limit=config.limit,
        estimate=measured.estimate,
        low=low,
        high=high,
        state=state,
        required=config.required,
        num_rows=len(measured.guard.tuned_N),
        rows_needed=_rows_needed(measured, alpha=alpha) if state is GuardState.UNPROVEN else None,
    )


def _rows_needed(measured: _Measured, *, alpha: float) -> int | None:
    """Rows for which the guard passes with power .8 if nothing is harmed; None when no number does (limit 0)."""
    if measured.gain is None:
        # No variance between groups is known: that of two arms differing on one row in ten, as on a pilot of good arms.
        return rows_for_precision(distance=measured.guard.config.limit, variance=0.1, alpha=alpha)
    return rows_to_clear(measured.gain, truth=0.0, limit=-measured.guard.config.limit, alpha=alpha)
