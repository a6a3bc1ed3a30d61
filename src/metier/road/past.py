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
    from metier.ledger import BeforeLook, Prediction

__all__ = ["TUNED_SCORE", "past_predictions", "record_pilot", "score_forecasts"]

TUNED_SCORE = "tuned_score"
PILOT_STAGE, CURVE_STAGE = "assess", "curve"
VERSION = "1"


def record_pilot(session: Session, tuning: Tuning, pilot: Pilot) -> None:
    """Put what the pilot says of the tuning on all rows into the ledger; the same tuning again changes nothing."""
    told = pilot.forecast
    inputs_hash = _tuning_hash(tuning)
    if not _recorded(session, PILOT_STAGE, inputs_hash):
        _predict(session, PILOT_STAGE, inputs_hash, low=told.low, expected=pilot.expected, high=told.high)


def score_forecasts(session: Session, tuning: Tuning, before: BeforeLook, *, score: float, num_rows: int) -> None:
    """Put the measured hold-out score of this tuning beside every forecast of it.

    Forecasts of a curve are taken from looks at fewer rows of the same unit, where no more than four times those were
    tuned on now: on as many new rows as this hold-out has.
    """
    from metier.assess import MAX_TIMES
    from metier.ledger import facts_of_looks, record_actual

    for run_id in _recorded(session, PILOT_STAGE, _tuning_hash(tuning)):
        record_actual(session.ledger, run_id, TUNED_SCORE, score)
    num_train = len(tuning.rendered.train)
    for look_id, facts in facts_of_looks(session.ledger).items():
        fit = fitted(facts.get("curve"))
        same = all(facts.get(name) == before.facts[name] for name in ("unit", "binary"))
        if fit is None or not same or not fit.num_train < num_train <= MAX_TIMES * fit.num_train:
            continue
        inputs_hash = value_hash({"look": look_id, "num_train": num_train, "tuning": _tuning_hash(tuning)})
        if not _recorded(session, CURVE_STAGE, inputs_hash):
            low, expected, high = (fit.quantile(num_train, at, num_rows=num_rows) for at in (0.1, 0.5, 0.9))
            run_id = _predict(session, CURVE_STAGE, inputs_hash, low=low, expected=expected, high=high)
            record_actual(session.ledger, run_id, TUNED_SCORE, score)


def past_predictions(session: Session, sealed: Sealed) -> dict[str, dict[str, float]]:
    """How good predictions were, by quantity; a run that was killed is no earlier one of itself."""
    from metier.ledger import scored_predictions

    scored: dict[str, dict[tuple[float, ...], Prediction]] = {}
    for one in scored_predictions(session.ledger, but=(sealed.split_id, value_hash(asdict(session.config)))):
        # A report written anew tells of the same prediction again: it counts once.
        scored.setdefault(one.quantity, {})[one.predicted, one.low, one.high] = one
    return {quantity: _told(list(found.values())) for quantity, found in scored.items()}


def _told(found: list[Prediction]) -> dict[str, float]:
    """Number, how many came within their band, and the median of what happened over what was predicted above 0."""
    actual = [(one, one.actual) for one in found if one.actual is not None]
    told = {
        "runs": float(len(actual)),
        "within": float(sum(one.low <= value <= one.high for one, value in actual)),
    }
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


def _predict(session: Session, stage: str, inputs_hash: str, *, low: float, expected: float, high: float) -> str:
    """Record one forecast of a score as a run of its own; returns the run's id."""
    from metier.ledger import finish_run, predict, start_run

    config_hash = value_hash(asdict(session.config))
    run_id = start_run(
        session.ledger, stage=stage, inputs_hash=inputs_hash, config_hash=config_hash, stage_version=VERSION
    )
    predict(session.ledger, run_id, TUNED_SCORE, predicted=min(max(expected, low), high), low=low, high=high)
    finish_run(session.ledger, run_id)
    return run_id
