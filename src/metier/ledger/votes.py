"""The votes of annotators on recorded rows, appended and never changed.

    >>> record_votes(ledger, [Vote(row_id="91ab", annotator="ana", value="refund", at=utc_now(), seconds=12.5)])
    1
    >>> votes_of(ledger, row_ids=["91ab"])

An annotator who thinks again votes again, at a later time; both votes stay, and the statistics count the newer one
(`metier.core.votes.vote_table`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import select

from metier.core.errors import StoreError
from metier.core.votes import Vote
from metier.ledger.erasure import ERASED_VALUE
from metier.ledger.ledger import Ledger, Transaction
from metier.ledger.rows import RowState
from metier.ledger.schema import row, vote

__all__ = ["record_votes", "votes_of"]

# The column is not null and NaN is no number everywhere; a time cannot be negative, so this reads as "not measured".
_NOT_MEASURED_S = -1.0
_CHUNK = 500  # ids in one query: below every database's limit of bound values


def record_votes(ledger: Ledger, votes: Iterable[Vote]) -> int:
    """Append votes in one event; returns how many were new. The same vote again changes nothing.

    Raises:
        StoreError: a row was never recorded or is erased, or the annotator voted otherwise on it at the same time.
    """
    records = [_values(one) for one in votes]
    with ledger.writing("votes_recorded") as transaction:
        row_ids = sorted({record["row_id"] for record in records})
        _check_rows(transaction, row_ids)
        _check_values(transaction, row_ids, records)
        return transaction.put(vote, records)


def votes_of(
    ledger: Ledger, *, row_ids: Iterable[str] | None = None, guideline_version: str | None = None
) -> list[Vote]:
    """All votes, or those on some rows or under one version of the guidelines, sorted by row, annotator and time.

    Votes that an erasure emptied are left out.
    """
    query = select(vote).where(vote.c.value != ERASED_VALUE).order_by(vote.c.row_id, vote.c.annotator, vote.c.at)
    if guideline_version is not None:
        query = query.where(vote.c.guideline_version == guideline_version)
    if row_ids is None:
        return [_vote(values) for values in ledger.records(query)]
    ids = sorted(set(row_ids))
    parts = (ids[start : start + _CHUNK] for start in range(0, len(ids), _CHUNK))
    return [_vote(values) for part in parts for values in ledger.records(query.where(vote.c.row_id.in_(part)))]


def _check_rows(transaction: Transaction, row_ids: list[str]) -> None:
    """Refuse votes on rows that were never recorded, or of which nothing is left."""
    states: dict[str, set[str]] = {}
    for start in range(0, len(row_ids), _CHUNK):
        query = select(row.c.row_id, row.c.state).where(row.c.row_id.in_(row_ids[start : start + _CHUNK]))
        for values in transaction.records(query):
            states.setdefault(values["row_id"], set()).add(values["state"])
    where, num = f"{transaction.where}: votes", len(row_ids)
    if unknown := [row_id for row_id in row_ids if row_id not in states]:
        raise StoreError(
            f"{where}: {len(unknown)} of {num} rows were never recorded, first {unknown[0]}; votes stand on recorded "
            "rows only. Record the rows first, or leave these votes out."
        )
    if erased := [row_id for row_id in row_ids if states[row_id] == {RowState.ERASED.value}]:
        raise StoreError(
            f"{where}: {len(erased)} of {num} rows are erased, first {erased[0]}; expected rows that are still there. "
            "Leave these votes out."
        )


def _check_values(transaction: Transaction, row_ids: list[str], records: list[dict[str, Any]]) -> None:  # Any: SQL
    """Refuse another value at the same time; the table itself lets a value change, as an erasure empties it."""
    standing: dict[tuple[str, str, str], str] = {}
    for start in range(0, len(row_ids), _CHUNK):
        query = select(vote).where(vote.c.row_id.in_(row_ids[start : start + _CHUNK]))
        for values in transaction.records(query):
            standing[values["row_id"], values["annotator"], values["at"]] = values["value"]
    for record in records:
        key = (record["row_id"], record["annotator"], record["at"])
        if (value := standing.setdefault(key, record["value"])) != record["value"]:
            raise StoreError(
                f"{transaction.where}: vote on row {key[0]} by {key[1]!r} at {key[2]} is recorded as {value!r} and "
                f"cannot become {record['value']!r}; votes are written once. Vote again at a later time."
            )


def _values(one: Vote) -> dict[str, Any]:  # Any: SQL values
    seconds = _NOT_MEASURED_S if one.seconds is None else float(one.seconds)
    return {
        "row_id": one.row_id, "annotator": one.annotator, "at": one.at, "value": one.value,
        "guideline_version": one.guideline_version, "seconds": seconds,
    }  # fmt: skip


def _vote(values: dict[str, Any]) -> Vote:  # Any: SQL values
    seconds = values["seconds"] if values["seconds"] >= 0 else None
    facts = {name: value for name, value in values.items() if name not in ("seq", "seconds")}
    return Vote(**facts, seconds=seconds)
