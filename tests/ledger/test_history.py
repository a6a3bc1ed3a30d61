"""A row's whole story: everything that happened to it, in order, without its text."""

import json
from dataclasses import asdict, replace

import pytest

from metier.core.errors import DataError
from metier.core.hashing import keyed_hash
from metier.ledger import (
    ModelIdentity,
    RowRecord,
    RowState,
    Source,
    Transform,
    finish_look,
    freeze_question,
    move_alias,
    open_look,
    project_key,
    record_dataset,
    record_edges,
    record_parent,
    record_rows,
    record_source,
    record_split,
    record_training,
    record_transform,
    register_model,
    row_history,
    seal_holdout,
)
from metier.ledger.history import LookUse, ModelUse, Origin, Parent, Saw
from metier.ledger.schema import erasure, row, row_subject, subject_key, vote

IDENTITY = ModelIdentity(
    base_sha="b", adapter_sha="a", template_sha="t", tokenizer_sha="k", dataset="d", config_hash="c"
)
FILE = "data/tickets caf\u00e9.jsonl"


def origin_of(ledger, number: int) -> str:
    return keyed_hash(project_key(ledger.project_dir), [FILE, number])


@pytest.fixture
def ledger(place):
    with place.open("ana") as ledger:
        yield ledger


@pytest.fixture
def story(ledger):
    """Record 2 of a file: read, made anew without names, kept, in train of a split, voted on, trained on."""
    record_source(ledger, Source(name="other.jsonl", sha256="00", num_records=9))
    record_source(ledger, Source(name=FILE, sha256="5e", num_records=4, licence="CC0-1.0"))
    rows = [RowRecord(row_id=f"raw{i}", origin_id=origin_of(ledger, i)) for i in range(4)]
    record_rows(ledger, rows)
    clean = RowRecord(row_id="clean2", origin_id=origin_of(ledger, 2))
    record_rows(
        ledger, [clean, replace(rows[2], state=RowState.QUARANTINED, reason="private_replaced", rule_version="1")]
    )
    made = record_transform(ledger, Transform(op="private_replaced", version="3", params={}))
    record_edges(ledger, made, [("clean2", "raw2")])
    dataset = record_dataset(ledger, ["raw0", "raw1", "clean2"])
    question = freeze_question(ledger, {"metric": {"name": "mean"}})
    parts = {origin_of(ledger, 2): "train", origin_of(ledger, 1): "dev", origin_of(ledger, 0): "holdout"}
    split = record_split(ledger, dataset_version=dataset, question_hash=question.hash, parts=parts, certificate={})
    model = register_model(ledger, IDENTITY).model_id
    record_training(ledger, model, dataset_version=dataset, fraction=1.0, seed=0)
    move_alias(ledger, "champion", model)
    return {"dataset": dataset, "split": split.split_id, "question": question.hash, "model": model}


def votes_on(ledger, *row_ids: str) -> None:
    records = [
        {"row_id": row_id, "annotator": f"ben{i}", "at": f"2026-03-0{i + 1}", "value": "good\nreply", "seconds": 3.0,
         "guideline_version": "1"}
        for i, row_id in enumerate(row_ids)
    ]  # fmt: skip
    with ledger.writing("votes_recorded") as transaction:
        transaction.put(vote, records)


def test_a_row_tells_where_it_comes_from_and_where_it_went(ledger, story):
    votes_on(ledger, "clean2")
    history = row_history(ledger, "clean2")
    assert history.origin == Origin(source=FILE, record=2, licence="CC0-1.0", sha256="5e")
    assert [(v.row_id, v.state, v.reason) for v in history.versions] == [
        ("raw2", "quarantined", "private_replaced"),
        ("clean2", "kept", ""),
    ]
    assert history.versions[1].parents == (Parent(row_id="raw2", op="private_replaced", version="3"),)
    assert [(use.version, use.row_id, use.num_rows) for use in history.datasets] == [(story["dataset"], "clean2", 3)]
    assert [(use.split_id, use.part, use.question) for use in history.splits] == [
        (story["split"], "train", story["question"])
    ]
    assert (history.looks, history.is_held_out, history.erased) == ((), False, None)
    assert history.models == (
        ModelUse(
            model_id=story["model"], saw=Saw.YES, through=story["dataset"], state="candidate", names=("champion",)
        ),
    )
    assert [(cast.annotator, cast.value) for cast in history.votes] == [("ben0", "good\nreply")]
    assert [(entry.actor, entry.what) for entry in history.events] == [
        ("ana", f"file {FILE} read"),
        ("ana", "version raw2 kept"),
        ("ana", "version clean2 kept"),
        ("ana", "version raw2 quarantined, private_replaced (rule 1)"),
        ("ana", "version clean2 made from raw2 by private_replaced"),
        ("ana", f"member of dataset {story['dataset'][:16]}"),
        ("ana", f"put into train by split {story['split'][:16]}"),
        ("ana", f"model {story['model'][:16]} trained on dataset {story['dataset'][:16]}"),
        ("ana", "ben0 voted"),
    ]
    assert [entry.seq for entry in history.events] == sorted(entry.seq for entry in history.events)


