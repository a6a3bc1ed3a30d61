"""Records of a file in any accepted form: JSON Lines, JSON, CSV, TSV, Parquet, one at a time.

    for record in records(path, "data/tickets.csv"):
        record.where      "data/tickets.csv:17"
        record.values     {"question": "...", "reply": "..."}, or None with record.problem saying why

A record that cannot be read is yielded with its problem, so that counting records counts everything that was there.
What the fields mean is decided in `metier.curate.shapes`.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, Self

from metier.core.errors import ConfigError, DataError
from metier.curate.lines import MAX_LINE_BYTES, Line, decoded, lines, too_long

__all__ = ["SUFFIXES", "Record", "expand", "records"]

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
MAX_JSON_BYTES = 256 << 20
_WRAPPERS = ("data", "rows", "examples", "items")
_PARQUET_ROWS = 2048


class Record(NamedTuple):
    """One record; exactly one of `values` and `problem` says something."""

    where: str
    number: int
    """Line number for line-based files, else the record's place in the file, from 1."""
    values: Mapping[str, Any] | None  # Any: whatever JSON or Parquet holds
    problem: str = ""


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
        value = json.loads(text)
    except (ValueError, RecursionError) as err:
        reason = str(err).partition("; use sys.")[0] if isinstance(err, ValueError) else "nested too deeply"
        do = (
            "Repair the line or export it again."
            if line.ended
            else "The last line looks cut off: was the file copied whole?"
        )
        return Record(where, line.number, None, f"broken JSON ({reason}); expected one JSON object a line. {do}")
    return _object(value, where, line.number)


def _object(value: Any, where: str, number: int) -> Record:  # Any: a JSON value
    if isinstance(value, dict):
        return Record(where, number, value)
    return Record(
        where, number, None,
        f"a JSON {type(value).__name__}; expected a JSON object with the row's fields. Write each row as an object.",
    )  # fmt: skip


def _json_records(path: Path, name: str) -> Iterator[Record]:
    """Objects of an array, of one wrapping object, or one after the other."""
    if path.stat().st_size > MAX_JSON_BYTES:
        raise DataError(
            f"{name}: a JSON file of {path.stat().st_size / 2**20:.0f} MiB; expected at most "
            f"{MAX_JSON_BYTES >> 20} MiB. Write it as JSON Lines (.jsonl)."
        )
    if path.stat().st_size == 0:
        raise DataError(f"{name}: empty file; expected rows. Remove it from [data] files or export it again.")
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as err:
        line = data.count(b"\n", 0, err.start) + 1
        raise DataError(f"{name}:{line}: not UTF-8 (byte 0x{data[err.start]:02x}). Export the file as UTF-8.") from err
    decoder, at, line, seen, number = json.JSONDecoder(), 0, 1, 0, count(1)
    if text.lstrip()[:1] == "[":
        at = text.index("[") + 1
    while True:
        while at < len(text) and text[at] in " \t\r\n,]":
            at += 1
        if at >= len(text):
            return
        line, seen = line + text.count("\n", seen, at), at
        where = f"{name}:{line}"
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as err:
            yield Record(
                where, next(number), None, f"broken JSON ({err}); nothing after it could be read. Repair the file."
            )
            return
        inner = next((value[key] for key in _WRAPPERS if _is_rows(value, key)), [value])
        for item in inner:
            yield _object(item, where, next(number))


def _is_rows(value: Any, key: str) -> bool:  # Any: a JSON value
    """Whether an object only wraps a list of records under this key."""
    rows = value.get(key) if isinstance(value, dict) else None
    return isinstance(rows, list) and bool(rows) and all(isinstance(item, dict) for item in rows)


class _LongLine(Exception):
    """A line of a table was too long to be held."""


class _TableLines:
    """Lines of a table as the csv module wants them; after a refused line the next one can still be asked for."""

    def __init__(self, path: Path, name: str) -> None:
        self.number = 0
        self._lines = lines(path, name)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number = line.number
        if line.data is None:
            raise _LongLine(too_long(line))
        # Bytes that are not UTF-8 survive as lone surrogates, so that only the record they are in fails.
        return line.data.decode("utf-8", "surrogateescape") + ("\n" if line.ended else "")


def _csv_records(path: Path, name: str) -> Iterator[Record]:
    source = _TableLines(path, name)
    delimiter, first = _delimiter(path, name)
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    # The limit belongs to the whole process; raising it loses nothing, as lines are bounded here.
    csv.field_size_limit(max(csv.field_size_limit(), 2 * MAX_LINE_BYTES))
    header: list[str] | None = None
    number = count(1)
    while True:
        start = source.number + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except _LongLine as err:
            yield Record(f"{name}:{source.number}", next(number), None, str(err))
            continue
        except csv.Error as err:
            yield Record(f"{name}:{start}", next(number), None, _csv_problem(err, start))
            continue
        if not fields:
            continue
        if header is None:
            header = _header(fields, f"{name}:{start}", first)
            continue
        yield _csv_record(fields, header, f"{name}:{start}", next(number))


def _csv_problem(err: csv.Error, start: int) -> str:
    if "unexpected end" in str(err):
        return f"a quote opened at or after line {start} is never closed; expected a closing quote. Repair the file."
    return f"broken table row ({err}); expected fields quoted as in RFC 4180. Repair the row or export again."


def _delimiter(path: Path, name: str) -> tuple[str, str]:
    """The delimiter of a table, seen in its first line outside quotes, and that line."""
    line = next(lines(path, name))
    text = (line.data or b"").decode("utf-8", "replace")
    if path.suffix.lower() == ".tsv":
        return "\t", text
    outside = "".join(text.split('"')[::2])
    return max(",;\t|", key=lambda mark: (outside.count(mark), mark == ",")), text


def _header(fields: list[str], where: str, first: str) -> list[str]:
    names = [field.strip() for field in fields]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{where}: column {twice[0]!r} stands twice in the header; expected one. Rename one of them.")
    if not all(name.isprintable() for name in names):
        raise DataError(f"{where}: the header is not text ({first[:40]!r}). Is this a table? Export it as UTF-8 CSV.")
    return names


def _csv_record(fields: list[str], header: list[str], where: str, number: int) -> Record:
    if len(fields) != len(header):
        return Record(
            where, number, None,
            f"{len(fields)} fields; expected {len(header)} as in the header. Quote fields that hold the delimiter.",
        )  # fmt: skip
    for column, value in zip(header, fields, strict=True):
        _, problem = decoded(value.encode("utf-8", "surrogateescape"))
        if problem:
            return Record(where, number, None, f"column {column!r}: {problem.replace('of the line', 'of the field')}")
    return Record(where, number, dict(zip(header, fields, strict=True)))


def _parquet_records(path: Path, name: str) -> Iterator[Record]:
    import polars as pl

    if path.stat().st_size == 0:
        raise DataError(f"{name}: empty file; expected rows. Remove it from [data] files or export it again.")
    try:
        frame = pl.scan_parquet(path)
        num_rows = int(frame.select(pl.len()).collect().item())
        for low in range(0, num_rows, _PARQUET_ROWS):
            for i, values in enumerate(frame.slice(low, _PARQUET_ROWS).collect().iter_rows(named=True), start=low + 1):
                yield Record(f"{name}:{i}", i, values)
    except (pl.exceptions.PolarsError, OSError) as err:
        raise DataError(f"{name}: not readable as Parquet ({str(err).splitlines()[0]}). Write the file again.") from err
