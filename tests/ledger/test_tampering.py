"""Every kind of tampering is found from a head noted outside, on both databases; most are found without one."""

import pytest

from metier.core.errors import StoreError
from metier.ledger import find_seal, registered_models, verify_chain, verify_model_files, verify_objects
from metier.ledger.schema import TABLES

from .forging import rechain, reroot
from .servers import only_sqlite

EVENTS = {
    "actor edited": ("UPDATE event SET actor = 'eve' WHERE seq = 3", "event 3 (rows_recorded): its content was edited"),
    "kind edited": ("UPDATE event SET kind = 'x' WHERE seq = 2", "event 2 (x): its content was edited"),
    "time edited": ("UPDATE event SET at = '2020' WHERE seq = 2", "event 2 (source_read): its content was edited"),
    "body emptied": ("UPDATE event SET body = '{}' WHERE seq = 3", "event 3 (rows_recorded): its content was edited"),
    "body respelt": (
        "UPDATE event SET body = body || ' ' WHERE seq = 3",
        "event 3 (rows_recorded): its content was ed",
    ),
    "body cut": ("UPDATE event SET body = '{\"cut' WHERE seq = 3", "event 3 (rows_recorded): its content was edited"),
    "body no object": (
        "UPDATE event SET body = '[1]' WHERE seq = 3",
        "event 3 (rows_recorded): its content was edited",
    ),
    "claims of another shape": (
        """UPDATE event SET body = '{"replaced":{"row":[7,[]]},"wrote":{"row":[1]}}' WHERE seq = 3""",
        "event 3 (rows_recorded): its content was edited",
    ),
    "hash edited": ("UPDATE event SET hash = prev_hash WHERE seq = 3", "event 4 (rows_recorded): it does not follow"),
    "link edited": ("UPDATE event SET prev_hash = hash WHERE seq = 3", "event 3 (rows_recorded): it does not follow"),
    "event deleted": (
        "DELETE FROM event WHERE seq = 3",
        "event 4 (rows_recorded): it is the next event on file; expected event 3; events were deleted",
    ),
    "first event deleted": ("DELETE FROM event WHERE seq = 1", "event 2 (source_read): it is the next event on file"),
    "events swapped": (
        "UPDATE event SET seq = -3 WHERE seq = 3; UPDATE event SET seq = 3 WHERE seq = 4;"
        "UPDATE event SET seq = 4 WHERE seq = -3",
        "event 3 (rows_recorded): it does not follow",
    ),
    "last event deleted": ("DELETE FROM event WHERE seq = (SELECT max(seq) FROM event)", "say event 24 wrote them"),
    "all events deleted": ("DELETE FROM event", "chain: no event"),
    "event added at the end": (
        "INSERT INTO event SELECT seq + 1, at, actor, kind, body, hash, hash FROM event ORDER BY seq DESC LIMIT 1",
        "event 25 (subject_erased): its content was edited",
    ),
    "event put in between": (
        "UPDATE event SET seq = seq + 100 WHERE seq > 4; UPDATE event SET seq = seq - 99 WHERE seq > 100;"
        "INSERT INTO event SELECT 5, at, actor, kind, body, hash, hash FROM event WHERE seq = 4",
        "event 5 (rows_recorded): its content was edited",
    ),
}
RECORDS = {
    "row state edited": (
        "UPDATE row SET state = 'kept', reason = '' WHERE row_id = 'r3'",
        "table row r3 o3, event 4: edited content",
    ),
    "row given to another record": (
        "UPDATE row SET origin_id = 'o9' WHERE row_id = 'r0'",
        "table row, event 3: edited",
    ),
    "row pointed at another object": ("UPDATE row SET object_ref = '00' WHERE row_id = 'r0'", "table row, event 3: ed"),
    "row deleted": ("DELETE FROM row WHERE row_id = 'r0'", "table row, event 3: 3 of 4 records"),
    "row added to an event": (
        "INSERT INTO row VALUES ('r9', 'o9', '', '', 'kept', '', '', '', 3)",
        "table row, event 3: 5 of 4 records",
    ),
    "row of no event": (
        "INSERT INTO row VALUES ('r9', 'o9', '', '', 'kept', '', '', '', 99)",
        "table row: 1 records (r9 o9) say event 99",
    ),
    "row put back to an earlier state": (
        "UPDATE row SET state = 'kept', reason = '', seq = 3 WHERE row_id = 'r3'",
        "table row, event 4: 0 of 1 records",
    ),
    "part moved": ("UPDATE part SET part = 'train' WHERE part = 'holdout'", "table part, event 7: edited content"),
    "part deleted": ("DELETE FROM part WHERE part = 'dev'", "table part, event 7: 2 of 3 records"),
    "certificate edited": ("UPDATE split SET certificate_hash = '00'", "table split"),
    "split of another dataset": ("UPDATE split SET dataset = '00'", "table split"),
    "question edited": ("UPDATE question SET body = replace(body, '0.03', '0.01')", "table question"),
    "member swapped": ("UPDATE member SET row_id = 'r3' WHERE row_id = 'r0'", "table member, event 5: edited content"),
    "member removed": ("DELETE FROM member WHERE row_id = 'r0'", "table member, event 5: 2 of 3 records"),
    "dataset size edited": ("UPDATE dataset SET n = 4", "table dataset"),
    "seal pointed at another object": ("UPDATE seal SET object_ref = '00'", "table seal"),
    "look made cheaper": ("UPDATE look SET alpha = 0.0001", "table look"),
    "look made unfinished": ("UPDATE look SET state = 'opened', result_hash = NULL", "table look"),
    "look given another result": ("UPDATE look SET result_hash = 'better'", "table look"),
    "look deleted": ("DELETE FROM look", "table look, event 10: 0 of 1 records"),
    "model released": ("UPDATE model SET state = 'released'", "table model"),
    "adapter hash edited": ("UPDATE model SET adapter_sha = 'y' WHERE adapter_sha = 'a'", "table model"),
    "model deleted": ("DELETE FROM model WHERE adapter_sha = 'a'", "table model"),
    "alias moved silently": ("UPDATE alias SET model_id = 'z'", "table alias champion, event 13: edited content"),
    "share of training edited": ("UPDATE trained_on SET fraction = 0.5", "table trained_on"),
    "training removed": ("DELETE FROM trained_on", "table trained_on, event 12: 0 of 1 records"),
    "parent model removed": ("DELETE FROM model_parent", "table model_parent, event 20: 0 of 1 records"),
    "edge removed": ("DELETE FROM edge", "table edge, event 18: 0 of 1 records"),
    "transform edited": ("UPDATE transform SET version = '2'", "table transform"),
    "person cut from a row": ("DELETE FROM row_subject", "table row_subject, event 21: 0 of 1 records"),
    "key said to be there": (
        "UPDATE subject_key SET destroyed_at = NULL",
        "table subject_key s, event 23: edited content",
    ),
    "erasure removed": ("DELETE FROM erasure", "table erasure, event 24: 0 of 1 records"),
    "erasure's certificate edited": ("UPDATE erasure SET certificate_hash = 'i'", "table erasure e, event 24: edited"),
    "vote edited": (
        "UPDATE vote SET value = 'bad'",
        "table vote r0 ben 2026-03-01T09:30:00Z, event 22: edited content",
    ),
    "vote removed": ("DELETE FROM vote", "table vote, event 22: 0 of 1 records"),
    "prediction edited": ("UPDATE prediction SET predicted = 5", "table prediction"),
    "spending removed": ("DELETE FROM spend", "table spend"),
    "run edited": ("UPDATE run SET stage = 'x'", "table run"),
    "source removed": ("DELETE FROM source", "table source, event 2: 0 of 1 records"),
}


