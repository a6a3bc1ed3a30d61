"""10,000 malformed lines of 20 kinds among good ones: all named by file and line, none lost, none stops the run."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from metier.core.settings import DataConfig
from metier.curate.read import read_rows

NUM_EACH, NUM_GOOD = 500, 5_000
CONFIG = {
    "columns": {"prompt": "q", "reply": "a", "id": "id"},
    "time": "at",
    "expires": "until",
}


class Kind(NamedTuple):
    """One way to break a line: the line for a number, and what its failure must say."""

    line: Callable[[int], bytes]
    message: str


def fields(**changed: object) -> bytes:
    record: dict[str, object] = {"q": "x", "a": "y", "at": "2026-03-01", "until": "", "consent": "", "id": "bad"}
    return json.dumps(record | changed).encode()


JSON_KINDS = {
    "cut off": Kind(lambda i: fields(id=i)[:-9], "broken JSON ("),
    "a list": Kind(lambda i: b'["q", "a"]', "a JSON list; expected a JSON object"),
    "bare text": Kind(lambda i: b'"q"', "a JSON text; expected a JSON object"),
    "a number": Kind(lambda i: b"4711", "a JSON number; expected a JSON object"),
    "null": Kind(lambda i: b"null", "a JSON null; expected a JSON object"),
    "no JSON": Kind(lambda i: b"Where is my order?", "broken JSON (Expecting value"),
    "single quotes": Kind(lambda i: b"{'q': 'x'}", "broken JSON (Expecting property name"),
    "trailing comma": Kind(lambda i: b'{"q": "x", "a": "y",}', "broken JSON ("),
    "two objects": Kind(lambda i: b'{"q": "x"} {"q": "y"}', "broken JSON (Extra data"),
    "not UTF-8": Kind(lambda i: b'{"q": "caf\xe9"}', "(0xe9) is not UTF-8; expected UTF-8"),
    "NUL": Kind(lambda i: b'{"q": "\x00"}', "a NUL byte at character 8; expected text"),
    "control character": Kind(lambda i: b'{"q": "\x1b[0m"}', "broken JSON (Invalid control character"),
    "half a character": Kind(lambda i: fields(id=f"s{i}", q="\ud800"), "q holds half a character"),
    "field twice": Kind(lambda i: b'{"q": "x", "q": "y"}', "broken JSON (field 'q' stands twice"),
    "too deep": Kind(lambda i: b"[" * 3000, "broken JSON (nested too deeply)"),
    "empty prompt": Kind(lambda i: fields(q=" ", id=f"e{i}"), "column 'q' is empty; expected the prompt"),
    "an object as text": Kind(lambda i: fields(q={"text": "x"}, id=f"o{i}"), "q is a dict; expected text"),
    "no time": Kind(lambda i: fields(at="soon", id=f"t{i}"), "column 'at': 'soon' is not a time"),
    "two readings": Kind(lambda i: fields(until="01/02/2026", id=f"u{i}"), "column 'until': '01/02/2026' may be"),
    "consent": Kind(lambda i: fields(consent="perhaps", id=f"c{i}"), "consent is 'perhaps'; expected granted"),
}

CSV_KINDS = {
    "too few fields": Kind(lambda i: b"x,y", "2 fields; expected 6 as in the header"),
    "one field": Kind(lambda i: b"Where is my order?", "1 fields; expected 6 as in the header"),
    "too many fields": Kind(lambda i: b"x,y,2026-03-01,,,1,2", "7 fields; expected 6 as in the header"),
    "another delimiter": Kind(lambda i: b"x;y;2026-03-01;;;1", "1 fields; expected 6 as in the header"),
    "quote never closed": Kind(lambda i: b'"x,y,2026-03-01,,,1', ""),
    "quote in the middle": Kind(lambda i: b'x,"y,2026-03-01,,,1', ""),
    "text behind a quote": Kind(lambda i: b'"x"y,z,2026-03-01,,,1', "broken table row (',' expected after '\"')"),
    "blank behind a quote": Kind(lambda i: b'"x" ,z,2026-03-01,,,1', "broken table row (',' expected after '\"')"),
    "carriage return": Kind(lambda i: b"x\ry,z,2026-03-01,,,1", "broken table row (a bare carriage return in a field)"),
    "not UTF-8": Kind(lambda i: b"caf\xe9,y,2026-03-01,,,1", "column 'q': byte 4 of the field (0xe9) is not UTF-8"),
    "NUL": Kind(lambda i: b"x,\x00,2026-03-01,,,1", "column 'a': a NUL byte at character 1"),
    "half a character": Kind(lambda i: b"\xed\xa0\x80,y,2026-03-01,,,1", "column 'q': byte 1 of the field (0xed)"),
    "delimiters only": Kind(lambda i: b",,,,,", "column 'q' is empty; expected the prompt"),
    "empty prompt": Kind(lambda i: b"  ,y,2026-03-01,,,1", "column 'q' is empty; expected the prompt"),
    "no time": Kind(lambda i: b"x,y,soon,,,1", "column 'at': 'soon' is not a time"),
    "no such day": Kind(lambda i: b"x,y,31.02.2026,,,1", "column 'at': '31.02.2026' is not a time"),
    "two readings": Kind(lambda i: b"x,y,2026-03-01,01/02/2026,,1", "column 'until': '01/02/2026' may be"),
    "another age": Kind(lambda i: b"x,y,1066-10-14,,,1", "column 'at': '1066-10-14' lies in the year 1066"),
    "consent": Kind(lambda i: b"x,y,2026-03-01,,perhaps,1", "consent is 'perhaps'; expected granted"),
    "no id": Kind(lambda i: b"x,y,2026-03-01,,,", "column 'id' is empty; expected an id"),
}


def json_good(i: int) -> bytes:
    return fields(q=f"good {i}", id=i)


def csv_good(i: int) -> bytes:
    return f'"good {i}","y, ""z""",2026-03-01,,,{i}'.encode() if i % 2 else f"good {i},y,2026-03-01,,,{i}".encode()


FILES = [
    ("rows.jsonl", b"", JSON_KINDS, json_good),
    ("rows.csv", b"q,a,at,until,consent,id\n", CSV_KINDS, csv_good),
]


@pytest.mark.parametrize(("name", "header", "kinds", "good"), FILES)
def test_10000_bad_lines_of_20_kinds_are_all_named_and_no_good_one_is_lost(
    tmp_path: Path, name: str, header: bytes, kinds: dict[str, Kind], good: Callable[[int], bytes]
) -> None:
    assert len(kinds) == 20
    order = [kind for kind in kinds for _ in range(NUM_EACH)] + [""] * NUM_GOOD
    random.Random(3).shuffle(order)
    order.append("")
    first_line = 2 if header else 1
    lines = [kinds[kind].line(i) if kind else good(i) for i, kind in enumerate(order)]
    (tmp_path / name).write_bytes(header + b"\n".join(lines) + b"\n")

    result = read_rows(DataConfig(files=(name,), **CONFIG), tmp_path, key=b"k")

    bad = [(f"{name}:{i + first_line}", kind) for i, kind in enumerate(order) if kind]
    assert len(bad) == 10_000
    assert [where for where, _ in result.failed] == [where for where, _ in bad]
    for (_, kind), (where, message) in zip(bad, result.failed, strict=True):
        assert kinds[kind].message in message, (where, kind, message)
        assert message.endswith((".", "?"))
    assert [row.prompt_text for row in result.rows] == [f"good {i}" for i, kind in enumerate(order) if not kind]
    assert result.num_read == len(order)
