"""Records of a file in any accepted form: JSON Lines, JSON, CSV, TSV, Parquet, one at a time.

    for record in records(path, "data/tickets.csv"):
        record.where      "data/tickets.csv:17"
        record.values     {"question": "...", "reply": "..."}, or None with record.problem saying why

A record that cannot be read is yielded with its problem, so that counting records counts everything that was there.
The empty place of an erased record (`metier.curate.erase`) keeps its number and is not yielded. What the fields mean is
decided in `metier.curate.shapes`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metier.core.errors import ConfigError, DataError
from metier.curate.lines import BOM, Line, decoded, lines, too_long
from metier.curate.tables import Piece, Table

__all__ = ["SUFFIXES", "JsonPiece", "Record", "expand", "json_pieces", "json_text", "records"]

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
MAX_JSON_BYTES = 256 << 20
PARQUET_ROWS = 2048
WRAPPERS = ("data", "rows", "examples", "items")
_KINDS = {"list": "list", "NoneType": "null", "str": "text", "bool": "truth value", "int": "number", "float": "number"}


class Record(NamedTuple):
    """One record; exactly one of `values` and `problem` says something."""

    where: str
    number: int
    """Line number for line-based files, else the record's place in the file, from 1."""
    values: Mapping[str, Any] | None  # Any: whatever JSON or Parquet holds
    problem: str = ""
    is_plain: bool = False
    """Whether all its text is known to be ASCII without control characters, as most records are."""


class JsonPiece(NamedTuple):
    """One JSON value of a file, with where it stands in the text."""

    start: int
    end: int
    line: int
    value: Any  # Any: a JSON value
    wrapper: str
    """The key of the list that holds the records, where the value only wraps it."""
    problem: str = ""
    """Why it is no record."""

    @property
    def items(self) -> list[Any]:  # Any: JSON values
        """The records in it; None for the place of an erased one."""
        return self.value[self.wrapper] if self.wrapper else [self.value]


