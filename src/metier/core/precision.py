"""How exactly a hold-out will show a gain, before anything is scored: effective rows, expected bounds, rows needed.

    holdout = Holdout.of(groups=["a", "a", "b", "c", "d", "e"], binary=True)
    effective_rows(holdout, Plan(margin=0.05, plan_gain=0.1))    # Interval(low=4.5, high=6.0)

What no pilot measured is assumed within a range; `worst` picks its end. The formulas are those of the verdict.
"""

# Shapes: C groups.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from metier.core.errors import ConfigError
from metier.core.stats import GainEstimate, Interval, bell_mccaffrey_df, design_effect, rows_for_precision

__all__ = [
    "ASSUMED_DISCORDANCE", "ASSUMED_SPREAD", "POWER", "Holdout", "Plan", "effective_rows", "expected_gain",
    "kindest_half_width", "rows_to_show",
]  # fmt: skip

ASSUMED_DISCORDANCE = Interval(0.1, 0.3)
"""Share of rows on which two yes-no arms differ, where no pilot measured it."""
ASSUMED_SPREAD = Interval(0.15, 0.35)
"""Standard deviation of a row's difference between two arms with continuous scores, where no pilot measured it."""
POWER = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class Holdout:
    """The rows that would decide, as numbers."""

    sizes: tuple[int, ...]
    """Rows of each group; ones where every row stands alone."""
    binary: bool
    """Whether the metric gives only 0 and 1."""
    slices: Mapping[str, int] = field(default_factory=dict)
    """Hold-out rows of each slice that would be judged on its own, such as region=north."""

    @classmethod
    def of(cls, *, groups: Sequence[Any], binary: bool, slices: Mapping[str, int] | None = None) -> Self:  # Any: names
        """The hold-out whose rows have these group names or numbers; one name a row where rows stand alone."""
        sizes = np.unique(np.asarray(groups), return_counts=True)[1] if len(groups) else np.zeros(0, dtype=np.int64)
        return cls(sizes=tuple(int(size) for size in sizes), binary=binary, slices=dict(slices or {}))

    @property
    def num_rows(self) -> int:
        """Rows held out."""
        return sum(self.sizes)

    @property
    def num_groups(self) -> int:
        """Groups they come from."""
        return len(self.sizes)

    @property
    def grouped(self) -> bool:
        """Whether some group has two rows or more."""
        return self.num_groups < self.num_rows


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is to be shown, and what a pilot measured; None is "not measured"."""

    margin: float
    """Gain the verdict asks for; minus the accepted loss under as_good_for_less."""
    plan_gain: float
    """True gain the rows are planned for; not above the margin, no number of rows shows it."""
    alpha: float = 0.05
    """One-sided error rate of the first look."""
    discordance: float | None = None
    """Yes-no scores: share of rows on which the two arms differ."""
    spread: float | None = None
    """Other scores: standard deviation of a row's difference between the two arms."""
    correlation: float | None = None
    """Intra-class correlation of the differences within groups, 0-1."""

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 0.5:
            raise ConfigError(f"alpha is {self.alpha}; expected 0 < alpha < 0.5.")
        for name, value in (("discordance", self.discordance), ("correlation", self.correlation)):
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"{name} is {value}; expected 0 to 1, or None where it was not measured.")
        if self.spread is not None and not 0 <= self.spread <= 1:
            raise ConfigError(f"spread is {self.spread}; expected 0 to 1, or None where it was not measured.")


def _correlation(holdout: Holdout, plan: Plan, *, worst: bool) -> float:
    """Measured, or the end of the range; without groups of two rows it plays no part."""
    if not holdout.grouped:
        return 0.0
    return plan.correlation if plan.correlation is not None else float(worst)


def effective_rows(holdout: Holdout, plan: Plan) -> Interval:
    """Independent rows that the hold-out counts as: rows by Kish's design effect, at both ends of the correlation.

    At the low end all rows of a group say the same: (sum n)^2 / sum n^2.
    """
    ends = (_correlation(holdout, plan, worst=worst) for worst in (True, False))
    return Interval(*(holdout.num_rows / design_effect(holdout.sizes, correlation) for correlation in ends))


def _variance(holdout: Holdout, plan: Plan, *, worst: bool) -> float:
    """Variance of one row's difference; for yes-no scores psi - d^2, at least every differing row being a gain."""
    if holdout.binary:
        assumed = ASSUMED_DISCORDANCE[worst]
        discordance = max(plan.discordance if plan.discordance is not None else assumed, abs(plan.plan_gain))
        return discordance - plan.plan_gain**2
    return (plan.spread if plan.spread is not None else ASSUMED_SPREAD[worst]) ** 2


def expected_gain(holdout: Holdout, plan: Plan, *, worst: bool) -> GainEstimate:
    """The estimate the verdict would work with if the planned gain were the true one.

    Yes-no scores of rows that stand alone: Bonett-Price. Everything else: the t interval over groups, its variance
    that of independent rows times Kish's design effect, its degrees of freedom those of Bell and McCaffrey.
    """
    num, correlation = holdout.num_rows, _correlation(holdout, plan, worst=worst)
    variance = _variance(holdout, plan, worst=worst)
    if holdout.binary and not holdout.grouped:
        # One gain and one loss are added: d shrinks, the discordance gains 2 rows, n becomes n + 2.
        gain = plan.plan_gain * num / (num + 2)
        both = ((variance + plan.plan_gain**2) * num + 2) / (num + 2)
        stderr, df, method = ((both - gain**2) / (num + 2)) ** 0.5, np.inf, "bonett_price"
    else:
        stderr, method = (variance * design_effect(holdout.sizes, correlation) / num) ** 0.5, "cr2_t"
        df = min(bell_mccaffrey_df(holdout.sizes), bell_mccaffrey_df(holdout.sizes, correlation))
    return GainEstimate(
        estimate=plan.plan_gain,
        centre=plan.plan_gain,
        stderr=float(stderr),
        df=df,
        method=method,
        num_rows=num,
        num_groups=holdout.num_groups,
    )


def rows_to_show(expected: GainEstimate, plan: Plan) -> int | None:
    """Rows in all, groups of the same make, that show the planned gain with power .8; None: no number does."""
    rows = expected.num_rows + (2 if expected.method == "bonett_price" else 0)  # Bonett-Price divides by n + 2
    return rows_for_precision(
        distance=plan.plan_gain - plan.margin, variance=expected.stderr**2 * rows, alpha=plan.alpha, power=POWER
    )


def kindest_half_width(holdout: Holdout, plan: Plan) -> float | None:
    """Distance of the bound from the estimate under the kindest models; None where nothing bounds it.

    Kindest: every differing row is a gain, rows of a group are independent, each unless measured. Scores between 0 and
    1 know no such bound unless their spread was measured.
    """
    if not holdout.binary and plan.spread is None:
        return None
    if plan.discordance is None:
        plan = replace(plan, discordance=min(1.0, abs(plan.plan_gain)))
    expected = expected_gain(holdout, plan, worst=False)
    return expected.quantile(plan.alpha) * expected.stderr
