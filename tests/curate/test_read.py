"""Files into rows: every kind of file, every kind of damage, and nothing lost."""

from __future__ import annotations

import json
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from metier.core.errors import ConfigError, DataError
from metier.core.settings import DataConfig
from metier.curate import ReadResult, read_rows

KEY = b"project"
COLUMNS = {"prompt": "q", "reply": "a"}


def read(folder: Path, *files: str, **settings: Any) -> ReadResult:
    settings.setdefault("columns", COLUMNS)
    return read_rows(DataConfig(files=files or ("rows.jsonl",), **settings), folder, key=KEY)


def write(folder: Path, data: str | bytes, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def jsonl(*records: Any) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def texts(result: ReadResult) -> list[tuple[str, str]]:
    return [(row.prompt_text, row.gold) for row in result.rows]


def failures(result: ReadResult) -> list[str]:
    return [f"{where}: {message}" for where, message in result.failed]


GOOD = jsonl({"q": "one", "a": "1"}, {"q": "two", "a": "2"})


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("rows.jsonl", GOOD),
        ("rows.ndjson", "\n\n" + GOOD),
        ("rows.jsonl", b"\xef\xbb\xbf" + GOOD.encode()),
        ("rows.jsonl", GOOD.rstrip()),
        ("rows.json", '[{"q": "one", "a": "1"},\n {"q": "two", "a": "2"}]'),
        ("rows.json", '{"data": [{"q": "one", "a": "1"}, {"q": "two", "a": "2"}]}'),
        ("rows.json", GOOD),
        ("rows.csv", "q,a\none,1\ntwo,2\n"),
        ("rows.csv", b"\xef\xbb\xbfq,a\r\none,1\r\n\r\ntwo,2"),
        ("rows.csv", 'q;a;"x,y"\none;1;\ntwo;2;\n'),
        ("rows.tsv", "q\ta\none\t1\ntwo\t2\n"),
        ("ROWS.CSV", "q,a\none,1\ntwo,2\n"),
    ],
)
def test_kinds_of_files_give_the_same_rows(tmp_path: Path, name: str, data: str | bytes) -> None:
    result = read(write(tmp_path, data, name), name)
    assert texts(result) == [("one", "1"), ("two", "2")]
    assert (result.num_read, result.failed) == (2, [])


def test_parquet_with_nested_messages_and_times(tmp_path: Path) -> None:
    import polars as pl

    messages = [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]]
    pl.DataFrame({"messages": messages, "at": [datetime(2026, 3, 1)]}).write_parquet(tmp_path / "rows.parquet")
    (row,) = read(tmp_path, "rows.parquet", columns={}, time="at").rows
    assert (row.prompt_text, row.gold) == ("Hi", "Hello")
    assert row.meta.collected_at == datetime(2026, 3, 1, tzinfo=UTC)


def test_quoted_field_keeps_its_lines_with_lf(tmp_path: Path) -> None:
    result = read(write(tmp_path, b'q,a\r\n"one\r\nmore, ""quoted""",1\r\n', "rows.csv"), "rows.csv")
    assert texts(result) == [('one\nmore, "quoted"', "1")]


def test_folders_and_globs_give_each_file_once_in_order_of_name(tmp_path: Path) -> None:
    write(tmp_path, jsonl({"q": "b", "a": "2"}), "data/b.jsonl")
    write(tmp_path, "q,a\na,1\n", "data/a.csv")
    write(tmp_path, "no rows", "data/README.md")
    result = read(tmp_path, "data/*.jsonl", "data", "data/../data/a.csv")
    assert [(row.meta.source, row.meta.source_row) for row in result.rows] == [("data/a.csv", 1), ("data/b.jsonl", 1)]


def test_a_glob_may_leave_the_project(tmp_path: Path) -> None:
    write(tmp_path, GOOD, "shared/rows.jsonl")
    (tmp_path / "project").mkdir()
    assert {row.meta.source for row in read(tmp_path / "project", "../shared/*.jsonl").rows} == {"../shared/rows.jsonl"}


