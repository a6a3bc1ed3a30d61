"""Reading piece by piece: the same rows whatever the piece, bounded memory, ids that never change, nothing lost."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from metier.core.errors import ConfigError, DataError
from metier.core.hashing import value_hash
from metier.core.rows import Row
from metier.core.settings import DataConfig
from metier.curate.read import Failure, ReadChunk, read_chunks, read_rows

KEY = b"golden"
COLUMNS = {"prompt": "q", "reply": "a"}
HI = {"role": "user", "content": "Hi"}
HELLO = {"role": "assistant", "content": "Hello"}
WHAT = {"role": "assistant", "content": "What"}
ARGUMENTS = '{"order": 7, "x": [1.5, null, "\\u00e9"]}'
CALL = {"id": "1", "type": "function", "function": {"name": "find", "arguments": ARGUMENTS}}
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]
PARTS = [
    {"type": "text", "text": "Gr\u00fc\u00dfe \U0001f600"},
    {"type": "text", "text": " \u4f60\u597d\n\tx "},
]
CHAT: list[dict[str, Any]] = [
    {"messages": [{"role": "system", "content": "Be kind"}, HI, HELLO]},
    {"messages": [HI, {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "content": "here", "tool_call_id": "1"}, HELLO], "tools": TOOLS},
    {"messages": [HI, {**HELLO, "weight": 0}, HI, {**HELLO, "weight": 1}]},
    {"messages": [{"role": "user", "name": "ana", "content": PARTS}, HELLO]},
    {"messages": [HI, {"role": "assistant", "content": None, "function_call": {"name": "find", "arguments": "{}"}}, {"role": "function", "name": "find", "content": "here"}, HELLO], "functions": [{"name": "find"}]},
    {"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "function_call", "value": '{"name": "find", "arguments": {"order": 7}}'}, {"from": "observation", "value": "here"}, {"from": "gpt", "value": "Hello"}]},
    {"instruction": "Translate", "input": "Katze", "output": "cat"},
    {"prompt": "Hi", "completion": " Hello\r\nyou "},
    {"prompt": [HI], "completion": [HELLO]},
    {"prompt": "Hi", "chosen": "Hello", "rejected": "What"},
    {"chosen": [HI, HELLO], "rejected": [HI, WHAT]},
    {"input": {"messages": [HI]}, "preferred_output": [HELLO], "non_preferred_output": [WHAT]},
]  # fmt: skip
TABLE = (
    "q,a,topic,sys,doc,who,at\none,1,t1,Be brief,,ana,2026-03-01\n"
    '"two\r\nlines, ""quoted""",2,t2,,The parcel left.,,01.03.2026 10:30\n\nthr\u00e9e,3,t3,,,b\u00f6b,\n'
)


def ids(rows: Iterable[Row]) -> list[tuple[str, str]]:
    return [(row.origin_id, row.row_id) for row in rows]


def write_golden(folder: Path) -> None:
    lines = [json.dumps(record) + "\n" for record in CHAT]
    (folder / "chat.jsonl").write_text("".join(lines[:4]) + "\n" + "".join(lines[4:]))
    (folder / "t.csv").write_bytes(TABLE.encode())


GOLDEN: list[tuple[dict[str, Any], str, tuple[str, str]]] = [
    (
        {"files": ("chat.jsonl",)},
        "c37b1e0c3decb620c319638c90675761dfd668bc4c9a96c7369737bec5ac0007",
        ("88057570ab415f5a5f3a78da45d03104", "90916e6f830399f814ef4fd9a416840c"),
    ),
    (
        {
            "files": ("t.csv",),
            "columns": {**COLUMNS, "label": "topic", "system": "sys", "context": "doc"},
            "subject": ("who",),
            "time": "at",
        },
        "34c88d236f699c7e7818f934da83f44f1a46d3538fb9dcd2013c1ad9e4ba0a0e",
        ("d839072cffc81ca31d44e0cf3e0d74aa", "2776b9aaef0895af00c3944aabad74a0"),
    ),
    (
        {"files": ("t.csv",), "columns": {"prompt": "q", "label": "a"}},
        "eb6bb6824b7740e7f2ee0246e5b1e596a78a9b9931d2721d4cdbac599088412e",
        ("d839072cffc81ca31d44e0cf3e0d74aa", "6ebed0ed4efb69b9fd42949832722e4f"),
    ),
]


