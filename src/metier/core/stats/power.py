"""How many rows a decision needs, and what a number of rows can show.

    >>> rows_for_margin(plan_gain=0.10, margin=0.05, discordance=0.20, alpha=0.05)
    470

Rules for gain = 0 (Connor) stand beside the margin rule because they are what papers use: at their row
counts the margin rule decides rightly only about one time in three to two.
"""

from __future__ import annotations

import math

from metier.core.errors import DataError
from metier.core.stats.paired import GainEstimate
from metier.core.stats.proportions import z_quantile

__all__ = ["holm", "min_detectable_gain", "rows_for_margin", "rows_for_no_gain", "rows_for_precision"]

DEFAULT_POWER = 0.80


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
