"""Cleaning: what leaves and why, who survives, what the brake stops, what the files hold."""

from __future__ import annotations

import dataclasses
import itertools
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metier.core.errors import DataError, StoreError
from metier.core.rows import Message, Meta, Role, Row, Target, TargetKind, ToolCall, make_row
from metier.core.settings import DataConfig
from metier.core.table import Values, table_of
from metier.curate import Curated, Failure, data_report, load, write
from tests.curate.cleaning import KEY, NOW, Cleaned, clean, clean_files, data_config

LONG = "the lamp came with a broken foot and the box was open so I want to send it back and get my money as soon as you can please"
ANSWER = "thank you for the report we are sorry about the lamp and will pay the money back to the card you used within the week"


def row(prompt: str, reply: str, number: int = 0, **meta: Any) -> Row:
    label = meta.pop("label", None)
    kind = TargetKind.LABEL if meta.pop("is_label", False) else TargetKind.REPLY
    return make_row(
        KEY,
        messages=(Message(role=Role.USER, content=prompt), Message(role=Role.ASSISTANT, content=reply)),
        target=Target(kind=kind, label=label),
        meta=Meta(source=meta.pop("source", "rows.jsonl"), source_row=number, **meta),
    )


def gone(result: Cleaned) -> dict[int, str]:
    return {item.row.meta.source_row: item.reason for item in result.quarantined}


def test_exact_duplicates_differ_in_case_white_space_and_unicode_form_only() -> None:
    rows = [row("Caf\u00e9 open?", "Yes", 1), row("cafe\u0301  OPEN?", "yes ", 2), row("Cafe open?", "Yes", 3)]
    result = clean(rows)
    assert gone(result) == {2: "exact_duplicate"}
    assert result.quarantined[0].survivor == rows[0].origin_id


def test_the_newest_copy_survives_and_then_the_first() -> None:
    times = [None, NOW - timedelta(days=9), NOW - timedelta(days=2), NOW - timedelta(days=2)]
    rows = [row("q", "a", i, collected_at=time) for i, time in enumerate(times)]
    for order in itertools.permutations(rows):
        assert [kept.meta.source_row for kept in clean(order).kept] == [
            next(r.meta.source_row for r in order if r.meta.source_row in (2, 3))
        ]


def test_a_row_of_the_given_test_set_survives_a_newer_copy() -> None:
    rows = [row("q", "a", 1, collected_at=NOW), row("q", "a", 2, source="test.jsonl")]
    assert gone(clean(rows, preferred=frozenset({"test.jsonl"}))) == {1: "exact_duplicate"}


def test_near_copy_leaves_and_names_its_survivor() -> None:
    rows = [row(LONG, ANSWER, 1), row(LONG + " thanks", ANSWER, 2)]
    result = clean(rows)
    assert gone(result) == {2: "near_duplicate"}
    assert result.quarantined[0].survivor == rows[0].origin_id
    assert data_report(result.curated).duplicates == 1


def test_templated_rows_that_differ_in_a_number_survive() -> None:
    rows = [row(f"{LONG} order {4000 + i}", f"{ANSWER} order {4000 + i}", i) for i in range(30)]
    assert gone(clean(rows)) == {}
    assert gone(clean([row(f"{LONG} order 4000{' thanks' * i}", ANSWER, i) for i in range(2)])) == {1: "near_duplicate"}


def test_different_questions_about_one_document_survive() -> None:
    rows = [
        row(f"{LONG} {LONG}\n\nWhat is {name}?", f"the {name} of it", i)
        for i, name in enumerate(["price", "date", "name"])
    ]
    assert gone(clean(rows)) == {}


def test_different_questions_with_one_standard_answer_survive() -> None:
    rows = [row("where is my parcel", ANSWER, 1), row("how do I send a lamp back", ANSWER, 2)]
    assert gone(clean(rows)) == {}


