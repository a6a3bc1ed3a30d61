"""What a verdict rests on besides the scores, and which reports were written: kept in the chain of events.

    >>> record_before_look(ledger, look_id=look_id, facts={"margin": 0.03, "comparators": ["prompt"]})
    >>> opened = open_look(ledger, store, ...)
    >>> before_look(ledger, look_id).facts["margin"]
    0.03

What was recorded before a look was opened is what its scores are judged by for ever: a price that changes
afterwards changes what is shown, never the verdict.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from metier.core.errors import StoreError
from metier.core.hashing import canonical_json
from metier.ledger.ledger import Ledger
from metier.ledger.schema import event, look

__all__ = [
    "BeforeLook", "WrittenReport", "before_look", "findings_of", "first_opened", "record_before_look", "record_report",
    "written_reports",
]  # fmt: skip

PREPARED = "look_prepared"
WRITTEN = "report_written"


@dataclass(frozen=True, kw_only=True, slots=True)
class BeforeLook:
    """What was fixed for a look before it was opened."""

    facts: Mapping[str, Any]
    """Margin, comparators, prices: JSON values."""
    seq: int
    """Number of the event that recorded them."""
    at: str
    """When, ISO text in UTC."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenReport:
    """One report that a run wrote, by the hashes of its files."""

    report_sha256: str
    """Of `report.json`."""
    page_sha256: str | None
    """Of the page; None where none was drawn."""
    look_id: str
    """The look it tells of."""


def record_before_look(ledger: Ledger, *, look_id: str, facts: Mapping[str, Any]) -> BeforeLook:  # Any: JSON values
    """Record what a look will be judged by. Facts of a look that is still shut may change; of an open one they stay.

    Raises:
        StoreError: the look was opened, and nothing had been recorded for it.
    """
    wanted = json.loads(canonical_json(dict(facts)))
    with ledger.writing(PREPARED) as transaction:
        query = select(event.c.body).where(event.c.kind == PREPARED).order_by(event.c.seq)
        bodies = [json.loads(values["body"]) for values in transaction.records(query)]
        stored = [body["facts"] for body in bodies if body["look"] == look_id]
        is_open = bool(transaction.records(select(look.c.look_id).where(look.c.look_id == look_id)))
        if is_open and not stored:
            raise StoreError(
                f"{ledger.where}: look {look_id} was opened before what it is judged by was recorded, as an older "
                "metier did; its verdict cannot be made again. Keep its report, and freeze a new question."
            )
        if not is_open and wanted not in stored[-1:]:
            transaction.note(look=look_id, facts=wanted)
    found = before_look(ledger, look_id)
    assert found is not None, "it was recorded above"
    return found


def before_look(ledger: Ledger, look_id: str) -> BeforeLook | None:
    """What was last recorded for a look; None when nothing was."""
    found = [entry for entry in ledger.events(kind=PREPARED) if entry.body["look"] == look_id]
    return BeforeLook(facts=found[-1].body["facts"], seq=found[-1].seq, at=found[-1].at) if found else None


def facts_of_looks(ledger: Ledger) -> dict[str, dict[str, Any]]:  # Any: JSON values
    """What was last recorded for every look, by its id, the first prepared first."""
    return {entry.body["look"]: entry.body["facts"] for entry in ledger.events(kind=PREPARED)}


def first_opened(ledger: Ledger, look_id: str) -> int | None:
    """Number of the event that opened a look first; None when it never was."""
    return next((entry.seq for entry in ledger.events(kind="look_opened") if entry.body["look"] == look_id), None)


def findings_of(ledger: Ledger, look_id: str) -> dict[str, Any]:  # Any: JSON values
    """What was noted beside the result when a look was finished, such as its controls.

    Raises:
        StoreError: the look is not finished.
    """
    for entry in ledger.events(kind="look_finished"):
        if entry.body["look"] == look_id:
            return dict(entry.body.get("found", {}))
    raise StoreError(f"{ledger.where}: look {look_id!r} is not finished; run again to finish it.")


def record_report(ledger: Ledger, written: WrittenReport) -> None:
    """Record the hashes of a report's files; the same files again change nothing."""
    body = {"report": written.report_sha256, "page": written.page_sha256, "look": written.look_id}
    with ledger.writing(WRITTEN) as transaction:
        stored = transaction.records(select(event.c.body).where(event.c.kind == WRITTEN))
        if body not in [json.loads(values["body"]) for values in stored]:
            transaction.note(**body)


def written_reports(ledger: Ledger) -> list[WrittenReport]:
    """Every report that was written here, in their order."""
    return [
        WrittenReport(report_sha256=entry.body["report"], page_sha256=entry.body["page"], look_id=entry.body["look"])
        for entry in ledger.events(kind=WRITTEN)
    ]
