"""The mean of skewed values, such as costs of requests of which a few are long.

>>> skewed_mean([1.0, 1.0, 2.0, 8.0], alpha=0.05).high > 3.0 + 2.353 * 1.683
True
"""

# Shapes: N values.

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from metier.core.errors import DataError
from metier.core.stats.proportions import Interval

__all__ = ["skewed_mean"]


def skewed_mean(value_N: npt.ArrayLike, *, alpha: float) -> Interval:
    """One-sided bounds of a mean at `alpha` each: a t interval, wider on the side where skewness makes it too short.

    A sample of skewed values that misses the few large ones shows a mean and a spread that are both too small. Of 60
    log-normal values (sigma .8, over paired ones of sigma .3) a normal upper bound at .05 lies below the truth .092 of
    the time, this one .059; of 200, .073 and .050.

    Raises:
        DataError: fewer than two values, or values that are not finite.

    Source: Hall 1992 (transformation that removes the skewness of a t statistic). Unlike there no side becomes narrower
    than the t interval's.
    """
    from scipy.special import stdtrit

    values = np.asarray(value_N, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise DataError(f"skewed_mean: {values.size} values; expected two finite numbers or more.")
    mean, sd = float(values.mean()), float(values.std(ddof=1))
    quantile, root = float(stdtrit(len(values) - 1, 1 - alpha)), len(values) ** 0.5
    if sd <= 1e-12 * float(np.abs(values).max()):
        return Interval(mean, mean)
    skewness = float(((values - mean) ** 3).mean() / values.std() ** 3) / root
    below, above = (max(quantile, side * _untransformed(side * quantile, skewness)) for side in (1, -1))
    return Interval(mean - below * sd / root, mean + above * sd / root)


def _untransformed(quantile: float, skewness: float) -> float:
    """The t statistic whose transform is `quantile`; `skewness` is that of the values over the root of their number."""
    if abs(skewness) < 1e-6:
        return quantile
    return 3 / skewness * (float(np.cbrt(1 + skewness * (quantile - skewness / 6))) - 1)
