"""Are the rows enough for a verdict: what they count for, how exactly a gain will be known, and what is too small.

    ready = readiness(Holdout.of(groups=[0, 0, 1, 2], binary=True), Plan(margin=0.05, plan_gain=0.1), num_usable=40)
    ready.ready, ready.sentence

Pure numbers, worked out before any model is scored. A `problem` closes the gate: it holds whatever the models will do.
A `warning` does not: it rests on an assumption, which it names, or only limits what can be said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from metier.core.errors import DataError, GateClosed, counted
from metier.core.precision import (
    ASSUMED_DISCORDANCE,
    ASSUMED_SPREAD,
    POWER,
    Holdout,
    Plan,
    effective_rows,
    expected_gain,
    kindest_half_width,
    rows_to_show,
)
from metier.core.stats import MIN_GROUPS, GainEstimate, Interval, min_detectable_gain
from metier.core.votes import Estimate

__all__ = ["MIN_SLICE_ROWS", "AgeFacts", "Holdout", "Plan", "Readiness", "readiness"]

MIN_SLICE_ROWS = 20
"""Hold-out rows of a slice from which it is judged: fewer would tell of single rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AgeFacts:
    """What is known of the age of the usable rows (`metier.curate.ages` measures it)."""

    num_rows: int
    num_dated: int
    num_future: int
    median_days: float | None
    num_superseded: int
    """Rows of policy versions that another version has replaced."""
    shifted: bool
    """Whether the oldest rows clearly differ from the newest."""
    sentence: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Readiness:
    """What the rows allow. Where a number was assumed, the two ends stand for the best and the worst assumption."""

    num_usable: int
    """Rows left after cleaning, all parts together."""
    num_holdout: int
    num_groups: int
    effective_rows: Interval | None
    """Independent rows the hold-out counts as (Kish); both ends equal where the correlation was measured or no group
    has two rows, else from "all rows of a group say the same" to "rows are independent"."""
    half_width: Interval | None
    """Expected distance of the one-sided bounds of the gain from its estimate, score units: best and worst case."""
    smallest_gain: Interval | None
    """Smallest true gain shown to reach the margin with power .8, best and worst case; score units."""
    rows_needed: Interval | None
    """Hold-out rows that show the planned gain with power .8, best and worst case; None: no number of rows does."""
    assumed: tuple[str, ...]
    """What stands behind the two ends."""
    label_ceiling: Estimate | None
    """Score of a faultless model against labels of this quality, 0-1; None: not measured."""
    small_slices: Mapping[str, int]
    """Slices with fewer hold-out rows than can be judged."""
    ages: AgeFacts | None
    problems: tuple[str, ...]
    """What closes the gate."""
    warnings: tuple[str, ...]
    sentence: str
    """The answer for a manager."""

    @property
    def ready(self) -> bool:
        """Whether the gate is open."""
        return not self.problems

    def require(self) -> None:
        """Pass only when the rows are ready.

        Raises:
            GateClosed: they are not.
        """
        if self.problems:
            raise GateClosed(self.sentence)

    def as_json(self) -> dict[str, Any]:  # Any: JSON values
        """The fields; intervals as low and high."""
        values = {"ready": self.ready, **asdict(self)}
        for name in ("effective_rows", "half_width", "smallest_gain", "rows_needed"):
            found: Interval | None = values[name]
            values[name] = None if found is None else found._asdict()
        values["label_ceiling"] = None if self.label_ceiling is None else self.label_ceiling.as_json()
        return values

    def as_text(self) -> str:
        """The answer and the numbers behind it, one a line."""
        lines = [self.sentence]
        lines += [f"problem: {text}" for text in self.problems] + [f"warning: {text}" for text in self.warnings]
        lines.append(f"usable rows: {self.num_usable:,}; held out: {self.num_holdout:,} in {self.num_groups:,} groups")
        if self.effective_rows and self.half_width and self.smallest_gain:
            lines.append(f"they count as {_range(self.effective_rows, '{:,.0f}')} independent rows")
            lines.append(f"the gain will be known to {_points(self.half_width)} points of 100, up or down")
            lines.append(f"smallest gain that can be shown: {_points(self.smallest_gain)} points of 100")
        lines += [f"assumed: {text}" for text in self.assumed]
        ceiling = self.label_ceiling
        measured = ceiling and f"{ceiling.value:.3f} ({ceiling.low:.3f} to {ceiling.high:.3f}, {ceiling.n} rows)"
        lines.append(f"label ceiling: {measured or 'not measured'}")
        lines.append(f"age: {self.ages.sentence if self.ages else 'not measured'}")
        return "\n".join(lines)


