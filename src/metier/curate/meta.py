"""Where a row comes from and what may be done with it: the columns of `[data]` that are no text to learn from.

>>> reader = MetaReader(DataConfig(files=("tickets.csv",), time="date"))
>>> reader.meta({"date": "2026-03-01"}, source="tickets.csv", number=17, language=None).collected_at.year
2026
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from metier.core.rows import Meta
from metier.core.settings import DataConfig
from metier.curate.shapes import field_of
from metier.curate.times import parse_time
from metier.curate.turns import ShapeError, as_text

__all__ = ["COLUMN_PREFIX", "CONSENTS", "MetaReader", "declared_columns"]

CONSENTS = ("granted", "denied", "unknown")
COLUMN_PREFIX = "column:"


def declared_columns(config: DataConfig) -> dict[str, str]:
    """Every column the settings name, with the setting."""
    declared = {column: f"columns.{name}" for name, column in config.columns.items()}
    for setting in ("subject", "groups", "attributes"):
        declared |= dict.fromkeys(getattr(config, setting), setting)  # getattr: the three tuple settings by name
    for setting, column in (("time", config.time), ("expires", config.expires), ("policy", config.policy)):
        if column:
            declared[column] = setting
    if config.licence.startswith(COLUMN_PREFIX):
        declared[config.licence.removeprefix(COLUMN_PREFIX)] = "licence"
    return declared


class MetaReader:
    """Reads `Meta` out of records, as `[data]` says."""

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        self._licence, self._licence_column = config.licence or None, ""
        if config.licence.startswith(COLUMN_PREFIX):
            self._licence, self._licence_column = None, config.licence.removeprefix(COLUMN_PREFIX)

    def meta(self, values: Mapping[str, Any], *, source: str, number: int, language: str | None) -> Meta:  # Any: JSON
        """What a record says about itself.

        Raises:
            ShapeError: a time that is none, a consent that is not known, or a list where a name is expected.
        """
        config = self.config
        licence = _text(values, self._licence_column) or None if self._licence_column else self._licence
        return Meta(
            source=source,
            source_row=number,
            subjects=tuple(_named(values, config.subject).values()),
            groups=_named(values, config.groups),
            collected_at=_time(values, config.time),
            expires_at=_time(values, config.expires),
            policy_version=(_text(values, config.policy) or None) if config.policy else None,
            licence=licence,
            consent=self._consent(values),
            language=language,
            attributes=_named(values, config.attributes),
        )

    def _consent(self, values: Mapping[str, Any]) -> str:  # Any: JSON values
        if "consent" not in values:
            return self.config.consent_default
        consent = _text(values, "consent") or self.config.consent_default
        if consent not in CONSENTS:
            raise ShapeError(f"consent is {consent!r}; expected {', '.join(CONSENTS)}. Correct the consent column.")
        return consent


def _text(values: Mapping[str, Any], column: str) -> str:  # Any: JSON values
    return as_text(field_of(values, column), column)


def _named(values: Mapping[str, Any], columns: tuple[str, ...]) -> dict[str, str]:  # Any: JSON values
    """The columns that say something."""
    return {column: text for column in columns if (text := _text(values, column))}


def _time(values: Mapping[str, Any], column: str) -> datetime | None:  # Any: JSON values
    if not column:
        return None
    try:
        return parse_time(field_of(values, column))
    except ValueError as err:
        raise ShapeError(f"column {column!r}: {err}. Correct it, or leave it empty where it is not known.") from err
