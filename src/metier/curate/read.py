"""Files into rows: every record becomes a row or a failure that says where, what was found, expected and to do.

    for chunk in read_chunks(DataConfig(files=("data",), time="date"), Path("."), key=project_key):
        chunk.num_read == len(chunk.rows) + len(chunk.failed)

Memory is bounded by the chunk, whatever the size of the files. Characters that went wrong are repaired on the way
(`metier.curate.unicode`); nothing else is cleaned here, that is `metier.curate.clean`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from metier.core.config import nearest
from metier.core.errors import ConfigError, DataError, counted
from metier.core.rows import Role, Row, make_row
from metier.core.settings import DataConfig
from metier.curate.language import language_of
from metier.curate.meta import MetaReader, declared_columns
from metier.curate.records import Record, expand, records
from metier.curate.shapes import COLUMN_NAMES, FIELDS, FORMATS, JSON_FIELDS, Example, ShapeError, field_of, read_shape
from metier.curate.turns import as_text
from metier.curate.unicode import KINDS, repaired_values

__all__ = ["CHUNK_ROWS", "Failure", "ReadChunk", "ReadResult", "first_failures", "read_chunks", "read_rows"]

CHUNK_ROWS = 2048
"""Records held at once."""
NUM_SHOWN = 5
NUM_NAMED = 20
"""Columns a message can choose from."""


class Failure(NamedTuple):
    """A record that is no row."""

    where: str
    """file:line"""
    message: str
    """What was found, expected and to do."""


class ReadChunk(NamedTuple):
    """Some records in a row, in the order of files and records."""

    rows: list[Row]
    failed: list[Failure]
    num_read: int
    """Records counted as they left the file, before any of them was understood."""
    repaired: Mapping[str, int]
    """Rows in which characters were repaired, by kind."""


@dataclass(frozen=True, slots=True)
class ReadResult:
    """What was in the files: rows and failures, together every record there was."""

    rows: list[Row]
    failed: list[Failure]
    num_read: int
    """Records counted as they left the file, before any of them was understood."""
    repaired: Mapping[str, int] = field(default_factory=dict)
    """Rows in which characters were repaired, by kind."""

    def __post_init__(self) -> None:
        _add_up(self)


def read_chunks(
    config: DataConfig,
    project_dir: Path,
    *,
    key: bytes,
    extra_files: Sequence[str] = (),
    chunk_rows: int = CHUNK_ROWS,
) -> Iterator[ReadChunk]:
    """Every record of `config.files` and `extra_files` (a given test set), `chunk_rows` records at a time.

    What only the whole can show is raised at the end: until the iterator is exhausted, nothing read is known to be
    good.

    Raises:
        ConfigError: at once, an unknown format or column name, or a file that is not there; at the end, a column no
            record has.
        DataError: an unreadable file when it is reached; at the end, no records, or not a single good one.
    """
    _check_columns(config)
    patterns = (*config.files, *extra_files)
    return _chunks(_Reader(config, key), expand(patterns, project_dir), ", ".join(patterns), chunk_rows)


def _chunks(reader: _Reader, files: list[tuple[str, Path]], names: str, chunk_rows: int) -> Iterator[ReadChunk]:
    for name, path in files:
        reader.begin(name)
        for record in records(path, name):
            reader.take(record)
            if reader.num_waiting >= chunk_rows:
                yield reader.chunk()
    if reader.num_waiting:
        yield reader.chunk()
    reader.finish(names)


def read_rows(config: DataConfig, project_dir: Path, *, key: bytes, extra_files: Sequence[str] = ()) -> ReadResult:
    """Everything `read_chunks` gives, at once: for files that fit into memory.

    Raises:
        ConfigError: an unknown format or column name, a file that is not there, or a column no record has.
        DataError: an unreadable file, no records, or not a single good one.
    """
    rows: list[Row] = []
    failed: list[Failure] = []
    num_read, repaired = 0, Counter[str]()
    for chunk in read_chunks(config, project_dir, key=key, extra_files=extra_files):
        rows += chunk.rows
        failed += chunk.failed
        num_read += chunk.num_read
        repaired.update(chunk.repaired)
    return ReadResult(rows, failed, num_read, _in_order(repaired))


def first_failures(failed: Sequence[Failure]) -> str:
    """The first five failures, each on a line of its own."""
    return "".join(f"\n  {where}: {message}" for where, message in failed[:NUM_SHOWN])


def _in_order(repaired: Counter[str]) -> dict[str, int]:
    return {kind: repaired[kind] for kind in KINDS if repaired[kind]}


def _add_up(read: ReadChunk | ReadResult) -> None:
    if len(read.rows) + len(read.failed) != read.num_read:
        raise DataError(
            f"reading lost rows: {len(read.rows)} rows and {len(read.failed)} failures of {read.num_read} records. "
            "This is a defect of metier; please report it."
        )


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
    """Rows and failures that wait for their chunk, with what must be known across records."""

    def __init__(self, config: DataConfig, key: bytes) -> None:
        self.config, self.key = config, key
        self._meta = MetaReader(config)
        self._source = ""
        self._unseen = declared_columns(config)
        self._seen: dict[str, None] = {}
        self._text_fields, self._json_fields = _fields_read(config)
        self._line_of_id: dict[bytes, int] = {}
        self._first_failed: list[Failure] = []
        self.num_rows = self.num_failed = 0
        self._start()

    def _start(self) -> None:
        self.num_waiting = 0
        self._rows: list[Row] = []
        self._failed: list[Failure] = []
        self._repaired = Counter[str]()

    def begin(self, source: str) -> None:
        """The records that follow are of this file; ids are unique within a file."""
        self._source = source
        self._line_of_id = {}

    def chunk(self) -> ReadChunk:
        """What waits, which then waits no longer."""
        found = ReadChunk(self._rows, self._failed, self.num_waiting, _in_order(self._repaired))
        _add_up(found)
        self.num_rows += len(found.rows)
        self.num_failed += len(found.failed)
        self._first_failed += found.failed[: NUM_SHOWN - len(self._first_failed)]
        self._start()
        return found

    def finish(self, names: str) -> None:
        """Refuse what only shows at the end."""
        num_read = self.num_rows + self.num_failed
        if not num_read:
            raise DataError(
                f"{names}: no rows at all; expected at least one record after the header. Check [data] files."
            )
        self._check_columns_seen()
        if not self.num_rows:
            first = first_failures(self._first_failed)
            raise DataError(f"{names}: all of {counted(num_read, 'record')} failed; the first:{first}")

    def take(self, record: Record) -> None:
        """Turn one record into a row or a failure."""
        self.num_waiting += 1
        if record.values is None:
            self._failed.append(Failure(record.where, record.problem))
            return
        if self._unseen:
            self._note_columns(record.values)
        kinds: set[str] = set()
        try:
            row = self._row(record.values, record, kinds)
        except ShapeError as err:
            self._failed.append(Failure(record.where, str(err)))
        except RecursionError:
            message = "values nested too deeply; expected a row of text and small objects. Correct the record."
            self._failed.append(Failure(record.where, message))
        except (ValueError, TypeError) as err:  # the row contract's refusals, and values JSON cannot hold
            reason = err.errors()[0]["msg"] if isinstance(err, ValidationError) else str(err)
            message = f"{reason}; expected a row of plain text and JSON values. Correct the record."
            self._failed.append(Failure(record.where, message))
        else:
            self._rows.append(row)
            if kinds:
                self._repaired.update(kinds)

    def _note_columns(self, values: Mapping[str, Any]) -> None:  # Any: JSON values
        for column in values:
            if len(self._seen) >= NUM_NAMED:
                break
            self._seen[column] = None
        self._unseen = {c: what for c, what in self._unseen.items() if c not in values and field_of(values, c) is None}

    def _check_columns_seen(self) -> None:
        """Refuse a column that no record of any file has: its setting would silently do nothing."""
        for column, setting in self._unseen.items():
            if not self._seen:
                return  # no record could be read at all; that is reported instead
            known = nearest(column, list(self._seen))
            raise ConfigError(f"[data] {setting} names the column {column!r}, which no record has; {known}")

    def _row(self, values: Mapping[str, Any], record: Record, kinds: set[str]) -> Row:  # Any: JSON values
        config = self.config
        if not record.is_plain:
            values = self._repair(values, kinds)
        example = read_shape(values, config.format, config.columns)
        language = _language(example)
        row = make_row(
            self.key,
            messages=example.messages,
            target=example.target,
            tools=example.tools,
            meta=self._meta.meta(values, source=self._source, number=record.number, language=language),
        )
        if "id" in config.columns:
            self._check_id(as_text(field_of(values, config.columns["id"]), "id"), record.where)
        return row

    def _repair(self, values: Mapping[str, Any], kinds: set[str]) -> Mapping[str, Any]:  # Any: JSON values
        """The record, its characters repaired in the fields that are read."""
        used = {name: value for name, value in values.items() if name in self._text_fields}
        new = repaired_values(used, kinds, self._json_fields)
        return values if new is used else {**values, **new}

    def _check_id(self, row_name: str, where: str) -> None:
        if not row_name:
            raise ShapeError(
                f"column {self.config.columns['id']!r} is empty; expected an id. Fill it or drop columns.id."
            )
        # Hashed: a million long ids would not fit beside the rows.
        digest = blake2b(row_name.encode(), digest_size=16).digest()
        line = int(where.rpartition(":")[2])
        first = self._line_of_id.setdefault(digest, line)
        if first != line:
            raise ShapeError(
                f"id {row_name!r} already stands at {self._source}:{first}; expected one row an id. "
                "Remove one of the two."
            )


def _fields_read(config: DataConfig) -> tuple[frozenset[str], frozenset[str]]:
    """The fields of a record whose text is read, and those that may hold JSON as text."""
    columns = (*declared_columns(config), "consent")
    outer = {".".join(parts[:i]) for c in columns for parts in [c.split(".")] for i in range(1, len(parts))}
    return frozenset({*columns, *outer, *FIELDS}), JSON_FIELDS | outer


def _language(example: Example) -> str | None:
    """The language of the right answer; of the prompt, where the answer is no running text."""
    messages = example.messages
    language = language_of(messages[-1].content)
    if language is None:
        language = language_of("\n".join(m.content for m in messages if m.role is Role.USER))
    return language
