"""`{attributes.NAME}` and `{groups.NAME}` in the args of a convention, filled from each row's meta.

    starts_with = ["Dear {attributes.customer},"]

Nothing else of a row can be named: text a model could not know must not decide its score by accident.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from metier.conventions.text import row_name
from metier.core.config import nearest
from metier.core.errors import ConfigError, DataError
from metier.core.rows import Row

__all__ = ["check_pattern", "check_placeholders", "compiled", "fill", "fill_pattern", "plain"]

_TABLES = ("attributes", "groups")
_PLACEHOLDER = re.compile(r"\{(attributes|groups)\.([^{}]+)\}")
_LOOKS_LIKE_ONE = re.compile(r"\{([a-z_]+)\.[^{}]*\}", re.IGNORECASE)


def check_placeholders(value: Any, *, where: str) -> None:  # Any: a TOML value, walked
    """Refuse `{something.NAME}` in any text where `something` is not a table of the row's meta.

    Raises:
        ConfigError: a misspelt table, or no name after the dot.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            check_placeholders([key, item], where=where)
    elif isinstance(value, list | tuple):
        for item in value:
            check_placeholders(item, where=where)
    elif isinstance(value, str):
        for found in _LOOKS_LIKE_ONE.finditer(value):
            if found[1] not in _TABLES:
                raise ConfigError(f"{where}: unknown placeholder {found[0]!r}; {nearest(found[1], list(_TABLES))}")
            if not _PLACEHOLDER.fullmatch(found[0]):
                raise ConfigError(f"{where}: placeholder {found[0]!r} has no name; write {{{found[1]}.NAME}}.")


def fill(text: str, row: Row, *, escape: bool = False) -> str:
    """The text with its placeholders filled from the row's meta; `escape` makes the values literal in a pattern.

    Raises:
        DataError: the row has no such attribute or group, or an empty one.
    """

    def value(found: re.Match[str]) -> str:
        table, name = found[1], found[2]
        values = row.meta.attributes if table == "attributes" else row.meta.groups
        if not values.get(name, "").strip():
            known = ", ".join(sorted(values)) or "none"
            raise DataError(
                f"{row_name(row)} has no {table}.{name} (it has: {known}). Add the column to [data] {table}, or "
                "take the placeholder out of the convention."
            )
        return re.escape(values[name]) if escape else values[name]

    return _PLACEHOLDER.sub(value, text)


def fill_pattern(pattern: str, row: Row) -> re.Pattern[str]:
    """The compiled pattern with its placeholders filled literally from the row's meta."""
    return compiled(fill(pattern, row, escape=True))


@lru_cache(maxsize=1024)
def compiled(pattern: str) -> re.Pattern[str]:
    """The pattern, compiled once; `^` and `$` match at line ends."""
    return re.compile(pattern, re.MULTILINE)


def check_pattern(arg: str, pattern: str) -> None:
    """Refuse what is not a regular expression.

    Raises:
        ConfigError: with the position of the mistake.
    """
    try:
        # A placeholder stands for some text: any word does for the syntax.
        re.compile(_PLACEHOLDER.sub("x", pattern), re.MULTILINE)
    except re.error as err:
        raise ConfigError(f"{arg} is {pattern!r}; not a regular expression: {err}.") from err


def plain(text: str) -> str:
    """The text with placeholders as a reader of guidelines understands them: `<customer>`."""
    return _PLACEHOLDER.sub(lambda found: f"<{found[2].replace('_', ' ')}>", text)
