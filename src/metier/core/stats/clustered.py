"""Means of rows that share a group: standard error, degrees of freedom and a bootstrap cross-check.

    >>> grouped_mean([0.0, 1.0, 1.0, 0.0, 1.0], ["a", "b", "c", "d", "e"]).df
    4.0

Rows of one customer or document move together, so groups are counted. Several samples of one row are
averaged first (`average_within_rows`).
"""

# Shapes: N rows, C groups, R rows before averaging samples, B bootstrap resamples.

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from metier.core.errors import DataError
from metier.core.stats.paired import GainEstimate
from metier.core.stats.proportions import Interval

__all__ = [
    "MIN_GROUPS", "average_within_rows", "bootstrap_t", "design_effect", "grouped_mean", "intra_class_correlation",
    "bell_mccaffrey_df",
]  # fmt: skip

MIN_GROUPS = 5  # below it the variance between groups is a guess

Floats = npt.NDArray[np.float64]
Keys = Sequence[Any] | npt.NDArray[Any]  # Any: group and row names may be text or numbers


class _Groups(NamedTuple):
    sum_C: Floats
    size_C: Floats
    sum_of_squares: float


def _groups(value_N: npt.ArrayLike, group_N: Keys, where: str) -> _Groups:
    """Sum and size of every group, checked."""
    values = np.asarray(value_N, dtype=np.float64)
    if values.ndim != 1 or len(values) != len(group_N):
        raise DataError(f"{where}: {values.size} values and {len(group_N)} groups; expected one group for each value.")
    if not np.isfinite(values).all():
        raise DataError(f"{where}: {int((~np.isfinite(values)).sum())} of {len(values)} values are not finite numbers.")
    _, index_N = np.unique(np.asarray(group_N), return_inverse=True)
    sum_C: Floats = np.bincount(index_N, weights=values).astype(np.float64)
    return _Groups(sum_C, np.bincount(index_N).astype(np.float64), float(values @ values))


def bell_mccaffrey_df(size_C: npt.ArrayLike, correlation: float = 0.0) -> float:
    """Bell-McCaffrey degrees of freedom of the CR2 variance of a mean, for rows that correlate within their group.

    With V_c = n_c (1 + (n_c - 1) correlation) and l the eigenvalues of M = diag(a) (I - n 1'/N) diag(V) (I - 1 n'/N)
    diag(a), a_c = (1 - n_c/N)^-1/2 / N, the answer is (sum l)^2 / sum l^2 = tr(M)^2 / tr(M^2). M is a diagonal plus a
    matrix of rank two, so both traces are sums over groups and no eigenvalue is computed. C equal groups give C - 1.

    Source: Bell & McCaffrey 2002 (correlation 0); Pustejovsky & Tipton 2018 for other working covariances.
    """
    n = np.asarray(size_C, dtype=np.float64)
    total = n.sum()
    a = (1 - n / total) ** -0.5 / total
    spread_C = n * (1 + (n - 1) * correlation)
    u, w, k = a * spread_C, a * n, spread_C.sum() / total**2
    diagonal = a**2 * spread_C
    rest = k * w**2 - 2 * u * w / total
    uw, uu, ww = u @ w, u @ u, w @ w
    square = (diagonal**2).sum() + 2 * diagonal @ rest
    square += 2 * (uw**2 + uu * ww) / total**2 - 4 * k * uw * ww / total + (k * ww) ** 2
    return float((diagonal + rest).sum() ** 2 / square)


def grouped_mean(value_N: npt.ArrayLike, group_N: Keys, *, add_groups: bool = False) -> GainEstimate:
    """The mean of values in groups, ready for one-sided t bounds at any level.

    Variance is CR2; degrees of freedom are Bell-McCaffrey's, the smaller of those for independent rows and for rows
    that correlate within groups as these do: with very unequal groups the first alone lets up to .067 of 95 %
    intervals miss, the smaller one at most .046 (`benchmarks/decision_rates.py`). Where every group has the same mean
    (no variance to work with), and with `add_groups`, one group of the mean size at +1 and one at -1 are added, as
    Bonett & Price do with rows: a bound of zero width would claim certainty.

    Raises:
        DataError: fewer than five groups, values that are not finite, lengths that differ.

    Source: Bell & McCaffrey 2002; Imbens & Kolesar 2016. Unlike arXiv:2411.00640 it holds its level when groups
    differ in size.
    """
    groups = _groups(value_N, group_N, "grouped_mean")
    sum_C, size_C, _ = groups
    num_groups, num_rows = len(size_C), int(size_C.sum())
    if num_groups < MIN_GROUPS:
        raise DataError(
            f"grouped_mean: {num_groups} groups in {num_rows} rows; expected at least {MIN_GROUPS}. "
            "Hold out rows of more groups, or name a finer group."
        )
    mean = float(sum_C.sum() / num_rows)
    residual_C = sum_C - size_C * mean
    variance = float((residual_C**2 / (1 - size_C / num_rows)).sum() / num_rows**2)
    centre, method = mean, "cr2_t"
    df = min(bell_mccaffrey_df(size_C), bell_mccaffrey_df(size_C, _correlation(groups)))
    if variance <= 1e-24 or add_groups:
        centre, method = num_groups * mean / (num_groups + 2), "cr2_adjusted"
        usual_size = num_rows / num_groups
        squares = ((sum_C - size_C * centre) ** 2).sum() + 2 * usual_size**2 * (1 + centre**2)
        variance = float(squares) / (num_rows + 2 * usual_size) ** 2
    return GainEstimate(
        estimate=mean,
        centre=centre,
        stderr=variance**0.5,
        df=df,
        method=method,
        num_rows=num_rows,
        num_groups=num_groups,
    )


