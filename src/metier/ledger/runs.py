"""Stage runs with what was predicted and spent; later the job store of the server.

    >>> run_id = start_run(ledger, stage="tune", inputs_hash=inputs, config_hash=config, stage_version="1")
    >>> predict(ledger, run_id, "tune_minutes", predicted=6.0, low=4.5, high=7.5)
    >>> record_actual(ledger, run_id, "tune_minutes", 5.8)
    >>> finish_run(ledger, run_id)

A run that was killed stays `started`: only the process itself knows that it ended.
"""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Float as SqlFloat
from sqlalchemy import func, select

from metier.core.errors import DataError, StoreError
from metier.ledger.ledger import Ledger, utc_now
from metier.ledger.schema import prediction, run
from metier.ledger.schema import spend as spend_table

__all__ = [
    "Prediction", "RunRecord", "RunState", "fail_run", "finish_run", "predict", "predictions_of", "record_actual",
    "runs_of", "scored_predictions", "spend", "spent", "start_run",
]  # fmt: skip


class RunState(StrEnum):
    """How a stage run ended, if it did."""

    STARTED = "started"
    FINISHED = "finished"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """One run of one stage."""

    run_id: str
    """Random id, 32 hex digits."""
    stage: str
    """Name of the stage."""
    inputs_hash: str
    """Hash of what went in."""
    config_hash: str
    """Hash of its settings."""
    stage_version: str
    """Version constant of the stage."""
    state: RunState
    """How it ended."""
    started: str
    """ISO text in UTC."""
    finished: str | None = None
    """ISO text in UTC; None while it runs, or when it was killed."""
    note: str | None = None
    """Why it failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """Something predicted before a run, and what happened."""

    quantity: str
    """Name with its unit: tune_minutes, peak_memory_gib."""
    predicted: float
    """The prediction."""
    low: float
    """Lower end of its band."""
    high: float
    """Upper end of its band."""
    actual: float | None
    """What happened; None until it is known."""


def start_run(ledger: Ledger, *, stage: str, inputs_hash: str, config_hash: str, stage_version: str) -> str:
    """Record that a stage starts; returns the run's id."""
    run_id = uuid.uuid4().hex
    with ledger.writing("run_started") as transaction:
        record = {
            "run_id": run_id, "stage": stage, "inputs_hash": inputs_hash, "config_hash": config_hash,
            "stage_version": stage_version, "state": RunState.STARTED.value, "started": utc_now(), "finished": None,
            "note": None,
        }  # fmt: skip
        transaction.put(run, [record])
        transaction.note(run=run_id, stage=stage)
    return run_id


def finish_run(ledger: Ledger, run_id: str) -> None:
    """Record that a run ended well.

    Raises:
        StoreError: no such run, or it ended before.
    """
    _end(ledger, run_id, RunState.FINISHED, None)


def fail_run(ledger: Ledger, run_id: str, note: str) -> None:
    """Record that a run failed, and why.

    Raises:
        StoreError: no such run, or it ended before.
    """
    _end(ledger, run_id, RunState.FAILED, note)


def _end(ledger: Ledger, run_id: str, state: RunState, note: str | None) -> None:
    with ledger.writing(f"run_{state.value}") as transaction:
        stored = transaction.records(select(run).where(run.c.run_id == run_id))
        if not stored or stored[0]["state"] != RunState.STARTED.value:
            found = f"ended as {stored[0]['state']!r}" if stored else "was never started"
            raise StoreError(
                f"{ledger.where}: run {run_id!r} {found}; expected a started run. Start it with start_run."
            )
        transaction.put(run, [{**stored[0], "state": state.value, "finished": utc_now(), "note": note}])
        transaction.note(run=run_id, stage=stored[0]["stage"])


def runs_of(ledger: Ledger, stage: str = "") -> list[RunRecord]:
    """All runs, or those of one stage, oldest first."""
    query = select(run).order_by(run.c.started, run.c.run_id)
    if stage:
        query = query.where(run.c.stage == stage)
    return [_record(values) for values in ledger.records(query)]


