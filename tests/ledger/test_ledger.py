import json
import shutil
import sqlite3
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest

from metier.core.errors import StoreError
from metier.ledger import Ledger, RowRecord, database, record_rows, verify_chain
from metier.ledger.keys import project_key
from metier.ledger.schema import REVISION, metadata

from .servers import only_sqlite


def test_an_event_is_hashed_with_the_one_before(place):
    with place.open("ana") as ledger:
        first = ledger.head()
        second = ledger.append("tea_made", {"cups": 2, "sugar": 0.5})
        event = ledger.events()[1]
    text = '{"actor":"ana","at":"' + event.at + '","body":{"cups":2,"sugar":0.5},"kind":"tea_made","seq":2}'
    assert second.hash == sha256((first.hash + text).encode()).hexdigest() == event.hash
    assert (first.seq, second.seq, event.prev_hash) == (1, 2, first.hash)
    assert event.body == {"cups": 2, "sugar": 0.5}


def test_a_ledger_is_found_again_as_it_was_left(place):
    text = "caf\u00e9 \ud800 \0 \\u0000 end"  # what no database keeps as text, the JSON of an event does
    with place.open("ana \udcff") as ledger:
        head = ledger.append("noted", {"text": text})
    with place.open() as ledger:
        assert ledger.head() == head
        assert (ledger.events()[-1].body["text"], ledger.events()[-1].actor) == (text, "ana \\udcff")
        assert verify_chain(ledger, known_heads=[head.hash]) == []


def test_an_interrupted_write_leaves_neither_records_nor_event(project):
    head = project.ledger.head()
    from metier.ledger.schema import source

    with pytest.raises(KeyboardInterrupt), project.ledger.writing("source_read") as transaction:
        transaction.put(source, [{"source_id": "x", "name": "n", "sha256": "s", "licence": "", "num_records": 1}])
        raise KeyboardInterrupt
    assert project.ledger.head() == head
    assert verify_chain(project.ledger) == []


def test_a_write_that_changes_nothing_adds_no_event(project):
    head = project.ledger.head()
    with project.ledger.writing("nothing"):
        pass
    assert project.ledger.head() == head


@only_sqlite
def test_events_refuse_to_be_changed_through_sql(project):
    with sqlite3.connect(project.place.db_path) as connection:
        for statement in ("UPDATE event SET actor = 'eve'", "DELETE FROM event WHERE seq = 2"):
            with pytest.raises(sqlite3.IntegrityError, match="events are append only"):
                connection.execute(statement)
    connection.close()


def test_the_ledger_says_that_events_are_append_only(project):
    from sqlalchemy import text

    with (
        pytest.raises(StoreError, match="append only.*Record a new event instead"),
        database.writing(project.ledger.engine) as connection,
    ):
        connection.execute(text("DELETE FROM event"))


def test_the_migrations_make_exactly_the_tables_of_the_schema(place):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with place.open() as ledger, ledger.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == REVISION


def test_every_table_can_be_made_on_postgresql():
    from sqlalchemy.dialects import postgresql
    from sqlalchemy.schema import CreateTable

    made = [str(CreateTable(table).compile(dialect=postgresql.dialect())) for table in metadata.sorted_tables]
    assert len(made) == 23
    assert not any("BLOB" in text or "JSON" in text or "SERIAL" in text for text in made)


NEXT_REVISION = """
from alembic import op
from sqlalchemy import Column, Text
revision, down_revision, branch_labels, depends_on = "0003", "0002", None, None

def upgrade():
    op.add_column("source", Column("region", Text))
    {then}
"""


def with_next_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str = "pass") -> None:
    migrations_dir = tmp_path / "migrations"
    shutil.copytree(database.MIGRATIONS_DIR, migrations_dir, ignore=shutil.ignore_patterns("__pycache__"))
    (migrations_dir / "versions" / "r0003_next.py").write_text(NEXT_REVISION.format(then=then))
    monkeypatch.setattr(database, "MIGRATIONS_DIR", migrations_dir)
    monkeypatch.setattr(database, "REVISION", "0003")


def test_an_older_ledger_is_upgraded_and_keeps_its_chain(project, tmp_path, monkeypatch):
    head = project.ledger.head()
    with_next_revision(tmp_path, monkeypatch)
    with project.place.open() as upgraded:
        with upgraded.engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT count(region) FROM source").scalar() == 0
        assert upgraded.head() == head
        assert verify_chain(upgraded) == []


