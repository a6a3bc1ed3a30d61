"""Records out of a source file, in place: each leaves an empty place, so that the numbers of all others stay.

    erase_records(Path("data/tickets.csv"), {17, 301})      2

What stands in a record's place: an empty line in JSON Lines; a line of one blank in CSV (an empty line has no number
there), empty lines for its further lines; null in JSON; a row of nulls in Parquet. Readers skip it. Every other byte
stays, but for an object that wraps the list of records, which is written anew with equal values, and for Parquet,
written anew with the same columns and rows. The file is replaced in one step: a killed run leaves the old one or the
new one, and erasing again is no error. What the disk or copies of the file still hold is out of reach.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO, Literal

from metier.core.errors import DataError, counted
from metier.core.folders import storage_error
from metier.curate.lines import BOM, lines
from metier.curate.records import json_pieces, json_text
from metier.curate.tables import Piece, Table

__all__ = ["erase_records"]

_PIECE_BYTES = 1 << 20
PARQUET_COMPRESSION: Literal["zstd", "uncompressed"] = "zstd"


def erase_records(path: Path, numbers: Collection[int]) -> int:
    """Replace the records of these numbers (`meta.source_row`) by empty places; how many held something.

    Raises:
        DataError: the file has no such record, or cannot be read; it is as it was.
        StoreError: the disk is full or the folder cannot be written; the file is as it was.
    """
    path = path.resolve()  # of a link, the file it names is rewritten
    if not numbers:
        return 0
    kind = path.suffix.lower()
    if kind in (".csv", ".tsv"):
        return _erase_csv(path, frozenset(numbers))
    if kind == ".parquet":
        return _erase_parquet(path, frozenset(numbers))
    if kind == ".json":
        return _erase_json(path, frozenset(numbers))
    return _erase_jsonl(path, frozenset(numbers))


def _erase_jsonl(path: Path, numbers: frozenset[int]) -> int:
    num_lines = num_erased = 0
    for line in lines(path, str(path)):
        num_lines = line.number
        num_erased += line.number in numbers and (line.data is None or bool(line.data.strip()))
    _check_there(path, numbers, num_lines)
    _replace(path, lambda new: _copy_lines(path, new, dict.fromkeys(numbers, b"")))
    return num_erased


def _erase_csv(path: Path, numbers: frozenset[int]) -> int:
    left: dict[int, bytes] = {}
    number = num_erased = 0
    for number, piece in enumerate(Table(path, str(path)).pieces(), start=1):
        if number in numbers:
            left |= dict.fromkeys(range(piece.first, piece.last + 1), b"")
            left[piece.first] = b" "
            num_erased += not piece.is_blank
    _check_there(path, numbers, number)

    def write(new: BinaryIO) -> None:
        _copy_lines(path, new, left)
        new.flush()
        _check_same(path, Path(new.name), numbers)

    _replace(path, write)
    return num_erased


def _check_same(path: Path, new_path: Path, numbers: frozenset[int]) -> None:
    """Refuse where the other records would be read differently: how far a broken row reaches hangs on what follows."""

    def facts(found: Iterator[Piece]) -> Iterator[tuple[int, int, list[str] | None]]:
        return ((piece.first, piece.last, piece.fields) for piece in found)

    old, new = Table(path, str(path)).pieces(), Table(new_path, str(path)).pieces()
    for number, (was, now) in enumerate(zip_longest(facts(old), facts(new)), start=1):
        if was != now and (number not in numbers or was is None or now is None or was[0] != now[0]):
            line = was[0] if was else "its end"
            raise DataError(
                f"{path}: a broken row near line {line} would be read differently once the records are gone; expected "
                "every quote closed. Repair the rows that failed when the file was read, or erase them too."
            )


def _copy_lines(path: Path, new: BinaryIO, left: dict[int, bytes]) -> None:
    """The file's bytes, but for the lines in `left`, of which only their ends and what is given for them stay."""
    with path.open("rb") as old:
        start = old.read(len(BOM))
        if start == BOM:
            new.write(BOM)
        else:
            old.seek(0)
        number, starts_line = 0, True
        while piece := old.readline(_PIECE_BYTES):
            number += starts_line
            if starts_line and number in left:
                new.write(left[number])
            if number not in left:
                new.write(piece)
            elif piece.endswith(b"\n"):
                new.write(b"\r\n" if piece.endswith(b"\r\n") else b"\n")
            starts_line = piece.endswith(b"\n")
        if not starts_line and number in left:
            new.write(b"\n")  # the last line keeps its number even when nothing is on it


