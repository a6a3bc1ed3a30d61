"""From the table of scores to the decision: a pure step that `metier verify` takes again from the files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from metier.core.errors import ConfigError, DataError
from metier.core.settings import DecisionConfig, GuardConfig

if TYPE_CHECKING:
    from metier.assess import Decision, GuardScores, ScoreTable
    from metier.core.stats import Interval
    from metier.evaluate import ScoreTable as ScoreFile

__all__ = ["decide_from_scores", "paired_table"]


def decide_from_scores(
    table: ScoreFile,
    decision: DecisionConfig,
    guards: Sequence[GuardConfig],
    *,
    alpha: float,
    binary: bool,
    facts: Mapping[str, Any],  # Any: JSON values
) -> Decision:
    """The verdict over the scores of one look.

    `facts` are what was fixed before the look: tuned (arm name), comparators, guard_reference, binary_checks and
    cost_ratio (estimate, low, high; or None).

    Raises:
        DataError: the table's arms are not the tuned arm and the frozen comparators.
        ConfigError: a guard watches something that is not scored.
    """
    from metier.assess import decide

    paired = paired_table(table, facts["tuned"], facts["comparators"], binary=binary)
    watched = [_guard(table, guard, facts, binary=binary) for guard in guards]
    return decide(
        decision, paired, alpha_this_look=alpha, guards=watched, cost_ratio=_interval(facts.get("cost_ratio"))
    )


def paired_table(table: ScoreFile, tuned: str, comparators: Sequence[str], *, binary: bool) -> ScoreTable:
    """Scores of the tuned arm and of the frozen comparators, row by row.

    Raises:
        DataError: an arm that was frozen is missing, or one stands there that was not.
    """
    from metier.assess import ScoreTable as Paired

    expected = {tuned, *comparators}
    if set(table.arms) != expected:
        odd = sorted(set(table.arms) ^ expected)
        raise DataError(
            f"the scores hold arms {', '.join(table.arms)}; frozen before the look were {tuned} against "
            f"{', '.join(comparators)} ({', '.join(odd)} differs). A comparator is never chosen on the hold-out."
        )
    groups = table.groups()
    order = list(groups)
    by_arm = {arm: table.scores_of(arm) for arm in expected}
    return Paired.of(
        tuned=[by_arm[tuned][row_id] for row_id in order],
        rivals={name: [by_arm[name][row_id] for row_id in order] for name in comparators},
        groups=np.array([groups[row_id] for row_id in order]),
        binary=binary,
    )


def _guard(table: ScoreFile, guard: GuardConfig, facts: Mapping[str, Any], *, binary: bool) -> GuardScores:
    """What one guard watches: a convention, the metric, or the metric on a slice."""
    from metier.assess import GuardScores

    check, rows, yes_no = "", frozenset(table.row_id), binary
    attribute, equals, value = guard.on.partition("=")
    if equals:
        rows = table.in_slice(attribute.strip(), value.strip())
    elif guard.on in table.checks:
        check, yes_no = guard.on, guard.on in facts["binary_checks"]
    elif guard.on != "metric":
        known = ", ".join(["metric", *table.checks])
        raise ConfigError(
            f"[[guard]] {guard.name!r} is on {guard.on!r}; expected {known}, or a slice such as region=north."
        )
    groups = table.groups()
    order = [row_id for row_id in groups if row_id in rows]
    tuned = table.scores_of(facts["tuned"], check=check)
    reference = table.scores_of(facts["guard_reference"], check=check)
    return GuardScores.of(
        guard,
        tuned=[tuned[row_id] for row_id in order],
        reference=[reference[row_id] for row_id in order],
        groups=np.array([groups[row_id] for row_id in order]),
        binary=yes_no,
    )


def _interval(values: Mapping[str, float] | None) -> Interval | None:
    if values is None:
        return None
    from metier.core.stats import Interval

    return Interval(values["low"], values["high"])
