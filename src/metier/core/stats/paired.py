"""Two arms with yes-no scores on the same rows: the gain with its bounds, and McNemar's tests as cross-checks.

    >>> bonett_price(gains=13, losses=6, num_rows=200).estimate
    0.035

A gain is a row only the first arm gets right, a loss one that only the second gets right.
"""

# Shapes: any; counts may be numbers or arrays of one shape.

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from metier.core.errors import DataError
from metier.core.stats.proportions import z_quantile

__all__ = ["GainEstimate", "bonett_price", "bonett_price_bounds", "mcnemar_exact", "mcnemar_mid_p"]

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class GainEstimate:
    """A paired gain with what is needed for its bound at any level; score units."""

    estimate: float
    """Mean difference of the scores."""
    centre: float
    """Centre of the interval: the estimate, or its adjusted form."""
    stderr: float
    """Standard error that goes with `centre`."""
    df: float
    """Degrees of freedom of the t quantile; inf for the normal one."""
    method: str
    """bonett_price, cr2_t, or cr2_adjusted where CR2 has no variance to work with."""
    num_rows: int
    num_groups: int

    def quantile(self, alpha: float) -> float:
        """Upper alpha quantile of the reference distribution."""
        if np.isinf(self.df):
            return z_quantile(1 - alpha)
        from scipy.special import stdtrit

        return float(stdtrit(self.df, 1 - alpha))

    def low(self, alpha: float) -> float:
        """One-sided lower bound at error rate `alpha`, not below -1."""
        return max(-1.0, self.centre - self.quantile(alpha) * self.stderr)

    def high(self, alpha: float) -> float:
        """One-sided upper bound at error rate `alpha`, not above 1."""
        return min(1.0, self.centre + self.quantile(alpha) * self.stderr)

    def p_harm(self) -> float:
        """One-sided p-value against "the true gain is 0 or more": small means that harm is shown."""
        from scipy.special import ndtr, stdtr

        ratio = self.centre / self.stderr
        return float(ndtr(ratio)) if np.isinf(self.df) else float(stdtr(self.df, ratio))


def bonett_price(*, gains: int, losses: int, num_rows: int) -> GainEstimate:
    """The gain of one arm over another from yes-no scores on independent rows, ready for one-sided bounds.

    Raises:
        DataError: no rows, or more discordant rows than rows.

    Source: Bonett & Price 2012 (adjusted Wald interval for paired proportions): one gain and one loss are added.
    """
    if num_rows < 1 or min(gains, losses) < 0 or gains + losses > num_rows:
        raise DataError(
            f"bonett_price: {gains} gains and {losses} losses in {num_rows} rows; expected counts that fit."
        )
    p1, p2 = (gains + 1) / (num_rows + 2), (losses + 1) / (num_rows + 2)
    stderr = ((p1 + p2 - (p1 - p2) ** 2) / (num_rows + 2)) ** 0.5
    return GainEstimate(
        estimate=(gains - losses) / num_rows,
        centre=p1 - p2,
        stderr=stderr,
        df=np.inf,
        method="bonett_price",
        num_rows=num_rows,
        num_groups=num_rows,
    )


def bonett_price_bounds(
    gains: npt.ArrayLike, losses: npt.ArrayLike, num_rows: int, *, alpha: float
) -> tuple[Numbers, Numbers]:
    """Lower and upper one-sided bounds for whole arrays of counts: for enumerations and planning."""
    p1 = (np.asarray(gains, dtype=np.float64) + 1) / (num_rows + 2)
    p2 = (np.asarray(losses, dtype=np.float64) + 1) / (num_rows + 2)
    half = z_quantile(1 - alpha) * np.sqrt((p1 + p2 - (p1 - p2) ** 2) / (num_rows + 2))
    return np.maximum(-1.0, p1 - p2 - half), np.minimum(1.0, p1 - p2 + half)


def mcnemar_exact(gains: npt.ArrayLike, losses: npt.ArrayLike) -> Any:  # Any: a number for numbers, else an array
    """Two-sided exact p-value of gain = 0 given the discordant rows; 1 when there is none.

    It tests "no difference", never "at least the margin": a cross-check only.
    """
    tail, _ = _tails(gains, losses)
    p = np.minimum(1.0, 2 * tail)
    return float(p) if p.ndim == 0 else p


def mcnemar_mid_p(gains: npt.ArrayLike, losses: npt.ArrayLike) -> Any:  # Any: a number for numbers, else an array
    """Two-sided mid-p value of gain = 0: the exact one less the probability of the table seen.

    Source: Fagerland, Lydersen & Laake 2013.
    """
    tail, seen = _tails(gains, losses)
    p = np.minimum(1.0, 2 * tail - seen)
    return float(p) if p.ndim == 0 else p


def _tails(gains: npt.ArrayLike, losses: npt.ArrayLike) -> tuple[Numbers, Numbers]:
    """Probability of at most, and of exactly, the smaller count among the discordant rows under gain = 0."""
    from scipy.special import betainc, gammaln

    b, c = np.asarray(gains, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    n, k = b + c, np.minimum(b, c)
    tail = betainc(np.maximum(n - k, 1e-300), k + 1, 0.5)
    seen = np.exp(gammaln(n + 1) - gammaln(b + 1) - gammaln(c + 1) - n * np.log(2.0))
    return np.where(n == 0, 1.0, tail), np.where(n == 0, 0.0, seen)
