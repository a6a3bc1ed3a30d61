import sqlite3
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metier.ledger import Ledger, verify_chain, verify_objects
from metier.ledger.schema import TABLES

from .conftest import fill_more

NO_TRIGGERS = "DROP TRIGGER event_no_update; DROP TRIGGER event_no_delete;"
TRIGGERS = """
CREATE TRIGGER event_no_update BEFORE UPDATE ON event BEGIN SELECT RAISE(ABORT, 'events are append only'); END;
CREATE TRIGGER event_no_delete BEFORE DELETE ON event BEGIN SELECT RAISE(ABORT, 'events are append only'); END;
"""


def tamper(ledger: Ledger, script: str) -> None:
    connection = sqlite3.connect(ledger.project_dir / ".metier" / "ledger.db")
    connection.executescript(script)
    connection.close()


def found(ledger: Ledger) -> str:
    return "\n".join(str(problem) for problem in verify_chain(ledger))


def test_an_untouched_ledger_has_no_problem(project):
    fill_more(project)
    assert verify_chain(project.ledger, known_heads=[event.hash for event in project.ledger.events()]) == []
    assert verify_objects(project.ledger, project.store) == []


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("UPDATE event SET actor = 'eve' WHERE seq = 3", "event 3 (rows_recorded): its content was edited"),
        ("UPDATE event SET kind = 'x' WHERE seq = 2", "event 2 (x): its content was edited"),
        ("UPDATE event SET at = '2020' WHERE seq = 2", "event 2 (source_read): its content was edited"),
        ("UPDATE event SET body = '{}' WHERE seq = 3", "event 3 (rows_recorded): its content was edited"),
        ("UPDATE event SET body = body || ' ' WHERE seq = 3", "event 3 (rows_recorded): its content was edited"),
        ("UPDATE event SET body = '{\"cut' WHERE seq = 3", "event 3 (rows_recorded): its content was edited"),
        ("UPDATE event SET body = '[1]' WHERE seq = 3", "event 3 (rows_recorded): its content was edited"),
        ("UPDATE event SET hash = prev_hash WHERE seq = 3", "event 4 (rows_recorded): it does not follow"),
        ("UPDATE event SET prev_hash = hash WHERE seq = 3", "event 3 (rows_recorded): it does not follow"),
        ("DELETE FROM event WHERE seq = 3", "event 4 (rows_recorded): it is the next event on file; expected event 3"),
        ("DELETE FROM event WHERE seq = 1", "event 2 (source_read): it is the next event on file; expected event 1"),
        (
            "UPDATE event SET seq = -3 WHERE seq = 3; UPDATE event SET seq = 3 WHERE seq = 4;"
            "UPDATE event SET seq = 4 WHERE seq = -3",
            "event 3 (rows_recorded): it does not follow",
        ),
        ("DELETE FROM event WHERE seq = (SELECT max(seq) FROM event)", "say event 16 wrote them"),
        ("DELETE FROM event", "chain: no event"),
        (
            "INSERT INTO event SELECT seq + 1, at, actor, kind, body, hash, hash FROM event ORDER BY seq DESC LIMIT 1",
            "event 17 (spent): its content was edited",
        ),
    ],
)
def test_a_changed_event_is_found(project, script, expected):
    fill_more(project)
    tamper(project.ledger, f"{NO_TRIGGERS}{script};{TRIGGERS}")
    assert expected in found(project.ledger)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("UPDATE row SET state = 'kept', reason = '' WHERE row_id = 'r3'", "table row r3 o3, event 4: edited content"),
        ("UPDATE row SET origin_id = 'o9' WHERE row_id = 'r0'", "table row, event 3: edited content"),
        ("DELETE FROM row WHERE row_id = 'r0'", "table row, event 3: 3 of 4 records"),
        ("INSERT INTO row SELECT 'r9', 'o9', '', '', 'kept', '', '', '', 3", "table row, event 3: 5 of 4 records"),
        (
            "INSERT INTO row SELECT 'r9', 'o9', '', '', 'kept', '', '', '', 99",
            "table row: 1 records (r9 o9) say event 99",
        ),
        # The state before a recorded change, put back as it was.
        (
            "UPDATE row SET state = 'kept', reason = '', seq = 3 WHERE row_id = 'r3'",
            "table row, event 4: 0 of 1 records",
        ),
        ("UPDATE part SET part = 'train' WHERE part = 'holdout'", "table part, event 7: edited content"),
        ("DELETE FROM part WHERE part = 'dev'", "table part, event 7: 2 of 3 records"),
        ("UPDATE question SET body = replace(body, '0.03', '0.01')", "table question"),
        ("UPDATE member SET row_id = 'r3' WHERE row_id = 'r0'", "table member, event 5: edited content"),
        ("UPDATE dataset SET n = 4", "table dataset"),
        ("UPDATE seal SET object_ref = '00'", "table seal"),
        ("UPDATE look SET alpha = 0.05", "table look"),
        ("UPDATE look SET state = 'opened', result_hash = NULL", "table look"),
        ("DELETE FROM look", "table look, event 10: 0 of 1 records"),
        ("UPDATE look SET k = 'one'", "table look"),
        ("UPDATE look SET arms_hash = x'00ff'", "table look"),
        ("UPDATE model SET state = 'released'", "table model"),
        ("UPDATE model SET adapter_sha = 'z'", "table model"),
        ("UPDATE alias SET model_id = 'z'", "table alias champion, event 13: edited content"),
        ("UPDATE trained_on SET fraction = 0.5", "table trained_on"),
        ("UPDATE prediction SET predicted = 5", "table prediction"),
        ("DELETE FROM spend", "table spend"),
        ("UPDATE run SET stage = 'x'", "table run"),
        ("DELETE FROM source", "table source, event 2: 0 of 1 records"),
        ("DROP TRIGGER event_no_delete", "table event: trigger event_no_delete is gone"),
        (
            "DROP TRIGGER event_no_delete; CREATE TRIGGER event_no_delete BEFORE DELETE ON event BEGIN SELECT 1; END",
            "table event: trigger event_no_delete is gone",
        ),
    ],
)
def test_a_changed_record_is_found(project, script, expected):
    fill_more(project)
    tamper(project.ledger, script)
    assert expected in found(project.ledger)