def test_meta_comes_from_the_named_columns(tmp_path: Path) -> None:
    record = {
        "q": "one", "a": "1", "who": "ana", "customer": 7, "case": {"id": "c"}, "at": "2026-03-01", "until": "2027-03-01",
        "region": "north", "policy": "p2", "lic": "CC0", "consent": "granted",
    }  # fmt: skip
    write(tmp_path, jsonl(record))
    (row,) = read(
        tmp_path, subject=("who",), groups=("customer", "case.id"), time="at", expires="until", attributes=("region",),
        policy="policy", licence="column:lic",
    ).rows  # fmt: skip
    meta = row.meta
    assert meta.subjects == ("ana",)
    assert meta.groups == {"customer": "7", "case.id": "c"}
    assert (meta.collected_at, meta.expires_at) == (datetime(2026, 3, 1, tzinfo=UTC), datetime(2027, 3, 1, tzinfo=UTC))
    assert (meta.attributes, meta.policy_version, meta.licence, meta.consent) == (
        {"region": "north"},
        "p2",
        "CC0",
        "granted",
    )


def test_licence_and_consent_have_defaults(tmp_path: Path) -> None:
    (row, _) = read(write(tmp_path, GOOD), licence="CC0", consent_default="denied").rows
    assert (row.meta.licence, row.meta.consent) == ("CC0", "denied")


def test_origin_hangs_on_the_record_and_row_id_on_the_content(tmp_path: Path) -> None:
    write(tmp_path, jsonl({"q": "one", "a": "1"}, {"q": "one", "a": "1"}))
    first, second = read(tmp_path).rows
    assert first.origin_id != second.origin_id
    assert first.row_id == second.row_id