def test_an_untouched_ledger_has_no_problem(full_project):
    ledger = full_project.ledger
    assert verify_chain(ledger, known_heads=[event.hash for event in ledger.events()]) == []
    assert verify_objects(ledger, full_project.store) == []
    assert all(full_project.place.run_sql(f'SELECT count(*) FROM "{name}"') != [(0,)] for name in TABLES)


@pytest.mark.parametrize("kind", EVENTS)
def test_a_changed_event_is_found(full_project, found_in, kind):
    script, expected = EVENTS[kind]
    full_project.place.tamper(*script.split(";"))
    assert expected in found_in(full_project.ledger)


@pytest.mark.parametrize("kind", RECORDS)
def test_a_changed_record_is_found(full_project, found_in, kind):
    script, expected = RECORDS[kind]
    full_project.place.tamper(script)
    assert expected in found_in(full_project.ledger)


@only_sqlite
@pytest.mark.parametrize(
    "script",
    [
        "UPDATE look SET k = 'one'",
        "UPDATE look SET alpha = 9e999",
        "UPDATE look SET arms_hash = x'00ff'",
        "UPDATE look SET split_id = NULL",
    ],
)
def test_values_of_another_type_are_found_where_the_database_takes_them(full_project, found_in, script):
    place = full_project.place
    if "NULL" in script:  # the table refuses; an edited schema does not
        place.tamper(
            "PRAGMA writable_schema = ON", "UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', '')", "VACUUM"
        )
    place.tamper(script)
    assert "table look" in found_in(full_project.ledger)