def test_a_cut_tail_is_consistent_and_seen_only_from_a_noted_head(project):
    before = project.ledger.head().seq
    fill_more(project)
    noted = project.ledger.head().hash
    deletions = ";".join(f"DELETE FROM {name} WHERE seq > {before}" for name in (*TABLES, "event"))
    tamper(project.ledger, f"{NO_TRIGGERS}{deletions};{TRIGGERS}")
    assert verify_chain(project.ledger) == []
    (problem,) = verify_chain(project.ledger, known_heads=[noted])
    assert str(problem) == (
        f"chain: no event has the known head {noted[:16]}; expected every head ever noted; events were cut off or the "
        "chain was written anew."
    )


def test_another_project_key_is_found(project):
    (project.ledger.project_dir / ".metier" / "keys" / "project.key").write_bytes(bytes(32))
    assert found(project.ledger).startswith("project key: another key; expected the key the ledger was created with")


def test_changed_missing_and_cut_objects_are_found(project):
    paths = sorted(path for path in project.store.root.glob("??/*"))
    assert len(paths) == 2  # the row texts and the sealed hold-out
    paths[0].write_bytes(b"x" + paths[0].read_bytes()[1:])
    paths[1].unlink()
    problems = [str(problem) for problem in verify_objects(project.ledger, project.store)]
    assert len(problems) == 2
    assert any(str(paths[0]) in problem and "the bytes changed" in problem for problem in problems)
    assert any(str(paths[1]) in problem and "the object is missing" in problem for problem in problems)


def test_an_erased_row_needs_no_object(project):
    from metier.ledger import RowRecord, RowState, record_rows, stored_rows

    (ref,) = {row.object_ref for row in stored_rows(project.ledger)}
    erased = [
        RowRecord(row_id=row.row_id, origin_id=row.origin_id, object_ref=ref, state=RowState.ERASED, reason="request")
        for row in stored_rows(project.ledger)
    ]
    record_rows(project.ledger, erased)
    project.store.path_of(ref).unlink()
    assert verify_objects(project.ledger, project.store) == []


@pytest.fixture(scope="module")
def ledger_to_hurt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from .conftest import fill

    with Ledger.open(tmp_path_factory.mktemp("hurt")) as ledger:
        fill_more(fill(ledger))
        return ledger.project_dir


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_single_edit_of_any_cell_goes_unseen(ledger_to_hurt, data):
    path = ledger_to_hurt / ".metier" / "ledger.db"
    connection = sqlite3.connect(path, isolation_level=None)
    tables = [name for name in (*TABLES, "event") if connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]]
    table = data.draw(st.sampled_from(tables))
    columns = [column[1] for column in connection.execute(f"PRAGMA table_info({table})")]
    column = data.draw(st.sampled_from(columns))
    ids = [rowid for (rowid,) in connection.execute(f"SELECT rowid FROM {table}")]
    rowid = data.draw(st.sampled_from(ids))
    (old,) = connection.execute(f"SELECT {column} FROM {table} WHERE rowid = ?", (rowid,)).fetchone()
    new = data.draw(st.one_of(st.text(max_size=8), st.integers(-5, 50), st.just(None)))
    connection.executescript(NO_TRIGGERS)
    try:
        connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (new, rowid))
        row_now = new if table == "event" and column == "seq" else rowid
        (now,) = connection.execute(f"SELECT {column} FROM {table} WHERE rowid = ?", (row_now,)).fetchone()
    except sqlite3.IntegrityError:
        now = old  # the table itself refused
        row_now = rowid
    connection.executescript(TRIGGERS)
    with Ledger.open(ledger_to_hurt) as ledger:
        problems = verify_chain(ledger)
    connection.executescript(NO_TRIGGERS)
    connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (old, row_now))
    connection.executescript(TRIGGERS)
    connection.close()
    assert bool(problems) == (now != old or type(now) is not type(old)), (table, column, old, now)
