"""Rows by column: what the table says is what the rows say, however they were cut, joined and stored; no text is in it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metier.core.errors import StoreError
from metier.core.rows import Message, Meta, Role, Row, Target, TargetKind, make_row
from metier.core.table import NO_TIME, RowTable, Values, table_of

KEY = b"k" * 32
START = datetime(2026, 3, 1, 9, 30, 0, 123_456, tzinfo=UTC)


def row(number: int, **meta: object) -> Row:
    label = "refund" if number % 3 == 0 else None
    return make_row(
        KEY,
        messages=(
            Message(role=Role.USER, content=f"where is order {number}"),
            Message(role=Role.ASSISTANT, content="Hi"),
        ),
        target=Target(kind=TargetKind.LABEL if label else TargetKind.REPLY, label=label),
        meta=Meta(source=f"file{number % 2}.jsonl", source_row=number, **meta),  # type: ignore[arg-type]  # any field
    )


ROWS = [
    row(0),
    row(1, groups={"customer": "Ana Silva"}, collected_at=START, attributes={"region": "north"}),
    row(2, groups={"customer": "Ben", "house": "9"}, collected_at=START - timedelta(days=9), policy_version="v2"),
    row(3, groups={"house": "9"}, attributes={"region": "south", "channel": "mail"}),
]


def told(table: RowTable) -> list[tuple[object, ...]]:
    """Everything a table says, row by row."""
    return [
        (
            table.origin(i), table.row_id(i), table.where(i), table.time(i), table.kind.at(i), table.label.at(i),
            table.policy.at(i), {k: v.at(i) for k, v in table.groups.items() if v.at(i)},
            {k: v.at(i) for k, v in table.attributes.items() if v.at(i)}, int(table.prompt_N[i]),
            int(table.prompt_words_N[i]), int(table.reply_words_N[i]),
            table.conversation.take(np.asarray([i])).code_S.tolist(),
        )
        for i in range(len(table))
    ]  # fmt: skip


def test_the_table_says_what_the_rows_say() -> None:
    table = table_of(ROWS, key=KEY)
    assert [table.origin(i) for i in range(4)] == [r.origin_id for r in ROWS]
    assert [table.row_id(i) for i in range(4)] == [r.row_id for r in ROWS]
    assert table.where(1) == "file1.jsonl:1"
    assert [table.time(i) for i in range(4)] == [None, START, START - timedelta(days=9), None]
    assert int(table.time_N[0]) == NO_TIME
    assert [table.label.at(i) for i in range(4)] == ["refund", None, None, "refund"]
    assert [table.policy.at(i) for i in range(4)] == [None, None, "v2", None]
    assert table.attributes["region"].names == ("north", "south")
    houses = table.groups["house"].code_N
    assert houses[2] == houses[3] >= 0 > houses[0]
    assert table.prompt_words_N.tolist() == [4, 4, 4, 4]
    assert table.reply_words_N.tolist() == [1, 1, 1, 1]


def test_another_zone_is_the_same_moment() -> None:
    east = START.astimezone(timezone(timedelta(hours=9)))
    assert table_of([row(1, collected_at=east)], key=KEY).time(0) == START


@pytest.mark.parametrize("cuts", [(0, 4), (1, 3), (2, 2), (4, 0)])
def test_joined_parts_say_what_the_whole_says(cuts: tuple[int, int]) -> None:
    parts = [table_of(ROWS[: cuts[0]], key=KEY), table_of(ROWS[cuts[0] :], key=KEY)]
    assert told(RowTable.joined(parts)) == told(table_of(ROWS, key=KEY))


def test_taken_rows_stand_in_the_order_asked_for_and_what_is_stored_loads_equal() -> None:
    table = table_of(ROWS, key=KEY)
    taken = table.take(np.asarray([3, 1, 1]))
    assert told(taken) == [told(table)[i] for i in (3, 1, 1)]
    assert told(RowTable.from_bytes(taken.to_bytes(), where="here")) == told(taken)
    none = table_of([], key=KEY)
    assert len(RowTable.from_bytes(none.to_bytes(), where="here")) == len(none) == 0


def test_no_text_and_no_group_is_in_the_bytes_and_hashes_hang_on_the_key() -> None:
    data = table_of(ROWS, key=KEY).to_bytes()
    for text in (b"Ana", b"Silva", b"where is"):
        assert text not in data
    ours, theirs = (table_of(ROWS, key=key) for key in (KEY, b"x" * 32))
    assert ours.prompt_N[0] != theirs.prompt_N[0]
    assert ours.groups["customer"].names != theirs.groups["customer"].names
    assert set(ours.conversation.code_S.tolist()).isdisjoint(theirs.conversation.code_S.tolist())


def test_damaged_bytes_are_told() -> None:
    data = table_of(ROWS, key=KEY).to_bytes()
    for broken in (b"", b"rows", data[: len(data) // 2]):
        with pytest.raises(StoreError, match=r"stage/table.npz: the table of rows is damaged .*Delete the folder"):
            RowTable.from_bytes(broken, where="stage/table.npz")


texts = st.lists(st.one_of(st.none(), st.sampled_from("abc")))


@given(st.lists(texts, min_size=1, max_size=4))
def test_joined_values_are_the_values_of_all(parts: list[list[str | None]]) -> None:
    joined = Values.joined([Values.of(part) for part in parts])
    whole = [value for part in parts for value in part]
    assert [joined.at(i) for i in range(len(whole))] == whole
    assert len(set(joined.names)) == len(joined.names)
