from dataclasses import replace

import pytest

from metier.core.errors import StoreError
from metier.core.votes import Vote, vote_table
from metier.ledger import RowRecord, RowState, find_row, record_rows, verify_chain
from metier.ledger.schema import vote as vote_table_sql
from metier.ledger.votes import record_votes, votes_of

AT, LATER = "2026-03-01T09:30:00.000000Z", "2026-03-01T10:30:00.000000Z"


def cast(row_id: str = "r0", annotator: str = "ana", value: str = "refund", at: str = AT, **more) -> Vote:
    return Vote(row_id=row_id, annotator=annotator, value=value, at=at, **{"guideline_version": "1", **more})


def test_votes_come_back_as_they_were_recorded(project):
    votes = [cast("r1", seconds=12.5), cast("r0"), cast("r0", "bo", "delivery", seconds=0.0)]
    head = project.ledger.head()
    assert record_votes(project.ledger, votes) == 3
    assert votes_of(project.ledger) == [votes[1], votes[2], votes[0]]  # by row, annotator, time
    assert [vote.seconds for vote in votes_of(project.ledger)] == [None, 0.0, 12.5]  # unknown is not nought
    assert project.ledger.head().seq == head.seq + 1
    assert verify_chain(project.ledger) == []


def test_votes_are_found_by_row_and_guideline(project):
    old, new = cast("r0", guideline_version="1"), cast("r0", at=LATER, value="delivery", guideline_version="2")
    record_votes(project.ledger, [old, new, cast("r2")])
    assert votes_of(project.ledger, row_ids=["r0", "none"]) == [old, new]
    assert votes_of(project.ledger, guideline_version="2") == [new]
    assert votes_of(project.ledger, row_ids=["r2"], guideline_version="2") == []
    assert votes_of(project.ledger, row_ids=[]) == []
    table = vote_table(votes_of(project.ledger, row_ids=["r0"]))
    assert (table.labels, table.num_replaced) == (("delivery",), 1)  # both stay, the newer one counts


def test_the_same_votes_again_change_nothing(project):
    record_votes(project.ledger, [cast(), cast("r1")])
    head = project.ledger.head()
    assert record_votes(project.ledger, [cast("r1"), cast(), cast()]) == 0
    assert record_votes(project.ledger, []) == 0
    assert project.ledger.head() == head


def test_another_value_at_the_same_time_is_refused(project):
    record_votes(project.ledger, [cast()])
    head = project.ledger.head()
    other = cast(value="delivery")
    with pytest.raises(
        StoreError, match="vote on row r0 by 'ana' at .* is recorded as 'refund' and cannot become 'delivery'"
    ):
        record_votes(project.ledger, [cast("r1"), other])
    with pytest.raises(
        StoreError, match="is recorded as 'delivery' and cannot become 'refund'; votes are written once"
    ):
        record_votes(project.ledger, [cast("r2", value="delivery"), cast("r2")])
    with pytest.raises(StoreError, match="seconds is recorded as -1.0 and cannot become 3.0"):
        record_votes(project.ledger, [replace(cast(), seconds=3.0)])
    assert votes_of(project.ledger) == [cast()]  # nothing of the refused batches
    assert project.ledger.head() == head


def test_votes_stand_on_recorded_rows_only(project):
    head = project.ledger.head()
    with pytest.raises(StoreError, match="votes: 2 of 3 rows were never recorded, first r8; .* Record the rows first"):
        record_votes(project.ledger, [cast("r0"), cast("r9"), cast("r8")])
    assert votes_of(project.ledger) == []
    assert record_votes(project.ledger, [cast("r3")]) == 1  # a row in quarantine can be judged
    (row,) = find_row(project.ledger, "r1")
    record_rows(project.ledger, [replace(row, state=RowState.ERASED, reason="erased")])
    with pytest.raises(StoreError, match="votes: 1 of 2 rows are erased, first r1; expected rows that are still there"):
        record_votes(project.ledger, [cast("r0"), cast("r1")])
    assert project.ledger.head().seq == head.seq + 2


def test_a_vote_emptied_by_an_erasure_is_gone_and_stays_gone(project):
    record_votes(project.ledger, [cast("r0"), cast("r1")])
    twin = RowRecord(row_id="r0", origin_id="o9", state=RowState.QUARANTINED, reason="exact_duplicate", survivor="o0")
    record_rows(project.ledger, [twin])
    with project.ledger.writing("rows_erased") as transaction:
        (record,) = (r for r in transaction.records(vote_table_sql.select()) if r["row_id"] == "r0")
        record.pop("seq")
        transaction.put(vote_table_sql, [{**record, "value": ""}])
    assert votes_of(project.ledger) == [cast("r1")]
    with pytest.raises(StoreError, match="is recorded as '' and cannot become 'refund'"):
        record_votes(project.ledger, [cast("r0")])


def test_many_votes_are_recorded_and_found_across_chunks(project):
    record_rows(project.ledger, [RowRecord(row_id=f"n{i:04d}", origin_id=f"m{i:04d}") for i in range(1200)])
    votes = [cast(f"n{i:04d}", annotator) for i in range(1200) for annotator in ("ana", "bo")]
    assert record_votes(project.ledger, votes) == 2400
    assert votes_of(project.ledger, row_ids={vote.row_id for vote in votes}) == votes
    assert verify_chain(project.ledger) == []
