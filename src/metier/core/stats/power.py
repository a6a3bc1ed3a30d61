"""How many rows a decision needs, and what a number of rows can show.

    >>> rows_for_margin(plan_gain=0.10, margin=0.05, discordance=0.20, alpha=0.05)
    470

Rules for gain = 0 (Connor) stand beside the margin rule because they are what papers use: at their row
counts the margin rule decides rightly only about one time in three to two.

The formulas take the normal quantile and the plain variance. Where an interval was measured, `rows_to_clear` plans with
that interval's own arithmetic: the formula alone reaches power .76 instead of .80 where few rows differ, and .69 with
six groups (`benchmarks/decision_rates.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from metier.core.errors import DataError
from metier.core.stats.clustered import MIN_GROUPS
from metier.core.stats.paired import GainEstimate
from metier.core.stats.proportions import z_quantile

__all__ = [
    "holm", "min_detectable_gain", "rows_for_margin", "rows_for_no_gain", "rows_for_precision", "rows_to_clear",
]  # fmt: skip

DEFAULT_POWER = 0.80
MOST_ROWS = 10**12
"""More rows than anybody has: no number decides."""


def rows_for_margin(
    *,
    plan_gain: float,
    margin: float,
    discordance: float,
    alpha: float,
    power: float = DEFAULT_POWER,
    design_effect: float = 1.0,
    max_rows: int | None = None,
) -> int | None:
    """Rows for which the lower bound reaches `margin` with `power` if the true gain is `plan_gain`.

    `discordance` is the share of rows on which two yes-no arms differ (from a pilot on dev), raised to the gain
    itself where it is smaller. None: no number of rows decides, or more than `max_rows` would be needed.

    Raises:
        DataError: a discordance outside 0-1.

    Source: n = (z_{1-a} + z_{1-b})^2 (psi - d^2) / (d - m)^2 times the design effect.
    """
    if not 0 <= discordance <= 1:
        raise DataError(f"rows_for_margin: discordance is {discordance}; expected a share, 0 to 1.")
    variance = max(discordance, abs(plan_gain)) - plan_gain**2
    return rows_for_precision(
        distance=plan_gain - margin, variance=variance * design_effect, alpha=alpha, power=power, max_rows=max_rows
    )


def rows_for_precision(
    *, distance: float, variance: float, alpha: float, power: float = DEFAULT_POWER, max_rows: int | None = None
) -> int | None:
    """Rows for which a one-sided bound clears a limit that lies `distance` from the truth.

    `variance` is that of one row's difference, times the design effect. None as in `rows_for_margin`.
    """
    if distance <= 0:
        return None
    exact = (z_quantile(1 - alpha) + z_quantile(power)) ** 2 * variance / distance**2
    num_rows = max(1, math.ceil(exact - 1e-9))
    return None if max_rows is not None and num_rows > max_rows else num_rows


def rows_to_clear(
    measured: GainEstimate,
    *,
    truth: float,
    limit: float,
    alpha: float,
    power: float = DEFAULT_POWER,
    max_rows: int | None = None,
) -> int | None:
    """Rows in all for which the one-sided bound clears `limit` with `power` if the true gain is `truth`.

    The lower bound where `truth` lies above `limit`, the upper one where it lies below. Planned from the spread that
    was measured (the design effect of groups is inside), with what the interval itself costs: Bonett-Price's added rows
    pull the centre towards 0 and widen the bound; a t quantile is wider the fewer groups there are. At least five
    groups of the measured make. None as in `rows_for_margin`.
    """
    distance = abs(truth - limit)
    if distance == 0:
        return None
    least = math.ceil(MIN_GROUPS * measured.num_rows / measured.num_groups)
    if measured.method == "bonett_price":
        enough, formula = _bonett_price_clears(measured, truth, limit, alpha, power)
    else:
        enough, formula = _t_clears(measured, distance, alpha, power)
    if 0.8 * formula > (max_rows if max_rows is not None else MOST_ROWS):
        return None  # the correction is far smaller than a fifth
    low, high = 0, max(least, math.ceil(formula))
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    num_rows = max(least, high)
    return None if max_rows is not None and num_rows > max_rows else num_rows


def _bonett_price_clears(
    measured: GainEstimate, truth: float, limit: float, alpha: float, power: float
) -> tuple[Callable[[int], bool], float]:
    """Whether so many rows are enough, and about how many are."""
    side = 1 if truth > limit else -1
    z_alpha, z_power = z_quantile(1 - alpha), z_quantile(power)
    discordance = min(1.0, max(measured.stderr**2 * (measured.num_rows + 2) + measured.centre**2, abs(truth)))
    variance = discordance - truth**2

    def enough(num_rows: int) -> bool:
        centre = num_rows * truth / (num_rows + 2)
        bound_var = ((num_rows * discordance + 2) / (num_rows + 2) - centre**2) / (num_rows + 2)
        varies = math.sqrt(num_rows * variance) / (num_rows + 2)
        return side * (centre - limit) >= z_alpha * math.sqrt(bound_var) + z_power * varies

    return enough, (z_alpha + z_power) ** 2 * variance / (truth - limit) ** 2


def _t_clears(
    measured: GainEstimate, distance: float, alpha: float, power: float
) -> tuple[Callable[[int], bool], float]:
    """The same for t bounds over groups; their degrees of freedom grow with the rows."""
    from scipy.special import stdtrit

    row_variance = measured.stderr**2 * measured.num_rows

    def enough(num_rows: int) -> bool:
        df = (measured.df + 1) * num_rows / measured.num_rows - 1
        if df < 1:
            return False
        quantiles = float(stdtrit(df, 1 - alpha) + stdtrit(df, power))
        return quantiles**2 * row_variance <= num_rows * distance**2

    return enough, (z_quantile(1 - alpha) + z_quantile(power)) ** 2 * row_variance / distance**2


def min_detectable_gain(estimate: GainEstimate, *, margin: float, alpha: float, power: float = DEFAULT_POWER) -> float:
    """Smallest true gain that this many rows show to be above `margin` with `power`; score units, may exceed 1.

    mde = m + (q_{1-a} + q_{1-b}) SE, q the quantile of the interval (normal or t).
    """
    return margin + (estimate.quantile(alpha) + estimate.quantile(1 - power)) * estimate.stderr


def rows_for_no_gain(*, gain: float, discordance: float, alpha: float = 0.05, power: float = DEFAULT_POWER) -> int:
    """Rows for McNemar's two-sided test of gain = 0 at a true `gain`; for comparison with published plans only.

    Raises:
        DataError: a gain of 0, or not below the discordance (every differing row would be a gain).

    Source: Connor 1987.
    """
    if not 0 < abs(gain) < discordance <= 1:
        raise DataError(
            f"rows_for_no_gain: gain {gain} with discordance {discordance}; expected 0 < |gain| < discordance <= 1."
        )
    root = z_quantile(1 - alpha / 2) * math.sqrt(discordance) + z_quantile(power) * math.sqrt(discordance - gain**2)
    return math.ceil(root**2 / gain**2 - 1e-9)


def holm(p_values: list[float], *, alpha: float) -> list[bool]:
    """Which of several tests reject, with an error rate of `alpha` for all of them together.

    Source: Holm 1979 (step-down).
    """
    rejected = [False] * len(p_values)
    for step, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] > alpha / (len(p_values) - step):
            break
        rejected[index] = True
    return rejected