@pytest.mark.parametrize(("settings", "all_ids", "first"), GOLDEN)
def test_ids_are_those_of_every_earlier_version(
    tmp_path: Path, settings: dict[str, Any], all_ids: str, first: tuple[str, str]
) -> None:
    """Splits, votes, looks and seals hang on them."""
    write_golden(tmp_path)
    result = read_rows(DataConfig(**settings), tmp_path, key=KEY)
    assert result.failed == []
    assert ids(result.rows)[0] == first
    assert value_hash(ids(result.rows)) == all_ids


def write_mixed(folder: Path) -> None:
    """Good and bad records in every kind of file, a duplicate id far from the first."""
    lines = [json.dumps({"q": f"q{i}", "a": "1", "id": i % 17}) if i % 5 else "{" for i in range(20)]
    (folder / "a.jsonl").write_text("\n".join(lines))
    (folder / "b.csv").write_text("q,a,id\n" + "".join(f"q{i},1,{i}\n" if i % 3 else '"q\n' for i in range(12)))
    (folder / "c.json").write_text(json.dumps([{"q": "x", "a": "y", "id": i} if i else 7 for i in range(5)]))
    import polars as pl

    pl.DataFrame({"q": ["x", None, "y"], "a": ["1", "2", None], "id": [1, 1, 1]}).write_parquet(folder / "d.parquet")


MIXED = DataConfig(files=("*.*",), columns={**COLUMNS, "id": "id"})


def gathered(chunks: Iterable[ReadChunk]) -> tuple[list[Row], list[Failure], int]:
    rows: list[Row] = []
    failed: list[Failure] = []
    num_read = 0
    for chunk in chunks:
        assert chunk.num_read == len(chunk.rows) + len(chunk.failed)
        rows, failed, num_read = rows + chunk.rows, failed + chunk.failed, num_read + chunk.num_read
    return rows, failed, num_read


@pytest.mark.parametrize("chunk_rows", [1, 2, 7, 40, 2048])
def test_the_size_of_chunks_changes_nothing_but_their_size(tmp_path: Path, chunk_rows: int) -> None:
    write_mixed(tmp_path)
    chunks = list(read_chunks(MIXED, tmp_path, key=KEY, chunk_rows=chunk_rows))
    assert [chunk.num_read for chunk in chunks[:-1]] == [chunk_rows] * (len(chunks) - 1)
    assert 0 < chunks[-1].num_read <= chunk_rows
    whole = read_rows(MIXED, tmp_path, key=KEY)
    assert gathered(chunks) == (whole.rows, whole.failed, whole.num_read)
    assert whole.num_read == 20 + 12 + 5 + 3
    assert "a.jsonl:19: id '1' already stands at a.jsonl:2" in "\n".join(map(": ".join, whole.failed))


def test_settings_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="format is 'sharegtp'"):
        read_chunks(DataConfig(files=("rows.jsonl",), format="sharegtp"), tmp_path, key=KEY)
    with pytest.raises(ConfigError, match="no file with rows there"):
        read_chunks(DataConfig(files=("rows.jsonl",), columns=COLUMNS), tmp_path, key=KEY)


ENDS: list[tuple[str, dict[str, Any], type[Exception], str, int]] = [
    ("\n\n", {}, DataError, "no rows at all; expected at least one record", 0),
    ('{"q": "x", "a": "y"}\n' * 3, {"time": "date"}, ConfigError, "time names the column 'date', which no record has; known: a, q.", 3),
    ("{\n" * 7, {}, DataError, "all of 7 records failed; the first:\n  rows.jsonl:1: broken JSON", 7),
]  # fmt: skip


