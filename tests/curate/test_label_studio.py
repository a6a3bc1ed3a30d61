"""Label Studio files: read, refused, and round trips of rows and votes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.core.errors import ConfigError, DataError
from metier.core.rows import Message, Meta, Role, Row, Target, TargetKind, make_row
from metier.core.votes import Vote
from metier.curate.label_studio import read_label_studio
from metier.curate.label_tasks import labelling_config, tasks_of

KEY = b"k" * 32
ROWS = {"r1", "r2"}
AT = "2026-03-01T09:30:00.000000Z"


def annotation(value: Any = "refund", kind: str = "choices", **changes: Any) -> dict[str, Any]:
    """One annotation as Label Studio writes it; a change to None takes the field out."""
    field = {"textarea": "text"}.get(kind, kind)
    content = [value] if kind in ("choices", "textarea") and isinstance(value, str) else value
    result = {"id": "x1", "from_name": "label", "to_name": "prompt", "type": kind, "value": {field: content}}
    whole = {
        "id": 34, "completed_by": 7, "lead_time": 12.5, "created_at": "2026-03-01T09:30:00Z", "was_cancelled": False,
        "ground_truth": False, "result": [result], **changes,
    }  # fmt: skip
    return {name: value for name, value in whole.items() if value is not None}


def task(*annotations: Any, row_id: str = "r1", **changes: Any) -> dict[str, Any]:
    return {
        "id": 12,
        "data": {"row_id": row_id, "prompt": "?", "reply": ""},
        "annotations": list(annotations),
        **changes,
    }


@pytest.fixture
def read(tmp_path: Path):
    def run(tasks: Any, **options: Any):
        path = tmp_path / "export.json"
        path.write_bytes(tasks if isinstance(tasks, bytes) else json.dumps(tasks).encode())
        return read_label_studio(path, known_rows=options.pop("known_rows", ROWS), **options)

    return run


def row(text: str = "Where is order 4411?", *, label: str | None = None, turns: tuple[str, ...] = ()) -> Row:
    messages = [Message(role=Role.USER if i % 2 == 0 else Role.ASSISTANT, content=t) for i, t in enumerate(turns)]
    messages += [
        Message(role=Role.USER, content=text),
        Message(role=Role.ASSISTANT, content=label or "Dear Ana, it is here."),
    ]
    meta = Meta(
        source="crm-dump.csv", source_row=1, subjects=("ana.perez@example.org",), groups={"customer": "c-204"},
        attributes={"region": "north-west"}, licence="internal", consent="granted",
    )  # fmt: skip
    target = Target(kind=TargetKind.LABEL, label=label) if label else Target()
    return make_row(KEY, messages=tuple(messages), meta=meta, target=target)


def test_an_annotation_is_a_vote(read) -> None:
    found = read([task(annotation())], guideline_version="3", names={"7": "ana"})
    assert found.votes == [
        Vote(row_id="r1", annotator="ana", value="refund", at=AT, guideline_version="3", seconds=12.5)
    ]
    assert (found.num_tasks, found.num_annotations, found.failed) == (1, 1, [])


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (["refund"], "choices", "refund"),
        ("refund", "choices", "refund"),
        (["refund", "delivery"], "choices", '["delivery","refund"]'),
        (4, "rating", "4"),
        (4.0, "rating", "4"),
        (0.25, "number", "0.25"),
        (["one line", "and another "], "textarea", "one line\nand another"),
        ("free text", "textarea", "free text"),
        ([["money", "refund"]], "taxonomy", "money / refund"),
        ([["money", "refund"], ["delivery"]], "taxonomy", '["delivery","money / refund"]'),
    ],
)
def test_every_kind_of_answer_has_one_spelling(read, value, kind, text) -> None:
    (vote,) = read([task(annotation(value, kind))]).votes
    assert vote.value == text


@pytest.mark.parametrize(
    ("completed_by", "annotator"),
    [
        (7, "7"),
        ({"id": 7, "email": "ana@example.org", "first_name": "Ana"}, "7"),
        ({"email": "ana@example.org"}, "ana@example.org"),
        ("bo", "bo"),
    ],
)
def test_an_annotator_is_an_id_alone_or_in_an_object(read, completed_by, annotator) -> None:
    assert read([task(annotation(completed_by=completed_by))]).votes[0].annotator == annotator


def test_a_corrected_annotation_is_a_newer_vote(read) -> None:
    (vote,) = read([task(annotation(updated_at="2026-03-02T10:00:00.5+01:00"))]).votes
    assert vote.at == "2026-03-02T09:00:00.500000Z"


def test_a_missing_lead_time_is_unknown_and_counted_never_nought(read) -> None:
    found = read([task(annotation(lead_time=None), annotation(id=35, completed_by=8, lead_time=0))])
    assert [vote.seconds for vote in found.votes] == [None, 0.0]
    assert found.num_untimed == 1


def test_what_is_no_vote_is_counted(read) -> None:
    found = read(
        [
            task(
                annotation(), annotation(id=35, was_cancelled=True), annotation(id=36, result=[]), predictions=[{}, {}]
            ),
            task(annotation(id=37, ground_truth=True, completed_by=9), annotation(), row_id="r2"),
            task(annotation(id=38, value="", kind="textarea")),
        ]
    )
    assert (len(found.votes), found.num_cancelled, found.num_empty, found.num_ground_truth) == (1, 1, 2, 1)
    assert (found.num_repeated, found.num_predictions, found.num_failed, found.num_annotations) == (1, 2, 0, 6)
    assert found.gold == {"r2": "refund"}


def test_a_task_without_annotations_is_nothing_to_worry_about(read) -> None:
    found = read([task(), task(row_id="r2")])
    assert (found.votes, found.failed, found.num_tasks) == ([], [], 2)


def test_the_row_may_stand_in_meta(read) -> None:
    moved = {**task(annotation()), "data": {"text": "?"}, "meta": {"row_id": "r2"}}
    assert read([moved]).votes[0].row_id == "r2"


@pytest.mark.parametrize(
    ("bad", "where", "message"),
    [
        (task(annotation(), row_id="zz"), "task 12", "row 'zz' is not in this project; expected the id of a recorded row"),
        ({**task(annotation()), "data": {}}, "task 12", "no data.row_id and no meta.row_id; expected the id of a row"),
        ({**task(annotation()), "meta": {"row_id": "r2"}}, "task 12", "data.row_id is 'r1' and meta.row_id 'r2'; expected one"),
        ({"id": 12, "data": {"row_id": "r1"}}, "task 12", "annotations is null; expected a list"),
        ("text", "task number 1", "a JSON text; expected an object"),
        (task("text"), "task 12, annotation without id", "a JSON text; expected an object"),
        (task(annotation(completed_by=None)), "task 12, annotation 34", "completed_by is null without an id; expected a user's id"),
        (task(annotation(completed_by={"id": None})), "task 12, annotation 34", "completed_by is object without an id"),
        (task(annotation(completed_by=True)), "task 12, annotation 34", "completed_by is true or false without an id"),
        (task(annotation(created_at=None)), "task 12, annotation 34", "updated_at and created_at are null; expected a time"),
        (task(annotation(created_at="soon")), "task 12, annotation 34", "the time 'soon' is none; expected ISO 8601"),
        (task(annotation(lead_time=-1)), "task 12, annotation 34", "lead_time is -1; expected seconds, 0 or more, or nothing"),
        (task(annotation(lead_time="12")), "task 12, annotation 34", "lead_time is '12'; expected seconds"),
        (task(annotation(lead_time=10**400)), "task 12, annotation 34", "000; expected seconds, 0 or more, or nothing"),
        (task(annotation(10**400, "rating")), "task 12, annotation 34", "a rating whose value is number; expected its answer"),
        (task(annotation(lead_time=True)), "task 12, annotation 34", "lead_time is True; expected seconds"),
        (task(annotation(result="x")), "task 12, annotation 34", "result is text; expected a list"),
        (task(annotation([1, 2], "choices")), "task 12, annotation 34", "a choices whose value is list; expected its answer"),
        (task(annotation("4", "rating")), "task 12, annotation 34", "a rating whose value is text; expected its answer"),
        (task(annotation(None, "choices")), "task 12, annotation 34", "a choices whose value is null; expected its answer"),
        (task(annotation([], "brushlabels")), "task 12, annotation 34", "an answer of type 'brushlabels'; expected choices, rating"),
        (task(annotation(result=annotation()["result"] * 2)), "task 12, annotation 34", "2 answers to 'label'; expected one a task"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named_and_the_others_go_on(read, bad, where, message) -> None:
    found = read([bad, task(annotation(id=90), row_id="r2", id=13)])
    ((found_where, found_message),) = found.failed
    assert found_where == f"export.json: {where}"
    assert message in found_message
    assert found_message.endswith(".")
    assert [vote.row_id for vote in found.votes] == ["r2"]
    assert found.num_failed == found.num_annotations - 1


def test_an_id_that_stands_twice_with_other_content_is_refused(read) -> None:
    found = read([task(annotation()), task(annotation("delivery"), row_id="r2", id=13)])
    assert [vote.value for vote in found.votes] == ["refund"]
    ((where, message),) = found.failed
    assert where == "export.json: task 13, annotation 34"
    assert message.startswith("the id stands already at task 12 with other content; expected one annotation an id")


def test_two_answers_at_one_time_are_refused(read) -> None:
    found = read([task(annotation(), annotation("delivery", id=35), annotation(id=36))])
    assert (len(found.votes), found.num_repeated) == (1, 1)
    assert "annotator 7 says 'delivery', and 'refund' at the same time; expected one answer" in found.failed[0].message
    found = read([task(annotation(ground_truth=True), annotation("delivery", id=35, ground_truth=True))])
    assert "ground truth is 'delivery', and 'refund' in another annotation of the row" in found.failed[0].message
    assert found.gold == {"r1": "refund"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'[{"id": 1,]', r"export.json:1: broken JSON at character 11 .*Export it again as JSON"),
        (b"[\xff]", "export.json: byte 2 is not UTF-8; expected UTF-8"),
        (b'{"id": 1}', "export.json: a JSON object; expected a list of tasks"),
        (b"12", "export.json: a JSON number; expected a list of tasks"),
        (b"", "export.json:1: broken JSON at character 1"),
        (b"[NaN]", "export.json: no plain JSON .the value NaN.; expected a Label Studio export"),
        (b"[" * 100_000, "export.json: no plain JSON .*; expected a Label Studio export"),
        (b'[{"id": 1, "annotation_id": 2, "label": "x"}]', "export.json: this is JSON-MIN, which loses time and id"),
    ],
)
def test_a_file_that_is_no_export_is_refused(read, data, message) -> None:
    with pytest.raises(DataError, match=message):
        read(data)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.json: cannot be read \(No such file or directory\). Check the file"):
        read_label_studio(tmp_path / "none.json", known_rows=ROWS)


def test_one_question_is_read_and_must_be_named_among_several(read) -> None:
    both = annotation()
    both["result"].append({"from_name": "comment", "type": "textarea", "value": {"text": ["odd"]}})
    with pytest.raises(ConfigError, match=r"answers to 2 questions \(comment, label\); expected one. Name the one"):
        read([task(both)])
    assert read([task(both)], control="comment").votes[0].value == "odd"
    with pytest.raises(ConfigError, match=r"no answer to 'lable' \(control\); did you mean 'label'"):
        read([task(both)], control="lable")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["id", "data", "row_id", "annotations", "result", "from_name", "type", "value", "choices",
                         "completed_by", "created_at", "lead_time", "meta", "was_cancelled"]),
        inner, max_size=5,
    ),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(tasks=st.lists(JSON, max_size=4), broken=JSON, place=st.sampled_from(sorted(annotation())))
def test_no_json_crashes_the_reader_and_no_annotation_is_lost(tmp_path_factory, tasks, broken, place) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "export.json"
    path.write_text(json.dumps([*tasks, task(annotation(**{place: broken}), annotation(id=99, completed_by=8))]))
    try:
        found = read_label_studio(path, known_rows=ROWS)
    except (DataError, ConfigError) as err:
        assert "expected" in str(err) or "did you mean" in str(err)
        return
    assert all(vote.row_id in ROWS for vote in found.votes)
    assert all("expected" in failure.message for failure in found.failed)


def test_rows_go_out_and_votes_come_back(read) -> None:
    rows = [row("first?"), row("second?", label="refund")]
    tasks = tasks_of(rows)
    assert [t["data"]["row_id"] for t in tasks] == [r.row_id for r in rows]
    assert tasks[0]["data"]["prompt"] == "first?"
    assert tasks[0]["data"]["reply"] == "Dear Ana, it is here."
    for number, exported in enumerate(tasks):  # what an annotator adds
        exported |= {"id": number, "annotations": [annotation(id=number)]}
    found = read(tasks, known_rows={r.row_id for r in rows})
    assert [(vote.row_id, vote.value) for vote in found.votes] == [(r.row_id, "refund") for r in rows]


def test_votes_survive_the_way_out_and_back(read) -> None:
    rows = [row("first?"), row("second?")]
    votes = [
        Vote(row_id=rows[0].row_id, annotator="7", value="refund", at=AT, seconds=3.5),
        Vote(row_id=rows[0].row_id, annotator="ana@example.org", value="delivery", at=AT),
        Vote(row_id=rows[1].row_id, annotator="7", value="refund", at=AT, seconds=0.0),
    ]
    elsewhere = Vote(row_id="zz", annotator="7", value="refund", at=AT)
    found = read(tasks_of(rows, [*votes, elsewhere]), known_rows={r.row_id for r in rows})
    assert found.votes == votes
    assert found.failed == []


def test_no_metadata_goes_out_and_no_label_is_shown() -> None:
    text = json.dumps(tasks_of([row(), row(label="refund")]))
    for private in ("ana.perez", "crm-dump", "c-204", "north-west", "internal", "granted", "refund"):
        assert private not in text
    assert set(tasks_of([row()])[0]["data"]) == {"row_id", "prompt", "reply"}


def test_a_conversation_says_who_speaks() -> None:
    (exported,) = tasks_of([row("and now?", turns=("hello", "good day"))])
    assert exported["data"]["prompt"] == "user: hello\n\nassistant: good day\n\nuser: and now?"


def test_the_labelling_interface_is_xml_of_the_label_set() -> None:
    labels = ["refund", 'late & "lost" <parcel>', "caf\u00e9"]
    root = ElementTree.fromstring(labelling_config(labels, control="topic"))
    (choices,) = root.iter("Choices")
    assert [choice.get("value") for choice in choices] == labels
    assert (choices.get("name"), choices.get("toName"), choices.get("choice")) == ("topic", "prompt", "single")
    shown = {text.get("name"): text.get("value") for text in root.iter("Text")}
    assert shown == {"prompt": "$prompt", "reply": "$reply"}
    for wrong in (["one"], ["a", "a"], ["a", " "]):
        with pytest.raises(ConfigError, match="expected two or more, none empty, none twice"):
            labelling_config(wrong)
