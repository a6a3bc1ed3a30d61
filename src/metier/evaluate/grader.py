"""The one score a row gets: `[metric]` over the conventions of the project.

>>> grader = make_grader(config, project_dir)
>>> grader.score(row, "Dear Ana, ...").score
1.0
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from metier.conventions import CheckResult, Convention, build_check, fold, make_conventions, row_name
from metier.core.config import nearest
from metier.core.errors import ConfigError, DataError
from metier.core.project_file import ProjectConfig
from metier.core.rows import Row
from metier.core.trials import RowScore

__all__ = ["Grader", "make_grader"]

_COMBINED = ("all_pass", "mean")
_UNITS: Mapping[str, str] = MappingProxyType(
    {
        "exact": "share of replies equal to the gold reply",
        "label": "share of labels right",
        "numeric": "share of final numbers right",
        "rouge_l": "mean ROUGE-L F-measure (0-1)",
        "chrf": "mean chrF (0-1)",
    }
)
_NUM_SHOWN = 5

Measure = Callable[[Row, str, Mapping[str, CheckResult]], CheckResult]


@dataclass(frozen=True, kw_only=True, slots=True)
class Grader:
    """Scores replies: one primary score a row, and the score of every convention beside it."""

    metric: str
    """Name of the metric in the project file."""
    unit: str
    """What the mean score is, in words."""
    binary: bool
    """Whether every primary score is 0 or 1."""
    pass_mark: float
    """Score from which a reply counts as passed in the controls."""
    conventions: tuple[Convention, ...]
    """What is checked in every reply."""
    measure: Measure
    """The primary score from row, reply and the conventions' results."""

    @property
    def weights(self) -> dict[str, float]:
        """Weight of every convention in the mean score."""
        return {convention.name: convention.weight for convention in self.conventions}

    @property
    def row_specific_share(self) -> float:
        """Share of the conventions' weight whose right value differs from row to row; 0 without conventions."""
        total = math.fsum(self.weights.values())
        return math.fsum(c.weight for c in self.conventions if c.row_specific) / total if total else 0.0

    def score(self, row: Row, text: str) -> RowScore:
        """The score of one reply.

        Raises:
            DataError: a convention cannot be applied to the row, or a score is not a number in 0-1.
        """
        results = {c.name: _checked(c.name, c.check(row, text), row) for c in self.conventions}
        primary = _checked(self.metric, self.measure(row, text, results), row)
        reasons = {name: result.why for name, result in results.items() if result.score < 1}
        if self.metric in _UNITS and self.metric not in results and primary.score < 1:
            reasons[self.metric] = primary.why
        return RowScore(
            row_id=row.row_id,
            score=primary.score,
            checks={name: result.score for name, result in results.items()},
            reasons=reasons,
        )

    def score_all(self, rows: Sequence[Row], texts: Sequence[str]) -> list[RowScore]:
        """The scores of one reply a row, in their order.

        Raises:
            DataError: not one reply a row, or rows that cannot be scored (their count and the first five).
        """
        if len(rows) != len(texts):
            raise DataError(f"{len(texts)} replies for {len(rows)} rows; expected one reply a row.")
        scores: list[RowScore] = []
        faults: list[str] = []
        for row, text in zip(rows, texts, strict=True):
            try:
                scores.append(self.score(row, text))
            except DataError as err:
                faults.append(str(err))
        if faults:
            raise DataError(collected(f"{len(faults)} of {len(rows)} replies could not be scored:", faults))
        return scores


def collected(head: str, faults: Sequence[str]) -> str:
    """A message of many faults: the head with the count, the first five, how many more."""
    rest = [f"... and {len(faults) - _NUM_SHOWN} more"] if len(faults) > _NUM_SHOWN else []
    return "\n".join([head, *(f"  {fault}" for fault in [*faults[:_NUM_SHOWN], *rest])])


def _checked(name: str, result: CheckResult, row: Row) -> CheckResult:
    """The result, its score a finite number in 0-1."""
    if not 0 <= result.score <= 1:  # also refuses NaN
        raise DataError(
            f"{name} scored {result.score} for {row_name(row)}; expected a number from 0 to 1. Correct its function."
        )
    return result


