"""Scoring replies to rows: the one score a row gets, the controls before it, the table of scores after it."""

from metier.evaluate.controls import (
    GOLD_FAILS,
    MAX_GOLD_FAILS,
    NOTHING_TO_CHECK,
    ControlsResult,
    GoldGrader,
    other_golds,
    run_controls,
)
from metier.evaluate.grader import Grader, make_grader
from metier.evaluate.scores import ArmScores, ScoreTable, group_ids, score_arm

__all__ = [
    "GOLD_FAILS",
    "MAX_GOLD_FAILS",
    "NOTHING_TO_CHECK",
    "ArmScores",
    "ControlsResult",
    "GoldGrader",
    "Grader",
    "ScoreTable",
    "group_ids",
    "make_grader",
    "other_golds",
    "run_controls",
    "score_arm",
]