BAD_LINES: list[tuple[bytes, str]] = [
    (b'{"q": "x", "a"', "rows.jsonl:2: broken JSON (Expecting ':' delimiter"),
    (b'["q"]', "rows.jsonl:2: a JSON list; expected a JSON object with the row's fields."),
    (b'{"q": "\xff", "a": "x"}', "rows.jsonl:2: byte 8 of the line (0xff) is not UTF-8; expected UTF-8. Export the file as UTF-8."),
    (b'{"q": "\x00", "a": "x"}', "rows.jsonl:2: a NUL byte at character 8; expected text."),
    (b'{"q": "\\u0000", "a": "x"}', "rows.jsonl:2: q holds a NUL character at 1; expected text."),
    (b'{"q": "\\ud800", "a": "x"}', "rows.jsonl:2: q holds half a character"),
    (b'{"a": "x"}', "rows.jsonl:2: column 'q' is empty; expected the prompt."),
    (b'{"q": "x", "a": "y", "at": "soon"}', "rows.jsonl:2: column 'at': 'soon' is not a time; expected for example 2026-03-01"),
    (b'{"q": "x", "a": "y", "consent": "maybe"}', "rows.jsonl:2: consent is 'maybe'; expected granted, denied, unknown."),
    (b"[" * 100_000, "rows.jsonl:2: broken JSON (nested too deeply)"),
    (b'{"q": "x", "a": "y", "q": "z"}', "rows.jsonl:2: broken JSON (field 'q' stands twice in one object); expected one JSON object a line."),
    (b'{"q": "x", "a": "y", "more": ' + b"9" * 5000 + b"}", "rows.jsonl:2: broken JSON (Exceeds the limit (4300 digits)"),
    (b'{"q": "x", "a": "y", "at": ' + b"9" * 400 + b"}", "rows.jsonl:2: column 'at': a number of more than 300 digits is not a time"),
    (b"null", "rows.jsonl:2: a JSON null; expected a JSON object with the row's fields."),
    (b"NaN", "rows.jsonl:2: a JSON number; expected a JSON object"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_bad_line_fails_alone_and_says_where(tmp_path: Path, line: bytes, message: str) -> None:
    data = b'{"q": "one", "a": "1", "at": "2026-03-01"}\n' + line + b'\n{"q": "two", "a": "2"}\n'
    result = read(write(tmp_path, data), time="at")
    assert texts(result) == [("one", "1"), ("two", "2")]
    assert result.num_read == 3
    (failure,) = failures(result)
    assert failure.startswith(message)


def test_cut_off_last_line_says_so(tmp_path: Path) -> None:
    (failure,) = failures(read(write(tmp_path, GOOD + '{"q": "thr')))
    assert failure.startswith("rows.jsonl:3: broken JSON")
    assert failure.endswith("The last line looks cut off: was the file copied whole?")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_a_line_of_100_mb_fails_alone_in_bounded_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with path.open("wb") as file:
        file.write(b"q,a\none,1\n" if name.endswith("csv") else b'{"q": "one", "a": "1"}\n')
        file.write(b'{"q": "')
        for _ in range(100):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n' + (b"two,2\n" if name.endswith("csv") else b'{"q": "two", "a": "2"}\n'))
    tracemalloc.start()
    result = read(tmp_path, name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert texts(result) == [("one", "1"), ("two", "2")]
    line = 3 if name.endswith("csv") else 2
    assert failures(result) == [
        f"{name}:{line}: a line of 95 MiB; expected at most 16 MiB. Look for a missing line break, or split the record."
    ]
    assert peak < 60e6


BAD_ROWS: list[tuple[bytes, list[str]]] = [
    (
        b"q,a\none,1,extra\ntwo,2\n",
        ["rows.csv:2: 3 fields; expected 2 as in the header. Quote fields that hold the delimiter."],
    ),
    (b"q,a\none\ntwo,2\n", ["rows.csv:2: 1 fields; expected 2"]),
    (b"q,a\n\xff,1\ntwo,2\n", ["rows.csv:2: column 'q': byte 1 of the field (0xff) is not UTF-8"]),
    (b"q,a\n\x00,1\ntwo,2\n", ["rows.csv:2: column 'q': a NUL byte at character 1"]),
    (b'q,a\n"one"x,1\ntwo,2\n', ["rows.csv:2: broken table row (',' expected after '\"'); expected fields quoted"]),
    (b'q,a\ntwo,2\n"never,closed\nat all\n', ["rows.csv:3: a quote opened at or after line 3 is never closed; expected a closing quote. Repair the file. The broken row seems to reach to line 4."]),
    (b"q,a\none\rmore,1\ntwo,2\n", ["rows.csv:2: broken table row (a bare carriage return in a field); expected fields quoted"]),
]  # fmt: skip


@pytest.mark.parametrize(("data", "messages"), BAD_ROWS)
def test_bad_table_row_fails_alone(tmp_path: Path, data: bytes, messages: list[str]) -> None:
    result = read(write(tmp_path, data, "rows.csv"), "rows.csv")
    assert texts(result) == [("two", "2")]
    assert [found.startswith(expected) for found, expected in zip(failures(result), messages, strict=True)] == [True]


MISTAKEN_QUOTES = [
    # The next quote opens a field, so the one before it was opened by mistake.
    (b'q,a\n"open,1\ntwo,2\nthree,"3"\n', [("two", "2"), ("three", "3")], 2, 2),
    (b'q,a\n"open,1\n"open,1\ntwo,"2"\n', [("two", "2")], 2, 2),
    # No further quote, but what follows has the form of this table.
    (b'q,a\n"open,1\ntwo,2\nthree,3\n', [("two", "2"), ("three", "3")], 2, 2),
    # A text of several lines with quotes that are not doubled: nothing of it becomes a row.
    (b'q,a\n"one\nline, ""two"" or "three",\nand four",1\ntwo,2\n', [("two", "2")], 2, 4),
    (b'q,a\n"one "two" three\nand, four",1\ntwo,2\n', [("two", "2")], 2, 3),
    # A file cut off inside a text.
    (b'q,a\ntwo,2\n"Dear Ana,\nyour order\nis on its', [("two", "2")], 3, 5),
]  # fmt: skip


@pytest.mark.parametrize(("data", "rows", "first", "last"), MISTAKEN_QUOTES)
def test_a_broken_quote_takes_no_other_row_with_it_and_makes_none_up(
    tmp_path: Path, data: bytes, rows: list[tuple[str, str]], first: int, last: int
) -> None:
    result = read(write(tmp_path, data, "rows.csv"), "rows.csv")
    assert texts(result) == rows
    assert result.failed[0].where == f"rows.csv:{first}"
    reach = f"The broken row seems to reach to line {last}."
    assert (reach in result.failed[0].message) == (last > first)


def test_columns_without_a_name_may_be_many(tmp_path: Path) -> None:
    result = read(write(tmp_path, "q,a,,\none,1,,\n", "rows.csv"), "rows.csv")
    assert texts(result) == [("one", "1")]


def test_a_reply_in_json_is_text(tmp_path: Path) -> None:
    reply = '{"name": "Ana", "orders": [4411]}'
    table = read(write(tmp_path, "q\ta\n[1, 2]\t" + reply + "\n", "rows.tsv"), "rows.tsv")
    pair = read(
        write(tmp_path, jsonl({"prompt": "[1, 2]", "completion": reply}), "pair.jsonl"), "pair.jsonl", columns={}
    )
    assert texts(table) == texts(pair) == [("[1, 2]", reply)]


def test_bytes_in_a_parquet_column_are_no_text(tmp_path: Path) -> None:
    import polars as pl

    pl.DataFrame({"q": [b"one"], "a": ["1"]}).write_parquet(tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="rows.parquet:1: q is a bytes; expected text. Map a field that holds text."):
        read(tmp_path, "rows.parquet")


def test_a_json_object_with_a_field_twice_fails_alone(tmp_path: Path) -> None:
    data = '[{"q": "one", "a": "1"},\n {"q": "x", "q": "y", "a": "z"},\n {"q": "two", "a": "2"}]'
    result = read(write(tmp_path, data, "rows.json"), "rows.json")
    assert texts(result) == [("one", "1"), ("two", "2")]
    assert failures(result) == [
        "rows.json:2: field 'q' stands twice in one object; expected each field once. Remove one of the two."
    ]


def test_broken_json_array_keeps_what_came_before(tmp_path: Path) -> None:
    result = read(write(tmp_path, '[{"q": "one", "a": "1"},\n{"q": "tw', "rows.json"), "rows.json")
    assert texts(result) == [("one", "1")]
    assert failures(result)[0].startswith("rows.json:2: broken JSON")


def test_second_row_with_an_id_fails_and_names_the_first(tmp_path: Path) -> None:
    write(tmp_path, jsonl({"q": "one", "a": "1", "id": 5}, {"q": "two", "a": "2", "id": "5"}))
    write(tmp_path, "\n\n" + jsonl({"q": "three", "a": "3", "id": 5}), "other.jsonl")
    result = read(tmp_path, "rows.jsonl", "other.jsonl", columns={**COLUMNS, "id": "id"})
    assert failures(result) == [
        "rows.jsonl:2: id '5' already stands at rows.jsonl:1; expected one row an id. Remove one of the two."
    ]
    assert len(result.rows) == 2  # ids are unique within a file


STOPS: list[tuple[dict[str, bytes], dict[str, Any], type[Exception], str]] = [
    ({}, {}, ConfigError, "rows.jsonl: no file with rows there, seen from"),
    ({"rows.jsonl": b""}, {}, DataError, "rows.jsonl: empty file; expected rows."),
    ({"rows.jsonl": b"\n \n"}, {}, DataError, "rows.jsonl: no rows at all; expected at least one record"),
    ({"rows.jsonl": "{}".encode("utf-16")}, {}, DataError, "rows.jsonl: UTF-16 text; expected UTF-8."),
    ({"rows.jsonl": b'{"q": "x"}\n{"q": 1}\n'}, {"columns": {}}, DataError, "rows.jsonl: all of 2 records failed; the first:\n  rows.jsonl:1: a record with 'q'; expected messages"),
    ({"rows.jsonl": b'{"q": "x", "a": "y"}\n'}, {"columns": {"prompt": "q", "reply": "ans"}}, ConfigError, "[data] columns.reply names the column 'ans', which no record has; known: a, q."),
    ({"rows.jsonl": b'{"q": "x", "a": "y", "dates": 1}\n'}, {"time": "date"}, ConfigError, "[data] time names the column 'date', which no record has; did you mean 'dates'?"),
    ({"rows.jsonl": b'{"q": "x", "a": "y"}\n'}, {"groups": ("customer",)}, ConfigError, "[data] groups names the column 'customer', which no record has"),
    ({"rows.jsonl": b"{}"}, {"columns": {"promt": "q"}}, ConfigError, "[data] columns: unknown column 'promt'; did you mean 'prompt'?"),
    ({"rows.jsonl": b"{}"}, {"columns": {"prompt": "q"}}, ConfigError, "has a prompt but no reply and no label"),
    ({"rows.jsonl": b"{}"}, {"columns": {"reply": "q"}}, ConfigError, "[data] columns.reply needs columns.prompt"),
    ({"rows.jsonl": b"{}"}, {"columns": {}, "format": "table"}, ConfigError, "[data] format = 'table' needs columns.prompt"),
    ({"rows.jsonl": b"{}"}, {"format": "sharegtp"}, ConfigError, "[data] format is 'sharegtp'; did you mean 'sharegpt'?"),
    ({"rows.jsonl": b"{}"}, {"format": "sharegpt"}, ConfigError, "columns.prompt has no effect with format = 'sharegpt'"),
    ({"rows.xml": b"<x/>"}, {"files": ("rows.xml",)}, ConfigError, "rows.xml: .xml is not a known kind of file; expected .jsonl"),
    ({"rows.csv": b"q,a,q\n1,2,3\n"}, {"files": ("rows.csv",)}, DataError, "rows.csv:1: column 'q' stands twice in the header"),
    ({"rows.csv": b"q,a\n"}, {"files": ("rows.csv",)}, DataError, "rows.csv: no rows at all"),
    ({"rows.csv": b"\xef\xbb\xbf"}, {"files": ("rows.csv",)}, DataError, "rows.csv: no rows at all"),
    ({"rows.tsv": b"\xef\xbb\xbf"}, {"files": ("rows.tsv",)}, DataError, "rows.tsv: no rows at all"),
    ({"rows.tsv": b""}, {"files": ("rows.tsv",)}, DataError, "rows.tsv: empty file; expected rows."),
    ({"rows.parquet": b""}, {"files": ("rows.parquet",)}, DataError, "rows.parquet: empty file; expected rows."),
    ({"rows.json": b""}, {"files": ("rows.json",)}, DataError, "rows.json: empty file; expected rows."),
    ({"rows.csv": b'"q"x,a\n1,2\n'}, {"files": ("rows.csv",)}, DataError, "rows.csv:1: no header could be read: broken table row"),
    ({"rows.csv": b"q,\xff\n1,2\n"}, {"files": ("rows.csv",)}, DataError, "rows.csv:1: the header is not text"),
    ({"rows.parquet": b"PAR1nonsense"}, {"files": ("rows.parquet",)}, DataError, "rows.parquet: not readable as Parquet"),
    ({"rows.json": b'[{"q": "\xff"}]'}, {"files": ("rows.json",)}, DataError, "rows.json:1: not UTF-8 (byte 0xff)"),
]  # fmt: skip


@pytest.mark.parametrize(("files", "settings", "error", "message"), STOPS)
def test_what_cannot_be_read_at_all_stops_with_the_fix(
    tmp_path: Path, files: dict[str, bytes], settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    for name, data in files.items():
        write(tmp_path, data, name)
    names = settings.pop("files", ("rows.jsonl",))
    with pytest.raises(error) as caught:
        read(tmp_path, *names, **settings)
    assert message in str(caught.value)


def test_a_result_that_lost_a_row_cannot_exist(tmp_path: Path) -> None:
    result = read(write(tmp_path, GOOD))
    with pytest.raises(DataError, match="reading lost rows: 1 rows and 0 failures of 2 records"):
        ReadResult(result.rows[:1], [], 2)
