"""Two-sided intervals for one share of rows, such as the accuracy of an arm.

    >>> wilson(85, 100)
    Interval(low=0.7672..., high=0.9069...)

Never use `wald` for a report: with few rows, or near 0 and 1, it misses the truth far too often. It is
here because the tests show by how much.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

from metier.core.errors import DataError

__all__ = ["Interval", "clopper_pearson", "jeffreys", "wald", "wilson", "z_quantile"]


class Interval(NamedTuple):
    """Two bounds, in the unit of the score."""

    low: float
    high: float


def z_quantile(probability: float) -> float:
    """Quantile of the standard normal distribution."""
    return NormalDist().inv_cdf(probability)


def _check(successes: int, num_rows: int, where: str) -> None:
    if num_rows < 1:
        raise DataError(f"{where}: no rows; a share of nothing has no interval. Score at least one row.")
    if not 0 <= successes <= num_rows:
        raise DataError(f"{where}: {successes} successes in {num_rows} rows; expected 0 to {num_rows}.")


def wald(successes: int, num_rows: int, level: float = 0.95) -> Interval:
    """Textbook interval p +- z sqrt(p (1 - p) / n); for comparison only (see the module)."""
    _check(successes, num_rows, "wald")
    share = successes / num_rows
    half = z_quantile((1 + level) / 2) * (share * (1 - share) / num_rows) ** 0.5
    return Interval(share - half, share + half)


def wilson(successes: int, num_rows: int, level: float = 0.95) -> Interval:
    """Score interval of a share: the default of every report.

    Raises:
        DataError: no rows, or a count outside them.

    Source: Wilson 1927; Brown, Cai & DasGupta 2001 recommend it from 40 rows and below.
    """
    _check(successes, num_rows, "wilson")
    z2 = z_quantile((1 + level) / 2) ** 2
    share = successes / num_rows
    centre = (successes + z2 / 2) / (num_rows + z2)
    half = (z2 * (share * (1 - share) * num_rows + z2 / 4)) ** 0.5 / (num_rows + z2)
    # Exactly 0 and 1 at the ends, where rounding would leave 1e-16.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == num_rows else centre + half
    return Interval(low, high)


def jeffreys(successes: int, num_rows: int, level: float = 0.95) -> Interval:
    """Equal-tailed interval of the Beta(1/2, 1/2) posterior; 0 and n successes reach to the end of the scale."""
    from scipy.special import betaincinv

    _check(successes, num_rows, "jeffreys")
    a, b, tail = successes + 0.5, num_rows - successes + 0.5, (1 - level) / 2
    low = 0.0 if successes == 0 else float(betaincinv(a, b, tail))
    high = 1.0 if successes == num_rows else float(betaincinv(a, b, 1 - tail))
    return Interval(low, high)


def clopper_pearson(successes: int, num_rows: int, level: float = 0.95) -> Interval:
    """Exact interval of a share: coverage is never below the level, and mostly well above it."""
    from scipy.special import betaincinv

    _check(successes, num_rows, "clopper_pearson")
    misses, tail = num_rows - successes, (1 - level) / 2
    low = 0.0 if successes == 0 else float(betaincinv(successes, misses + 1, tail))
    high = 1.0 if misses == 0 else float(betaincinv(successes + 1, misses, 1 - tail))
    return Interval(low, high)