def predict(ledger: Ledger, run_id: str, quantity: str, *, predicted: float, low: float, high: float) -> None:
    """Record a prediction before the run; the same one twice changes nothing.

    Raises:
        DataError: a number is not finite, or the band does not hold the prediction.
        StoreError: another prediction of this quantity stands for the run.
    """
    if not low <= predicted <= high or not all(map(math.isfinite, (low, high))):
        raise DataError(
            f"{quantity}: predicted {predicted} in [{low}, {high}]; expected finite low <= predicted <= high."
        )
    with ledger.writing("predicted") as transaction:
        known = select(prediction.c.actual).where(prediction.c.run_id == run_id, prediction.c.quantity == quantity)
        actual = [values["actual"] for values in transaction.records(known)]
        record = {"run_id": run_id, "quantity": quantity, "predicted": float(predicted), "low": float(low),
                  "high": float(high), "actual": actual[0] if actual else None}  # fmt: skip
        transaction.put(prediction, [record])


def record_actual(ledger: Ledger, run_id: str, quantity: str, actual: float) -> None:
    """Record what happened beside its prediction.

    Raises:
        DataError: the number is not finite.
        StoreError: the quantity was never predicted for this run.
    """
    if not math.isfinite(actual):
        raise DataError(f"{quantity}: actual value is {actual}; expected a finite number.")
    with ledger.writing("actual_recorded") as transaction:
        query = select(prediction).where(prediction.c.run_id == run_id, prediction.c.quantity == quantity)
        stored = transaction.records(query)
        if not stored:
            raise StoreError(f"{ledger.where}: {quantity!r} was not predicted for run {run_id!r}; use predict first.")
        transaction.put(prediction, [{**stored[0], "actual": float(actual)}])


def predictions_of(ledger: Ledger, run_id: str) -> list[Prediction]:
    """All predictions of a run, by name."""
    columns = [prediction.c[name] for name in ("quantity", "predicted", "low", "high", "actual")]
    query = select(*columns).where(prediction.c.run_id == run_id).order_by(prediction.c.quantity)
    return [Prediction(**values) for values in ledger.records(query)]


def scored_predictions(ledger: Ledger, *, but: tuple[str, str] | None = None) -> list[Prediction]:
    """Every prediction of any run beside which stands what happened, by quantity.

    Runs of a stage with the same inputs under the same config are one run, killed and begun again or reported anew:
    the last of them counts. `but` leaves out those of these inputs and this config (their hashes).
    """
    columns = [prediction.c[name] for name in ("quantity", "predicted", "low", "high", "actual")]
    query = (
        select(*columns, run.c.stage, run.c.inputs_hash, run.c.config_hash)
        .join(run, run.c.run_id == prediction.c.run_id)
        .where(prediction.c.actual.is_not(None))
        .order_by(prediction.c.quantity, run.c.started, run.c.run_id)
    )
    found = {}
    for values in ledger.records(query):
        of_run = tuple(values.pop(name) for name in ("stage", "inputs_hash", "config_hash"))
        if of_run[1:] != but:
            found[values["quantity"], of_run] = Prediction(**values)
    return list(found.values())


def spend(ledger: Ledger, run_id: str, price_ref: str, quantity: float) -> None:
    """Record that a run used a quantity of something priced, in the price's unit: machine_hour, token_in.

    Raises:
        DataError: the quantity is negative or not finite.
    """
    if not (math.isfinite(quantity) and quantity >= 0):
        raise DataError(f"spend: {price_ref} quantity is {quantity}; expected a finite number of at least 0.")
    record = {"spend_id": uuid.uuid4().hex, "run_id": run_id, "price_ref": price_ref, "quantity": float(quantity)}
    with ledger.writing("spent") as transaction:
        transaction.put(spend_table, [record])


def spent(ledger: Ledger, run_id: str = "") -> dict[str, float]:
    """Quantity used of every price reference, by one run or by all."""
    total = func.sum(spend_table.c.quantity, type_=SqlFloat).label("total")
    query = select(spend_table.c.price_ref, total).group_by(spend_table.c.price_ref).order_by(spend_table.c.price_ref)
    if run_id:
        query = query.where(spend_table.c.run_id == run_id)
    return {values["price_ref"]: float(values["total"]) for values in ledger.records(query)}


def _record(values: dict[str, Any]) -> RunRecord:  # Any: SQL values
    facts = {name: value for name, value in values.items() if name not in ("seq", "state")}
    return RunRecord(**facts, state=RunState(values["state"]))
