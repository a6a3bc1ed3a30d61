"""How far annotators agree beyond chance: Krippendorff's alpha, Fleiss' and Cohen's kappa, majority vote.

    >>> table = vote_table(votes)
    >>> krippendorff_alpha(table, rng=generator(0, "alpha"))
    Estimate(value=0.691..., low=..., high=..., n=12)

Alpha takes any number of annotators and votes that are missing; it is what the reports use. The kappas are here for
comparison with published figures: they want the same number of votes a row, or exactly two annotators.
"""

# Shapes: U rows with at least two votes, V votes, N rows, K labels, B bootstrap resamples.

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from metier.core.errors import DataError
from metier.core.votes import Estimate, Floats, Ints, VoteTable

__all__ = [
    "CohenKappa", "FleissKappa", "Majority", "Metric", "cohen_kappa", "fleiss_kappa", "krippendorff_alpha",
    "majority_vote",
]  # fmt: skip

_Z95 = 1.959963984540054


class Metric(StrEnum):
    """How far apart two values are."""

    NOMINAL = "nominal"
    """Equal or not."""
    ORDINAL = "ordinal"
    """By the votes that lie between them, in the order of the table's labels."""
    INTERVAL = "interval"
    """By the square of their difference; values must be numbers."""


def krippendorff_alpha(
    table: VoteTable, *, rng: np.random.Generator, metric: Metric = Metric.NOMINAL, num_resamples: int = 1000
) -> Estimate:
    """Krippendorff's alpha, at most 1, with a bootstrap interval over rows; `n` counts rows with two or more votes.

    Rows with one vote say nothing about agreement and are left out. The interval is log(1 - alpha) plus and minus t
    times its standard error over `num_resamples` resamples of rows (those in which every vote is the same have no alpha
    and are left out): a percentile interval holds the truth less often than it says. Without a single disagreement the
    lower end is the alpha of three disagreeing rows in as many rows, the bound of nothing seen.

    Raises:
        DataError: fewer than two rows with two votes, every vote the same, or values that are no numbers.

    Source: Krippendorff 2011, "Computing Krippendorff's alpha-reliability". Rows are resampled (Zapf et al. 2016), not
    the deviations of pairs as in Krippendorff's own algorithm.
    """
    count_NK = table.count_NK()
    count_UK = count_NK[table.votes_N >= 2]
    if len(count_UK) < 2:
        raise DataError(
            f"krippendorff_alpha: {len(count_UK)} of {len(count_NK)} rows have two votes or more; expected at least 2 "
            "such rows. Let annotators label some rows twice."
        )
    alpha_of = _alpha_of(count_UK, metric, table.labels)
    value = alpha_of(np.ones(len(count_UK)))
    if math.isnan(value):
        only = table.labels[int(count_UK.sum(axis=0).argmax())]
        raise DataError(
            f"krippendorff_alpha: all {int(count_UK.sum())} votes are {only!r}; expected two values or more, as "
            "agreement beyond chance is not defined otherwise. Label rows of another kind too."
        )
    num, votes_K = len(count_UK), count_UK.sum(axis=0)
    num_votes = float(votes_K.sum())
    if 1 - value <= 1e-12:
        differing = (num_votes**2 - (votes_K**2).sum()) / (num_votes * (num_votes - 1))
        return Estimate(1.0, max(-1.0, float(1 - 3 / num / differing)), 1.0, num)
    alpha_B = np.array([alpha_of(np.bincount(rng.integers(0, num, num), minlength=num)) for _ in range(num_resamples)])
    # One vote's worth of disagreement is added, so that a resample without any has a logarithm.
    log_B = np.log(1 - alpha_B[np.isfinite(alpha_B)] + 1 / num_votes)
    if len(log_B) < 2:
        return Estimate(value, -1.0, 1.0, num)
    half = _t_quantile(num - 1) * float(log_B.std(ddof=1)) * math.sqrt(num / (num - 1))
    disagreement = 1 - value + 1 / num_votes
    low, high = (1 + 1 / num_votes - disagreement * math.exp(side * half) for side in (1, -1))
    return Estimate(value, max(-1.0, low), min(1.0, high), num)


