"""The scores a decision is made from, checked: the tuned arm, its rivals and the guards, row by row.

    >>> table = ScoreTable.of(tuned=[1, 0, 1, 1, 1], rivals={"prompt": [0, 0, 1, 1, 0]}, groups="abcde", binary=True)
    >>> table.num_rows
    5

Scores are 0-1. Nothing here knows texts, models or files.
"""

# Shapes: N rows of the hold-out, or of the slice a guard watches.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from metier.core.errors import DataError, counted
from metier.core.report import Forecast
from metier.core.settings import GuardConfig
from metier.core.stats import MIN_GROUPS, GainEstimate, bonett_price, grouped_mean

__all__ = ["MIN_DISCORDANT", "GainForecast", "GuardScores", "ScoreTable", "paired_gain"]

Floats = npt.NDArray[np.float64]
Keys = npt.NDArray[Any]  # Any: group names may be text or numbers
FORECAST_LEVEL = 0.80
MIN_DISCORDANT = 10  # fewer rows that differ cannot show harm or a gain below the margin: their spread is a guess


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreTable:
    """Hold-out scores of the tuned arm and of every comparator, on the same rows in the same order."""

    tuned_N: Floats
    rivals: Mapping[str, Floats]
    """Scores of each comparator, by arm name."""
    group_N: Keys
    """Customer, document or case of every row; one name a row where rows stand alone."""
    binary: bool
    """Whether the metric gives only 0 and 1."""

    @classmethod
    def of(
        cls,
        *,
        tuned: Sequence[float] | Floats,
        rivals: Mapping[str, Sequence[float] | Floats],
        groups: Sequence[Any] | Keys,  # Any: see Keys
        binary: bool,
    ) -> Self:
        """A checked table.

        Raises:
            DataError: no comparator, no rows, a row without a group, fewer than five groups, lengths that differ,
                scores that are not numbers from 0 to 1, or values between 0 and 1 under a yes-no metric.
        """
        if not rivals:
            raise DataError("scores: no comparator; the gain is a difference. Add an arm, for example kind = 'prompt'.")
        group_N = checked_groups(groups, "scores")
        num_groups = len(np.unique(group_N))
        if num_groups < MIN_GROUPS:
            raise DataError(
                f"scores: {counted(num_groups, 'group')} in {len(group_N)} rows; expected {MIN_GROUPS} or more. "
                "Hold out more rows, or rows of more groups."
            )
        tuned_N = checked_scores(tuned, "tuned", len(group_N), binary)
        checked = {name: checked_scores(values, name, len(group_N), binary) for name, values in rivals.items()}
        return cls(tuned_N=tuned_N, rivals=checked, group_N=group_N, binary=binary)

    @property
    def num_rows(self) -> int:
        """Rows every arm was scored on."""
        return len(self.tuned_N)


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardScores:
    """What one guard watches: scores of the tuned arm and of its reference on the guard's own rows."""

    config: GuardConfig
    tuned_N: Floats
    reference_N: Floats
    """Scores of the arm that would be used otherwise; chosen on dev, not here."""
    group_N: Keys
    binary: bool

    @classmethod
    def of(
        cls,
        config: GuardConfig,
        *,
        tuned: Sequence[float] | Floats,
        reference: Sequence[float] | Floats,
        groups: Sequence[Any] | Keys,  # Any: see Keys
        binary: bool,
    ) -> Self:
        """Checked scores of a guard.

        Raises:
            DataError: no rows ("no data" is not "no harm"), a row without a group, lengths that differ, scores that
                are not numbers from 0 to 1.
        """
        where = f"guard {config.name!r}"
        if len(groups) == 0:
            raise DataError(
                f"{where}: no hold-out row is watched by {config.on!r}; expected at least one. "
                "Correct 'on' or drop the guard."
            )
        group_N = checked_groups(groups, where)
        return cls(
            config=config,
            tuned_N=checked_scores(tuned, f"{where}, tuned", len(group_N), binary),
            reference_N=checked_scores(reference, f"{where}, reference", len(group_N), binary),
            group_N=group_N,
            binary=binary,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class GainForecast:
    """What the learning curve predicts for the gain over one comparator."""

    num_train: int
    """Train rows the tuned arm had."""
    points: tuple[Forecast, ...]
    """Bands of the *gain* (not of the score) at more train rows."""

    def rows_to_reach(self, margin: float, *, max_times: float = 4.0) -> int | None:
        """Fewest train rows, up to `max_times` those at hand, at which the 80 % band reaches the margin; or None.

        Raises:
            DataError: a band of another level, or without an upper end.
        """
        for point in self.points:
            if not np.isfinite(point.high):
                raise DataError(
                    f"forecast: the band at {point.num_train:,} train rows ends at {point.high}; expected a number. "
                    "Fit the learning curve again."
                )
            if abs(point.level - FORECAST_LEVEL) > 1e-9:
                raise DataError(
                    f"forecast: band of level {point.level}; expected {FORECAST_LEVEL}, which the rule is stated for."
                )
        reached = [p.num_train for p in self.points if p.num_train <= max_times * self.num_train and p.high >= margin]
        return min(reached, default=None)


def checked_groups(groups: Sequence[Any] | Keys, where: str) -> Keys:  # Any: see Keys
    """The group of every row as an array of text or numbers, or what is wrong with them."""
    if isinstance(groups, np.ndarray) and groups.ndim == 1 and groups.dtype.kind in "iuU":
        return groups
    listed = list(groups)
    missing = [row for row, name in enumerate(listed) if name is None or name != name]  # NaN differs from itself
    if missing:
        raise DataError(
            f"{where}: row {missing[0]} has no group ({counted(len(missing), 'such row')}); expected a name for each "
            "row. Give rows that stand alone a name of their own."
        )
    if all(isinstance(name, str) for name in listed) or all(isinstance(name, Real) for name in listed):
        return np.asarray(listed)
    return np.asarray([str(name) for name in listed])


def checked_scores(values: Sequence[float] | Floats, name: str, num_rows: int, binary: bool) -> Floats:
    """The scores as an array, or what is wrong with them."""
    try:
        score_N = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as err:
        raise DataError(f"scores of {name!r}: {err}; expected one number from 0 to 1 for each row.") from err
    if score_N.ndim > 1:
        raise DataError(
            f"scores of {name!r}: {score_N.shape} numbers; expected one for each row. Average samples of a row first."
        )
    if score_N.shape != (num_rows,):
        raise DataError(
            f"scores of {name!r}: {score_N.size} scores for {num_rows} rows; expected one for each row. "
            "Score the missing rows."
        )
    if not np.isfinite(score_N).all():
        first = int(np.flatnonzero(~np.isfinite(score_N))[0])
        num_bad = int((~np.isfinite(score_N)).sum())
        raise DataError(
            f"scores of {name!r}: row {first} is {score_N[first]} ({num_bad} such rows); expected numbers. "
            "A failed row is counted beside the score, not inside it."
        )
    if score_N.min() < 0 or score_N.max() > 1:
        first = int(np.flatnonzero((score_N < 0) | (score_N > 1))[0])
        raise DataError(f"scores of {name!r}: row {first} is {score_N[first]}; expected 0 to 1. Scale the metric.")
    if binary and not np.isin(score_N, (0.0, 1.0)).all():
        first = int(np.flatnonzero(~np.isin(score_N, (0.0, 1.0)))[0])
        raise DataError(f"scores of {name!r}: row {first} is {score_N[first]} under a yes-no metric; expected 0 or 1.")
    return score_N


def paired_gain(first_N: Floats, second_N: Floats, group_N: Keys, *, binary: bool, num_groups: int) -> GainEstimate:
    """The gain of the first arm over the second by the one interval that fits the scores.

    Yes-no scores with one row a group: Bonett-Price. Everything else: CR2 t over groups; where fewer than ten groups,
    and not half of them, differ, with one group added at each end as well. Without them, graded scores that lose
    exactly the accepted 5 points pass as unharmed .19 of the time on 60 rows and .13 on 150, with them .046 and .055
    (by enumeration).
    """
    if binary and num_groups == len(group_N):
        gains = int((first_N > second_N).sum())
        return bonett_price(gains=gains, losses=int((first_N < second_N).sum()), num_rows=len(group_N))
    differing = len(np.unique(group_N[first_N != second_N]))
    # With few groups of which most differ there is a spread to measure: groups added would only blur it.
    sparse = differing < MIN_DISCORDANT and 2 * differing < num_groups
    return grouped_mean(first_N - second_N, group_N, add_groups=sparse)
