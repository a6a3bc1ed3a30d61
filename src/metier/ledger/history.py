"""The whole story of one row: where it came from, what became of it, who used it, and who recorded that.

    >>> print(row_history(ledger, "tickets.jsonl:17").as_text())
    row 5f0c2a...
    source   tickets.jsonl:17, licence CC0-1.0
    version  91ab77...: quarantined, near_duplicate (rule 2), kept in its place: 77fe01...
    ...

The text of a row is never in it, nor what anybody voted on a row whose content is held out.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from metier.core.errors import counted

__all__ = [
    "DatasetUse", "Erased", "HistoryEvent", "LookUse", "ModelUse", "Origin", "Parent", "RowHistory", "RowVersion",
    "Saw", "SplitUse", "VoteCast",
]  # fmt: skip

_SHOWN = 16
"""Characters of a hash that a person is shown; JSON has all of them."""


class Saw(StrEnum):
    """Whether a model was trained on a row."""

    YES = "yes"
    PERHAPS = "perhaps"  # trained on a share of the rows, or its data was split in two ways
    THROUGH_PARENT = "through_parent"  # it went on from a model that saw the row


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """The record a row was read from."""

    source: str
    """File, relative to the project."""
    record: int
    """Number of the record in it."""
    licence: str
    """Licence of the file's rows; empty when not stated."""
    sha256: str
    """Hash of the file's bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parent:
    """What a version was made from."""

    row_id: str
    """The version before."""
    op: str
    """What was done."""
    version: str
    """Version of the code or rule that did it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowVersion:
    """One content the row has or had, and what became of it."""

    row_id: str
    """Keyed hash of the content."""
    state: str
    """kept, quarantined or erased."""
    reason: str
    """Why it is not kept; empty when it is."""
    rule_version: str
    """Version of the rule that decided."""
    survivor: str
    """`origin_id` of the row kept in its place."""
    parents: tuple[Parent, ...] = ()
    """What it was made from; nothing for the version that was read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetUse:
    """A dataset version the row is a member of."""

    version: str
    """The dataset version."""
    row_id: str
    """Which version of the row."""
    num_rows: int
    """Rows of the dataset."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitUse:
    """A split and the part the row is in."""

    split_id: str
    """The split."""
    dataset: str
    """Dataset version it divides."""
    question: str
    """Question it was made for."""
    part: str
    """train, dev, holdout or purged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LookUse:
    """A look at a hold-out the row is in."""

    look_id: str
    """The look."""
    split_id: str
    """Whose hold-out."""
    k: int
    """The how-manieth look at its question."""
    alpha: float
    """Error rate it used."""
    state: str
    """opened or complete."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelUse:
    """A model that was trained on the row, or may have been."""

    model_id: str
    """The model."""
    saw: Saw
    """How sure that is."""
    through: str
    """Dataset version it was trained on, or the model it went on from."""
    state: str
    """candidate, released, refused or retired."""
    names: tuple[str, ...] = ()
    """Aliases that mean this model now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VoteCast:
    """One vote on the row."""

    row_id: str
    """Which version."""
    annotator: str
    """Who."""
    at: str
    """When, ISO text in UTC."""
    value: str | None
    """What; None while the content is held out, and for ever once it was erased."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Erased:
    """The erasure of the row."""

    seq: int
    """Event that recorded it."""
    at: str
    """When, ISO text in UTC."""
    actor: str
    """Who."""
    certificate_hash: str
    """Hash of the erasure's certificate; empty when none is recorded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HistoryEvent:
    """One event that concerns the row."""

    seq: int
    """Its number in the chain."""
    at: str
    """When, ISO text in UTC."""
    actor: str
    """Who."""
    what: str
    """What it did to the row, in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowHistory:
    """Everything the ledger knows about one record and all its versions; no text."""

    origin_id: str
    """Keyed hash of source and record number."""
    origin: Origin | None
    """Where it was read; None when no recorded source has it."""
    versions: tuple[RowVersion, ...]
    """Its contents, the one that was read first."""
    datasets: tuple[DatasetUse, ...]
    """Dataset versions it is a member of."""
    splits: tuple[SplitUse, ...]
    """Splits it was part of."""
    looks: tuple[LookUse, ...]
    """Looks at a hold-out it is in."""
    models: tuple[ModelUse, ...]
    """Models trained on it."""
    votes: tuple[VoteCast, ...]
    """What annotators said about it."""
    erased: Erased | None
    """When it was erased; None when it was not."""
    events: tuple[HistoryEvent, ...]
    """All of it in the order of the chain."""

    @property
    def is_held_out(self) -> bool:
        """Whether the row is in the hold-out of some split."""
        return any(split.part == "holdout" for split in self.splits)

    def as_json(self) -> dict[str, Any]:
        """The history as JSON values."""
        return {**asdict(self), "is_held_out": self.is_held_out}

    def as_text(self) -> str:
        """The history for a person."""
        lines = [f"row {self.origin_id}", f"source   {self._source()}"]
        lines += [f"version  {_version(version)}" for version in self.versions]
        lines += [f"dataset  {use.version[:_SHOWN]}, {counted(use.num_rows, 'row')}" for use in self.datasets]
        lines += [f"split    {use.split_id[:_SHOWN]}: {_part(use.part)}" for use in self.splits]
        lines += [
            f"look     {look.look_id[:_SHOWN]}: number {look.k} at its question, alpha {look.alpha:.4g}, {look.state}"
            for look in self.looks
        ]
        lines += [f"model    {_model(use)}" for use in self.models]
        lines += [f"votes    {_votes(self.votes)}"] if self.votes else []
        if self.erased is not None:
            who, certificate = self.erased.actor, self.erased.certificate_hash[:_SHOWN] or "none on record"
            lines.append(f"erased   {self.erased.at} by {who}, event {self.erased.seq}, certificate {certificate}")
        lines.append("events")
        lines += [f"  {entry.seq:>5}  {entry.at}  {entry.actor}  {entry.what}" for entry in self.events]
        return "\n".join(lines)

    def _source(self) -> str:
        if self.origin is None:
            return "not among the recorded sources"
        licence = f"licence {self.origin.licence}" if self.origin.licence else "licence not stated"
        return f"{self.origin.source}:{self.origin.record}, {licence}"


