"""Conventions as objects: what `[[convention]]` tables become.

>>> conventions = make_conventions(config.convention, project_dir)
>>> conventions[0].check(row, "Hi there")
CheckResult(score=0.0, why="The reply begins 'Hi there', not with 'Dear Ana,'.")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from metier.conventions.registry import Check, CheckResult, build_check
from metier.conventions.text import row_name
from metier.core.errors import DataError
from metier.core.rows import Row
from metier.core.settings import ConventionConfig

__all__ = ["Convention", "describe", "make_conventions"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Convention:
    """One thing a good reply obeys: it validates the data, scores models and guards a server."""

    name: str
    """Name in reports."""
    rule: Check
    """The check with its args."""
    weight: float = 1.0
    """Weight in the mean score."""
    row_specific: bool = False
    """Whether the right value differs from row to row."""

    def check(self, row: Row, text: str) -> CheckResult:
        """The score of a reply, 0-1, with a sentence when it is below 1.

        Raises:
            DataError: the row lacks an attribute the convention names, a row-specific convention finds nothing
                to check in it, or the project's own function failed. Names convention and row.
        """
        if self.row_specific and (fault := self.nothing_to_check(row)):
            raise DataError(fault)
        try:
            return self.rule.result(row, text)
        except DataError as err:
            raise DataError(f"convention {self.name!r}: {err}") from err

    def nothing_to_check(self, row: Row) -> str:
        """A sentence when a row-specific convention would pass every reply to this row; else empty."""
        if not self.row_specific:
            return ""
        try:
            fault = self.rule.nothing_to_check(row)
        except DataError as err:
            return f"convention {self.name!r}: {err}"
        if not fault:
            return ""
        return (
            f"{row_name(row)}: convention {self.name!r}: {fault}, so every reply would pass. Correct the pattern or "
            "the row, or set row_specific = false if such rows are as they should be."
        )

    @property
    def needs_gold(self) -> bool:
        """Whether only replies to rows with a known right reply can be checked."""
        return self.rule.needs_gold

    @property
    def guideline(self) -> str:
        """The convention as an instruction in plain English."""
        return self.rule.guideline().replace("{name}", self.name.replace("_", " "))


def make_conventions(configs: Sequence[ConventionConfig], project_dir: Path) -> tuple[Convention, ...]:
    """The conventions of a project, every arg checked.

    Raises:
        ConfigError: an unknown check or arg, a value out of range; names the convention.
    """
    return tuple(
        Convention(
            name=config.name,
            rule=build_check(
                config.check, config.args, where=f"[[convention]] {config.name!r}", project_dir=project_dir
            ),
            weight=config.weight,
            row_specific=config.row_specific,
        )
        for config in configs
    )


def describe(conventions: Sequence[Convention]) -> list[str]:
    """One instruction a convention, in their order, repeats left out: guidelines where a project gives none."""
    return list(dict.fromkeys(convention.guideline for convention in conventions))
