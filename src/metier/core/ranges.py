"""What a setting's value may be, checked when the settings are built: numbers in range, names, days.

>>> within("alpha", 0.7, 0, 0.5)
Traceback (most recent call last):
metier.core.errors.ConfigError: alpha is 0.7; expected a number in (0, 0.5).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date

from metier.core.errors import ConfigError

__all__ = ["above", "at_least", "calendar_day", "distinct", "plain_name", "within"]

# A name becomes part of a folder's name (`.metier/stages/arm-<name>`), so it can hold no path.
_NAME = re.compile(r"(?![. ])[\w .-]{1,80}(?<! )")


def within(name: str, value: float, low: float, high: float, *, ends: str = "()") -> None:
    """Refuse a number outside an interval; `ends` are the brackets of the interval."""
    over = value >= low if ends[0] == "[" else value > low
    under = value <= high if ends[1] == "]" else value < high
    if not (over and under):  # also refuses NaN
        raise ConfigError(f"{name} is {value}; expected a number in {ends[0]}{low:g}, {high:g}{ends[1]}.")


def at_least(name: str, value: float, low: float) -> None:
    """Refuse a number below its least value."""
    if not value >= low:
        raise ConfigError(f"{name} is {value}; expected {low:g} or more.")


def above(name: str, value: float, low: float) -> None:
    """Refuse a number that is not above its bound."""
    if not value > low:
        raise ConfigError(f"{name} is {value}; expected more than {low:g}.")


def plain_name(name: str, value: str) -> None:
    """Refuse a name that is empty, holds a path or control characters, or begins with a dot."""
    if not _NAME.fullmatch(value):
        raise ConfigError(
            f"{name} is {value!r}; expected 1 to 80 letters, digits, spaces, '_', '.' or '-', with no dot in front and "
            "no space at an end. Choose another name."
        )


def distinct(table: str, names: Sequence[str], *, do: str) -> None:
    """Refuse a name that two tables of a list carry; both are named by their place in the file."""
    for second, name in enumerate(names):
        first = names.index(name)
        if first != second:
            raise ConfigError(f"[[{table}]] {first + 1} and {second + 1} are both named {name!r}; {do}")


def calendar_day(name: str, value: str) -> None:
    """Refuse a text that is neither empty nor a day, as 2026-11-23."""
    try:
        day = date.fromisoformat(value).isoformat() if value else ""
    except ValueError:
        day = None
    if day != value:  # 20261123 is ISO as well, but nobody reads it as a day
        raise ConfigError(f"{name} is {value!r}; expected a day, as 2026-11-23, or nothing.")
