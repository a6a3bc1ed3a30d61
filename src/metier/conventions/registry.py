"""Checks by name: what `check = "..."` in `[[convention]]` may say.

A check is a settings class: its fields are the `args` of the project file, validated when it is built.

    >>> build_check("word_count", {"min": 1, "max": 80}, where="[[convention]] 'length'", project_dir=Path())
    WordCount(min=1, max=80)

Not a plugin system: a check of one's own is `check = "python"`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from metier.conventions.placeholders import check_placeholders
from metier.core.config import Settings, nearest
from metier.core.errors import ConfigError
from metier.core.rows import Row

__all__ = ["Check", "CheckResult", "build_check", "check_names", "register"]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check found in one reply."""

    score: float
    """0-1."""
    why: str = ""
    """A sentence that says what is wrong; empty when the score is 1."""


PASSED = CheckResult(1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Check(Settings):
    """Base of every check; subclasses add their args as fields and override `result` and `guideline`."""

    @classmethod
    def build(cls, args: Mapping[str, Any], where: str, _project_dir: Path) -> Self:  # Any: TOML values
        """The check with these args; the folder is for checks that read the project's own files."""
        return cls.from_mapping(args, where=where)

    @property
    def binary(self) -> bool:
        """Whether every score is 0 or 1."""
        return True

    @property
    def reaches_one(self) -> bool:
        """Whether a good reply that is not the gold one, word for word, can score 1."""
        return True

    @property
    def needs_gold(self) -> bool:
        """Whether a reply can be checked only where the right one is known (so not by the guard of a server)."""
        return False

    def nothing_to_check(self, _row: Row) -> str:
        """A sentence when this row gives the check nothing to look for, so that every reply would pass."""
        return ""

    def result(self, row: Row, text: str) -> CheckResult:
        """The score of a reply to a row, and why it is below 1."""
        raise NotImplementedError

    def guideline(self) -> str:
        """The rule as an instruction in plain English; `{name}` in it is the convention's name in words."""
        raise NotImplementedError


CheckClass = TypeVar("CheckClass", bound=type[Check])
_CHECKS: dict[str, type[Check]] = {}


def register(name: str) -> Callable[[CheckClass], CheckClass]:
    """Class decorator: make a check known under a name.

    Raises:
        ConfigError: the name is taken.
    """

    def add(cls: CheckClass) -> CheckClass:
        if name in _CHECKS:
            raise ConfigError(f"check {name!r} is registered twice; known: {', '.join(check_names())}.")
        _CHECKS[name] = cls
        return cls

    return add


def check_names() -> tuple[str, ...]:
    """The names a convention's `check` may have, sorted."""
    return tuple(sorted(_CHECKS))


def build_check(name: str, args: Mapping[str, Any], *, where: str, project_dir: Path) -> Check:  # Any: TOML values
    """The check of a name with its args.

    Raises:
        ConfigError: unknown name, unknown or missing arg, a value out of range, a misspelt placeholder.
    """
    if name not in _CHECKS:
        raise ConfigError(f"{where}: unknown check {name!r}; {nearest(name, list(check_names()))}")
    check_placeholders(args, where=where)
    return _CHECKS[name].build(args, where, project_dir)