def _erase_json(path: Path, numbers: frozenset[int]) -> int:
    text = json_text(path, str(path))
    out, copied, number, num_erased = [], 0, 0, 0
    for piece in json_pieces(text):
        items: list[Any] = [piece.problem] if piece.problem else piece.items  # Any: JSON values
        mine = [place for place in range(len(items)) if number + 1 + place in numbers]
        number += len(items)
        num_erased += sum(items[place] is not None for place in mine)
        if not mine:
            continue
        gone = text[piece.start : piece.end]
        if piece.wrapper:
            for place in mine:
                items[place] = None
            new = json.dumps(piece.value)
        else:
            new = "null"
        if piece.problem and piece.end == len(text) and text.lstrip()[:1] == "[":
            new += "]"  # a broken end goes with the list's own
        out += [text[copied : piece.start], new, "\n" * (gone.count("\n") - new.count("\n"))]
        copied = piece.end
    _check_there(path, numbers, number)
    has_bom = path.read_bytes()[: len(BOM)] == BOM
    out.append(text[copied:])
    _replace(path, lambda file: file.write((BOM if has_bom else b"") + "".join(out).encode("utf-8")))
    return num_erased


def _erase_parquet(path: Path, numbers: frozenset[int]) -> int:
    import polars as pl

    place = "metier: place of the row"
    try:
        frame = pl.scan_parquet(path)
        columns = frame.collect_schema().names()
        numbered = frame.with_row_index(place, offset=1)
        is_gone = pl.col(place).is_in(sorted(numbers))
        num_rows = int(frame.select(pl.len()).collect().item())
        _check_there(path, numbers, num_rows)
        held = numbered.filter(is_gone).select(pl.any_horizontal(pl.col(columns).is_not_null()).sum())
        num_erased = int(held.collect().item())
        kept = numbered.select(pl.when(is_gone).then(None).otherwise(pl.col(name)).alias(name) for name in columns)

        def write(new: BinaryIO) -> None:
            kept.sink_parquet(new.name, compression=PARQUET_COMPRESSION, maintain_order=True)

        _replace(path, write)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as err:
        reason = (str(err).splitlines() or [type(err).__name__])[0]
        raise DataError(f"{path}: not readable as Parquet ({reason}). Write the file again.") from err
    return num_erased


def _check_there(path: Path, numbers: frozenset[int], num_records: int) -> None:
    gone = sorted(number for number in numbers if not 1 <= number <= num_records)
    if gone:
        raise DataError(
            f"{path}: no record {gone[0]}; the file has {counted(num_records, 'record')}. It is not the file the rows "
            "were read from: run `metier run` to read it again, then erase."
        )


def _replace(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Put what `write` writes in the place of a file, wholly or not at all."""
    temp_path = path.with_name(f".{path.name}.erasing.part")  # one name: what a killed run left is overwritten
    try:
        with temp_path.open("wb") as new:
            write(new)
            new.flush()
            os.fsync(new.fileno())
        shutil.copymode(path, temp_path)
        temp_path.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the rename itself: after a power cut the old file must not be back
        finally:
            os.close(folder)
    except OSError as err:
        raise storage_error(path, err) from err
    finally:
        with suppress(OSError):
            temp_path.unlink()
