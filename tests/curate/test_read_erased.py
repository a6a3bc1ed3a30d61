"""Erased records: gone from the file's bytes, their place kept, every other record read as before."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.core.errors import DataError, StoreError
from metier.core.settings import DataConfig
from metier.curate import erase
from metier.curate.erase import erase_records
from metier.curate.read import ReadResult, read_rows

KEY = b"k"
EMPTY_PLACES: list[tuple[str, bytes]] = [
    ("rows.jsonl", b'{"q": "one", "a": "1"}\n\n{"q": "three", "a": "3"}\n'),
    ("rows.csv", b"q,a\none,1\n \nthree,3\n"),
    ("rows.tsv", b"q\ta\r\none\t1\r\n \r\nthree\t3\r\n"),
    ("rows.json", b'[{"q": "one", "a": "1"}, null, {"q": "three", "a": "3"}]'),
    ("rows.json", b'{"rows": [{"q": "one", "a": "1"}, null, {"q": "three", "a": "3"}]}'),
]


def read(path: Path) -> ReadResult:
    config = DataConfig(files=(path.name,), columns={"prompt": "q", "reply": "a"})
    return read_rows(config, path.parent, key=KEY)


def facts(result: ReadResult) -> list[tuple[int, str, str, str]]:
    return [(row.meta.source_row, row.origin_id, row.prompt_text, row.gold) for row in result.rows]


@pytest.mark.parametrize(("name", "data"), EMPTY_PLACES)
def test_an_empty_place_keeps_its_number_and_is_neither_row_nor_failure(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    result = read(tmp_path / name)
    assert [(number, prompt) for number, _, prompt, _ in facts(result)] == [(1, "one"), (3, "three")]
    assert (result.num_read, result.failed) == (2, [])


def test_a_parquet_row_of_nulls_is_an_empty_place(tmp_path: Path) -> None:
    import polars as pl

    frame = pl.DataFrame({"q": ["one", None, "three"], "a": ["1", None, "3"], "n": [{"x": 1}, None, {"x": 3}]})
    frame.write_parquet(tmp_path / "rows.parquet")
    result = read(tmp_path / "rows.parquet")
    assert [(number, prompt) for number, _, prompt, _ in facts(result)] == [(1, "one"), (3, "three")]
    assert (result.num_read, result.failed) == (2, [])


EXACT: list[tuple[str, bytes, set[int], bytes]] = [
    # A byte order mark, an empty line, Windows line ends, no line end at the last line: all as they were.
    (
        "rows.jsonl",
        b'\xef\xbb\xbf{"q": "one"}\r\n\n{"q": "three"}\n{"q": "four"}',
        {1, 4},
        b'\xef\xbb\xbf\r\n\n{"q": "three"}\n\n',
    ),
    (
        "rows.csv",
        b'q,a\r\n"one\r\nmore",1\r\n\r\ntwo,2\r\n"three\r\nand more\r\n",3',
        {1, 3},
        b"q,a\r\n \r\n\r\n\r\ntwo,2\r\n \r\n\r\n\n",
    ),
    ("rows.csv", b'q,a\n"one"x,1\ntwo,2\nthree\n', {1, 3}, b"q,a\n \ntwo,2\n \n"),  # broken rows are records too
    ("rows.json", b'[\n {"q": "one",\n  "a": 1.0},\n {"q": "two"}]\n', {1}, b'[\n null\n,\n {"q": "two"}]\n'),
    ("rows.json", b'{"q": "one"}\n{"q": "two"}\n', {2}, b'{"q": "one"}\nnull\n'),
    ("rows.json", b'[{"q": "one"}, {"q": "tw', {2}, b'[{"q": "one"}, null]'),
    ("rows.json", b'{"n": 1e2, "rows": [{"q": "one"}, {"q": "two"}]}', {1}, b'{"n": 100.0, "rows": [null, {"q": "two"}]}'),
]  # fmt: skip


@pytest.mark.parametrize(("name", "data", "numbers", "expected"), EXACT)
def test_every_other_byte_stays(tmp_path: Path, name: str, data: bytes, numbers: set[int], expected: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    path.chmod(0o640)
    assert erase_records(path, numbers) == len(numbers)
    assert path.read_bytes() == expected
    assert path.stat().st_mode & 0o777 == 0o640
    assert [found.name for found in tmp_path.iterdir()] == [name]
    assert erase_records(path, numbers) == 0  # a run that was killed asks again
    assert path.read_bytes() == expected


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("more", [-2, -1, 0, 1])
def test_lines_longer_than_what_is_copied_at_once_go_or_stay_whole(tmp_path: Path, more: int, end: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    stays, goes = (b'"' + letter * ((1 << 20) + more) + b'"' + end for letter in (b"s", b"g"))
    path.write_bytes(stays + goes + stays)
    assert erase_records(path, {2}) == 1
    left = path.read_bytes().removeprefix(stays).removesuffix(stays)
    assert left in (end, b"\n")  # the two bytes of a line end may fall apart


class Cell(NamedTuple):
    """One record of the property test: a text nothing else holds, and whether its line is broken."""

    text: str
    is_broken: bool


cells = st.builds(
    Cell,
    st.text(alphabet='ab"\n\r,; \t\u00e9\U0001f600{}[]', max_size=12),
    st.sampled_from([False, False, False, True]),
)


def texts_of(records: Sequence[Cell]) -> list[str]:
    """Each text between two marks no other record holds, so that its bytes can be looked for."""
    return [f"<{i}{cell.text}{i}>" for i, cell in enumerate(records, start=1001)]


def as_jsonl(records: Sequence[Cell]) -> bytes:
    lines = [json.dumps({"q": text, "a": "x"}) for text in texts_of(records)]
    lines = [line[:-1] if cell.is_broken else line for line, cell in zip(lines, records, strict=True)]
    return "\n".join(lines).encode()


def as_csv(records: Sequence[Cell]) -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["q", "a"])
    for cell, text in zip(records, texts_of(records), strict=True):
        writer.writerow([text] if cell.is_broken else [text, "x"])
    return buffer.getvalue().encode()


def as_json(records: Sequence[Cell]) -> bytes:
    values: list[Any] = [
        [text] if cell.is_broken else {"q": text, "a": "x"}
        for cell, text in zip(records, texts_of(records), strict=True)
    ]
    return json.dumps(values, indent=1, ensure_ascii=False).encode()


def as_wrapped_json(records: Sequence[Cell]) -> bytes:
    return json.dumps({"items": [{"q": text, "a": "x"} for text in texts_of(records)], "n": 1}).encode()


def as_parquet(records: Sequence[Cell]) -> bytes:
    import polars as pl

    texts, buffer = texts_of(records), io.BytesIO()
    frame = pl.DataFrame({
        "q": texts, "a": [None if cell.is_broken else "x" for cell in records],
        "c": pl.Series(texts).cast(pl.Categorical), "s": [{"t": [text]} for text in texts],
    })  # fmt: skip
    frame.write_parquet(buffer, compression="uncompressed")
    return buffer.getvalue()


WRITERS = {
    "rows.jsonl": as_jsonl,
    "rows.csv": as_csv,
    "rows.json": as_json,
    "wrapped.json": as_wrapped_json,
    "rows.parquet": as_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=40, deadline=None)
@given(records=st.lists(cells, min_size=2, max_size=6), picks=st.sets(st.integers(0, 5)))
def test_the_erased_are_gone_and_the_others_are_read_as_before(name: str, records: list[Cell], picks: set[int]) -> None:
    records = [*records, Cell("always good", is_broken=False)]
    gone = {place for place in picks if place < len(records) - 1}
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(erase, "PARQUET_COMPRESSION", "uncompressed")  # else its bytes could not be looked for
        path = Path(folder) / name
        path.write_bytes(WRITERS[name](records))
        before = read(path)
        assert erase_records(path, {place + 1 for place in gone}) == len(gone)
        after = read(path)
        data = path.read_bytes()
    numbers = {place + 1 for place in gone}
    assert facts(after) == [fact for fact in facts(before) if fact[0] not in numbers]
    assert set(after.failed) <= set(before.failed)
    assert after.num_read == before.num_read - len(gone)
    for place in range(len(records)):
        assert (b"<%d" % (place + 1001) in data) == (place not in gone)


def test_parquet_keeps_its_columns_and_their_order(tmp_path: Path) -> None:
    import polars as pl

    path = tmp_path / "rows.parquet"
    frame = pl.DataFrame({
        "q": ["one", "two"], "n": pl.Series([1, None], dtype=pl.Int16), "e": pl.Series(["x", "y"], dtype=pl.Enum(["x", "y"])),
        "m": [[{"role": "user", "content": "Hi"}], []], "b": [b"\x00", b"\x01"], "a": ["1", "2"],
    })  # fmt: skip
    frame.write_parquet(path, row_group_size=1)
    assert erase_records(path, {1}) == 1
    found = pl.read_parquet(path)
    assert found.schema == frame.schema
    assert found.rows() == [(None,) * 6, frame.row(1)]


def test_a_record_that_is_not_there_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    for name, write in WRITERS.items():
        path = tmp_path / name
        path.write_bytes(write([Cell("x", is_broken=False)] * 3))
        before = path.read_bytes()
        with pytest.raises(
            DataError, match=r"no record 9; the file has 3 records. It is not the file the rows were read"
        ):
            erase_records(path, {1, 9})
        assert path.read_bytes() == before
        assert erase_records(path, ()) == 0


def test_a_table_whose_broken_rows_would_swallow_others_is_refused(tmp_path: Path) -> None:
    """Only the quote on line 6 shows that the one on line 2 was opened by mistake; without it a text seems to end on 7."""
    path = tmp_path / "rows.csv"
    path.write_bytes(b'q,a\n"open,1\nx\ny\nz\nthree,"3"\nfour "4",x\n')
    assert [where for where, _ in read(path).failed] == ["rows.csv:2", "rows.csv:3", "rows.csv:4", "rows.csv:5"]
    before = path.read_bytes()
    with pytest.raises(DataError, match="a broken row near line 2 would be read differently once the records are gone"):
        erase_records(path, {5})
    assert path.read_bytes() == before
    assert erase_records(path, {1, 5}) == 2  # the broken row goes too: nothing is in doubt any more


def test_a_file_or_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        erase_records(tmp_path / "rows.csv", {1})
    with pytest.raises(DataError, match="not readable as Parquet"):
        erase_records(tmp_path / "rows.parquet", {1})
    path = tmp_path / "rows.jsonl"
    path.write_text('{"q": "one"}\n')
    (tmp_path / ".rows.jsonl.erasing.part").mkdir()  # what is in the way of the new file
    with pytest.raises(StoreError, match="could not be written"):
        erase_records(path, {1})
    assert path.read_text() == '{"q": "one"}\n'


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.jsonl").write_text('{"q": "one"}\n')
    (tmp_path / "link.jsonl").symlink_to("real.jsonl")
    assert erase_records(tmp_path / "link.jsonl", {1}) == 1
    assert (tmp_path / "link.jsonl").is_symlink()
    assert (tmp_path / "real.jsonl").read_text() == "\n"


ERASE_ONCE = """
import shutil, sys, time
from pathlib import Path
from metier.curate.erase import erase_records
path = Path(sys.argv[1])
copy = shutil.copy(path, path.with_name("copy.jsonl"))
start = time.perf_counter()
erase_records(Path(copy), {1})
print(time.perf_counter() - start, flush=True)
erase_records(path, {1})
"""


def test_a_run_killed_at_any_moment_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    line = b'{"q": "one", "a": "' + b"x" * 2000 + b'"}\n'
    old, new = line * 3000, b"\n" + line * 2999
    path.write_bytes(old)
    for share in (0.2, 0.6, 0.9):
        path.write_bytes(old)
        started = subprocess.Popen([sys.executable, "-c", ERASE_ONCE, str(path)], stdout=subprocess.PIPE, text=True)
        with started as process:
            assert process.stdout is not None
            whole_s = float(process.stdout.readline())
            time.sleep(whole_s * share)
            process.kill()
        assert path.read_bytes() in (old, new)
