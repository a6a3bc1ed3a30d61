"""Records of a CSV or TSV file as they stand: their lines, their fields, or what is wrong with them.

    for piece in Table(path, "tickets.csv").pieces():
        piece.first, piece.last     lines 17 to 19
        piece.fields                ["Where is my order?", "Dear Ana, ..."], or None with piece.problem

A quote that is opened by mistake would swallow the rows after it up to the next quote, or to the end of the file. So
when a record of several lines turns out broken, it is decided whether its further lines look like rows of this table:
then only its first line fails and they are read each by itself; else all of it is one failed record.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

from metier.core.errors import DataError
from metier.curate.lines import MAX_LINE_BYTES, Line, decoded, lines, too_long

__all__ = ["Piece", "Table"]

CONTROLS = bytes([*range(9), 11, 12, *range(14, 32), 127])
MAX_TAIL_LINES = 50
"""How far behind a broken row the end of a quoted text is looked for."""


class Piece(NamedTuple):
    """One record of a table; `fields` is None where `problem` says what is wrong."""

    first: int
    """Line it starts on."""
    last: int
    """Line it ends on."""
    fields: list[str] | None
    problem: str = ""
    is_plain: bool = False
    """Whether all of it is ASCII without control characters."""

    @property
    def is_blank(self) -> bool:
        """Whether nothing but white space stands here: the place of an erased record."""
        return self.fields is not None and len(self.fields) == 1 and not self.fields[0].strip()


class _Refused(Exception):
    """A line is too long to be held, or a quoted field does not end within what may be held."""


class _TableLines:
    """Lines of a table as the csv module wants them; after a refused line the next one can still be asked for."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self._lines = lines(path, name)
        self.first: Line | None = None
        """First line of the record that is being read."""
        self.last = Line(0, b"", 0, True, 0)
        self.is_clean = self.is_plain = True
        """Whether every line of the record is UTF-8 without NUL; whether all is ASCII without control characters."""
        self._held = 0

    def begin(self) -> None:
        """The next line starts a record."""
        self.first, self._held = None, 0
        self.is_clean = self.is_plain = True

    def go_back(self, line: Line) -> None:
        """Give the lines behind this one once more."""
        self._lines = lines(self.path, self.name, after=line)
        self.last = line

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.last = line
        if self.first is None:
            self.first = line
        if line.data is None:
            raise _Refused(too_long(line))
        self._held += line.num_bytes
        if self._held > MAX_LINE_BYTES:
            raise _Refused(
                f"a quoted field open for more than {MAX_LINE_BYTES >> 20} MiB; expected a closing quote. "
                "Repair the quotes of this row."
            )
        end = "\n" if line.ended else ""
        if line.data.isascii() and len(line.data.translate(None, CONTROLS)) == line.num_bytes:
            return line.data.decode("ascii") + end
        self.is_plain = False
        try:
            text = line.data.decode("utf-8")
        except UnicodeDecodeError:
            # Bytes that are not UTF-8 survive as lone surrogates, so that only the record they are in fails.
            self.is_clean = False
            return line.data.decode("utf-8", "surrogateescape") + end
        if "\0" in text:
            self.is_clean = False
        return text + end