def readiness(
    holdout: Holdout,
    plan: Plan,
    *,
    num_usable: int,
    ceiling: Estimate | None = None,
    ages: AgeFacts | None = None,
) -> Readiness:
    """What a hold-out of these groups can show, before anything is scored.

    Raises:
        DataError: fewer usable rows than held-out ones.
    """
    if num_usable < holdout.num_rows:
        raise DataError(
            f"readiness: {num_usable} usable rows, but {holdout.num_rows} held out; count the rows of all parts."
        )
    small = {name: rows for name, rows in holdout.slices.items() if rows < MIN_SLICE_ROWS}
    problems = _too_few(holdout)
    effective = half = smallest = needed = None
    assumed: tuple[str, ...] = ()
    if not problems:
        best, worst = (expected_gain(holdout, plan, worst=worst) for worst in (False, True))
        effective = effective_rows(holdout, plan)
        half = Interval(*(e.quantile(plan.alpha) * e.stderr for e in (best, worst)))
        shown = [min_detectable_gain(e, margin=plan.margin, alpha=plan.alpha, power=POWER) for e in (best, worst)]
        smallest = Interval(*shown)
        needed = _needed(best, worst, plan)
        assumed = _assumptions(holdout, plan)
        problems = _hopeless(holdout, plan)
    warnings = [] if problems else _undecided(holdout, plan, smallest, needed)
    warnings += _limits(small, ceiling, ages, plan)
    return Readiness(
        num_usable=num_usable,
        num_holdout=holdout.num_rows,
        num_groups=holdout.num_groups,
        effective_rows=effective,
        half_width=half,
        smallest_gain=smallest,
        rows_needed=needed,
        assumed=assumed,
        label_ceiling=ceiling,
        small_slices=small,
        ages=ages,
        problems=tuple(problems),
        warnings=tuple(warnings),
        sentence=_sentence(num_usable, holdout, effective, half, problems),
    )


def _too_few(holdout: Holdout) -> list[str]:
    if not holdout.num_rows:
        return ["no row is held out, so nothing can be decided. Read more rows."]
    if holdout.num_groups < MIN_GROUPS:
        found = f"{counted(holdout.num_rows, 'held-out row')} of {counted(holdout.num_groups, 'group')}"
        return [f"{found}; a verdict needs at least {MIN_GROUPS} groups. Hold out rows of more groups."]
    return []


def _needed(best: GainEstimate, worst: GainEstimate, plan: Plan) -> Interval | None:
    low, high = rows_to_show(best, plan), rows_to_show(worst, plan)
    return None if low is None or high is None else Interval(low, high)


def _hopeless(holdout: Holdout, plan: Plan) -> list[str]:
    """Even the kindest models leave the planned gain undecided more often than not."""
    half_width = kindest_half_width(holdout, plan)
    distance = plan.plan_gain - plan.margin
    if half_width is None or not 0 < distance < half_width:
        return []
    measured = plan.discordance is not None if holdout.binary else True
    kindly = "as measured" if measured else "even if every row on which they differ were a gain"
    return [
        f"{counted(holdout.num_rows, 'held-out row')} cannot show a gain of {100 * plan.plan_gain:.1f} points to reach "
        f"{100 * plan.margin:.1f}: the bound lies {100 * half_width:.1f} points below the estimate, {kindly}. Hold out "
        "more rows, or plan for a larger gain."
    ]


