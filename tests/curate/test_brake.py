"""The brake: what stops cleaning, and what does not."""

from __future__ import annotations

from typing import Any

import pytest

from metier.core.errors import DataError
from metier.core.rows import Message, Meta, Role, Row, Target, TargetKind, make_row
from tests.curate.cleaning import KEY, NOW, clean, data_config


def row(prompt: str, reply: str, number: int = 0, *, label: str | None = None, **meta: Any) -> Row:
    return make_row(
        KEY,
        messages=(Message(role=Role.USER, content=prompt), Message(role=Role.ASSISTANT, content=reply)),
        target=Target(kind=TargetKind.REPLY, label=label),
        meta=Meta(source=meta.pop("source", "rows.jsonl"), source_row=number, **meta),
    )


def test_the_brake_stops_cleaning_that_drops_most_of_a_class() -> None:
    rows = [row("same", "a", i, label="a") for i in range(12)] + [
        row(f"other {i}", "b", 20 + i, label="b") for i in range(40)
    ]
    with pytest.raises(DataError) as caught:
        clean(rows)
    assert str(caught.value).startswith(
        "cleaning stopped before anything was recorded: label 'a' would lose 11 of 12 rows (exact_duplicate 11); expected a loss of at most 50%."
    )
    assert len(clean(rows, max_drop_per_class=0.95).kept) == 41


def test_the_brake_knows_sources_too() -> None:
    rows = [row("same", "a", i, source="old.jsonl") for i in range(12)] + [row(f"other {i}", "b", i) for i in range(40)]
    with pytest.raises(DataError, match=r"source 'old.jsonl' would lose 11 of 12 rows"):
        clean(rows)


def test_rows_nobody_permitted_do_not_close_the_brake_and_do_not_loosen_it() -> None:
    barred = [row(f"barred {i}", "b", i, label="a", consent="denied") for i in range(30)]
    free = [row(f"free {i}", "b", 50 + i, label="a") for i in range(6)]
    assert len(clean([*barred, *free]).kept) == 6
    unknown = [row(f"unknown {i}", "b", 100 + i, label="a", licence="custom") for i in range(30)]
    strict = data_config(unknown_consent="denied", allowed_licences=("CC0",))
    granted = [row(f"free {i}", "b", 50 + i, label="a", consent="granted", licence="CC0") for i in range(6)]
    assert len(clean([*barred, *unknown, *granted], data=strict).kept) == 6
    copies = [row("same", "a", 200 + i, label="a") for i in range(12)]
    kept = [row(f"kept {i}", "b", 300 + i, label="b") for i in range(40)]
    with pytest.raises(DataError, match=r"label 'a' would lose 11 of 12 rows \(exact_duplicate 11\)"):
        clean([*barred, *copies, *kept])
    old = [row(f"old {i}", "b", 400 + i, label="a", expires_at=NOW) for i in range(12)]
    with pytest.raises(DataError, match=r"label 'a' would lose 12 of 12 rows \(expired 12\)"):
        clean([*old, *kept])


def test_cleaning_everything_away_is_an_error() -> None:
    with pytest.raises(
        DataError, match=r"cleaning would leave none of 1 rows \(empty_reply 1\); expected at least one"
    ):
        clean([row("q", "")])
