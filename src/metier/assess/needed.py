"""Hold-out rows a decision would need: for the planned gain, the measured one and both ends of its interval."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from metier.core.stats import GainEstimate, rows_for_precision

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
    """Rows for which the upper bound falls below the margin if the measured gain is the true one; None where it is not
    below the margin or too many would be needed."""
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
    versus: str,
    plan_gain: float,
    margin: float,
    alpha: float,
    alpha_below: float,
    power: float,
    max_rows: int,
) -> RowsNeeded:
    """Rows needed against one comparator, from the spread the hold-out showed.

    The design effect of groups is inside the spread: its squared standard error times the rows is the variance of one
    independent row. For yes-no scores the variance follows the gain it is planned for (psi - d^2). `alpha_below` is the
    level of the upper bound.
    """
    rows = gain.num_rows + (2 if gain.method == "bonett_price" else 0)  # Bonett-Price divides by n + 2
    row_variance = gain.stderr**2 * rows
    ends = {
        "plan_gain": plan_gain,
        "estimate": gain.estimate,
        "low": gain.low(alpha),
        "high": gain.high(alpha),
    }
    counts = {}
    for name, truth in ends.items():
        variance = row_variance
        if gain.method == "bonett_price":
            variance = max(row_variance + gain.centre**2, abs(truth)) - truth**2
        counts[name] = rows_for_precision(
            distance=truth - margin, variance=variance, alpha=alpha, power=power, max_rows=max_rows
        )
    return RowsNeeded(
        versus=versus,
        num_rows=gain.num_rows,
        rows_per_group=gain.num_rows / gain.num_groups,
        max_rows=max_rows,
        settle_below=rows_for_precision(
            distance=margin - gain.estimate, variance=row_variance, alpha=alpha_below, power=power, max_rows=max_rows
        ),
        **counts,
    )