@pytest.mark.parametrize("verb", ["delete", "update"])
def test_a_missing_trigger_is_found(full_project, found_in, verb):
    place = full_project.place
    name = (
        f"event_no_{verb}" if place.is_sqlite else {"delete": "event_append_only", "update": "event_not_emptied"}[verb]
    )
    place.run_sql(f"DROP TRIGGER {name}" + ("" if place.is_sqlite else " ON event"))
    assert found_in(full_project.ledger) == f"table event: trigger {name} is gone; expected the trigger."


def test_a_trigger_that_no_longer_refuses_is_found(full_project, found_in):
    place = full_project.place
    if place.is_sqlite:
        name = "event_no_delete"
        place.run_sql(f"DROP TRIGGER {name}", f"CREATE TRIGGER {name} BEFORE DELETE ON event BEGIN SELECT 1; END")
    else:
        name = "event_append_only"
        place.run_sql(f"ALTER TABLE event DISABLE TRIGGER {name}")
    assert found_in(full_project.ledger) == f"table event: trigger {name} is gone; expected the trigger."


def test_a_table_that_is_gone_is_an_error(full_project):
    full_project.place.run_sql("DROP TABLE vote")
    with pytest.raises(StoreError, match="the ledger could not be read or written.*vote"):
        verify_chain(full_project.ledger)


# From here on the chain itself was made to fit: only a head noted outside shows it, or a name that stands in a report.


def noted_head_is_missing(project, noted) -> bool:
    """Whether the head noted outside is what `verify_chain` misses."""
    problems = verify_chain(project.ledger, known_heads=[noted])
    return str(problems[-1]) == (
        f"chain: no event has the known head {noted[:16]}; expected every head ever noted; events were cut off or the "
        "chain was written anew."
    )


def test_a_cut_tail_is_consistent_and_seen_only_from_a_noted_head(full_project):
    noted, before = full_project.ledger.head().hash, 23
    full_project.place.tamper(*(f'DELETE FROM "{name}" WHERE seq > {before}' for name in (*TABLES, "event")))
    assert verify_chain(full_project.ledger) == []
    assert noted_head_is_missing(full_project, noted)


def test_an_edited_event_with_its_tail_chained_anew_is_seen_only_from_a_noted_head(full_project):
    noted = full_project.ledger.head().hash
    full_project.place.tamper("UPDATE event SET actor = 'eve' WHERE seq = 3")
    rechain(full_project.place)
    assert verify_chain(full_project.ledger) == []
    assert noted_head_is_missing(full_project, noted)


