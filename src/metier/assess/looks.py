"""How much error rate the next opening of the hold-out may spend, or why it may not happen.

    >>> next_look([], question="q1", model="m1", rows="h1", num_rows=400, alpha=0.05, max_looks=3).alpha
    0.016666666666666666

Every look is paid for: the error rates of all looks of one question add up to at most `alpha`, so a false
verdict over all of them is at most that likely (by the union bound, whatever the looks share).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from metier.core.errors import DataError, GateClosed

__all__ = ["LookGrant", "LookKind", "PastLook", "next_look"]


class LookKind(StrEnum):
    """What a look adds to those before it."""

    FIRST = "first"
    MORE_ROWS = "more_rows"
    NEW_MODEL = "new_model"


@dataclass(frozen=True, kw_only=True, slots=True)
class PastLook:
    """A look that was opened, also one that was killed and never finished: it has spent its alpha.

    A killed look that resumes is the same look and asks for no new grant; whoever calls `next_look` knows it by its
    question, model and rows.
    """

    question: str
    """Hash of the question."""
    model: str
    """Fingerprint of the tuned model."""
    rows: str
    """Hash of the set of hold-out rows."""
    num_rows: int
    alpha: float
    """What it spent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LookGrant:
    """Leave to open the hold-out once."""

    kind: LookKind
    k: int
    """Number of this look among those of its question, from 1."""
    alpha: float
    """One-sided error rate of this look."""
    alpha_left: float
    """What stays for later looks at this question."""


def next_look(
    past: Sequence[PastLook], *, question: str, model: str, rows: str, num_rows: int, alpha: float, max_looks: int
) -> LookGrant:
    """The error rate of the next look.

    The same question of more rows: alpha / max_looks each, at most `max_looks` times. A new model on the same rows:
    look k at alpha 2^-k. A changed question is a new question. Whatever the rule gives, no look spends more than is
    left of `alpha`.

    Raises:
        GateClosed: this model was already judged on these rows, or the budget of the question is spent.
        DataError: the hold-out changed without growing.
    """
    mine = [look for look in past if look.question == question]
    spent = sum(look.alpha for look in mine)
    k = len(mine) + 1
    if any(look.model == model and look.rows == rows for look in mine):
        raise GateClosed(
            "this model was already judged on these hold-out rows for this question; read its report. "
            "Collect hold-out rows or tune a new model to ask again."
        )
    seen_rows = {look.rows: look.num_rows for look in mine}
    if not mine:
        kind, granted = LookKind.FIRST, alpha / max_looks
    elif rows in seen_rows:
        kind, granted = LookKind.NEW_MODEL, alpha * 2.0**-k
    else:
        if num_rows <= max(seen_rows.values()):
            raise DataError(
                f"hold-out of {num_rows} rows after one of {max(seen_rows.values())}; the same question may be asked "
                "again of more rows only. Add rows to the hold-out and keep those it has."
            )
        kind, granted = LookKind.MORE_ROWS, alpha / max_looks
        if len(seen_rows) >= max_looks:
            raise GateClosed(
                f"this question was asked of {len(seen_rows)} hold-outs, as many as decision.max_looks allows. "
                "A changed question, on fresh hold-out rows, starts a new budget."
            )
    if granted > alpha - spent + 1e-12:
        raise GateClosed(
            f"look {k} would spend {granted:.4f} of the error rate {alpha}, of which {max(0.0, alpha - spent):.4f} is "
            "left. A changed question, on fresh hold-out rows, starts a new budget."
        )
    return LookGrant(kind=kind, k=k, alpha=granted, alpha_left=max(0.0, alpha - spent - granted))