def _undecided(holdout: Holdout, plan: Plan, smallest: Interval | None, needed: Interval | None) -> list[str]:
    """The planned gain may stay undecided."""
    if smallest is None or (needed is not None and smallest.high <= plan.plan_gain):
        return []
    if needed is None:
        return [
            f"a planned gain of {100 * plan.plan_gain:.1f} points is not above the {100 * plan.margin:.1f} asked for: "
            "no number of rows shows it; set decision.plan_gain to the gain you expect."
        ]
    likely = "is likely to" if smallest.low > plan.plan_gain else "may"
    return [
        f"a gain of {100 * plan.plan_gain:.1f} points {likely} stay undecided on "
        f"{counted(holdout.num_rows, 'held-out row')}; {_range(needed, '{:,.0f}')} rows show it with power {POWER}."
    ]


def _limits(small: Mapping[str, int], ceiling: Estimate | None, ages: AgeFacts | None, plan: Plan) -> list[str]:
    """What limits what can be said, whatever the gain."""
    found = []
    if small:
        named = ", ".join(f"{name} ({rows})" for name, rows in sorted(small.items(), key=lambda item: item[1])[:5])
        more = f" and {len(small) - 5} more" if len(small) > 5 else ""
        found.append(f"too few hold-out rows to judge {named}{more}; {MIN_SLICE_ROWS} each are needed.")
    if ceiling is not None and 1 - ceiling.value > plan.plan_gain:
        found.append(
            f"{1 - ceiling.value:.0%} of the labels are likely wrong (label ceiling {ceiling.value:.2f}), more "
            f"than the gain of {100 * plan.plan_gain:.1f} points planned for. Review labels first."
        )
    if ages is not None:
        if ages.num_superseded:
            found.append(
                f"{counted(ages.num_superseded, 'usable row')} of superseded policy versions; list them in "
                "retired_policies to leave them out."
            )
        if ages.shifted:
            found.append(f"old rows differ from new ones. {ages.sentence}")
        if ages.num_future:
            found.append(f"{counted(ages.num_future, 'usable row')} dated in the future. Check the time column.")
    return found


def _assumptions(holdout: Holdout, plan: Plan) -> tuple[str, ...]:
    found = []
    if holdout.binary and plan.discordance is None:
        low, high = ASSUMED_DISCORDANCE
        found.append(f"two arms differ on {low:.0%} to {high:.0%} of rows (no pilot measured it)")
    if not holdout.binary and plan.spread is None:
        low, high = ASSUMED_SPREAD
        found.append(f"a row's difference has a standard deviation of {low} to {high} (no pilot measured it)")
    if holdout.grouped and plan.correlation is None:
        found.append("rows of one group are anything from independent to all alike (no pilot measured it)")
    return tuple(found)


def _sentence(
    num_usable: int, holdout: Holdout, effective: Interval | None, half: Interval | None, problems: Sequence[str]
) -> str:
    if problems:
        more = f" ({counted(len(problems) - 1, 'more problem')})" if len(problems) > 1 else ""
        return f"Not ready: {problems[0]}{more}"
    assert effective is not None
    assert half is not None
    groups = f" in {holdout.num_groups:,} groups" if holdout.grouped else ""
    return (
        f"Ready: of {num_usable:,} usable rows {holdout.num_rows:,} are held out{groups}; they count as "
        f"{_range(effective, '{:,.0f}')} independent rows, and the gain will be known to {_points(half)} points of 100."
    )


def _range(ends: Interval, form: str) -> str:
    """Both ends, or one number where they print alike."""
    low, high = (form.format(value) for value in ends)
    return low if low == high else f"{low} to {high}"


def _points(ends: Interval) -> str:
    return _range(Interval(100 * ends.low, 100 * ends.high), "{:.1f}")