def test_a_history_written_wholly_anew_is_seen_only_from_a_noted_head(full_project):
    """Cheaper looks, another vote, an erasure that never was: records, roots and hashes all fit each other."""
    noted = full_project.ledger.head().hash
    full_project.place.tamper(
        "UPDATE look SET alpha = 0.0001", "UPDATE vote SET value = 'bad'", "DELETE FROM erasure",
        "UPDATE row SET state = 'kept', reason = '' WHERE row_id = 'r3'",
    )  # fmt: skip
    reroot(full_project.place)
    rechain(full_project.place)
    assert verify_chain(full_project.ledger) == []
    assert noted_head_is_missing(full_project, noted)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (
            "UPDATE part SET part = 'train' WHERE part = 'holdout'",
            "split {split}: its dataset, question, certificate and",
        ),
        (
            "UPDATE split SET certificate_hash = '00'",
            "split {split}: its dataset, question, certificate and parts make",
        ),
        ("UPDATE member SET row_id = 'r3' WHERE row_id = 'r0'", "dataset {dataset}: its rows make the name"),
        (
            "UPDATE dataset SET n = 4",
            "dataset {dataset}: it is said to have 4 rows and root {dataset}; expected 3 rows",
        ),
        ("UPDATE question SET body = replace(body, '0.03', '0.01')", "question {question}: its body make the name"),
        (
            "UPDATE model SET adapter_sha = 'y' WHERE adapter_sha = 'a'",
            "its files, data, settings and seed make the name",
        ),
        ("UPDATE look SET arms_hash = 'y'", "its split, question and arms make the name"),
        ("UPDATE source SET sha256 = '5f'", "its file make the name"),
        ("UPDATE transform SET params_hash = '00'", "its operation, version and settings make the name"),
    ],
)
def test_content_under_the_name_of_another_is_found_in_a_history_written_anew(full_project, found_in, script, expected):
    full_project.place.tamper(script)
    reroot(full_project.place)
    rechain(full_project.place)
    names = {"split": full_project.split_id, "dataset": full_project.dataset, "question": full_project.question_hash}
    assert expected.format(**{kind: name[:16] for kind, name in names.items()}) in found_in(full_project.ledger)


# The files beside the ledger.


@pytest.mark.parametrize("what", ["flipped", "cut", "swapped", "deleted"])
def test_a_changed_object_is_found(full_project, what):
    store = full_project.store
    path = store.path_of(find_seal(full_project.ledger, full_project.split_id).object_ref)
    (other,) = [p for p in store.root.glob("??/*") if p.read_bytes() == b"row texts"]
    data = path.read_bytes()
    if what == "deleted":
        path.unlink()
    elif what == "swapped":
        path.write_bytes(other.read_bytes())
        other.write_bytes(data)
    else:
        path.write_bytes(data[:-1] if what == "cut" else data[:40] + bytes([data[40] ^ 1]) + data[41:])
    problems = [str(problem) for problem in verify_objects(full_project.ledger, store)]
    assert len(problems) == (2 if what == "swapped" else 1)
    seal = next(problem for problem in problems if str(path) in problem)
    assert f"object of seal of split {full_project.split_id}: {path}" in seal
    assert ("the object is missing" if what == "deleted" else "the bytes changed") in seal


def test_the_certificate_of_an_erasure_is_among_the_objects(full_project):
    path = next(p for p in full_project.store.root.glob("??/*") if p.read_bytes() == b"certificate")
    path.write_bytes(b"another one")
    (problem,) = verify_objects(full_project.ledger, full_project.store)
    assert str(problem).startswith(f"object of erasure e: {path}: the bytes changed")


def test_a_changed_model_file_is_found(full_project, tmp_path):
    from dataclasses import replace

    from metier.core.hashing import file_sha256
    from metier.ledger import register_model

    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(b"weights")
    sha = file_sha256(path)
    identity = replace(registered_models(full_project.ledger)[0].identity, adapter_sha=sha)
    model_id = register_model(full_project.ledger, identity).model_id
    assert verify_model_files(full_project.ledger, {model_id: path}) == []
    path.write_bytes(b"weightz")
    (problem,) = verify_model_files(full_project.ledger, {model_id: path})
    assert str(problem) == (
        f"model {model_id[:16]}: {path} has SHA-256 {file_sha256(path)[:16]}; expected the adapter with SHA-256 {sha[:16]}."
    )
    path.unlink()
    (problem,) = verify_model_files(full_project.ledger, {model_id: path})
    assert f"{path} cannot be read (No such file or directory)" in str(problem)
    (problem,) = verify_model_files(full_project.ledger, {"none": path})
    assert str(problem) == "model none: it is not registered; expected a model of the register."


def test_another_project_key_is_found(full_project, found_in):
    (full_project.place.project_dir / ".metier" / "keys" / "project.key").write_bytes(bytes(32))
    assert found_in(full_project.ledger).startswith(
        "project key: another key; expected the key the ledger was created with"
    )
