"""Reading never crashes and never loses a record, whatever the bytes, the values or the table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.core.errors import MetierError
from metier.core.settings import DataConfig
from metier.curate.read import ReadChunk, read_chunks
from metier.curate.shapes import FIELDS, ShapeError, read_shape
from metier.curate.tables import Table
from metier.curate.times import parse_time

KEY = b"k"
TABLE = {"columns": {"prompt": "q", "reply": "a"}, "time": "at", "groups": ("who.name",)}
FRAGMENTS = [
    b'{"q": "x", "a": "y"}', b"\n", b"\n", b"\r\n", b"\r", b'"', b'""', b",", b";", b"\t", b"q,a,at\n", b"x,y,\n", b"null",
    b"[", b"]", b"{", b"}", b'{"rows": [', b"\xef\xbb\xbf", b"\xff", b"\xc3", b"\x00", b"\x1b", b"NaN", b"1e999", b" ",
    b'{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}', b'{"q": "\\ud800"}', b"PAR1",
    b'"x\ny",z\n', b"01/02/2026", "\u00e9\ufeff\u200b".encode(),
]  # fmt: skip
scraps = st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=4))
junk = st.lists(scraps, max_size=25).map(b"".join)


def read(data: bytes, name: str, **config: Any) -> list[ReadChunk] | str:
    """The chunks, of two records each, or why nothing can be read."""
    with TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(data)
        try:
            return list(read_chunks(DataConfig(files=(name,), **config), Path(folder), key=KEY, chunk_rows=2))
        except MetierError as err:
            assert str(err)
            return str(err)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.tsv", "rows.parquet"])
@settings(max_examples=60, deadline=None)
@given(data=junk, is_table=st.booleans())
def test_any_bytes_are_rows_failures_or_an_error_of_ours(name: str, data: bytes, is_table: bool) -> None:
    chunks = read(data, name, **(TABLE if is_table else {}))
    if isinstance(chunks, str):
        return
    for chunk in chunks:
        assert chunk.num_read == len(chunk.rows) + len(chunk.failed) > 0
        for where, message in chunk.failed:
            assert where.startswith(f"{name}:")
            assert message.endswith((".", "?")), message


json_values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
        st.sampled_from(["user", "assistant", "tool", "bot", "", "[]", "{", '[{"role": "user", "content": "x"}]', "2026-03-01"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from([
                "role", "content", "from", "value", "weight", "train", "name", "tool_calls", "function_call", "function",
                "arguments", "messages", "type", "text", "x",
            ]),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)  # fmt: skip
fields = st.sampled_from(sorted(FIELDS | {"label", "q", "a", "at", "consent", "who"}))


@settings(max_examples=250, deadline=None)
@given(record=st.dictionaries(fields, json_values, max_size=5))
def test_any_values_in_known_fields_are_read_or_refused_with_a_reason(record: dict[str, Any]) -> None:
    try:
        example = read_shape(record, "auto", {})
    except ShapeError as err:
        assert str(err).endswith(".")
        return
    except ValueError:
        return  # the row contract's own refusal, which the reader names with the line
    assert example.messages


@settings(max_examples=60, deadline=None)
@given(
    records=st.lists(st.dictionaries(fields, json_values, max_size=5), min_size=1, max_size=4), is_table=st.booleans()
)
def test_any_records_add_up(records: Sequence[dict[str, Any]], is_table: bool) -> None:
    chunks = read("\n".join(map(json.dumps, records)).encode(), "rows.jsonl", **(TABLE if is_table else {}))
    if not isinstance(chunks, str):
        assert sum(chunk.num_read for chunk in chunks) == len(records)


table_text = st.lists(
    st.sampled_from(
        ["x", ",", ",", "\n", "\n", '"', '"', '""', "\r\n", "\r", " ", "\0", "\u00e9", 'a,"b\nc",d\n', "x,y\n"]
    ),
    max_size=40,
).map("".join)


@settings(max_examples=200, deadline=None)
@given(text=table_text)
def test_every_line_of_any_table_belongs_to_one_record_in_order(text: str) -> None:
    data = ("q,a\n" + text).encode()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        path.write_bytes(data)
        pieces = list(Table(path, "rows.csv").pieces())
    lines = data.split(b"\n")
    covered = {line for piece in pieces for line in range(piece.first, piece.last + 1)}
    assert sum(piece.last - piece.first + 1 for piece in pieces) == len(covered)  # none twice
    assert [piece.first for piece in pieces] == sorted(piece.first for piece in pieces)
    left = [line for number, line in enumerate(lines, start=1) if number > 1 and number not in covered]
    assert not b"".join(left).strip(b"\r"), left  # only empty lines belong to none
    assert all((piece.fields is None) == bool(piece.problem) for piece in pieces)


@settings(max_examples=300, deadline=None)
@given(
    value=st.one_of(
        json_values,
        st.datetimes(),
        st.text(alphabet="0123456789/.-: TZ+JanFebMrch,", max_size=20),
        st.integers(min_value=-(10**18), max_value=10**18),
    )
)
def test_any_value_is_a_time_no_time_or_refused(value: Any) -> None:
    try:
        found = parse_time(value)
    except ValueError as err:
        assert "expected" in str(err) or "write" in str(err)
        return
    assert found is None or (found.tzinfo is UTC and datetime(1970, 1, 1, tzinfo=UTC) <= found)
