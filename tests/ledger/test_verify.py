"""What `verify` says of a sound ledger, and of any single cell that is edited; kinds of tampering: test_tampering.py."""

import contextlib
import sqlite3

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metier.ledger import RowRecord, RowState, record_rows, stored_rows, verify_chain, verify_objects
from metier.ledger.schema import TABLES, event

try:
    from psycopg import Error as PostgresError
except ImportError:  # the driver is an extra
    PostgresError = sqlite3.Error

REFUSED = (sqlite3.Error, PostgresError)


def test_an_erased_row_needs_no_object(project):
    (ref,) = {row.object_ref for row in stored_rows(project.ledger)}
    erased = [
        RowRecord(row_id=row.row_id, origin_id=row.origin_id, object_ref=ref, state=RowState.ERASED, reason="request")
        for row in stored_rows(project.ledger)
    ]
    record_rows(project.ledger, erased)
    project.store.path_of(ref).unlink()
    assert verify_objects(project.ledger, project.store) == []


def test_a_record_changed_by_the_ledger_itself_leaves_no_problem(project):
    """Twice in a row, and back to a state it had before."""
    (row,) = [row for row in stored_rows(project.ledger) if row.row_id == "r0"]
    for reason in ("stale", "near_duplicate", ""):
        state = RowState.QUARANTINED if reason else RowState.KEPT
        record_rows(
            project.ledger,
            [RowRecord(row_id="r0", origin_id="o0", object_ref=row.object_ref, state=state, reason=reason)],
        )
        assert verify_chain(project.ledger) == []
    (event,) = project.ledger.events(kind="rows_recorded")[-1:]
    ((seq, leaf, key, before),) = event.body["replaced"]["row"]
    assert (seq, len(leaf), key) == (event.seq - 1, 64, ["r0", "o0"])
    assert before == {"state": "quarantined", "reason": "near_duplicate"}


# Given as text; the database makes of it what the column holds, or refuses.
EDITS = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8),
    st.integers(-5, 50).map(str),
    st.floats(0, 9, width=16).map(str),
    st.none(),
)


def quoted(name: str) -> str:
    return f'"{name}"'


def literal(value: object) -> str:
    return "NULL" if value is None else "'" + str(value).replace("'", "''") + "'"


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_single_edit_of_any_cell_goes_unseen(full_project, data):
    place = full_project.place
    table = data.draw(st.sampled_from((*TABLES.values(), event)))
    columns = [column.name for column in table.columns]
    listed = ", ".join(map(quoted, columns))
    everything = f'SELECT {listed} FROM "{table.name}" ORDER BY 1, 2'
    before = place.run_sql(everything)
    edited = data.draw(st.sampled_from(before))
    keys = [column.name for column in table.primary_key]
    where = " AND ".join(f"{quoted(key)} = {literal(edited[columns.index(key)])}" for key in keys)
    change = f"{quoted(data.draw(st.sampled_from(columns)))} = {literal(data.draw(EDITS))}"
    with contextlib.suppress(*REFUSED):
        place.tamper(f'UPDATE "{table.name}" SET {change} WHERE {where}')
    place.tamper()
    is_changed = repr(before) != repr(place.run_sql(everything))
    assert bool(verify_chain(full_project.ledger)) == is_changed
    values = ", ".join(f"({', '.join(map(literal, record))})" for record in before)
    place.tamper(f'DELETE FROM "{table.name}"', f'INSERT INTO "{table.name}" ({listed}) VALUES {values}')
    assert repr(before) == repr(place.run_sql(everything))