def make_grader(config: ProjectConfig, project_dir: Path) -> Grader:
    """The grader of a project. A convention's own name wins over a built-in metric of the same name.

    Raises:
        ConfigError: an unknown metric, all_pass or mean without conventions, a convention that takes one of
            their names, or an all_pass that only the gold reply itself could reach.
    """
    conventions = make_conventions(config.convention, project_dir)
    by_name = {convention.name: convention for convention in conventions}
    for name in _COMBINED:
        if name in by_name:
            raise ConfigError(f"[[convention]] {name!r}: the name is taken by a metric; choose another.")
    metric = config.metric.name
    unit, binary, measure = _metric(metric, by_name, project_dir)
    return Grader(
        metric=metric,
        unit=unit,
        binary=binary,
        pass_mark=config.metric.pass_mark,
        conventions=conventions,
        measure=measure,
    )


def _metric(name: str, by_name: Mapping[str, Convention], project_dir: Path) -> tuple[str, bool, Measure]:
    """Unit, whether scores are 0 or 1, and the measure of a metric by its name."""
    if name in by_name:
        binary = by_name[name].rule.binary
        unit = f"share of replies that obey {name!r}" if binary else f"mean score of {name!r} (0-1)"
        return unit, binary, lambda _row, _text, results: results[name]
    if name in _COMBINED:
        _check_combined(name, by_name)
        if name == "all_pass":
            return "share of replies that obey every convention", True, _all_pass
        weights = {convention.name: convention.weight for convention in by_name.values()}
        return "mean weighted share of conventions obeyed (0-1)", False, _weighted_mean(weights)
    if name == "label":
        return _UNITS[name], True, _label
    if name in _UNITS:
        rule = build_check(name, {}, where=f"[metric] {name}", project_dir=project_dir)
        return _UNITS[name], rule.binary, lambda row, text, _results: rule.result(row, text)
    known = [*_COMBINED, *_UNITS, *by_name]
    raise ConfigError(f"[metric] name is {name!r}; {nearest(name, known)} Or name a [[convention]].")


def _check_combined(name: str, by_name: Mapping[str, Convention]) -> None:
    """Refuse a metric over conventions that says nothing."""
    if not by_name:
        raise ConfigError(
            f"[metric] name is {name!r}, but there is no [[convention]]. Add conventions, or name another metric: "
            f"{', '.join(_UNITS)}."
        )
    for convention in by_name.values():
        if name == "all_pass" and not convention.rule.reaches_one:
            raise ConfigError(
                f"[metric] all_pass: [[convention]] {convention.name!r} is 1 only for the gold reply itself. Give it a "
                "least value, for example args = { min = 0.5 }, or use [metric] name = 'mean'."
            )


def _all_pass(_row: Row, _text: str, results: Mapping[str, CheckResult]) -> CheckResult:
    """1 when every convention is 1."""
    failed = [name for name, result in results.items() if result.score < 1]
    return CheckResult(0.0, f"Not obeyed: {', '.join(failed)}.") if failed else CheckResult(1.0)


def _weighted_mean(weights: Mapping[str, float]) -> Measure:
    """The mean of the conventions' scores by weight."""
    total = math.fsum(weights.values())

    def measure(_row: Row, _text: str, results: Mapping[str, CheckResult]) -> CheckResult:
        if all(result.score == 1 for result in results.values()):
            return CheckResult(1.0)  # not 0.9999..., whatever the weights
        value = math.fsum(weights[name] * result.score for name, result in results.items()) / total
        return CheckResult(value, "See the conventions.")

    return measure


def _label(row: Row, text: str, _results: Mapping[str, CheckResult]) -> CheckResult:
    """1 when the folded reply equals the row's label; text around the label is wrong."""
    label = fold(row.target.label if row.target.label is not None else row.gold)
    if not label:
        return CheckResult(0.0, "The row has no label.")
    reply = fold(text)
    return CheckResult(1.0) if reply == label else CheckResult(0.0, f"The label is {label!r}, not {reply[:60]!r}.")
