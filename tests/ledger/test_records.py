"""What a record may hold, how it is hashed for ever, and how a first-version ledger becomes today's."""

import json
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from metier.core.errors import DataError, StoreError
from metier.ledger import RowRecord, database, record_rows, row_history, runs_of, stored_rows, verify_chain
from metier.ledger.leaves import MAX_KEY_BYTES, form_of
from metier.ledger.schema import REVISION, TABLES, alias, prediction, run, source, spend, vote
from metier.ledger.schema import row as row_table

from .servers import Place

GOLDEN = json.loads((Path(__file__).parent / "ledger_0001.json").read_text())
GOLDEN_HEAD = "8ab0f7a1c5e2eb4a0aac457d197d23a9fb11452131e4039434b6034686b4fc9e"
GOLDEN_KEYS = {"project.key": bytes(range(32)), "seal.key": bytes(range(32, 64))}


def golden_leaf(name: str, values: dict) -> str:
    """A leaf as the first version made it."""
    told = {column: value for column, value in values.items() if value is not None and column != "seq"}
    content = json.dumps([name, told], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return sha256(content.encode("utf-8", "backslashreplace")).hexdigest()


def first_version(place: Place) -> Place:
    """A ledger that the first version wrote: its schema, its events, its records."""
    from alembic import command
    from alembic.config import Config

    keys_dir = place.project_dir / ".metier" / "keys"
    keys_dir.mkdir(parents=True)
    for name, key in GOLDEN_KEYS.items():
        (keys_dir / name).write_bytes(key)
    if place.url:
        place.run_sql("DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    engine = database.connect(place.url or f"sqlite:///{place.db_path}")
    config = Config()
    config.set_main_option("path_separator", "os")
    config.set_main_option("script_location", str(database.MIGRATIONS_DIR))
    with database.writing(engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for name, table in GOLDEN.items():
            columns = ", ".join(f'"{column}"' for column in table["columns"])
            values = ", ".join(f":{column}" for column in table["columns"])
            records = [dict(zip(table["columns"], record, strict=True)) for record in table["records"]]
            connection.execute(text(f'INSERT INTO "{name}" ({columns}) VALUES ({values})'), records)
    engine.dispose()
    return place


def test_a_ledger_of_the_first_version_is_upgraded_verifies_and_goes_on(place):
    with first_version(place).open("ana") as ledger:
        assert place.run_sql("SELECT version_num FROM alembic_version") == [(REVISION,)]
        assert ledger.head().hash == GOLDEN_HEAD
        assert verify_chain(ledger, known_heads=[GOLDEN_HEAD]) == []
        assert record_rows(ledger, stored_rows(ledger)) == 0  # what stands there is what is written today
        history = row_history(ledger, f"{103:032x}")
        assert (
            [entry.what.split(" ", 2)[2] for entry in history.events]
            == [
                "recorded",  # the first version did not say as what
                "quarantined, near_duplicate (rule 2), kept in its place: " + f"{100:032x}"[:16],
            ]
        )
        (kept,) = [row for row in stored_rows(ledger) if row.origin_id == f"{101:032x}"]
        assert record_rows(ledger, [RowRecord(row_id=kept.row_id, origin_id=kept.origin_id, meta_hash="other")]) == 1
        assert verify_chain(ledger, known_heads=[GOLDEN_HEAD]) == []


@pytest.mark.parametrize("name", TABLES.keys() & GOLDEN.keys())
def test_a_record_is_hashed_as_the_first_version_did(name):
    form = form_of(TABLES[name])
    for record in GOLDEN[name]["records"]:
        values = dict(zip(GOLDEN[name]["columns"], record, strict=True))
        checked = form.checked(values, "ledger")
        assert form.leaf(checked) == golden_leaf(name, values)


@given(st.lists(st.text(), min_size=8, max_size=8))
def test_any_text_is_hashed_as_the_first_version_did(texts):
    form = form_of(row_table)
    assert form.leaf(tuple(texts)) == golden_leaf("row", dict(zip(form.names, texts, strict=True)))


def test_the_hash_of_a_record_does_not_depend_on_how_sql_gives_it_back():
    written = {"spend_id": "s", "run_id": "r", "price_ref": "p", "quantity": 1, "seq": 7}
    form = form_of(spend)
    assert form.checked(written, "") == form.checked({**written, "quantity": 1.0, "seq": 8}, "")
    assert form.leaf(("s", "r", "p", 1)) == form.leaf(("s", "r", "p", 1.0)) != form.leaf(("s", "r", "p", 1.5))
    assert form.leaf(("s", "r", "p", -0.0)) == form.leaf(("s", "r", "p", 0.0))  # SQLite keeps no sign of a zero
    unset = {"run_id": "r", "stage": "t", "inputs_hash": "i", "config_hash": "c", "stage_version": "1", "state": "s"}
    runs, unset = form_of(run), {**unset, "started": "t"}
    assert runs.checked(unset, "") == runs.checked({**unset, "finished": None}, "")
    assert runs.leaf(runs.checked(unset, "")) != runs.leaf(runs.checked({**unset, "finished": ""}, ""))


NAN, VOTE = float("nan"), {"row_id": "r0", "annotator": "a", "at": "t", "value": "v", "guideline_version": "1"}


@pytest.mark.parametrize(
    ("table", "record", "expected"),
    [
        (vote, {**VOTE, "value": "go\0od", "seconds": 1.0}, r"vote 'r0 a t': value holds a NUL character at place 2; Post"),
        (alias, {"name": "\udcff", "model_id": "m"}, r"alias '\\udcff': name holds the character '\\udcff' at place 0"),
        (vote, {**VOTE, "seconds": NAN}, "vote 'r0 a t': seconds is nan; expected a finite number"),
        (vote, {**VOTE, "seconds": float("inf")}, "seconds is inf; expected a finite number"),
        (vote, {**VOTE, "seconds": "1"}, "seconds is '1'; expected a finite number"),
        (vote, VOTE, "vote 'r0 a t': seconds is not set; expected a value"),
        (vote, {**VOTE, "seconds": 1.0, "mood": "good"}, "vote has no column 'mood'; known: row_id, annotator, at, value"),
        (vote, {**VOTE, "mood": "good"}, "vote has no column 'mood'"),  # one too many, one too few
        (alias, {"name": "champion", "model_id": 7}, "alias 'champion': model_id is 7; expected text"),
        (
            source,
            {"source_id": "s", "name": "n", "sha256": "5", "licence": "", "num_records": 1.0},
            "num_records is 1.0; expected a whole number of at most 64 bits",
        ),
        (alias, {"name": "n" * 2001, "model_id": "m"}, rf"alias: its key \(name\) has 2001 bytes; expected at most {MAX_KEY_BYTES}"),
        (
            vote,
            {**VOTE, "annotator": "\u00e9" * 1000, "seconds": 1.0},
            r"vote: its key \(row_id and annotator and at\) has 2003 bytes; expected at most 2000. Use a shorter name",
        ),
    ],
)  # fmt: skip
def test_what_the_two_databases_would_keep_differently_is_refused(project, table, record, expected):
    head = project.ledger.head()
    with pytest.raises(DataError, match=expected), project.ledger.writing("tried") as transaction:
        transaction.put(table, [record])
    assert project.ledger.head() == head


def test_text_of_every_kind_and_length_comes_back(project):
    """Quotes, control characters, all planes of Unicode, two million characters in one field."""
    texts = [
        "",
        "'\"\\",
        "".join(map(chr, range(1, 32))) + "\x7f\x85\u2028",
        "\u00e9\U0001f600\uffff",
        "long " * 400_000,
    ]
    with project.ledger.writing("runs") as transaction:
        transaction.put(
            run,
            [
                {"run_id": str(i), "stage": "s", "inputs_hash": "", "config_hash": "", "stage_version": "", "started": "",
                 "state": "failed", "note": note}
                for i, note in enumerate(texts)
            ],
        )  # fmt: skip
    assert {found.run_id: found.note for found in runs_of(project.ledger)} == {str(i): t for i, t in enumerate(texts)}
    with project.ledger.writing("aliases") as transaction:
        transaction.put(alias, [{"name": "n" * MAX_KEY_BYTES, "model_id": "m"}])
    assert verify_chain(project.ledger) == []


def test_numbers_come_back_to_the_last_bit(project):
    numbers = [0.1 + 0.2, 1e-300, 5e-324, 1e300, -1 / 3, 0.0]
    with project.ledger.writing("predicted") as transaction:
        transaction.put(
            prediction,
            [{"run_id": "r", "quantity": str(i), "predicted": x, "low": x, "high": x} for i, x in enumerate(numbers)],
        )
    found = project.place.run_sql("SELECT predicted FROM prediction ORDER BY quantity")
    assert [value for (value,) in found] == numbers
    assert verify_chain(project.ledger) == []


def test_names_are_ordered_by_their_bytes(project):
    """As SQLite does; a PostgreSQL server orders by its language otherwise."""
    from metier.ledger import spent

    names = ["a", "B", "_c", "\u00e9", "z", "Z", "a-b", "ab"]
    with project.ledger.writing("spent") as transaction:
        records = [{"spend_id": n, "run_id": "r", "price_ref": n, "quantity": 1.0} for n in names]
        transaction.put(spend, records)
    assert list(spent(project.ledger)) == sorted(names)


def test_more_records_than_one_block_are_one_event(project, monkeypatch):
    """New, changed, equal and repeated records over block borders: each counts once."""
    from metier.ledger import transaction

    monkeypatch.setattr(transaction, "_BLOCK", 7)
    rows = [RowRecord(row_id=f"n{i:02}", origin_id="o") for i in range(30)]
    assert record_rows(project.ledger, rows + rows[:10]) == 30
    moved = [RowRecord(row_id=f"n{i:02}", origin_id="o", meta_hash="m" if i % 3 else "") for i in range(40)]
    assert record_rows(project.ledger, moved) == 20 + 10
    event = project.ledger.events(kind="rows_recorded")[-1]
    assert (event.body["wrote"]["row"]["n"], len(event.body["replaced"]["row"])) == (30, 20)
    assert verify_chain(project.ledger) == []
    twice = [*moved[:8], RowRecord(row_id="n00", origin_id="o", meta_hash="x"), *moved[:8]]
    with pytest.raises(StoreError, match="row n00, o stands twice in one batch, with different values"):
        record_rows(project.ledger, twice)
    assert verify_chain(project.ledger) == []
