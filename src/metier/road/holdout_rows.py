"""How many hold-out rows a verdict will need, before anything is tuned: by the verdict's own arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metier.core.arm_config import NO_MODEL_KINDS
from metier.core.precision import POWER, Holdout, Plan, expected_gain
from metier.core.settings import DecisionConfig
from metier.road.cut import Parts
from metier.road.session import Session
from metier.road.trials import FittedTrial

__all__ = ["group_correlation", "rows_to_plan"]


def group_correlation(session: Session, parts: Parts, trials: Sequence[FittedTrial], holdout: Holdout) -> float | None:
    """How alike dev scores within a group are, 0-1; None where no arm ran or no group has two rows that were answered.

    Of an arm that answers all dev rows in seconds where there is one, else of the best arm's single requests: what a
    model that is not tuned yet will gain is not known.
    """
    from metier.core.stats import intra_class_correlation
    from metier.evaluate import group_ids

    ran = [trial.dev for trial in trials if trial.dev is not None]
    if not holdout.grouped or not ran:
        return None
    quick = next((trial.arm for trial in trials if trial.arm is not None and trial.kind in NO_MODEL_KINDS), None)
    if quick is not None:
        rows = parts.dev
        results = session.grader.score_all(rows, [reply.text for reply in quick.reply(rows)])
        scores = [result.score for result in results]
    else:
        best = max(ran, key=lambda dev: float(np.mean(dev.scores)))
        row_by_id = {row.row_id: row for row in parts.dev}
        rows, scores = [row_by_id[row_id] for row_id in best.row_ids], list(best.scores)
    groups = group_ids(rows, session.group_column, key=session.key)
    return intra_class_correlation(scores, groups) if 2 <= len(set(groups)) < len(groups) else None


def rows_to_plan(decision: DecisionConfig, holdout: Holdout, plan: Plan, *, num_rivals: int) -> int | None:
    """Rows in all, of the make of these, for power .8 over all rivals; None: no number that could be collected."""
    from metier.core.stats import rows_to_clear

    if plan.plan_gain <= plan.margin:
        return None
    return rows_to_clear(
        expected_gain(holdout, plan, worst=False),
        truth=plan.plan_gain,
        limit=plan.margin,
        alpha=plan.alpha,
        power=1 - (1 - POWER) / num_rivals,  # every rival must be passed, as in the verdict
        max_rows=decision.max_holdout_rows,
    )
