"""The tables of `metier.toml` as settings objects, version 1 of the contract.

`[split] [metric] [[convention]] [[arm]] [decision] [[guard]]` are the *question*: they are hashed and
frozen in the ledger when the split is made. The loader is `metier.core.project_file`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from metier.core.config import Settings
from metier.core.errors import ConfigError
from metier.core.ranges import above, at_least, calendar_day, plain_name, within

__all__ = [
    "BaseConfig",
    "BudgetConfig",
    "CleanConfig",
    "ConventionConfig",
    "CurveConfig",
    "DataConfig",
    "DecisionConfig",
    "GuardConfig",
    "MetricConfig",
    "PriceConfig",
    "ProjectTable",
    "SplitConfig",
    "ValueConfig",
]

# Defaults that a check below compares with: another value would have no effect there.
MIN_HOLDOUT_GROUPS = 20
LOSS_LIMIT = 0.02
MIN_FRACTIONS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectTable(Settings):
    """`[project]`: what this is and where every random choice starts."""

    name: str
    """Name of the project, shown in reports."""
    seed: int = 0
    """Seed every random choice is derived from."""
    guidelines: tuple[str, ...] = ()
    """Text files with the full guidelines a prompted model gets; several files are wordings, chosen among on dev."""
    ledger: str = ""
    """PostgreSQL database of the ledger, as postgresql://user@host/database; empty: a file in the project."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseConfig(Settings):
    """`[base]`: the model that is prompted and tuned."""

    name: str = "smollm2-135m-instruct"
    """Short name from models.toml, or a source: hub:<id>@<commit>, path:<folder>, pypi:<package>#<file>."""
    revision: str = ""
    """Commit of a hub model; a branch name is refused."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig(Settings):
    """`[data]`: which files hold the rows and what their columns mean."""

    files: tuple[str, ...]
    """Files, folders or globs with rows, relative to the project folder."""
    format: str = "auto"
    """Shape of the records; auto detects it and refuses what it does not recognise."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Which column is what: prompt, reply, system, label, context, id; for example {prompt = "question"}."""
    subject: tuple[str, ...] = ()
    """Columns naming the persons a row is about; where rows have no groups, they tell a person's contact from yours."""
    groups: tuple[str, ...] = ()
    """Columns naming the customer, document or case a row belongs to."""
    time: str = ""
    """Column with the time a row was collected."""
    expires: str = ""
    """Column with the time from which a row must no longer be used."""
    attributes: tuple[str, ...] = ()
    """Columns kept as slices, such as region or channel."""
    policy: str = ""
    """Column with the version of the policy a reply follows."""
    retired_policies: tuple[str, ...] = ()
    """Policy versions no longer in force: their rows are quarantined as stale."""
    licence: str = ""
    """Licence of the rows, or the column that holds it as column:<name>."""
    allowed_licences: tuple[str, ...] = ()
    """Licences under which rows may be used; rows of another, or of none, are set aside. Empty: any."""
    consent_default: Literal["granted", "denied", "unknown"] = "unknown"
    """Consent of rows that do not state one."""
    unknown_consent: Literal["kept", "denied"] = "kept"
    """What happens to rows whose consent is unknown: kept, or set aside as denied."""

    def __post_init__(self) -> None:
        if self.retired_policies and not self.policy:
            raise ConfigError(
                f"retired_policies is {list(self.retired_policies)}, but no column says which policy a row follows; "
                "name it, for example policy = 'policy'."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class CleanConfig(Settings):
    """`[clean]`: what happens to rows that should not be trained on as they are."""

    near_dup: float = 0.8
    """Jaccard similarity of word shingles from which two rows are near-duplicates; at least 0.5."""
    private: Literal["replace", "quarantine", "keep"] = "replace"
    """What happens to private data and declared subjects: replaced by surrogates, the row quarantined, or kept."""
    max_drop_per_class: float = 0.5
    """Largest share of one label's or source's rows cleaning may drop before it stops."""
    min_reply_words: int = 1
    """Shortest reply kept, in words; an empty one never is."""
    max_reply_words: int = 1000
    """Longest reply kept, in words."""

    def __post_init__(self) -> None:
        within("near_dup", self.near_dup, 0.5, 1, ends="[]")
        within("max_drop_per_class", self.max_drop_per_class, 0, 1, ends="(]")
        at_least("min_reply_words", self.min_reply_words, 1)
        if self.max_reply_words < self.min_reply_words:
            raise ConfigError(
                f"max_reply_words is {self.max_reply_words}, below min_reply_words {self.min_reply_words}; no reply "
                "would be kept."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitConfig(Settings):
    """`[split]`: what the hold-out claims and how large it is."""

    generalise_to: Literal["later", "new_groups", "later_and_new_groups"] = "later"
    """What the verdict is claimed for: later rows, new groups, or both."""
    holdout_rows: int = 200
    """Rows sealed for the verdict."""
    dev_rows: int = 100
    """Rows on which every choice is made."""
    max_purge: float = 0.1
    """Largest share of train rows that may be quarantined for being close to the hold-out."""
    min_holdout_groups: int = MIN_HOLDOUT_GROUPS
    """Fewest groups a hold-out may have where new groups are claimed and rows have groups."""
    holdout_files: tuple[str, ...] = ()
    """Files whose rows are the hold-out (a given test set), instead of one drawn from `data.files`."""
    stratify: str = ""
    """Attribute or "label" whose shares are kept equal between parts; only where time does not decide."""

    def __post_init__(self) -> None:
        within("max_purge", self.max_purge, 0, 1, ends="[)")
        if self.holdout_rows < 10 or self.dev_rows < 10:
            raise ConfigError(
                f"holdout_rows is {self.holdout_rows} and dev_rows is {self.dev_rows}; expected at least 10 each."
            )
        at_least("min_holdout_groups", self.min_holdout_groups, 1)
        if self.stratify and self.generalise_to != "new_groups":
            raise ConfigError("stratify works only with generalise_to = 'new_groups'; else time decides the parts.")
        if self.min_holdout_groups != MIN_HOLDOUT_GROUPS and self.generalise_to == "later":
            raise ConfigError(
                f"min_holdout_groups is {self.min_holdout_groups}, but generalise_to = 'later' claims nothing about "
                "groups; drop the setting, or claim new_groups."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricConfig(Settings):
    """`[metric]`: the one score a row gets."""

    name: str = "all_pass"
    """A convention's name, or all_pass, mean, exact, label, numeric, rouge_l or chrf."""
    pass_mark: float = 0.5
    """Score from which a reply counts as passed in the controls."""

    def __post_init__(self) -> None:
        within("pass_mark", self.pass_mark, 0, 1, ends="(]")


@dataclass(frozen=True, kw_only=True, slots=True)
class ConventionConfig(Settings):
    """`[[convention]]`: one thing a good reply obeys."""

    name: str
    """Name of the convention in reports."""
    check: str
    """Which check it is; `metier check --help` lists them."""
    args: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the check."""
    weight: float = 1.0
    """Weight in the mean score."""
    row_specific: bool = False
    """Whether the right value differs from row to row (it occurs only in this prompt)."""

    def __post_init__(self) -> None:
        plain_name("name", self.name)
        above("weight", self.weight, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class ValueConfig(Settings):
    """`[decision.value]`: what a good reply is worth, from which a margin follows."""

    worth: float
    """Worth of one reply that is right instead of wrong, in the price table's currency."""
    requests_per_month: float
    """Requests a month the model will answer."""
    horizon_months: float = 12.0
    """Months over which the cost of tuning is spread."""
    upkeep_per_month: float = 0.0
    """What watching and serving the tuned model costs a month beside its requests."""
    retrain_months: float = 0.0
    """Months after which the model is tuned and measured again; 0: never."""

    def __post_init__(self) -> None:
        above("worth", self.worth, 0)
        above("requests_per_month", self.requests_per_month, 0)
        above("horizon_months", self.horizon_months, 0)
        at_least("upkeep_per_month", self.upkeep_per_month, 0)
        at_least("retrain_months", self.retrain_months, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class DecisionConfig(Settings):
    """`[decision]`: when tuning counts as worth it."""

    margin: float | None = None
    """Smallest gain worth having, in score units (0-1). No default: only you know it; none under as_good_for_less."""
    value: ValueConfig | None = None
    """Instead of a margin, what a good reply is worth: the gain that pays; under as_good_for_less its volume alone."""
    claim: Literal["better", "as_good_for_less"] = "better"
    """better: the gain is at least the margin; as_good_for_less: not worse by more than `limit`, and cheaper."""
    limit: float = LOSS_LIMIT
    """Loss of score accepted under as_good_for_less."""
    alpha: float = 0.05
    """One-sided error rate of a WORTH_IT."""
    plan_gain: float | None = None
    """Gain the number of rows is planned for; by default twice the margin."""
    max_looks: int = 3
    """How often the same question may be asked of a growing hold-out, each time at alpha / max_looks."""
    max_holdout_rows: int = 2000
    """Hold-out rows you could collect; more is answered by "no number of rows decides"."""

    def __post_init__(self) -> None:
        if self.claim == "as_good_for_less" and self.margin is not None:
            raise ConfigError(
                f"margin is {self.margin}, but claim = 'as_good_for_less' asks for no gain: a loss up to limit is "
                "accepted; drop the setting, or set limit."
            )
        if self.claim == "better" and (self.margin is None) == (self.value is None):
            found = "neither" if self.margin is None else "both"
            raise ConfigError(f"found {found} of margin and value; give exactly one, for example margin = 0.05.")
        if self.margin is not None:
            within("margin", self.margin, 0, 1, ends="[)")
        within("alpha", self.alpha, 0, 0.5)
        within("limit", self.limit, 0, 1, ends="[)")
        if self.limit != LOSS_LIMIT and self.claim == "better":
            raise ConfigError(
                f"limit is {self.limit}, but claim = 'better' accepts no loss; drop the setting, or claim "
                "as_good_for_less."
            )
        if self.plan_gain is not None:
            within("plan_gain", self.plan_gain, 0, 1, ends="(]")
        if self.plan_gain is not None and self.margin is not None and self.plan_gain <= self.margin:
            raise ConfigError(f"plan_gain is {self.plan_gain}, not above margin {self.margin}; no row count decides.")
        at_least("max_looks", self.max_looks, 1)
        at_least("max_holdout_rows", self.max_holdout_rows, 10)


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardConfig(Settings):
    """`[[guard]]`: something that must not get worse."""

    name: str
    """Name of the guard in reports."""
    on: str
    """What is watched: a convention's name, "metric", or a slice such as region=north."""
    limit: float
    """Largest loss accepted, in score units (0-1)."""
    required: bool = True
    """Whether an unproven guard keeps the verdict open."""

    def __post_init__(self) -> None:
        plain_name("name", self.name)
        within("limit", self.limit, 0, 1, ends="[)")


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveConfig(Settings):
    """`[curve]`: parts of the train rows that are tuned beside all of them, where the budget has room."""

    fractions: tuple[float, ...] = ()
    """Parts of the rows, each within the next, as [0.125, 0.25, 0.5]; empty measures no learning curve."""
    chains: int = 2
    """Orders of the rows, each with a seed of its own; the fewer the wider the forecast."""

    def __post_init__(self) -> None:
        if list(self.fractions) != sorted(set(self.fractions)) or not all(0 < part < 1 for part in self.fractions):
            raise ConfigError(f"fractions are {list(self.fractions)}; expected rising numbers between 0 and 1.")
        if 0 < len(self.fractions) < MIN_FRACTIONS:
            raise ConfigError(
                f"fractions are {list(self.fractions)}; expected {MIN_FRACTIONS} or more: with all rows that makes the "
                "points of a curve. Add one, or leave the list empty."
            )
        at_least("chains", self.chains, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class PriceConfig(Settings):
    """`[price]`: what things cost; a price is an input with a date and a source."""

    currency: str = "USD"
    """Currency of every amount."""
    machine_hour: float = 0.10
    """Price of one hour of the machine that tunes and serves."""
    token_in: float = 0.0
    """Price of a million prompt tokens; 0 prices a request by machine time."""
    token_out: float = 0.0
    """Price of a million reply tokens; 0 prices a request by machine time."""
    label_minute: float = 0.0
    """Price of a minute of a person who writes or labels rows; 0 prices no row."""
    row_minutes: float = 0.0
    """Minutes of a person that one more row takes; 0 takes the median of the votes."""
    date: str = ""
    """Day the prices were looked up, as 2026-11-23; empty marks them assumed."""
    source: str = "assumed"
    """Where the prices are from."""

    def __post_init__(self) -> None:
        for name in ("machine_hour", "token_in", "token_out", "label_minute", "row_minutes"):
            at_least(name, getattr(self, name), 0)  # getattr: the names stand one line above
        if self.row_minutes and not self.label_minute:
            raise ConfigError(
                f"row_minutes is {self.row_minutes:g}, but label_minute is 0, so that no row costs anything; set the "
                "price of a minute, or drop row_minutes."
            )
        calendar_day("date", self.date)


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetConfig(Settings):
    """`[budget]`: what a run may use; the plan fits into it and says what it gave up."""

    minutes: float = 60.0
    """Minutes the whole of `metier run` may take."""
    money: float = 0.0
    """Money the run may cost; 0 sets no limit."""
    memory_gib: float = 0.0
    """Peak memory the run may use; 0 takes what the machine has."""

    def __post_init__(self) -> None:
        above("minutes", self.minutes, 0)
        at_least("money", self.money, 0)
        at_least("memory_gib", self.memory_gib, 0)
