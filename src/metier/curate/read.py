"""Files into rows: every record becomes a row or a failure that says where, what was found, expected and to do.

    result = read_rows(DataConfig(files=("data",), time="date"), Path("."), key=project_key)
    result.num_read == len(result.rows) + len(result.failed)

Nothing is cleaned here; that is `metier.curate.clean`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from metier.core.config import nearest
from metier.core.errors import ConfigError, DataError, counted
from metier.core.rows import Meta, Row, make_row
from metier.core.settings import DataConfig
from metier.curate.records import Record, expand, records
from metier.curate.shapes import COLUMN_NAMES, FORMATS, ShapeError, field_of, read_shape
from metier.curate.times import parse_time
from metier.curate.turns import as_text

__all__ = ["Failure", "ReadResult", "read_rows"]

NUM_SHOWN = 5
CONSENTS = ("granted", "denied", "unknown")
_COLUMN_PREFIX = "column:"


class Failure(NamedTuple):
    """A record that is no row."""

    where: str
    """file:line"""
    message: str
    """What was found, expected and to do."""


@dataclass(frozen=True, slots=True)
class ReadResult:
    """What was in the files: rows and failures, together every record there was."""

    rows: list[Row]
    failed: list[Failure]
    num_read: int
    """Records counted as they left the file, before any of them was understood."""

    def __post_init__(self) -> None:
        if len(self.rows) + len(self.failed) != self.num_read:
            raise DataError(
                f"reading lost rows: {len(self.rows)} rows and {len(self.failed)} failures of {self.num_read} records. "
                "This is a defect of metier; please report it."
            )


def read_rows(config: DataConfig, project_dir: Path, *, key: bytes, extra_files: Sequence[str] = ()) -> ReadResult:
    """Every record of `config.files` and `extra_files` (a given test set), in the order of file names and records.

    Raises:
        ConfigError: an unknown format or column name, a file that is not there, or a column no record has.
        DataError: an unreadable file, no records, or not a single good one.
    """
    _check_columns(config)
    reader = _Reader(config, key)
    for name, path in expand((*config.files, *extra_files), project_dir):
        for record in records(path, name):
            reader.take(record, name)
    result = ReadResult(reader.rows, reader.failed, reader.num_read)
    names = ", ".join((*config.files, *extra_files))
    if not result.num_read:
        raise DataError(f"{names}: no rows at all; expected at least one record after the header. Check [data] files.")
    reader.check_columns_seen()
    if not result.rows:
        first = first_failures(result.failed)
        raise DataError(f"{names}: all of {counted(result.num_read, 'record')} failed; the first:{first}")
    return result


def first_failures(failed: Sequence[Failure]) -> str:
    """The first five failures, each on a line of its own."""
    return "".join(f"\n  {where}: {message}" for where, message in failed[:NUM_SHOWN])


def _check_columns(config: DataConfig) -> None:
    """Refuse settings that cannot mean anything before a file is opened."""
    if config.format not in FORMATS:
        raise ConfigError(f"[data] format is {config.format!r}; {nearest(config.format, list(FORMATS))}")
    for name in config.columns:
        if name not in COLUMN_NAMES:
            raise ConfigError(f"[data] columns: unknown column {name!r}; {nearest(name, list(COLUMN_NAMES))}")
    has_prompt = "prompt" in config.columns
    if has_prompt and config.format not in ("auto", "table"):
        raise ConfigError(f"[data] columns.prompt has no effect with format = {config.format!r}; use format = 'table'.")
    if has_prompt and not {"reply", "label"} & set(config.columns):
        raise ConfigError(
            "[data] columns has a prompt but no reply and no label; name the column with the right answer."
        )
    needs_prompt = sorted({"reply", "system", "context"} & set(config.columns))
    if not has_prompt and (needs_prompt or config.format == "table"):
        what = f"columns.{needs_prompt[0]}" if needs_prompt else "format = 'table'"
        raise ConfigError(f"[data] {what} needs columns.prompt; name the column with the prompt.")


class _Reader:
    """Rows and failures so far, with what must be known across records."""

    def __init__(self, config: DataConfig, key: bytes) -> None:
        self.config, self.key = config, key
        self.rows: list[Row] = []
        self.failed: list[Failure] = []
        self.num_read = 0
        self._first_with_id: dict[tuple[str, str], str] = {}
        self._unseen = _declared_columns(config)
        self._seen: dict[str, None] = {}

    def take(self, record: Record, source: str) -> None:
        """Turn one record into a row or a failure."""
        self.num_read += 1
        if record.values is None:
            self.failed.append(Failure(record.where, record.problem))
            return
        if self._unseen:
            self._note_columns(record.values)
        try:
            self.rows.append(self._row(record.values, record, source))
        except ShapeError as err:
            self.failed.append(Failure(record.where, str(err)))
        except (ValueError, RecursionError) as err:  # the row contract's refusals, and values JSON cannot hold
            reason = err.errors()[0]["msg"] if isinstance(err, ValidationError) else str(err)
            message = f"{reason}; expected a row of plain text and JSON values. Correct the record."
            self.failed.append(Failure(record.where, message))

    def _note_columns(self, values: Mapping[str, Any]) -> None:  # Any: JSON values
        self._seen.update(dict.fromkeys(map(str, values)))
        self._unseen = {c: what for c, what in self._unseen.items() if c not in values and field_of(values, c) is None}

    def check_columns_seen(self) -> None:
        """Refuse a column that no record of any file has: its setting would silently do nothing."""
        for column, setting in self._unseen.items():
            seen = list(self._seen)
            if not seen:
                return  # no record could be read at all; that is reported instead
            known = nearest(column, seen[:20])
            raise ConfigError(f"[data] {setting} names the column {column!r}, which no record has; {known}")

    def _row(self, values: Mapping[str, Any], record: Record, source: str) -> Row:  # Any: JSON values
        config = self.config
        example = read_shape(values, config.format, config.columns)
        row = make_row(
            self.key,
            messages=example.messages,
            target=example.target,
            tools=example.tools,
            meta=_meta(values, config, source, record.number),
        )
        if "id" in config.columns:
            self._check_id(as_text(field_of(values, config.columns["id"]), "id"), record.where, source)
        return row

    def _check_id(self, row_name: str, where: str, source: str) -> None:
        if not row_name:
            raise ShapeError(
                f"column {self.config.columns['id']!r} is empty; expected an id. Fill it or drop columns.id."
            )
        first = self._first_with_id.setdefault((source, row_name), where)
        if first != where:
            raise ShapeError(
                f"id {row_name!r} already stands at {first}; expected one row an id. Remove one of the two."
            )


def _declared_columns(config: DataConfig) -> dict[str, str]:
    """Every column the settings name, with the setting."""
    declared = {column: f"columns.{name}" for name, column in config.columns.items()}
    for setting in ("subject", "groups", "attributes"):
        declared |= dict.fromkeys(getattr(config, setting), setting)  # getattr: the three tuple settings by name
    for setting, column in (("time", config.time), ("expires", config.expires), ("policy", config.policy)):
        if column:
            declared[column] = setting
    if config.licence.startswith(_COLUMN_PREFIX):
        declared[config.licence.removeprefix(_COLUMN_PREFIX)] = "licence"
    return declared


def _meta(values: Mapping[str, Any], config: DataConfig, source: str, number: int) -> Meta:  # Any: JSON values
    """Where the row comes from and what may be done with it."""

    def text(column: str) -> str:
        return as_text(field_of(values, column), column)

    def named(columns: tuple[str, ...]) -> dict[str, str]:
        found = {column: text(column) for column in columns}
        return {column: value for column, value in found.items() if value}

    def time(column: str) -> Any:  # Any: datetime or None; spelled so as not to import datetime for one hint
        try:
            return parse_time(field_of(values, column)) if column else None
        except (ValueError, OverflowError) as err:
            raise ShapeError(f"column {column!r}: {err}. Correct it, or leave it empty where it is not known.") from err

    licence = config.licence
    if licence.startswith(_COLUMN_PREFIX):
        licence = text(licence.removeprefix(_COLUMN_PREFIX))
    consent = text("consent") or config.consent_default
    if consent not in CONSENTS:
        raise ShapeError(f"consent is {consent!r}; expected {', '.join(CONSENTS)}. Correct the consent column.")
    return Meta(
        source=source,
        source_row=number,
        subjects=tuple(named(config.subject).values()),
        groups=named(config.groups),
        collected_at=time(config.time),
        expires_at=time(config.expires),
        policy_version=(text(config.policy) if config.policy else "") or None,
        licence=licence or None,
        consent=consent,
        attributes=named(config.attributes),
    )