@pytest.mark.parametrize(("text", "settings", "error", "message", "num_read"), ENDS)
def test_what_only_the_whole_shows_is_refused_at_the_end(
    tmp_path: Path, text: str, settings: dict[str, Any], error: type[Exception], message: str, num_read: int
) -> None:
    (tmp_path / "rows.jsonl").write_text(text)
    chunks = read_chunks(
        DataConfig(files=("rows.jsonl",), columns=COLUMNS, **settings), tmp_path, key=KEY, chunk_rows=1
    )
    seen = 0
    with pytest.raises(error) as caught:
        for chunk in chunks:
            seen += chunk.num_read
    assert seen == num_read
    assert message in str(caught.value)
    assert str(caught.value).count("\n  rows.jsonl:") == (5 if "failed" in message else 0)  # the first, over chunks


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_memory_hangs_on_the_chunk_not_on_the_file(tmp_path: Path, name: str) -> None:
    text, is_csv = "word " * 4000, name.endswith("csv")
    with (tmp_path / name).open("w") as file:
        file.write("q,a\n" if is_csv else "")
        for i in range(600):
            file.write(f"{i},{text}\n" if is_csv else json.dumps({"q": str(i), "a": text}) + "\n")
    config = DataConfig(files=(name,), columns=COLUMNS)
    tracemalloc.start()
    num_rows = sum(len(chunk.rows) for chunk in read_chunks(config, tmp_path, key=KEY, chunk_rows=20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert num_rows == 600
    assert (tmp_path / name).stat().st_size > 12e6
    assert peak < 3e6


def test_language_is_that_of_the_reply_or_else_of_the_prompt(tmp_path: Path) -> None:
    records = [
        {"q": "Where is my order and when will it be here?", "a": "Ihre Bestellung ist auf dem Weg zu Ihnen."},
        {"q": "Where is my order and when will it be here?", "a": "refund"},
        {"q": "4411", "a": "refund"},
        {"q": "\u6ce8\u6587\u306f\u3069\u3053\u3067\u3059\u304b", "a": "ok"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    result = read_rows(DataConfig(files=("rows.jsonl",), columns=COLUMNS), tmp_path, key=KEY)
    assert [row.meta.language for row in result.rows] == ["de", "en", None, None]


@pytest.mark.parametrize("escaped", [True, False])
def test_repaired_rows_are_counted_by_kind_and_only_in_fields_that_are_read(tmp_path: Path, escaped: bool) -> None:
    records = [
        {"q": "Caf\u00c3\u00a9?", "a": "\ufeffOpen", "who": "Jose\u0301", "note": "x"},
        {"q": "Fine", "a": "Open", "who": "Jos\u00e9", "note": "\ufeffnobody reads this"},
        {"q": "\u200b", "a": "Open", "who": "x"},
        {"messages": [{**HI, "content": "a\u0000b"}, HELLO]},
    ]
    text = "".join(json.dumps(record, ensure_ascii=escaped) + "\n" for record in records)
    (tmp_path / "rows.jsonl").write_text(text, encoding="utf-8")
    result = read_rows(DataConfig(files=("rows.jsonl",), columns=COLUMNS, groups=("who",)), tmp_path, key=KEY)
    assert [(row.prompt_text, row.gold, row.meta.groups["who"]) for row in result.rows] == [
        ("Caf\u00e9?", "Open", "Jos\u00e9"),
        ("Fine", "Open", "Jos\u00e9"),
    ]
    assert result.repaired == {"mojibake": 1, "invisible": 1, "nfc": 1}
    assert [where for where, _ in result.failed] == ["rows.jsonl:3", "rows.jsonl:4"]  # nothing is left of the prompt


def test_repairs_reach_tables_of_every_kind(tmp_path: Path) -> None:
    import polars as pl

    rows = [("fine", "ok"), ("two\nlin\ufeffes", "ok"), ("\x1b[1mbold", "o\x7fk")]
    frame = pl.DataFrame(rows, schema=["q", "a"], orient="row")
    frame.write_csv(tmp_path / "rows.csv")
    frame.write_parquet(tmp_path / "rows.parquet")
    (tmp_path / "rows.json").write_text(json.dumps(frame.to_dicts()))
    for name in ("rows.csv", "rows.parquet", "rows.json"):
        result = read_rows(DataConfig(files=(name,), columns=COLUMNS), tmp_path, key=KEY)
        assert [(row.prompt_text, row.gold) for row in result.rows] == [
            ("fine", "ok"),
            ("two\nlines", "ok"),
            ("bold", "ok"),
        ]
        assert result.repaired == {"control": 1, "invisible": 1}


def test_a_calls_arguments_are_repaired_inside_their_json(tmp_path: Path) -> None:
    call = {"function": {"name": "find", "arguments": json.dumps({"name": "Jose\u0301"})}}
    messages = [{**HI, "content": "I am Jose\u0301"}, {"role": "assistant", "tool_calls": [call]}, HELLO]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": messages}))
    (row,) = read_rows(DataConfig(files=("rows.jsonl",)), tmp_path, key=KEY).rows
    assert row.messages[0].content == "I am Jos\u00e9"
    assert row.messages[1].tool_calls[0].arguments == {"name": "Jos\u00e9"}