def _t_quantile(df: int) -> float:
    """The .975 quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(df, 0.975))


def _alpha_of(count_UK: Floats, metric: Metric, labels: Sequence[str]) -> Callable[[npt.ArrayLike], float]:
    """Alpha as a function of how often each row counts; NaN where no two votes differ."""
    votes_U = count_UK.sum(axis=1)
    if metric is Metric.NOMINAL:
        differing_U = (votes_U**2 - (count_UK**2).sum(axis=1)) / (votes_U - 1)

        def nominal(weights: npt.ArrayLike) -> float:
            weight_U = np.asarray(weights, dtype=np.float64)
            return _alpha(weight_U @ differing_U, weight_U @ votes_U, ((weight_U @ count_UK) ** 2).sum())

        return nominal
    value_K = _numbers(labels) if metric is Metric.INTERVAL else None

    def squared(weights: npt.ArrayLike) -> float:
        weight_U = np.asarray(weights, dtype=np.float64)
        total_K = weight_U @ count_UK
        # An ordinal distance is the number of votes between two values, half of their own counted: a difference of
        # middle ranks. So one formula serves both metrics.
        place_K = np.cumsum(total_K) - total_K / 2 if value_K is None else value_K
        place_K = place_K - place_K @ total_K / total_K.sum()  # centred, or large numbers would cancel badly
        first_U, second_U = count_UK @ place_K, count_UK @ place_K**2
        differing_U = 2 * (votes_U * second_U - first_U**2) / (votes_U - 1)
        num = total_K.sum()
        by_chance = 2 * (num * (total_K @ place_K**2) - (total_K @ place_K) ** 2)
        return _alpha(weight_U @ differing_U, num, num**2 - by_chance)

    return squared


def _alpha(differing: float, num_votes: float, alike: float) -> float:
    """1 - observed / expected disagreement, from sums over votes; NaN where none is expected."""
    by_chance = num_votes**2 - alike
    if by_chance <= 1e-9 * num_votes:
        return math.nan
    return float(1 - differing * (num_votes - 1) / by_chance)


def _numbers(labels: Sequence[str]) -> Floats:
    try:
        value_K = np.array([float(label) for label in labels])
    except ValueError:
        value_K = np.array([math.nan])
    if not np.isfinite(value_K).all():
        wrong = next((label for label in labels if not _is_finite(label)), "")
        raise DataError(
            f"krippendorff_alpha: the interval metric met the value {wrong!r}; expected numbers. Use nominal, or "
            "ordinal with an order."
        )
    return value_K


def _is_finite(label: str) -> bool:
    try:
        return math.isfinite(float(label))
    except ValueError:
        return False


class FleissKappa(NamedTuple):
    """Chance-corrected agreement where every row has the same number of votes."""

    kappa: float
    """Chance from the labels' own shares (Fleiss 1971)."""
    free_marginal: float
    """Chance is 1 / number of labels (Randolph 2005)."""
    agreement: float
    """Share of pairs of votes on one row that are equal."""
    num_rows: int
    num_raters: float


def fleiss_kappa(count_NK: npt.ArrayLike) -> FleissKappa:
    """Fleiss' kappa of the counts of each label on each row.

    Raises:
        DataError: rows with different numbers of votes or fewer than two, or a single label in all votes.

    Source: Fleiss 1971; Randolph 2005 for the free-marginal form.
    """
    counts = np.asarray(count_NK, dtype=np.float64)
    if counts.ndim != 2 or not counts.size or (counts < 0).any():
        raise DataError(f"fleiss_kappa: an array of shape {counts.shape}; expected counts of rows by labels.")
    votes_N = counts.sum(axis=1)
    if votes_N.max() - votes_N.min() > 1e-9 or votes_N[0] < 2:
        raise DataError(
            f"fleiss_kappa: rows have {votes_N.min():g} to {votes_N.max():g} votes; expected the same number, two or "
            "more, on every row. Use krippendorff_alpha where votes are missing."
        )
    num_raters = float(votes_N[0])
    agreement = float((((counts**2).sum(axis=1) - num_raters) / (num_raters * (num_raters - 1))).mean())
    chance = float(((counts.sum(axis=0) / counts.sum()) ** 2).sum())
    if 1 - chance < 1e-12:
        raise DataError("fleiss_kappa: every vote has the same label; expected two labels or more.")
    free = 1 / counts.shape[1]
    return FleissKappa(
        (agreement - chance) / (1 - chance), (agreement - free) / (1 - free), agreement, len(counts), num_raters
    )


