"""Was it worth it? Pure functions from scores to a verdict, its price in rows, and leave to look again."""

from metier.assess.checks import cross_checks
from metier.assess.curve import (
    MAX_TIMES,
    CurveFit,
    fit_curve,
    flat_p_value,
    forecasts,
    prior_hash,
)
from metier.assess.decide import Decision, decide
from metier.assess.guards import assess_guards
from metier.assess.looks import LookGrant, LookKind, PastLook, next_look
from metier.assess.money import assumptions, break_even, net_worth
from metier.assess.needed import RowsNeeded
from metier.assess.scores import GainForecast, GuardScores, ScoreTable
from metier.assess.sentence import verdict_sentence
from metier.assess.spread import RetrainSpread, retrain_spread
from metier.assess.value import (
    CostRatio,
    TuningCosts,
    break_even_requests,
    fixed_per_request,
    gain_bound,
    planned_gain,
    resolved_question,
    value_margin,
)

__all__ = [
    "MAX_TIMES", "CostRatio", "CurveFit", "Decision", "GainForecast", "GuardScores", "LookGrant", "LookKind",
    "PastLook", "RetrainSpread", "RowsNeeded", "ScoreTable", "TuningCosts", "assess_guards", "assumptions",
    "break_even", "break_even_requests", "cross_checks", "decide", "fit_curve", "fixed_per_request", "flat_p_value",
    "forecasts", "gain_bound", "net_worth", "next_look", "planned_gain", "prior_hash", "resolved_question",
    "retrain_spread", "value_margin", "verdict_sentence",
]  # fmt: skip
