"""Choosing among candidates on dev rows: all are screened on a few rows, the best go on to all of them.

Every candidate and its score is told in the report; the hold-out is never seen here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from metier.core.errors import DataError
from metier.core.rows import Row
from metier.core.trials import Choice, Reply

if TYPE_CHECKING:
    from metier.evaluate import Grader

__all__ = ["Chosen", "choices_as_json", "choices_from_json", "choose_on_dev"]

SCREEN_ROWS = 12
FINALISTS = 2


class Chosen(NamedTuple):
    """The winner and everything that was tried."""

    name: str
    tried: tuple[Choice, ...]


def choose_on_dev(
    candidates: Mapping[str, Callable[[Sequence[Row]], list[Reply]]],
    dev: Sequence[Row],
    grader: Grader,
    *,
    screen_rows: int = SCREEN_ROWS,
    finalists: int = FINALISTS,
) -> Chosen:
    """The candidate with the best mean dev score; equal scores go to the one listed first.

    With one candidate there is nothing to choose: it is scored on the screening rows alone, for the log.
    Screening keeps the cost near (candidates x screen_rows + finalists x dev rows) replies. The screening
    rows are spread evenly over dev, so a dev set sorted by class or time is still represented.

    Raises:
        DataError: no dev rows or no candidates.
    """
    if not dev or not candidates:
        raise DataError(f"choose_on_dev: {len(candidates)} candidates and {len(dev)} dev rows; need at least one each.")
    screen = np.unique(np.linspace(0, len(dev) - 1, min(screen_rows, len(dev))).astype(int)).tolist()
    rest = [i for i in range(len(dev)) if i not in set(screen)]
    scores = {name: _scores(reply, [dev[i] for i in screen], grader) for name, reply in candidates.items()}
    ranked = sorted(scores, key=lambda name: -float(np.mean(scores[name])))
    # In the order listed, so that max() gives a tie to the first listed.
    final = [name for name in candidates if name in ranked[:finalists]]
    if rest and len(candidates) > 1:
        for name in final:
            scores[name] += _scores(candidates[name], [dev[i] for i in rest], grader)
    best = max(final, key=lambda name: float(np.mean(scores[name])))
    tried = tuple(
        Choice(name=name, score=float(np.mean(values)), num_rows=len(values)) for name, values in scores.items()
    )
    return Chosen(best, tried)


def _scores(reply: Callable[[Sequence[Row]], list[Reply]], rows: Sequence[Row], grader: Grader) -> list[float]:
    replies = reply(rows)
    return [scored.score for scored in grader.score_all(rows, [r.text for r in replies])]


def choices_as_json(choices: Sequence[Choice]) -> list[dict[str, Any]]:
    """Everything that was tried, as JSON values."""
    return [{"name": c.name, "score": c.score, "num_rows": c.num_rows} for c in choices]


def choices_from_json(values: Sequence[Mapping[str, Any]]) -> tuple[Choice, ...]:
    """The choices written by `choices_as_json`."""
    return tuple(Choice(**value) for value in values)
