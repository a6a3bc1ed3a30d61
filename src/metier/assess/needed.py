"""Hold-out rows a decision would need: for the planned gain, the measured one and both ends of its interval."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from metier.assess.scores import MIN_DISCORDANT
from metier.core.report import Comparison
from metier.core.stats import GainEstimate, rows_to_clear, z_quantile

__all__ = ["RowsNeeded", "rows_needed_for"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RowsNeeded:
    """Rows in all (not rows more) for which the lower bound reaches the margin with power .8.

    None in a field: if that were the true gain, no number of rows up to the limit would show the margin.
    """

    versus: str
    """The comparator; in the answer over all of them, the one that needs most."""
    plan_gain: int | None
    """If the true gain is the planned one."""
    estimate: int | None
    """If it is the measured one."""
    low: int | None
    """If it is the lower end of the interval."""
    high: int | None
    """If it is the upper end."""
    settle_below: int | None
    """Rows for which the upper bound falls below the margin, and enough rows differ to say so, if the measured gain is
    the true one; in the answer over all comparators, the fewest that do so over one of them. None where it is not below
    the margin or too many would be needed."""
    num_rows: int
    """Rows at hand."""
    rows_per_group: float
    """Rows of one group at hand, mean; 1 where rows stand alone."""
    max_rows: int
    """Most rows that can be collected."""

    @property
    def to_collect(self) -> int | None:
        """Rows in all to aim for next: the plan's while it is not reached, then the estimate's; None: none decides."""
        for target in (self.plan_gain, self.estimate):
            if target is not None and target > self.num_rows:
                return target
        return None

    def groups(self, rows: int | None) -> int | None:
        """The groups in so many rows, rounded up; rows of known groups do not count as news."""
        return None if rows is None else -int(-rows // self.rows_per_group)

    def as_json(self) -> dict[str, Any]:  # Any: JSON values
        """The fields, `to_collect`, and, where rows share groups, the same counts in groups."""
        counts = {"plan_gain": self.plan_gain, "estimate": self.estimate, "low": self.low, "high": self.high}
        counts |= {"settle_below": self.settle_below, "to_collect": self.to_collect}
        values = {**asdict(self), "to_collect": self.to_collect, "unit": "rows"}
        if self.rows_per_group > 1:
            values["unit"] = "groups"
            values["groups"] = {name: self.groups(rows) for name, rows in counts.items()}
        return values


def rows_needed_for(
    gain: GainEstimate,
    *,
    comparison: Comparison,
    plan_gain: float,
    margin: float,
    alpha: float,
    alpha_below: float,
    power: float,
    max_rows: int,
) -> RowsNeeded:
    """Rows needed against one comparator, from the spread the hold-out showed (`rows_to_clear`).

    `alpha_below` is the level of the upper bound.
    """
    ends = {
        "plan_gain": plan_gain,
        "estimate": gain.estimate,
        "low": gain.low(alpha),
        "high": gain.high(alpha),
    }
    differ = _rows_that_differ(comparison.discordance, gain.num_rows, power=power)
    least = 0 if gain.method == "bonett_price" or margin < 0 else differ  # as `decide` believes a lower bound
    counts = {
        name: _at_least(
            least, rows_to_clear(gain, truth=truth, limit=margin, alpha=alpha, power=power, max_rows=max_rows), max_rows
        )
        if truth > margin
        else None
        for name, truth in ends.items()
    }
    settled = None
    if gain.estimate < margin:
        settled = rows_to_clear(
            gain, truth=gain.estimate, limit=margin, alpha=alpha_below, power=power, max_rows=max_rows
        )
    return RowsNeeded(
        versus=comparison.versus,
        num_rows=gain.num_rows,
        rows_per_group=gain.num_rows / gain.num_groups,
        max_rows=max_rows,
        settle_below=_at_least(differ, settled, max_rows),
        **counts,
    )


def _rows_that_differ(discordance: float, num_rows: int, *, power: float) -> int:
    """Rows of which `MIN_DISCORDANT` differ nearly always: a quarter of what `power` leaves is spent on it.

    Poisson by its normal approximation; two differing rows are added to what was seen, as Bonett & Price do.
    """
    share = (discordance * num_rows + 2) / (num_rows + 2)
    z = z_quantile(1 - (1 - power) / 4)
    expected = ((z + math.sqrt(z**2 + 4 * (MIN_DISCORDANT - 0.5))) / 2) ** 2
    return math.ceil(expected / share)


def _at_least(least: int, rows: int | None, max_rows: int) -> int | None:
    """The rows, no fewer than `least`; None where that is more than can be collected."""
    return None if rows is None or max(rows, least) > max_rows else max(rows, least)
