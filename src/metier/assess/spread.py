"""How much runs on equally many rows differ, from the points of a learning curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metier.core.report import CurvePoint

__all__ = ["RetrainSpread", "retrain_spread"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrainSpread:
    """How much the score of a run depends on its seed and on which rows were drawn, score units."""

    sd: float
    low: float
    """Of a 95 % interval of the sd (chi-square)."""
    high: float
    num_seeds: int
    df: int


def retrain_spread(points: Sequence[CurvePoint]) -> RetrainSpread | None:
    """Spread between runs on equally many rows, pooled over the curve; None where no number has two runs."""
    from scipy.special import chdtri

    by_rows: dict[int, list[float]] = {}
    for point in points:
        by_rows.setdefault(point.num_train, []).append(point.score)
    df = sum(len(scores) - 1 for scores in by_rows.values())
    if not df:
        return None
    squares = sum(float(((np.array(scores) - np.mean(scores)) ** 2).sum()) for scores in by_rows.values())
    low, high = (float(np.sqrt(squares / chdtri(df, 1 - q))) for q in (0.975, 0.025))
    num_seeds = max(len(scores) for scores in by_rows.values())
    return RetrainSpread(sd=float(np.sqrt(squares / df)), low=low, high=high, num_seeds=num_seeds, df=df)