class Table:
    """A CSV or TSV file: its header, and its records one at a time.

    Raises:
        DataError: the file is empty, UTF-16 or cannot be read, or its header is no header.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.delimiter = _delimiter(path, name)
        self.header: list[str] = []
        """Names of the columns, known once the first record is asked for."""
        self._source = _TableLines(path, name)

    def pieces(self) -> Iterator[Piece]:
        """Every record after the header, empty lines left out."""
        # The limit belongs to the whole process; raising it loses nothing, as records are bounded here.
        csv.field_size_limit(max(csv.field_size_limit(), 2 * MAX_LINE_BYTES))
        source = self._source
        reader = csv.reader(source, delimiter=self.delimiter, strict=True)
        while True:
            source.begin()
            try:
                fields = next(reader)
            except StopIteration:
                return
            except (csv.Error, _Refused) as err:
                yield self._broken(err)
                continue
            first, last = source.first, source.last.number
            if not fields or first is None:
                continue
            if self.header:
                problem = "" if source.is_clean else self._dirty(fields)
                yield Piece(first.number, last, None if problem else fields, problem, source.is_plain)
            elif any(field.strip() for field in fields):
                self.header = _header(fields, f"{self.name}:{first.number}")

    def _dirty(self, fields: list[str]) -> str:
        """Which column holds what is no text; the header names as many as there are."""
        for i, value in enumerate(fields):
            _, problem = decoded(value.encode("utf-8", "surrogateescape"))
            if problem:
                column = self.header[i] if i < len(self.header) else f"number {i + 1}"
                return f"column {column!r}: {problem.replace('of the line', 'of the field')}"
        return ""

    def _broken(self, err: csv.Error | _Refused) -> Piece:
        """The record that could not be read, reaching as far as it seems to."""
        source = self._source
        first = source.first
        assert first is not None, "the csv module refused a row without asking for a line"
        last = source.last
        if last.data is None and last.number > first.number:
            problem = (
                f"a quote opened at or after line {first.number} is not closed before line {last.number}, which is "
                "too long to be held; expected a closing quote. Repair the quotes of this row."
            )
        elif isinstance(err, _Refused):
            problem = str(err)
        elif "unexpected end" in str(err):
            problem = (
                f"a quote opened at or after line {first.number} is never closed; expected a closing quote. "
                "Repair the file."
            )
        else:
            reason = "a bare carriage return in a field" if "new-line" in str(err) else str(err)
            problem = f"broken table row ({reason}); expected fields quoted as in RFC 4180. Repair it or export again."
        if not self.header:
            raise DataError(f"{self.name}:{first.number}: no header could be read: {problem}")
        if first.data is None:
            return Piece(first.number, first.number, None, problem)
        end = self._end_of_broken(first, last)
        if end.number != last.number:
            source.go_back(end)
        if end.number > first.number:
            problem += f" The broken row seems to reach to line {end.number}."
        return Piece(first.number, end.number, None, problem)

    def _end_of_broken(self, first: Line, last: Line) -> Line:
        """The last line of a broken record that was given up on at `last`: `first`, where the others look like rows.

        They do when the quote that gave it away opens a field (so the one before it was opened by mistake), or when
        at least half of them have the right number of fields. Behind `last`, the text may go on to its closing quote.
        """
        num = likely = 0
        end, ends_likely = first, True
        for line in lines(self.path, self.name, after=first):
            data = line.data or b""
            if line.number > last.number + MAX_TAIL_LINES:
                break
            if data.strip():
                num += 1
                likely += self._is_row(line)
            place = data.find(b'"')
            opens = place == 0 or data[place - 1 : place] == self.delimiter.encode()
            if line.number < last.number:
                continue
            if line.number == last.number:
                if place >= 0 and opens:
                    return first
                end, ends_likely = line, 2 * likely >= num
            elif place >= 0:
                if not opens and _closes(data, self.delimiter):
                    end, ends_likely = line, 2 * likely >= num
                break
        return first if ends_likely else end

    def _is_row(self, line: Line) -> bool:
        """Whether a line alone is a row of this table, every quote of it at the edge of a field."""
        if line.data is None:
            return False
        text = line.data.decode("utf-8", "surrogateescape").removesuffix("\r")
        try:
            (fields,) = csv.reader([text], delimiter=self.delimiter, strict=True)
        except (csv.Error, ValueError):
            return False
        return len(fields) == len(self.header) and _is_well_quoted(text, self.delimiter)


def _is_well_quoted(text: str, delimiter: str) -> bool:
    field = rf'(?:[^"{re.escape(delimiter)}]*|"(?:[^"]|"")*")'
    return '"' not in text or re.fullmatch(rf"{field}(?:{re.escape(delimiter)}{field})*", text) is not None


def _closes(data: bytes, delimiter: str) -> bool:
    """Whether the first quote of a line stands before a delimiter or the line's end: it ends a quoted text."""
    return data.partition(b'"')[2].rstrip(b"\r")[:1] in (b"", delimiter.encode())


def _delimiter(path: Path, name: str) -> str:
    """The delimiter of a table, seen in its first line with text outside quotes."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    text = ""
    for line in lines(path, name):
        text = (line.data or b"").decode("utf-8", "replace")
        if text.strip() or line.data is None:
            break
    outside = "".join(text.split('"')[::2])
    return max(",;\t|", key=lambda mark: (outside.count(mark), mark == ","))


def _header(fields: list[str], where: str) -> list[str]:
    names = [field.strip() for field in fields]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise DataError(f"{where}: column {twice[0]!r} stands twice in the header; expected one. Rename one of them.")
    if not all(name.isprintable() for name in names):
        shown = ",".join(fields)[:40]
        raise DataError(f"{where}: the header is not text ({shown!r}). Is this a table? Export it as UTF-8 CSV.")
    return names
