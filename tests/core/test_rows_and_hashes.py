"""Identity of rows: what changes it, what does not, and that columns give back what went in."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from metier.core.columns import rows_from_parquet, rows_to_parquet
from metier.core.hashing import canonical_json, keyed_hash, merkle_root
from metier.core.rows import Message, Meta, Role, Row, Target, TargetKind, ToolCall, make_row

KEY = b"k" * 32


def row(text: str = "Hello", reply: str = "Hi", *, source_row: int = 0, **meta: object) -> Row:
    messages = (Message(role=Role.USER, content=text), Message(role=Role.ASSISTANT, content=reply))
    return make_row(KEY, messages=messages, meta=Meta(source="a.jsonl", source_row=source_row, **meta))  # type: ignore[arg-type]  # free keywords


def test_row_id_is_about_content_and_origin_id_about_the_record() -> None:
    first, again, other = row(), row(source_row=1), row(reply="Bye")
    assert first.row_id == again.row_id
    assert first.origin_id != again.origin_id
    assert first.row_id != other.row_id
    assert first.origin_id == other.origin_id


def test_metadata_never_changes_row_id() -> None:
    assert row().row_id == row(groups={"customer": "c"}, collected_at=datetime(2026, 1, 1, tzinfo=UTC)).row_id


def test_another_project_key_gives_unrelated_ids() -> None:
    assert keyed_hash(KEY, "Ana") != keyed_hash(b"x" * 32, "Ana")


def test_a_new_version_keeps_the_origin_and_links_its_parent() -> None:
    old = row()
    new = make_row(
        KEY, messages=(*old.messages[:1], Message(role=Role.ASSISTANT, content="Hey")), meta=old.meta, parent=old
    )
    assert (new.origin_id, new.parents) == (old.origin_id, (old.row_id,))
    assert new.row_id != old.row_id


def test_gold_and_prompt_of_each_kind_of_target() -> None:
    talk = row("How much?", "12")
    assert (talk.gold, [m.content for m in talk.prompt]) == ("12", ["How much?"])
    asked = (Message(role=Role.SYSTEM, content="rules"), Message(role=Role.USER, content="How much?"))
    for target, gold in (
        (Target(kind=TargetKind.LABEL, label="price"), "price"),
        (Target(kind=TargetKind.ANSWER, answer="12"), "12"),
        (Target(kind=TargetKind.PAIR, chosen="12", rejected="13"), "12"),
    ):
        made = make_row(KEY, messages=asked, meta=Meta(source="a", source_row=0), target=target)
        assert (made.gold, made.prompt, made.prompt_text) == (gold, asked, "How much?")


def test_only_assistants_may_be_marked_trained() -> None:
    with pytest.raises(ValidationError, match="only assistant messages can be trained"):
        Message(role=Role.USER, content="x", train=True)


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Message.model_validate({"role": "user", "content": "x", "colour": "red"})


def test_times_are_kept_in_utc() -> None:
    aware = datetime.fromisoformat("2026-03-01T12:00:00+02:00")
    assert Meta(source="a", source_row=0, collected_at=aware).collected_at == datetime(2026, 3, 1, 10, tzinfo=UTC)


@given(st.text(), st.text(), st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3))
def test_columns_give_back_the_same_rows(text: str, reply: str, attributes: dict[str, str]) -> None:
    try:
        (text + reply + "".join([*attributes, *attributes.values()])).encode()
    except UnicodeEncodeError:
        return  # lone surrogates never pass the reader
    rows = [row(text, reply, attributes=attributes), row(text, reply, subjects=("s",))]
    assert rows_from_parquet(rows_to_parquet(rows)) == rows


def test_columns_keep_tool_calls_and_no_rows() -> None:
    call = Message(role=Role.ASSISTANT, tool_calls=(ToolCall(name="f", arguments={"x": [1, {"y": None}]}),))
    made = make_row(
        KEY,
        messages=(Message(role=Role.USER, content="?"), call),
        meta=Meta(source="a", source_row=0),
        tools=({"name": "f"},),
    )
    assert rows_from_parquet(rows_to_parquet([made])) == [made]
    assert rows_from_parquet(rows_to_parquet([])) == []


def test_merkle_root_is_about_the_set() -> None:
    assert merkle_root(["b", "a", "a"]) == merkle_root(["a", "b"])
    assert merkle_root(["a", "b", "c"]) != merkle_root(["a", "b"])
    assert merkle_root([]) != merkle_root([""])


def test_an_inner_node_never_passes_for_a_leaf() -> None:
    inner = merkle_root(["a", "b"])
    assert merkle_root([inner]) != inner


def test_canonical_json_has_one_spelling() -> None:
    assert canonical_json({"b": 1, "a": "\u00e9"}) == '{"a":"\u00e9","b":1}'.encode()
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json(float("inf"))
