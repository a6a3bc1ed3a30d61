"""Lines of a file with bounded memory: a line that is too long is a failure of that line, not of the run.

Bytes are split at LF only; a byte order mark at the start is dropped, UTF-16 is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from metier.core.errors import DataError

__all__ = ["BOM", "MAX_LINE_BYTES", "Line", "decoded", "lines", "too_long"]

BOM = b"\xef\xbb\xbf"
MAX_LINE_BYTES = 16 << 20
"""Longest line read; a longer one is skipped in pieces of 1 MiB, never held."""


class Line(NamedTuple):
    """One line without its end; `data` is None where the line has more than `MAX_LINE_BYTES` bytes."""

    number: int
    data: bytes | None
    num_bytes: int
    ended: bool
    """Whether a line feed closed it; the last line of a file cut off has none."""
    end: int
    """Where the next line starts in the file, in bytes."""


def lines(path: Path, name: str, *, after: Line | None = None) -> Iterator[Line]:
    """The lines of a file, numbered from 1, empty ones included; `after` starts behind a line read before.

    Raises:
        DataError: the file is empty, UTF-16, or cannot be read.
    """
    try:
        file = path.open("rb")
    except OSError as err:
        raise DataError(f"{name}: cannot be read ({err.strerror}). Check the file and [data] files.") from err
    with file:
        if after is None:
            number, at = 0, _text_start(file.read(4), name)
        else:
            number, at = after.number, after.end
        file.seek(at)
        while piece := file.readline(MAX_LINE_BYTES + 2):
            number += 1
            at += len(piece)
            ended = piece.endswith(b"\n")
            body = piece[:-1] if ended else piece
            if len(body) <= MAX_LINE_BYTES:
                yield Line(number, body, len(body), ended, at)
                continue
            num_bytes = len(body)
            while not ended and (piece := file.readline(1 << 20)):
                at += len(piece)
                ended = piece.endswith(b"\n")
                num_bytes += len(piece) - ended
            yield Line(number, None, num_bytes, ended, at)


def _text_start(start: bytes, name: str) -> int:
    """Where the text of a file begins, seen from its first bytes."""
    if not start:
        raise DataError(f"{name}: empty file; expected rows. Remove it from [data] files or export it again.")
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{name}: UTF-16 text; expected UTF-8. Save or export the file as UTF-8.")
    return len(BOM) if start.startswith(BOM) else 0


def too_long(line: Line) -> str:
    """What is wrong with a line that was skipped for its length."""
    return (
        f"a line of {line.num_bytes / 2**20:.0f} MiB; expected at most {MAX_LINE_BYTES >> 20} MiB. "
        "Look for a missing line break, or split the record."
    )


def decoded(data: bytes) -> tuple[str, str]:
    """The text of UTF-8 bytes and what is wrong with them, one of the two empty."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as err:
        return "", (
            f"byte {err.start + 1} of the line (0x{data[err.start]:02x}) is not UTF-8; expected UTF-8. "
            "Export the file as UTF-8."
        )
    if "\0" in text:
        return "", f"a NUL byte at character {text.index(chr(0)) + 1}; expected text. Remove it or export again."
    return text, ""