def _version(version: RowVersion) -> str:
    """One version in a line."""
    parts = [state_words(version.state, version.reason, version.rule_version, version.survivor)]
    parts += [f"made from {parent.row_id[:_SHOWN]} by {parent.op} {parent.version}" for parent in version.parents]
    return f"{version.row_id[:_SHOWN]}: {'; '.join(parts)}"


def state_words(state: str, reason: str, rule_version: str, survivor: str) -> str:
    """What became of a row, in words."""
    words = f"{state}, {reason}" if reason else state
    words += f" (rule {rule_version})" if rule_version else ""
    return words + (f", kept in its place: {survivor[:_SHOWN]}" if survivor else "")


def _part(part: str) -> str:
    return "holdout; held out, so its text and votes are not shown" if part == "holdout" else part


def _model(use: ModelUse) -> str:
    how = {
        Saw.YES: f"trained on it, in dataset {use.through[:_SHOWN]}",
        Saw.PERHAPS: f"perhaps trained on it, on a share of dataset {use.through[:_SHOWN]}",
        Saw.THROUGH_PARENT: f"went on from model {use.through[:_SHOWN]}, which saw it",
    }
    names = f" ({', '.join(use.names)})" if use.names else ""
    return f"{use.model_id[:_SHOWN]}{names}: {how[use.saw]}; {use.state}"


def _votes(votes: tuple[VoteCast, ...]) -> str:
    told = [f"{vote.annotator}: {' '.join(vote.value.split())}" for vote in votes if vote.value is not None]
    return f"{len(votes)}, {'; '.join(told)}" if told else f"{len(votes)}, values not shown"
