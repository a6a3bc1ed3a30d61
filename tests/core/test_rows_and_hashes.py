"""Identity of rows: what changes it, what does not, and that columns give back what went in."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from metier.core.errors import StoreError
from metier.core.hashing import canonical_json, keyed_hash, merkle_root
from metier.core.rows import (
    Message,
    Meta,
    Role,
    Row,
    Target,
    TargetKind,
    ToolCall,
    content_of,
    make_row,
    row_from_bytes,
    row_to_bytes,
)

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


json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(alphabet=st.characters(exclude_categories=()), max_size=6),  # half characters too
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=8,
)
calls = st.builds(
    ToolCall, name=st.text(max_size=4), arguments=st.dictionaries(st.text(max_size=4), json_values, max_size=3)
)
plain = st.builds(Message, role=st.sampled_from(list(Role)), content=st.text(max_size=8))
full = st.builds(
    Message,
    role=st.just(Role.ASSISTANT),
    content=st.text(max_size=8),
    name=st.none() | st.text(max_size=4),
    tool_calls=st.lists(calls, max_size=2).map(tuple),
    train=st.none() | st.booleans(),
)
conversations = st.lists(st.one_of(plain, full), min_size=1, max_size=4).map(tuple)
metas = st.builds(
    Meta,
    source=st.text(max_size=4),
    source_row=st.integers(0, 10**9),
    subjects=st.lists(st.text(max_size=4)).map(tuple),
    collected_at=st.none() | st.datetimes(timezones=st.just(UTC)),
    language=st.none() | st.just("en"),
)


@given(
    messages=conversations, meta=metas, tools=st.lists(st.dictionaries(st.text(max_size=4), json_values, max_size=2))
)
def test_bytes_give_back_the_same_row(
    messages: tuple[Message, ...], meta: Meta, tools: list[dict[str, object]]
) -> None:
    made = make_row(KEY, messages=messages, meta=meta, tools=tuple(tools))
    data = row_to_bytes(made)
    assert row_from_bytes(data) == made
    assert row_to_bytes(row_from_bytes(data)) == data


@given(conversations)
def test_what_ids_are_made_of_is_what_pydantic_would_write(messages: tuple[Message, ...]) -> None:
    expected = [message.model_dump(mode="json", exclude_defaults=True) for message in messages]
    assert content_of(messages, (), Target())["messages"] == expected


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"origin_id": "a"}', b"\xff"])
def test_damaged_bytes_are_no_row(data: bytes) -> None:
    with pytest.raises(StoreError, match=f"a stored row of {len(data)} bytes is damaged"):
        row_from_bytes(data)


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
