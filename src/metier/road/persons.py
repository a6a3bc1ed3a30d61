"""Where a person's records are: in the project's files, among the records that are no rows, and in any other file."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from metier.core.errors import DataError
from metier.core.rows import Row
from metier.core.similarity import fold
from metier.curate import ReadChunk, read_chunks
from metier.curate.records import Record, expand, records
from metier.curate.shapes import field_of
from metier.curate.turns import as_text
from metier.road.session import Session

__all__ = ["Found", "data_files", "files_holding", "numbers_of", "search"]

MIN_NAME_CHARACTERS = 4
"""A shorter name is not looked for in broken lines and other files: it stands in too many words."""
PIECE_BYTES = 1 << 22
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A person's records in the files of a project."""

    origins: Mapping[str, tuple[str, int]]
    """(file, record number) by `origin_id` of every row about the person."""
    failed: Mapping[str, Mapping[int, str]]
    """Records about the person that are no rows: `file:line` by record number, by file."""
    mentions: Mapping[str, int]
    """Rows about other people or nobody in which the name stands as words, by file."""


def data_files(session: Session) -> dict[str, Path]:
    """The project's data files by name."""
    patterns = (*session.config.data.files, *session.config.split.holdout_files)
    return dict(expand(patterns, session.project_dir))


def _chunks(session: Session, *, again: bool) -> Iterator[ReadChunk]:
    """The records of the project's files; none where an erasure that was begun left none."""
    config = session.config
    try:
        yield from read_chunks(
            config.data, session.project_dir, key=session.key, extra_files=config.split.holdout_files
        )
    except DataError:
        if not again:
            raise


def search(session: Session, subject: str, *, again: bool) -> Found:
    """Every record about a person, and how many others hold the name; `again` goes on with a begun erasure.

    Raises:
        DataError: the files cannot be read, or hold no row at all.
    """
    wanted = fold(subject)
    as_words = _words_of(wanted)
    origins: dict[str, tuple[str, int]] = {}
    mentions: dict[str, int] = defaultdict(int)
    failed: set[str] = set()
    for chunk in _chunks(session, again=again):
        failed |= {failure.where for failure in chunk.failed}
        for row in chunk.rows:
            if wanted in map(fold, row.meta.subjects):
                origins[row.origin_id] = (row.meta.source, row.meta.source_row)
            elif as_words.search(fold(_all_text(row))):
                mentions[row.meta.source] += 1
    return Found(origins=origins, failed=_failed_about(session, failed, wanted), mentions=dict(mentions))


def _words_of(wanted: str) -> re.Pattern[str]:
    """The name as words of its own: "al" is not found in "final"."""
    return re.compile(rf"(?<!\w){re.escape(wanted)}(?!\w)")


def _all_text(row: Row) -> str:
    return " ".join([*(message.content for message in row.messages), *row.meta.groups.values(), row.gold])


def _failed_about(session: Session, failed: Collection[str], wanted: str) -> dict[str, dict[int, str]]:
    """Records that are no rows and are about the person: by the subject columns, or by a broken line that says so."""
    found: dict[str, dict[int, str]] = defaultdict(dict)
    if not failed:
        return {}
    for name, path in data_files(session).items():
        if any(where.startswith(f"{name}:") for where in failed):
            for record, text in _broken(path, name, failed):
                if _is_about(session, record, text, wanted):
                    found[name][record.number] = record.where
    return dict(found)


def _broken(path: Path, name: str, failed: Collection[str]) -> Iterator[tuple[Record, str]]:
    """Failed records with the lines they stand on, from the first up to the next record."""
    lines = path.read_bytes().split(b"\n") if path.suffix.lower() != ".parquet" else []
    waiting: Record | None = None
    for record in records(path, name):
        if waiting is not None:
            yield waiting, _text_between(lines, _line_of(waiting), _line_of(record))
        waiting = record if record.where in failed else None
    if waiting is not None:
        yield waiting, _text_between(lines, _line_of(waiting), len(lines) + 1)


def _line_of(record: Record) -> int:
    return int(record.where.rpartition(":")[2])


def _text_between(lines: list[bytes], first: int, end: int) -> str:
    """The text of lines, numbers from 1, the last one left out; escaped characters are read."""
    text = b"\n".join(lines[first - 1 : max(first, end - 1)]).decode("utf-8", "replace")
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)


def _is_about(session: Session, record: Record, text: str, wanted: str) -> bool:
    if record.values is not None:
        columns = (as_text(field_of(record.values, column), column) for column in session.config.data.subject)
        return wanted in map(fold, columns)
    return len(wanted) >= MIN_NAME_CHARACTERS and _words_of(wanted).search(fold(text)) is not None


def numbers_of(session: Session, origins: Collection[str], *, again: bool) -> dict[str, set[int]]:
    """Record numbers of these rows, by file."""
    found: dict[str, set[int]] = defaultdict(set)
    for chunk in _chunks(session, again=again):
        for row in chunk.rows:
            if row.origin_id in origins:
                found[row.meta.source].add(row.meta.source_row)
    return dict(found)


def files_holding(folder: Path, subject: str) -> list[str]:
    """Files below a folder in whose bytes the name stands, in any case of ASCII letters; short names are left out."""
    wanted = subject.strip().encode().lower()
    if len(wanted) < MIN_NAME_CHARACTERS:
        return []
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
        with path.open("rb") as file:
            tail = b""
            while piece := file.read(PIECE_BYTES):
                if wanted in (tail + piece).lower():
                    found.append(path.relative_to(folder).as_posix())
                    break
                tail = piece[-len(wanted) :]
    return found