def test_an_upgrade_that_fails_leaves_the_older_ledger(project, tmp_path, monkeypatch):
    with_next_revision(tmp_path, monkeypatch, then='raise RuntimeError("power cut")')
    with pytest.raises(RuntimeError, match="power cut"):
        project.place.open()
    monkeypatch.undo()
    from sqlalchemy import inspect

    with project.place.open() as ledger, ledger.engine.connect() as connection:
        assert "region" not in [column["name"] for column in inspect(connection).get_columns("source")]


def test_a_newer_ledger_is_refused(project):
    project.place.run_sql("UPDATE alembic_version SET version_num = '0417'")
    with pytest.raises(StoreError, match="has revision '0417'; this metier knows up to '0002'.*upgrade with pip"):
        project.place.open()


def test_a_file_that_is_no_database_is_named(tmp_path):
    project_key(tmp_path)
    Ledger.open(tmp_path).close()
    (tmp_path / ".metier" / "ledger.db").write_bytes(b"rows of nothing" * 1000)
    with pytest.raises(StoreError, match=r"ledger\.db: the ledger is damaged .*Restore the file from a backup"):
        Ledger.open(tmp_path)


@only_sqlite  # elsewhere a new key is made, which is not the one the ledger began with
def test_a_ledger_without_its_key_is_refused(project):
    (project.ledger.project_dir / ".metier" / "keys" / "project.key").unlink()
    with pytest.raises(StoreError, match=r"project\.key: the key is gone, but the project has a ledger"):
        project.place.open()


def test_a_ledger_begun_with_another_key_is_refused(project):
    (project.place.project_dir / ".metier" / "keys" / "project.key").write_bytes(bytes(32))
    with pytest.raises(StoreError, match=r"begun with another project key than .*Give the URL of this project's own"):
        project.place.open()


def test_a_writer_waits_for_another_and_then_says_so(project, monkeypatch):
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    with (
        project.place.open() as other,
        database.writing(project.ledger.engine),
        pytest.raises(StoreError, match="another metier process has been writing for 0.05 s"),
    ):
        other.append("noted", {"a": 1})
    assert project.ledger.append("noted", {"a": 1}).seq == project.ledger.head().seq


@only_sqlite
def test_a_full_disk_keeps_what_was_there(project):
    ledger = project.ledger
    head = ledger.head()
    connection = ledger.engine.raw_connection()
    connection.cursor().execute(f"PRAGMA max_page_count = {1}")  # SQLite raises it to the pages in use
    connection.close()
    rows = [RowRecord(row_id=f"n{i}", origin_id=f"m{i}") for i in range(5000)]
    with pytest.raises(StoreError, match=r"ledger\.db: no space left on the disk; nothing half-written was kept"):
        record_rows(ledger, rows)
    assert ledger.head() == head
    ledger.engine.dispose()  # a new connection has its pages again
    assert record_rows(ledger, rows) == 5000
    assert verify_chain(ledger) == []


def test_the_package_is_light_until_it_is_used():
    code = (
        "import sys, metier.ledger as ledger; ledger.ObjectStore; ledger.project_key;"
        "heavy = {'sqlalchemy', 'alembic', 'cryptography', 'torch', 'polars'} & set(sys.modules);"
        "assert not heavy, heavy; ledger.Ledger; assert 'sqlalchemy' in sys.modules and 'alembic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there_and_no_other():
    import metier.ledger as room

    assert all(getattr(room, name) is not None for name in room.__all__)
    assert sorted(room.__all__) == sorted(set(room.__all__))
    with pytest.raises(AttributeError, match="has no attribute 'unseal'"):
        _ = room.unseal  # the hold-out has one door


def test_a_server_password_stays_out_of_messages():
    from sqlalchemy import make_url

    server = SimpleNamespace(
        url=make_url("postgresql://ana:secret@db/metier"), dialect=SimpleNamespace(name="postgresql")
    )
    assert database.where_of(server) == "postgresql://ana:***@db/metier"


def test_an_event_body_is_stored_in_its_one_spelling(project):
    bodies = [body for (body,) in project.place.run_sql("SELECT body FROM event")]
    assert all(json.dumps(json.loads(body), sort_keys=True, separators=(",", ":")) == body for body in bodies)


def test_an_event_that_is_no_json_any_more_is_an_error(project):
    project.place.tamper("UPDATE event SET body = '{\"cut' WHERE seq = 3")
    with pytest.raises(
        StoreError, match=r"event 3 \(rows_recorded\) is no longer what was written .*Run metier verify"
    ):
        project.ledger.events()