def expand(patterns: Sequence[str], project_dir: Path) -> list[tuple[str, Path]]:
    """The files named by files, folders and globs: (name relative to the project, path), each once, sorted.

    Raises:
        ConfigError: nothing there, or a file of an unknown kind; no row was read.
    """
    found: dict[Path, tuple[str, Path]] = {}
    for pattern in patterns:
        path = project_dir / pattern
        if path.is_dir():
            matches = [p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
        elif path.exists():
            matches = [path]
        else:
            anchor = Path(pattern).anchor
            matches = [p for p in (project_dir / anchor).glob(pattern.removeprefix(anchor)) if p.is_file()]
        if not matches:
            raise ConfigError(
                f"{pattern}: no file with rows there, seen from {project_dir}; expected a file, a folder or a glob. "
                "Correct the name in the project file."
            )
        for match in matches:
            if match.suffix.lower() not in SUFFIXES:
                raise ConfigError(
                    f"{pattern}: {match.suffix or 'no suffix'} is not a known kind of file; "
                    f"expected {', '.join(SUFFIXES)}. Export it as one of them."
                )
            # A file named absolutely keeps its name, so that [split] holdout_files finds its rows.
            name = match if Path(pattern).is_absolute() else Path(os.path.relpath(match, project_dir))
            found.setdefault(match.resolve(), (name.as_posix(), match))
    return sorted(found.values())


def records(path: Path, name: str) -> Iterator[Record]:
    """Every record of one file, in file order.

    Raises:
        DataError: the file as a whole is unreadable: empty, UTF-16, a damaged Parquet file, a broken header.
    """
    kind = path.suffix.lower()
    if kind in (".csv", ".tsv"):
        return _csv_records(path, name)
    if kind == ".parquet":
        return _parquet_records(path, name)
    return _json_records(path, name) if kind == ".json" else _jsonl_records(path, name)


class _TwiceError(ValueError):
    """A field stands twice in one object: reading would silently take the second."""


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:  # Any: JSON values
    """The object of these fields."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _TwiceError(f"field {twice[:80]!r} stands twice in one object")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_distinct)


def _json_problem(err: ValueError | RecursionError) -> str:
    return str(err).partition("; use sys.")[0] if isinstance(err, ValueError) else "nested too deeply"


def _jsonl_records(path: Path, name: str) -> Iterator[Record]:
    for line in lines(path, name):
        where = f"{name}:{line.number}"
        if line.data is None:
            yield Record(where, line.number, None, too_long(line))
            continue
        text, problem = decoded(line.data)
        if problem:
            yield Record(where, line.number, None, problem)
        elif text.strip():
            yield _parsed(text, where, line)


def _parsed(text: str, where: str, line: Line) -> Record:
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError) as err:
        do = (
            "Repair the line or export it again."
            if line.ended
            else "The last line looks cut off: was the file copied whole?"
        )
        problem = f"broken JSON ({_json_problem(err)}); expected one JSON object a line. {do}"
        return Record(where, line.number, None, problem)
    if isinstance(value, dict):
        return Record(where, line.number, value, "", _is_plain_json(text))
    return _object(value, where, line.number)


def _is_plain_json(text: str) -> bool:
    """Whether JSON text cannot hold anything but printable ASCII and line breaks; other controls must be escaped."""
    if not text.isascii() or "\x7f" in text:
        return False
    return "\\" not in text or not ("\\u" in text or "\\b" in text or "\\f" in text)


def _object(value: Any, where: str, number: int) -> Record:  # Any: a JSON value
    if isinstance(value, dict):
        return Record(where, number, value)
    return Record(
        where, number, None,
        f"a JSON {_KINDS[type(value).__name__]}; expected a JSON object with the row's fields. "
        "Write each row as an object.",
    )  # fmt: skip


def _json_records(path: Path, name: str) -> Iterator[Record]:
    number = 0
    for piece in json_pieces(json_text(path, name)):
        where = f"{name}:{piece.line}"
        if piece.problem:
            number += 1
            yield Record(where, number, None, piece.problem)
            continue
        for item in piece.items:
            number += 1
            if item is not None:
                yield _object(item, where, number)


def json_text(path: Path, name: str) -> str:
    """The text of a JSON file, which is held whole.

    Raises:
        DataError: the file is empty, larger than `MAX_JSON_BYTES`, or not UTF-8.
    """
    try:
        num_bytes = path.stat().st_size
        if num_bytes > MAX_JSON_BYTES:
            raise DataError(
                f"{name}: a JSON file of {num_bytes / 2**20:.0f} MiB; expected at most "
                f"{MAX_JSON_BYTES >> 20} MiB. Write it as JSON Lines (.jsonl)."
            )
        data = path.read_bytes().removeprefix(BOM)
    except OSError as err:
        raise DataError(f"{name}: cannot be read ({err.strerror}). Check the file and [data] files.") from err
    if not num_bytes:
        raise DataError(f"{name}: empty file; expected rows. Remove it from [data] files or export it again.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as err:
        line = data.count(b"\n", 0, err.start) + 1
        raise DataError(f"{name}:{line}: not UTF-8 (byte 0x{data[err.start]:02x}). Export the file as UTF-8.") from err


def json_pieces(text: str) -> Iterator[JsonPiece]:
    """The values of an array, of one wrapping object, or one after the other."""
    at, line, seen = 0, 1, 0
    if text.lstrip()[:1] == "[":
        at = text.index("[") + 1
    while True:
        while at < len(text) and text[at] in " \t\r\n,]":
            at += 1
        if at >= len(text):
            return
        line, seen = line + text.count("\n", seen, at), at
        try:
            value, end = _DECODER.raw_decode(text, at)
        except _TwiceError as err:
            value, end = json.JSONDecoder().raw_decode(text, at)
            yield JsonPiece(at, end, line, value, "", f"{err}; expected each field once. Remove one of the two.")
            at = end
            continue
        except (ValueError, RecursionError) as err:
            problem = f"broken JSON ({_json_problem(err)}); nothing after it could be read. Repair the file."
            yield JsonPiece(at, len(text), line, None, "", problem)
            return
        yield JsonPiece(at, end, line, value, next((key for key in WRAPPERS if _is_rows(value, key)), ""))
        at = end


def _is_rows(value: Any, key: str) -> bool:  # Any: a JSON value
    """Whether an object only wraps a list of records under this key; an erased one is null."""
    rows = value.get(key) if isinstance(value, dict) else None
    return isinstance(rows, list) and bool(rows) and all(item is None or isinstance(item, dict) for item in rows)


def _csv_records(path: Path, name: str) -> Iterator[Record]:
    table = Table(path, name)
    for number, piece in enumerate(table.pieces(), start=1):
        if not piece.is_blank:
            yield _csv_record(piece, table.header, f"{name}:{piece.first}", number)


def _csv_record(piece: Piece, header: list[str], where: str, number: int) -> Record:
    if piece.fields is None:
        return Record(where, number, None, piece.problem)
    if len(piece.fields) != len(header):
        return Record(
            where, number, None,
            f"{len(piece.fields)} fields; expected {len(header)} as in the header. "
            "Quote fields that hold the delimiter.",
        )  # fmt: skip
    return Record(where, number, dict(zip(header, piece.fields, strict=True)), "", piece.is_plain)


def _parquet_records(path: Path, name: str) -> Iterator[Record]:
    import polars as pl

    number = 0
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{name}: empty file; expected rows. Remove it from [data] files or export it again.")
        for frame in pl.scan_parquet(path).collect_batches(chunk_size=PARQUET_ROWS, maintain_order=True):
            for values in frame.iter_rows(named=True):
                number += 1
                if any(value is not None for value in values.values()):
                    yield Record(f"{name}:{number}", number, values)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as err:
        reason = (str(err).splitlines() or [type(err).__name__])[0]
        raise DataError(f"{name}: not readable as Parquet ({reason}). Write the file again.") from err