class CohenKappa(NamedTuple):
    """Agreement of two annotators beyond chance."""

    kappa: float
    stderr: float
    low: float
    """Lower end of the 95 % interval, from `stderr`."""
    high: float
    stderr_null: float
    """Standard error if the two agreed by chance alone."""
    z: float
    """kappa / stderr_null."""
    p_value: float
    """Two-sided, of agreement by chance alone."""
    num_rows: int


def cohen_kappa(table_KK: npt.ArrayLike, *, distance_KK: npt.ArrayLike | None = None) -> CohenKappa:
    """Cohen's kappa of a square table of counts (one annotator down, one across); weighted by `distance_KK` if given.

    `distance_KK` says how bad each disagreement is, 0 on the diagonal: |i - j| for linear weights, its square for
    quadratic ones.

    Raises:
        DataError: not a square table of counts, or chance agreement is 1.

    Source: Cohen 1960, 1968; standard errors of Fleiss, Cohen & Everitt 1969.
    """
    counts = np.asarray(table_KK, dtype=np.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.sum() <= 0:
        raise DataError(f"cohen_kappa: a table of shape {counts.shape}; expected a square table with counts.")
    distance = 1 - np.eye(len(counts)) if distance_KK is None else np.asarray(distance_KK, dtype=np.float64)
    if distance.shape != counts.shape or distance.max() <= 0 or np.diag(distance).any():
        raise DataError(
            f"cohen_kappa: distances of shape {distance.shape} for a table of shape {counts.shape}; expected the same "
            "shape, 0 on the diagonal and some distance above 0."
        )
    num = counts.sum()
    share = counts / num
    likeness = 1 - distance / distance.max()
    first_K, second_K = share.sum(axis=1), share.sum(axis=0)
    by_chance = np.outer(first_K, second_K)
    observed, chance = float((likeness * share).sum()), float((likeness * by_chance).sum())
    if 1 - chance < 1e-12:
        raise DataError("cohen_kappa: both annotators gave one and the same label throughout; expected two labels.")
    kappa = (observed - chance) / (1 - chance)
    mean = (likeness @ second_K)[:, None] + (first_K @ likeness)[None, :]
    inner = (share * (likeness * (1 - chance) - mean * (1 - observed)) ** 2).sum()
    variance = (inner - (observed * chance - 2 * chance + observed) ** 2) / (num * (1 - chance) ** 4)
    null = ((by_chance * (likeness - mean) ** 2).sum() - chance**2) / (num * (1 - chance) ** 2)
    stderr, stderr_null = math.sqrt(max(0.0, variance)), math.sqrt(max(0.0, null))
    z = kappa / stderr_null if stderr_null > 0 else math.nan
    low, high = kappa - _Z95 * stderr, kappa + _Z95 * stderr
    return CohenKappa(kappa, stderr, low, high, stderr_null, z, math.erfc(abs(z) / math.sqrt(2)), int(num))


class Majority(NamedTuple):
    """The label most annotators gave each row."""

    label_N: Ints
    """Code of the label; -1 where two or more labels tie: a tie is reported, never broken."""
    share_NK: Floats
    """Each label's part of the majority: 1 for a clear one, 1 / number of tied labels in a tie."""
    num_ties: int


def majority_vote(table: VoteTable) -> Majority:
    """The majority label of every row, ties stated.

    To score a majority vote count `share_NK` at the true label: the expected result of breaking ties by lot.
    """
    count_NK = table.count_NK()
    top_NK = count_NK == count_NK.max(axis=1, keepdims=True)
    num_top_N = top_NK.sum(axis=1)
    label_N = np.where(num_top_N == 1, top_NK.argmax(axis=1), -1).astype(np.int64)
    return Majority(label_N, top_NK / num_top_N[:, None], int((num_top_N > 1).sum()))
