"""The words of an answer: outcome, forecast, money, what would turn the verdict, and the rows that are missing.

Amounts are in the price table's currency; scores and gains are 0-1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Assumption", "CurvePoint", "Forecast", "MissingRows", "MoneyReport", "Outcome", "Zone"]


class Outcome(StrEnum):
    """What a verdict says."""

    WORTH_IT = "WORTH_IT"
    NOT_WORTH_IT = "NOT_WORTH_IT"
    NEED_TRAIN_ROWS = "NEED_TRAIN_ROWS"
    NEED_HOLDOUT_ROWS = "NEED_HOLDOUT_ROWS"


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvePoint:
    """Dev score after tuning on part of the train rows."""

    num_train: int
    chain_seed: int
    train_seed: int
    score: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """Predicted band of the score at a number of train rows."""

    num_train: int
    low: float
    high: float
    level: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Zone:
    """Values of an assumption under which the outcome is the same."""

    outcome: Outcome
    low: float | None
    """Where they begin; None: at the smallest value there is."""
    high: float | None
    """Where they end; None: nowhere."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Assumption:
    """One thing the verdict rests on, varied alone."""

    name: str
    """margin, limit, worth, requests_per_month, horizon_months, tuning_cost or prices (times those of the table)."""
    value: float
    """As it was assumed."""
    zones: tuple[Zone, ...]
    """What the verdict would be at other values, guards aside, smallest values first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MissingRows:
    """Rows to collect, what for, and what they cost. Hold-out rows decide; train rows make the model better."""

    part: str
    """hold-out or train."""
    purpose: str
    """decide, prove_guard, reach_margin (the upper end of the band does) or double."""
    rows: int
    """So many more than there are."""
    groups: int | None
    """In so many new groups; None where rows stand alone."""
    cost: float | None
    """Of a person's time for them; None where it has no price."""
    gain: Forecast | None
    """Gain over the strongest rival with these train rows; None for hold-out rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MoneyReport:
    """What tuning costs and brings, in the price table's currency; what would turn the verdict, and what is missing."""

    currency: str
    versus: str
    """The rival over which least is left; without a declared worth the strongest one."""
    tuning: float
    """The tuning, once."""
    evaluation: float
    """What is measured around it, predicted: arms, hold-out, bought answers, the learning curve left out."""
    num_retrainings: int
    """Tunings after the first within the horizon, each with its measuring."""
    upkeep_per_month: float
    """As declared."""
    request_before: float
    request_after: float
    label_row: float | None
    """One more row, of a person's time; None where it has no price."""
    break_even: Mapping[str, float | None]
    """Requests a month from which on tuning pays, if the gain is at low, estimate or high; None: at no volume."""
    net: Mapping[str, float]
    """Money left over the horizon if the gain is at low, estimate or high; empty without a declared value."""
    assumptions: tuple[Assumption, ...]
    missing: tuple[MissingRows, ...]