def test_a_chain_of_similar_rows_is_not_one_cluster() -> None:
    # 30 words each, shifted by one: neighbours share 27 of 29 shingles, rows three apart only 25 of 31.
    vocabulary = [f"word{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(60)]
    chain = [row(" ".join(vocabulary[i : i + 30]), "yes", i) for i in range(20)]
    result = clean(chain, max_drop_per_class=1.0)
    kept = [r.meta.source_row for r in result.kept]
    # A star around row 0 reaches rows 1 to 3 (27/29, 26/30, 25/31 >= .8); the next survivor is row 4.
    assert kept == list(range(0, 20, 4))


def test_conflicting_labels_are_counted_and_kept() -> None:
    rows = [
        row(LONG, "refund", 1, label="refund", is_label=True),
        row(LONG + " thanks", "swap", 2, label="swap", is_label=True),
        row(LONG, "other", 3, label="other", is_label=True),
        row("where is it", "delivery", 4, label="delivery", is_label=True),
    ]
    result = clean(rows)
    assert (result.conflicting_labels, gone(result)) == (3, {})


def test_stale_and_refused_rows_leave() -> None:
    rows = [
        row("a", "x", 1, expires_at=NOW),
        row("b", "x", 2, expires_at=NOW + timedelta(seconds=1)),
        row("c", "x", 3, policy_version="v1"),
        row("d", "x", 4, policy_version="v2"),
        row("e", "x", 5, consent="denied"),
    ]
    result = clean(rows, retired=("v1",))
    assert gone(result) == {1: "expired", 3: "retired_policy", 5: "consent_denied"}
    assert data_report(result.curated).stale == 2


def test_replies_too_short_or_long_leave_but_labels_have_no_length() -> None:
    rows = [
        row("a", "", 1),
        row("b", "one two", 2),
        row("c", "one two three", 3),
        row("d", "x " * 6, 4),
        row("e", "yes", 5, label="yes", is_label=True),
    ]
    assert gone(clean(rows, min_reply_words=3, max_reply_words=5)) == {
        1: "empty_reply",
        2: "too_few_words",
        4: "too_many_words",
    }


PRIVATE = [
    row("I am ana@home.example, order 4411", "Mail sent to ana@home.example, order 4411", 1),
    row("My order 4412", "It left", 2),
]


def test_replaced_row_is_a_new_version_of_its_parent() -> None:
    result = clean(PRIVATE)
    new, old = result.kept[0], PRIVATE[0]
    assert new.parents == (old.row_id,)
    assert (new.origin_id, new.meta) == (old.origin_id, old.meta)
    assert new.row_id != old.row_id
    mail = new.gold.removeprefix("Mail sent to ").removesuffix(", order 4411")
    assert mail.partition("@")[2].startswith("example.")
    assert new.prompt_text == f"I am {mail}, order 4411"
    assert result.kept[1] == PRIVATE[1]
    assert result.private == {"email": 1}


def test_private_rows_are_quarantined_or_kept_as_asked() -> None:
    assert gone(clean(PRIVATE, private="quarantine")) == {1: "private_data"}
    kept = clean(PRIVATE, private="keep")
    assert (kept.kept, kept.private) == (PRIVATE, {"email": 1})


def test_pairs_are_replaced_on_both_sides_and_keep_their_chosen_reply() -> None:
    pair = make_row(
        KEY,
        messages=(Message(role=Role.USER, content="q"), Message(role=Role.ASSISTANT, content="to ana@home.example")),
        target=Target(kind=TargetKind.PAIR, chosen="to ana@home.example", rejected="no ana@home.example"),
        meta=Meta(source="rows.jsonl", source_row=1),
    )
    (new,) = clean([pair]).kept
    assert new.target.chosen == new.messages[-1].content
    assert "home.example" not in json.dumps(new.as_json())


def test_the_organisations_own_contact_stays() -> None:
    rows = [row(f"question {i}", "Call us on 0800 555 0100.", i, groups={"customer": str(i)}) for i in range(6)]
    rows.append(row("I called 0800 555 0100", "Sorry", 6, groups={"customer": "6"}))
    result = clean(rows)
    assert result.kept == rows
    assert (result.private, result.public) == ({}, {"phone": 1})
    one_customer = [row(f"question {i}", "We call you on 0171 5550199.", i, groups={"customer": "7"}) for i in range(6)]
    assert clean(one_customer).private == {"phone": 6}


def test_a_result_that_lost_a_row_cannot_exist() -> None:
    with pytest.raises(DataError, match="cleaning lost rows: 2 rows \\+ 0 failed, but 3 were read"):
        dataclasses.replace(clean(PRIVATE).curated, num_read=3)


def test_more_rows_can_be_set_aside_later() -> None:
    result = clean([row("a", "x", 1), row("b", "y", 2)])
    later = Cleaned(result.with_set_aside({result.kept[0].row_id: "gold_fails_grader"}), result.stored)
    assert (gone(later), len(later.kept), later.num_read) == ({1: "gold_fails_grader"}, 1, 2)


def test_a_restored_row_is_kept_though_it_is_a_copy_but_not_against_consent() -> None:
    rows = [row("q", "a", 1), row("q", "a", 2), row("r", "a", 3, consent="denied"), row("s", "", 4)]
    back = [rows[1].origin_id, rows[2].origin_id, rows[3].origin_id]
    assert gone(clean(rows)) == {2: "exact_duplicate", 3: "consent_denied", 4: "empty_reply"}
    assert gone(clean(rows, restored=back)) == {3: "consent_denied"}
    assert gone(clean(PRIVATE, private="quarantine", restored=[PRIVATE[0].origin_id])) == {}


def test_unknown_consent_and_licences_are_refused_when_the_project_says_so() -> None:
    rows = [
        row("a", "x", 1, consent="unknown", licence="CC0"),
        row("b", "x", 2, consent="granted", licence="CC0"),
        row("c", "x", 3, consent="granted", licence="custom"),
        row("d", "x", 4, consent="granted"),
    ]
    strict = data_config(unknown_consent="denied", allowed_licences=("CC0",))
    assert gone(clean(rows, data=strict)) == {
        1: "consent_unknown",
        3: "licence_not_allowed",
        4: "licence_not_allowed",
    }
    assert gone(clean(rows)) == {}


def test_an_erased_person_is_not_read_again() -> None:
    rows = [row("a", "x", 1, subjects=("Ana",)), row("b", "y", 2), row("c", "z", 3)]
    result = clean(rows, erased=frozenset({"Ana"}))
    assert [r.meta.source_row for r in result.kept] == [2, 3]
    assert result.failed == [
        Failure(
            "rows.jsonl:1",
            "about a person who was erased from this project; not read. Remove the record from the file.",
        )
    ]
    assert rows[0] not in result.stored


@pytest.mark.parametrize("chunk_rows", [1, 2, 7, 100])
def test_the_size_of_chunks_changes_nothing(chunk_rows: int) -> None:
    rows = [row(f"{LONG} {i % 5}", f"{ANSWER} ana{i % 7}@home.example", i) for i in range(23)]
    whole, parts = clean(rows, max_drop_per_class=1.0), clean(rows, max_drop_per_class=1.0, chunk_rows=chunk_rows)
    assert (parts.kept, parts.quarantined) == (whole.kept, whole.quarantined)
    assert parts.dataset_version == whole.dataset_version
    assert [r.origin_id for r in parts.rows(range(23))] == [r.origin_id for r in rows]


def test_same_rows_in_any_order_give_the_same_dataset() -> None:
    rows = [row(f"{LONG} {i % 5}", ANSWER, i, collected_at=NOW - timedelta(days=i)) for i in range(9)] + PRIVATE
    versions = {data_report(clean(order).curated).dataset_version for order in (rows, rows[::-1], rows[4:] + rows[:4])}
    assert len(versions) == 1


def project(folder: Path) -> Cleaned:
    records = [
        {"q": "one", "a": "1"},
        {"q": "One", "a": "1"},
        {"q": "", "a": "2"},
        {"q": "mail ana@home.example", "a": "done"},
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return clean_files(folder, data_config(columns={"prompt": "q", "reply": "a"}))


def same(a: Curated, b: Curated) -> bool:
    """Equal in every field, arrays by value."""
    plain = [
        (r.failed, r.num_read, r.private, r.public, r.repaired, r.conflicting_labels, r.reason.names) for r in (a, b)
    ]
    arrays = [(r.reason.code_N, r.survivor_N, r.parent_N, r.stored_N, r.table.origin_N, r.table.row_N) for r in (a, b)]
    return plain[0] == plain[1] and all(np.array_equal(x, y) for x, y in zip(*arrays, strict=True))


def test_written_result_loads_equal(tmp_path: Path) -> None:
    result = project(tmp_path)
    assert (len(result.kept), result.reasons, len(result.failed), result.num_read) == (2, {"exact_duplicate": 1}, 1, 4)
    write(result.curated, tmp_path / "curate")
    assert sorted(path.name for path in (tmp_path / "curate").iterdir()) == [
        "counts.json",
        "failed.jsonl",
        "fate.npz",
        "table.npz",
    ]
    assert same(load(tmp_path / "curate"), result.curated)


def test_an_empty_result_is_written_and_loaded_too(tmp_path: Path) -> None:
    none = np.zeros(0, dtype=np.int64)
    result = Curated(
        table=table_of([], key=KEY),
        reason=Values.of([]),
        survivor_N=none,
        parent_N=np.zeros(0, dtype="S32"),
        stored_N=none,
        failed=[Failure("a:1", "x")],
        num_read=1,
    )
    write(result, tmp_path)
    assert same(load(tmp_path), result)


def test_what_is_stored_of_rows_holds_no_text(tmp_path: Path) -> None:
    write(project(tmp_path).curated, tmp_path / "curate")
    data = b"".join(path.read_bytes() for path in (tmp_path / "curate").iterdir())
    for text in (b"ana@", b"home.example", b"mail ana", b"done"):
        assert text not in data


def test_damaged_or_missing_files_are_named(tmp_path: Path) -> None:
    write(project(tmp_path).curated, tmp_path / "curate")
    table = tmp_path / "curate" / "table.npz"
    table.write_bytes(table.read_bytes()[:100])
    with pytest.raises(StoreError, match=r"table.npz: the table of rows is damaged"):
        load(tmp_path / "curate")
    table.unlink()
    with pytest.raises(StoreError, match="table.npz: expected a file of the curated rows, found none"):
        load(tmp_path / "curate")


def test_report_counts_add_up(tmp_path: Path) -> None:
    report = data_report(project(tmp_path).curated)
    assert report.read == report.kept + sum(report.quarantined.values()) + report.failed == 4
    assert report.private == {"email": 1}
    assert report.failures == ("rows.jsonl:3: column 'q' is empty; expected the prompt. Fill it or remove the row.",)


def test_given_test_set_wins_over_its_copies_in_train(tmp_path: Path) -> None:
    for name in ("rows.jsonl", "test.jsonl"):
        (tmp_path / name).write_text('{"q": "one", "a": "1"}\n')
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"q": "another question", "a": "2"}\n')
    data = DataConfig(files=("*.jsonl",), columns={"prompt": "q", "reply": "a"})
    result = clean_files(tmp_path, data, holdout_files=("test.jsonl",))
    assert [kept.meta.source for kept in result.kept] == ["rows.jsonl", "test.jsonl"]
    assert [(item.row.meta.source, item.reason) for item in result.quarantined] == [("rows.jsonl", "exact_duplicate")]


def test_rows_that_come_to_nothing_are_refused_with_counts_and_places(tmp_path: Path) -> None:
    records = [{"n": "7", "q": f"question {i}", "a": f"answer {i}"} for i in range(9)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    data = DataConfig(files=("rows.jsonl",), columns={"prompt": "q", "reply": "a", "id": "n"})
    with pytest.raises(DataError) as caught:
        clean_files(tmp_path, data)
    lines = str(caught.value).splitlines()
    assert lines[0] == (
        "rows.jsonl: 1 row left of 9 records read (failed 8); expected at least 2. Give more rows, or correct [data] or "
        "the records."
    )
    assert lines[1] == (
        "  rows.jsonl:2: id '7' already stands at rows.jsonl:1; expected one row an id. Remove one of the two."
    )
    assert len(lines) == 6, "the first five, each with its place"


def test_rows_set_aside_are_named_when_nothing_else_is_left(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"q": "one", "a": "1"}\n' * 3)
    data = DataConfig(files=("rows.jsonl",), columns={"prompt": "q", "reply": "a"})
    with pytest.raises(DataError) as caught:
        clean_files(tmp_path, data)
    assert "1 row left of 3 records read (exact_duplicate 2)" in str(caught.value)
    assert str(caught.value).endswith("\n  rows.jsonl:2: exact_duplicate\n  rows.jsonl:3: exact_duplicate")


def test_private_data_in_the_arguments_of_a_tool_call_is_replaced_too() -> None:
    call = ToolCall(name="send", arguments={"to": ["ana@home.example"], "about": {"order": 4411}})
    asked = Message(role=Role.USER, content="mail it to ana@home.example")
    told = make_row(
        KEY,
        messages=(asked, Message(role=Role.ASSISTANT, tool_calls=(call,))),
        meta=Meta(source="rows.jsonl", source_row=1),
    )
    (new,) = clean([told, row("q", "a", 2)]).kept[:1]
    (changed,) = new.messages[1].tool_calls
    assert "home.example" not in json.dumps(new.as_json())
    assert changed.arguments["about"] == {"order": 4411}
    assert changed.arguments["to"][0] in new.prompt_text