def average_within_rows(value_R: npt.ArrayLike, row_R: Keys) -> tuple[Floats, npt.NDArray[Any]]:
    """Mean over the samples of every row, with the row names in sorted order.

    Several samples of one row tell about the model's randomness, not about more rows.
    """
    values = np.asarray(value_R, dtype=np.float64)
    if values.ndim != 1 or len(values) != len(row_R):
        raise DataError(
            f"average_within_rows: {values.size} values and {len(row_R)} row names; expected one name for each value."
        )
    names, index_R, size_N = np.unique(np.asarray(row_R), return_inverse=True, return_counts=True)
    return np.bincount(index_R, weights=values) / size_N, names


def bootstrap_t(
    value_N: npt.ArrayLike, group_N: Keys, *, alpha: float, rng: np.random.Generator, num_resamples: int = 1999
) -> Interval | None:
    """One-sided bounds of a mean at `alpha` each, by resampling whole groups; None where no variance is to be seen.

    A cross-check of `grouped_mean`: it makes no use of the t distribution.

    Source: Efron & Tibshirani 1993, chapter 12; groups as in Cameron, Gelbach & Miller 2008.
    """
    sum_C, size_C, _ = _groups(value_N, group_N, "bootstrap_t")
    total = size_C.sum()
    mean = sum_C.sum() / total
    stderr = np.sqrt((((sum_C - size_C * mean) ** 2) / (1 - size_C / total)).sum()) / total if len(size_C) > 1 else 0.0
    if stderr <= 1e-12:
        return None
    chunks = [
        min(200, num_resamples - start) for start in range(0, num_resamples, 200)
    ]  # 200: a few MB at 2,000 groups
    t_B = np.concatenate([_t_of_resamples(sum_C, size_C, float(mean), rng, size) for size in chunks])
    low, high = mean - np.quantile(t_B, 1 - alpha) * stderr, mean - np.quantile(t_B, alpha) * stderr
    return Interval(max(-1.0, float(low)), min(1.0, float(high)))


def _t_of_resamples(sum_C: Floats, size_C: Floats, mean: float, rng: np.random.Generator, num_resamples: int) -> Floats:
    """(resampled mean - mean) / its own standard error, one for each resample of the groups."""
    share_C = np.full(len(size_C), 1 / len(size_C))
    count_BC = rng.multinomial(len(size_C), share_C, size=num_resamples)
    total_B = count_BC @ size_C
    mean_B = count_BC @ sum_C / total_B
    residual_BC = sum_C - size_C * mean_B[:, None]
    spread_B = (count_BC * residual_BC**2 / np.maximum(1 - size_C / total_B[:, None], 1e-9)).sum(axis=1)
    stderr_B = np.sqrt(spread_B) / total_B
    # A resample without spread tells nothing about scale: it counts as farther out than any other.
    t_B: Floats = np.sign(mean_B - mean) * 1e9
    np.divide(mean_B - mean, stderr_B, out=t_B, where=stderr_B > 1e-12)
    return t_B


def intra_class_correlation(value_N: npt.ArrayLike, group_N: Keys) -> float:
    """Share of the variance that lies between groups, 0-1 (analysis of variance; negative estimates are 0).

    Raises:
        DataError: fewer than two groups, or one row in each.
    """
    groups = _groups(value_N, group_N, "intra_class_correlation")
    num_groups, num_rows = len(groups.size_C), int(groups.size_C.sum())
    if num_groups < 2 or num_groups == num_rows:
        raise DataError(
            f"intra_class_correlation: {num_groups} groups in {num_rows} rows; expected two groups or more, "
            "and more rows than groups."
        )
    return _correlation(groups)


def _correlation(groups: _Groups) -> float:
    """Intra-class correlation; 0 where every group is one row."""
    sum_C, size_C, sum_of_squares = groups
    num_groups, num_rows = len(size_C), size_C.sum()
    if num_groups == num_rows:
        return 0.0
    between = (size_C * (sum_C / size_C - sum_C.sum() / num_rows) ** 2).sum() / (num_groups - 1)
    within = max(0.0, sum_of_squares - (sum_C**2 / size_C).sum()) / (num_rows - num_groups)
    usual_size = (num_rows - (size_C**2).sum() / num_rows) / (num_groups - 1)
    spread = between + (usual_size - 1) * within
    return float(np.clip((between - within) / spread, 0.0, 1.0)) if spread > 0 else 0.0


def design_effect(size_C: npt.ArrayLike, correlation: float) -> float:
    """How many times more rows are needed because rows share groups: 1 + (sum n^2 / sum n - 1) correlation.

    Source: Kish 1965; with equal groups of m rows it is 1 + (m - 1) correlation.
    """
    n = np.asarray(size_C, dtype=np.float64)
    return float(1 + ((n**2).sum() / n.sum() - 1) * correlation)
