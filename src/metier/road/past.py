"""How good earlier predictions were: minutes and memory of earlier runs, and scores that were forecast from fewer rows.

A score is forecast twice: by the pilot of `metier assess`, for the run that then tunes on all rows, and by the learning
curve of a run, for the next one on more rows. Both are counted when the score they spoke of is measured.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from metier.core.hashing import value_hash
from metier.road.curve import Pilot, fitted
from metier.road.cut import Sealed
from metier.road.session import Session
from metier.road.tuning import Tuning

if TYPE_CHECKING:
    from metier.ledger import Prediction

__all__ = ["TUNED_SCORE", "past_predictions", "record_pilot", "run_hashes", "score_forecasts"]

TUNED_SCORE = "tuned_score"
PILOT_STAGE, CURVE_STAGE = "assess", "curve"
VERSION = "1"


def record_pilot(session: Session, tuning: Tuning, pilot: Pilot) -> None:
    """Put what the pilot says of the tuning on all rows into the ledger; the same tuning again changes nothing."""
    told = pilot.forecast
    _forecast(session, PILOT_STAGE, _tuning_hash(tuning), low=told.low, expected=pilot.expected, high=told.high)


def score_forecasts(session: Session, tuning: Tuning, *, score: float, num_rows: int) -> None:
    """Put the measured hold-out score of this tuning beside every forecast of it; a killed run does it again.

    Forecasts of a curve are those of opened looks at a tuning alike in all but its rows, where at most four times the
    rows are tuned on now: on as many new rows as this hold-out has. Curves not shown to rise, and those fitted by a
    metier with other forms, forecast nothing here.
    """
    from metier.assess import MAX_TIMES, prior_hash
    from metier.assess.curve import FLAT
    from metier.ledger import facts_of_looks, find_look, record_actual

    for run_id in _recorded(session, PILOT_STAGE, _tuning_hash(tuning)):
        record_actual(session.ledger, run_id, TUNED_SCORE, score)
    num_train = len(tuning.rendered.train)
    for look_id, facts in facts_of_looks(session.ledger).items():
        values = facts.get("curve") or {}
        alike = values.get("of") == tuning.likeness and values.get("prior") == prior_hash()
        fit = fitted(values) if alike and find_look(session.ledger, look_id) is not None else None
        if fit is None or fit.flat_p >= FLAT or not fit.num_train < num_train <= MAX_TIMES * fit.num_train:
            continue
        low, expected, high = (fit.quantile(num_train, at, num_rows=num_rows) for at in (0.1, 0.5, 0.9))
        inputs_hash = value_hash({"look": look_id, "tuning": _tuning_hash(tuning)})
        run_id = _forecast(session, CURVE_STAGE, inputs_hash, low=low, expected=expected, high=high)
        record_actual(session.ledger, run_id, TUNED_SCORE, score)


def run_hashes(session: Session, sealed: Sealed) -> tuple[str, str]:
    """What a run is told from others by: its split, and all its stages but the report; prices make no other run."""
    stages = {name: stage.hash for name, stage in session.stages.items() if name != "report"}
    return sealed.split_id, value_hash(stages)


def past_predictions(session: Session, sealed: Sealed) -> dict[str, dict[str, float]]:
    """How good predictions were, by quantity; a run that was killed is no earlier one of itself."""
    from metier.ledger import scored_predictions

    scored: dict[str, list[Prediction]] = {}
    for one in scored_predictions(session.ledger, but=run_hashes(session, sealed)):
        scored.setdefault(one.quantity, []).append(one)
    return {quantity: _told(quantity, found) for quantity, found in scored.items()}


def _told(quantity: str, found: list[Prediction]) -> dict[str, float]:
    """Number, how many came within their band, and what happened: a score less its forecast, all else over it."""
    actual = [(one, one.actual) for one in found if one.actual is not None]
    told = {
        "runs": float(len(actual)),
        "within": float(sum(one.low <= value <= one.high for one, value in actual)),
    }
    if quantity == TUNED_SCORE:
        return {**told, "median_difference": float(np.median([value - one.predicted for one, value in actual]))}
    ratios = [value / one.predicted for one, value in actual if one.predicted > 0]
    return {**told, "median_ratio": float(np.median(ratios))} if ratios else told


def _tuning_hash(tuning: Tuning) -> str:
    """What a tuning rests on, known before it is begun."""
    return value_hash({"inputs": tuning.inputs, "tune": asdict(tuning.sft_config), "rows": tuning.plan.num_train_rows})


def _recorded(session: Session, stage: str, inputs_hash: str) -> list[str]:
    """Runs that forecast the score of this tuning; one that was killed before it had is none."""
    from metier.ledger import predictions_of, runs_of

    of_tuning = [run.run_id for run in runs_of(session.ledger, stage) if run.inputs_hash == inputs_hash]
    return [run_id for run_id in of_tuning if predictions_of(session.ledger, run_id)]


def _forecast(session: Session, stage: str, inputs_hash: str, *, low: float, expected: float, high: float) -> str:
    """Record one forecast of a score as a run of its own, once; a killed one is ended. Returns the run's id."""
    from metier.ledger import RunState, finish_run, predict, predictions_of, runs_of, start_run

    config_hash = value_hash(asdict(session.config))
    begun = [run for run in runs_of(session.ledger, stage) if run.inputs_hash == inputs_hash]
    run_id = (
        begun[0].run_id
        if begun
        else start_run(
            session.ledger, stage=stage, inputs_hash=inputs_hash, config_hash=config_hash, stage_version=VERSION
        )
    )
    if not predictions_of(session.ledger, run_id):
        predicted = min(max(expected, low), high)
        predict(session.ledger, run_id, TUNED_SCORE, predicted=predicted, low=low, high=high)
    if not begun or begun[0].state is RunState.STARTED:
        finish_run(session.ledger, run_id)
    return run_id