def test_the_history_reads_as_text_and_as_json(ledger, story):
    votes_on(ledger, "clean2", "clean2")
    history = row_history(ledger, "clean2")
    lines = history.as_text().splitlines()
    assert lines[:7] == [
        f"row {origin_of(ledger, 2)}",
        f"source   {FILE}:2, licence CC0-1.0",
        "version  raw2: quarantined, private_replaced (rule 1)",
        "version  clean2: kept; made from raw2 by private_replaced 3",
        f"dataset  {story['dataset'][:16]}, 3 rows",
        f"split    {story['split'][:16]}: train",
        f"model    {story['model'][:16]} (champion): trained on it, in dataset {story['dataset'][:16]}; candidate",
    ]
    assert lines[7:9] == ["votes    2, ben0: good reply; ben1: good reply", "events"]
    assert lines[9] == f"  {history.events[0].seq:>5}  {history.events[0].at}  ana  file {FILE} read"
    assert len(lines) == 9 + len(history.events)
    told = json.loads(json.dumps(history.as_json()))
    assert (told["origin"]["record"], told["models"][0]["saw"], told["is_held_out"]) == (2, "yes", False)
    assert told["events"][0] == {"seq": 2 + 1, "at": history.events[0].at, "actor": "ana", "what": f"file {FILE} read"}


def test_a_row_is_found_by_file_and_record_by_origin_and_by_the_beginning_of_either(ledger, story):
    wanted = row_history(ledger, "clean2")
    for name in (f"{FILE}:2", wanted.origin_id, wanted.origin_id[:12], "raw2", "clea"):
        assert row_history(ledger, name) == wanted


@pytest.mark.parametrize("name", ["nothing", "", "tickets.jsonl:17", "%", "ra_"])
def test_an_unknown_row_is_an_error(ledger, story, name):
    with pytest.raises(
        DataError, match=r"no row .*; expected the beginning of a row_id or an origin_id, or file:record"
    ):
        row_history(ledger, name)


def test_a_name_of_several_rows_is_an_error_that_lists_them(ledger, story):
    origins = sorted(origin_of(ledger, i)[:16] for i in range(4))
    with pytest.raises(
        DataError, match=f"4 rows are meant by 'raw': origins {', '.join(origins)}. Give more of the id"
    ):
        row_history(ledger, "raw")
    record_rows(ledger, [RowRecord(row_id="raw1", origin_id=f"twin{i}") for i in range(6)])
    with pytest.raises(
        DataError, match=r"7 rows are meant by 'raw1': origins .* and 2 more\. Give more of the id, or one"
    ):
        row_history(ledger, "raw1")
    assert row_history(ledger, "twin1").versions[0].row_id == "raw1"


def test_a_name_that_is_whole_is_not_taken_for_a_beginning(ledger, story):
    record_rows(ledger, [RowRecord(row_id="raw22", origin_id="o22")])
    assert row_history(ledger, "raw2").origin_id == origin_of(ledger, 2)


def test_a_row_that_is_held_out_tells_of_looks_and_keeps_its_votes_to_itself(ledger, story, tmp_path):
    from metier.ledger import ObjectStore

    store = ObjectStore(ledger.project_dir)
    votes_on(ledger, "raw0")
    seal_holdout(ledger, store, b"the text of raw0", split_id=story["split"], num_rows=1)
    for _ in range(2):
        opened = open_look(
            ledger, store, split_id=story["split"], question_hash=story["question"], arms_hash="arms", alpha=0.01,
            alpha_budget=0.05,
        )  # fmt: skip
    finish_look(ledger, opened.look.look_id, result_hash="r")
    history = row_history(ledger, "raw0")
    assert history.is_held_out
    assert history.looks == (
        LookUse(look_id=opened.look.look_id, split_id=story["split"], k=1, alpha=0.01, state="complete"),
    )
    assert history.models == ()  # the model saw the train part of its dataset
    assert [(cast.annotator, cast.value) for cast in history.votes] == [("ben0", None)]
    told = history.as_text()
    assert f"split    {story['split'][:16]}: holdout; held out, so its text and votes are not shown" in told
    assert f"look     {opened.look.look_id[:16]}: number 1 at its question, alpha 0.01, complete" in told
    assert "votes    1, values not shown" in told
    looked = [entry.what.partition(" for ")[0] for entry in history.events if "hold-out" in entry.what]
    assert looked == ["hold-out opened", "hold-out opened again", "hold-out finished"]
    assert "good" not in told + json.dumps(history.as_json())


