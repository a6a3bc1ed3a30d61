"""Arms and trials, version 1 of their contract: what every alternative under assessment offers.

An `Arm` is a recipe; `fit` on train and dev rows gives a `FittedArm`, which replies to rows. Every
choice (wording, examples, k, checkpoint) is made in `fit`, on dev, and told in `chosen_from`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from metier.core.rows import Row

__all__ = ["Arm", "Choice", "FittedArm", "Purpose", "Reply", "RowScore", "SkipReason", "Trial", "TrialResult"]


class Purpose(StrEnum):
    """What a trial is run for."""

    SEARCH = "search"
    CURVE = "curve"
    FINAL = "final"


class SkipReason(StrEnum):
    """Why an arm does not apply to this data: the closed list."""

    NO_TRAIN_ROWS = "no_train_rows"
    ONE_CLASS = "one_class"
    NO_GUIDELINES = "no_guidelines"
    PROMPT_TOO_LONG = "prompt_too_long"
    ROWS_USE_TOOLS = "rows_use_tools"
    NOT_LABELS = "not_labels"
    LABELS_ONLY = "labels_only"
    NO_TEMPLATES = "no_templates"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What an arm answered to one row."""

    text: str
    """The reply, end-of-turn token left out."""
    tokens_in: int
    """Prompt tokens; 0 for arms without a language model."""
    tokens_out: int
    """Reply tokens, the end-of-turn token included."""
    seconds: float
    """Time from handing the request to its last token; in a batch, the time the batch took until then."""
    logprob: float | None = None
    """Sum of the log-probabilities of the reply's tokens, in nats; None where the arm has none."""
    finish: str = "stop"
    """stop: the model ended its turn; length: it ran into the limit; refused: an endpoint gave no whole reply."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowScore:
    """The score of one reply to one row."""

    row_id: str
    """Which row."""
    score: float
    """The primary score, 0-1."""
    checks: Mapping[str, float] = field(default_factory=dict)
    """Score of every convention, 0-1."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """For every convention below 1: a sentence that says what is wrong."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One candidate an arm tried on dev while fitting."""

    name: str
    """What was tried, in words."""
    score: float
    """Mean dev score, 0-1."""
    num_rows: int
    """Dev rows it was scored on."""


class FittedArm(Protocol):
    """One alternative, ready to reply."""

    @property
    def kind(self) -> str:
        """As in the project file: `ArmConfig.kind`."""
        ...

    @property
    def name(self) -> str:
        """Name in reports."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of everything that makes its replies: model, instruction, examples, settings."""
        ...

    @property
    def chosen_from(self) -> Sequence[Choice]:
        """Everything tried on dev while fitting; empty where nothing was chosen."""
        ...

    def reply(self, rows: Sequence[Row]) -> list[Reply]:
        """One reply per row, in the order of the rows; gold text of the rows is never looked at."""
        ...

    def reply_each(self, rows: Sequence[Row]) -> Iterator[Reply]:
        """The same, one request at a time: `Reply.seconds` is the latency at concurrency 1."""
        ...

    def describe(self) -> dict[str, Any]:
        """What was chosen, as JSON values: instruction, examples, settings."""
        ...


class Arm(Protocol):
    """The recipe of one alternative."""

    @property
    def kind(self) -> str:
        """As in the project file: `ArmConfig.kind`."""
        ...

    @property
    def name(self) -> str:
        """Name in reports."""
        ...

    def needs(self, train: Sequence[Row], dev: Sequence[Row]) -> SkipReason | None:
        """Why the arm does not apply to this data, or None."""
        ...

    def fit(self, train: Sequence[Row], dev: Sequence[Row], *, seed: int) -> FittedArm:
        """Make every choice on dev; the same inputs and seed give the same arm."""
        ...

    def restore(self, train: Sequence[Row], description: Mapping[str, Any]) -> FittedArm:
        """The fitted arm that `describe()` told of: nothing is chosen again."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One arm fitted on one part of the rows."""

    arm: str
    """Name of the arm."""
    base: str
    """Base model, by its short name."""
    fraction: float
    """Share of the train rows it is fitted on."""
    chain_seed: int
    """Seed of the nested order the share is taken from."""
    train_seed: int
    """Seed of the fit."""
    purpose: Purpose
    """What the trial is run for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialResult:
    """What a trial gave."""

    trial: Trial
    """The trial."""
    scores_dev: tuple[float, ...]
    """Dev score of every row, in dev order."""
    usage: Mapping[str, float]
    """Tokens and seconds used."""
    minutes: float
    """Wall-clock minutes."""
    object_ref: str = ""
    """Content hash of what was fitted, where it is kept."""
