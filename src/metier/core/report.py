"""`report.json`, version 2 of its contract: what a run found, every number with its rows and its origin.

Written by `metier.road`, drawn by `metier.web`, recomputed by `metier verify`. Scores are 0-1, money is
in the price table's currency, times are in the unit the field's name ends in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from metier.core.errors import DataError
from metier.core.typed_json import built
from metier.core.worth import Assumption, CurvePoint, Forecast, MissingRows, MoneyReport, Outcome, Zone

__all__ = [
    "ArmReport", "Assumption", "Comparison", "CurvePoint", "DataReport", "ExampleReport", "Forecast", "GuardReport",
    "GuardState", "LooksReport", "MissingRows", "MoneyReport", "Outcome", "PlanEntry", "PriceEntry", "QuestionReport",
    "Report", "SplitReport", "VerdictReport", "Zone", "report_from_json",
]  # fmt: skip

REPORT_SCHEMA_VERSION = 2


class GuardState(StrEnum):
    """Whether something that must not get worse did."""

    PASSED = "passed"
    FAILED = "failed"
    UNPROVEN = "unproven"


@dataclass(frozen=True, kw_only=True, slots=True)
class VerdictReport:
    """The answer."""

    outcome: Outcome
    reason: str
    """A code: margin_reached, guard:<name>, below_margin, no_curve, holdout_too_small, guard_unproven:<name>, ..."""
    claim: str
    sentence: str
    """The verdict in one sentence a manager understands."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PriceEntry:
    """A price used."""

    item: str
    amount: float
    currency: str
    date: str
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionReport:
    """What was asked, frozen before the hold-out was opened."""

    hash: str
    metric: str
    unit: str
    margin: float
    plan_gain: float
    alpha: float
    comparators: tuple[str, ...]
    frozen_at: str
    prices: tuple[PriceEntry, ...] = ()
    """Prices that margin or cost ratio were fixed with before the look; empty where the claim depends on no price."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The tuned arm against one other arm, on the same hold-out rows."""

    versus: str
    estimate: float
    """Mean paired gain of the tuned arm, score units."""
    low: float
    """One-sided lower bound at `side_alpha` (L_j)."""
    high: float
    """One-sided upper bound at `high_alpha` (U_j)."""
    side_alpha: float
    """One-sided error rate of `low`."""
    high_alpha: float
    """One-sided error rate of `high`: that of `low` divided by the number of comparators."""
    method: str
    """bonett_price or cr2_t."""
    num_rows: int
    num_groups: int
    discordance: float
    """Share of rows on which the two arms' scores differ."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmReport:
    """One alternative."""

    name: str
    kind: str
    status: str
    """ran or skipped."""
    reason: str = ""
    """Why it was skipped, from the closed list; empty when it ran."""
    score: float | None = None
    low: float | None = None
    high: float | None = None
    level: float = 0.95
    """Level of the two-sided interval low-high."""
    num_rows: int = 0
    dev_score: float | None = None
    chosen_from: tuple[Mapping[str, Any], ...] = ()
    """Every candidate tried on dev: name, score, num_rows."""
    base: str = ""
    """The other model it asks, by the name its settings give; empty: the base, or no language model."""
    num_weights: int | None = None
    """Size of the language model that answers; None for an arm without one, and for an endpoint."""
    carries_instruction: str = ""
    """full, short or none: which instruction each of its requests carries."""
    tokens_in: float | None = None
    """Prompt tokens a request, mean."""
    tokens_out: float | None = None
    cost_per_1k_requests: float | None = None
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    """p50 and p95 at concurrency 1, with num_rows."""
    checks: Mapping[str, float] = field(default_factory=dict)
    """Mean hold-out score of every convention."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardReport:
    """Something that must not get worse: tuned against the best comparator on the same rows."""

    name: str
    limit: float
    estimate: float
    low: float
    high: float
    state: GuardState
    required: bool
    num_rows: int
    rows_needed: int | None
    """Rows for which an unharmed guard passes with power .8; None when it is not unproven."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataReport:
    """What became of the rows that were read: kept + quarantined + failed = read."""

    read: int
    kept: int
    quarantined: Mapping[str, int]
    """Number of rows by reason."""
    failed: int
    """Records that are no row at all (broken JSON, unknown shape)."""
    duplicates: int
    private: Mapping[str, int]
    """Private data found, by kind."""
    stale: int
    dataset_version: str
    failures: tuple[str, ...] = ()
    """The first five failures, as file:line: found, expected, do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitReport:
    """How train, dev and hold-out were cut, and the certificate."""

    mode: str
    train: int
    dev: int
    holdout: int
    purged: int
    groups: Mapping[str, int]
    """Number of groups in each part."""
    certificate: Mapping[str, Any]
    """max_similarity, exact, shared_groups, newest_train, oldest_holdout."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LooksReport:
    """How often the hold-out was opened, up to and including this look."""

    used: int
    """Looks at this question."""
    budget: int
    alpha_this: float
    """One-sided error rate of this look."""
    alpha_left: float
    """What is left for later looks at this question."""
    on_these_rows: int
    """Looks, for whatever question, at a hold-out that shares rows with this one."""
    other_questions: int
    """Other questions asked of such a hold-out before; each had an error rate of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanEntry:
    """Something predicted before the run, and what happened."""

    quantity: str
    """Name with its unit: run_minutes, tune_minutes, peak_memory_gib."""
    predicted: float
    low: float
    high: float
    actual: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ExampleReport:
    """One dev row with the replies of base and tuned model; never a hold-out row."""

    row_id: str
    prompt: str
    gold: str
    base: str
    tuned: str
    base_score: float
    tuned_score: float
    base_reasons: tuple[str, ...] = ()
    tuned_reasons: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Everything a run found."""

    project: str
    verdict: VerdictReport
    question: QuestionReport
    comparisons: tuple[Comparison, ...]
    gain: Comparison
    """The comparison with the smallest lower bound."""
    rows_needed: Mapping[str, Any]
    """Hold-out rows (or groups) in all needed to decide, for plan_gain; null where no number of rows would."""
    mde: float
    """Smallest true gain this hold-out shows to be above the margin with power .8."""
    arms: tuple[ArmReport, ...]
    data: DataReport
    split: SplitReport
    looks: LooksReport
    controls: Mapping[str, Any]
    """gold, empty, echo, shuffled: mean scores; fingerprint: whether tuned replies differ from the base's."""
    plan: tuple[PlanEntry, ...]
    prices: tuple[PriceEntry, ...]
    model: Mapping[str, Any]
    """id, base_sha256, function_sha256 (of the base's weights under its config), adapter_sha256, template_sha256,
    tokenizer_sha256, method; config: the settings of the run; execution: the chosen form with reasons; best_step,
    last_step, num_steps; pairs, sft, search where they were."""
    provenance: Mapping[str, Any]
    """code, packages, seeds, threads, finished, ledger_head, look_id; before_look: facts recorded before the look."""
    files: Mapping[str, str]
    """scores: path of scores.parquet beside this file, and its SHA-256 as scores_sha256."""
    costs: Mapping[str, float] = field(default_factory=dict)
    """Money and minutes of this run: tune_minutes, run_minutes, tune_cost, run_cost."""
    cross_checks: tuple[Mapping[str, Any], ...] = ()
    """Mid-p McNemar and bootstrap-t for each comparison; shown, never deciding."""
    examples: tuple[ExampleReport, ...] = ()
    gave_up: tuple[str, ...] = ()
    """What the plan gave up to fit the budget, one sentence each."""
    curve: tuple[CurvePoint, ...] = ()
    dev_curve: tuple[Mapping[str, float], ...] = ()
    """Dev loss over the tuning run, under dpo the loss of pairs set aside: step, dev_loss_nats, train_loss_nats."""
    exposure: Mapping[str, Any] = field(default_factory=dict)
    """Canary probe of the tuned model: sentence, canaries, references, exposures in bits; names no value."""
    forecast: tuple[Forecast, ...] = ()
    retrain_spread: Mapping[str, float] | None = None
    gain_forecast: Mapping[str, tuple[Forecast, ...]] = field(default_factory=dict)
    """Band of the gain over every rival at more train rows; empty where the curve is not shown to rise."""
    curve_p: float | None = None
    """One-sided p-value against a flat learning curve."""
    money: MoneyReport | None = None
    past_predictions: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Predictions of earlier runs of this project, by quantity: runs, within (their range), median_ratio (of what
    happened to the prediction; absent where 0 was predicted). `tuned_score` was forecast from fewer rows, by a pilot
    or a curve: median_difference (of what came less the forecast) instead."""
    guards: tuple[GuardReport, ...] = ()
    schema_version: int = REPORT_SCHEMA_VERSION

    def as_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return asdict(self)


def report_from_json(values: Mapping[str, Any]) -> Report:
    """The typed report in the values of a `report.json`.

    Raises:
        DataError: another schema version, an unknown or a missing field.
    """
    if values.get("schema_version") != REPORT_SCHEMA_VERSION:
        found = values.get("schema_version")
        raise DataError(
            f"report.json has schema_version {found!r}; this metier reads {REPORT_SCHEMA_VERSION}. "
            "Run again to write it anew."
        )
    report = built(Report, values, "report.json")
    assert isinstance(report, Report)
    return report