def test_votes_on_the_content_of_a_held_out_row_are_not_shown_for_its_copies(ledger, story):
    record_rows(ledger, [RowRecord(row_id="raw0", origin_id="twin")])
    votes_on(ledger, "raw0")
    history = row_history(ledger, "twin")
    assert (history.is_held_out, [cast.value for cast in history.votes]) == (False, [None])


def test_a_dev_row_was_not_trained_on_and_a_share_or_a_second_split_leaves_it_open(ledger, story):
    assert row_history(ledger, "raw1").models == ()
    share = register_model(ledger, replace(IDENTITY, seed=2)).model_id
    record_training(ledger, share, dataset_version=story["dataset"], fraction=0.25, seed=0)
    (_, part_of) = row_history(ledger, "clean2").models
    assert (part_of.model_id, part_of.saw) == (share, Saw.PERHAPS)
    assert f"{share[:16]}: perhaps trained on it, on a share of dataset" in row_history(ledger, "clean2").as_text()
    record_split(
        ledger, dataset_version=story["dataset"], question_hash=story["question"],
        parts={origin_of(ledger, 1): "train", origin_of(ledger, 2): "holdout"}, certificate={"other": 1},
    )  # fmt: skip
    assert {use.saw for use in row_history(ledger, "raw1").models} == {Saw.PERHAPS}
    assert {use.saw for use in row_history(ledger, "clean2").models} == {Saw.PERHAPS}


def test_models_that_went_on_from_one_that_saw_the_row_are_listed(ledger, story):
    second, third = (register_model(ledger, replace(IDENTITY, adapter_sha=name)).model_id for name in ("2", "3"))
    record_parent(ledger, second, story["model"])
    record_parent(ledger, third, second)
    found = {use.model_id: (use.saw, use.through) for use in row_history(ledger, "clean2").models}
    assert found == {
        story["model"]: (Saw.YES, story["dataset"]),
        second: (Saw.THROUGH_PARENT, story["model"]),
        third: (Saw.THROUGH_PARENT, second),
    }
    assert f"went on from model {second[:16]}, which saw it" in row_history(ledger, "clean2").as_text()
    assert row_history(ledger, "clean2").events[-1].what == f"model {third[:16]} went on from {second[:16]}"


def test_an_erased_row_tells_when_by_whom_and_under_which_certificate(ledger, story):
    with ledger.writing("subjects_recorded") as transaction:
        transaction.put(subject_key, [{"subject_hash": "s1", "key_ref": "k", "destroyed_at": None}])
        transaction.put(row_subject, [{"row_id": "clean2", "subject_hash": "s1"}])
    gone = [
        RowRecord(row_id=name, origin_id=origin_of(ledger, 2), state=RowState.ERASED, reason="subject_erased")
        for name in ("raw2", "clean2")
    ]
    ledger.actor = "eva"
    with ledger.writing("rows_erased") as transaction:
        transaction.put(row, [asdict(record) for record in gone])
        transaction.put(subject_key, [{"subject_hash": "s1", "key_ref": "k", "destroyed_at": "2026-03-04"}])
        transaction.note(subject="s1")
    with ledger.writing("subject_erased") as transaction:
        transaction.put(
            erasure,
            [
                {
                    "erasure_id": "e",
                    "subject_hash": "s1",
                    "certificate_hash": "c" * 64,
                    "object_ref": "",
                    "at": "2026-03-04",
                }
            ],
        )
    # A later erasure moves the pack the tombstone points at: the row was not erased then.
    record_rows(ledger, [replace(record, object_ref="ab" * 32) for record in gone])
    history = row_history(ledger, "clean2")
    (event,) = ledger.events(kind="rows_erased")
    assert history.erased is not None
    assert (history.erased.seq, history.erased.at, history.erased.actor) == (event.seq, event.at, "eva")
    assert history.erased.certificate_hash == "c" * 64
    assert f"erased   {event.at} by eva, event {event.seq}, certificate {'c' * 16}" in history.as_text()
    assert [entry.what for entry in history.events][-7:] == [
        "about subject s1",
        "key of subject s1 destroyed",
        "version clean2 erased, subject_erased",
        "version raw2 erased, subject_erased",
        "erasure of subject s1 recorded",
        "version clean2 written anew, its state unchanged",
        "version raw2 written anew, its state unchanged",
    ]


def test_a_row_of_no_recorded_source_says_so(ledger):
    record_rows(ledger, [RowRecord(row_id="r", origin_id="o")])
    history = row_history(ledger, "r")
    assert history.origin is None
    assert history.as_text().splitlines()[1] == "source   not among the recorded sources"
    record_source(ledger, Source(name="x.csv", sha256="5", num_records=1))
    record_rows(ledger, [RowRecord(row_id="s", origin_id=keyed_hash(project_key(ledger.project_dir), ["x.csv", 9999]))])
    assert row_history(ledger, "s").as_text().splitlines()[1] == "source   x.csv:9999, licence not stated"
