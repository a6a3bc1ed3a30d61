"""Rows that should not be trained on as they are: quarantined with a reason, never deleted; private data replaced.

    result = clean_rows(read, CleanConfig(), key=project_key, now=datetime(2026, 11, 1, tzinfo=UTC))
    result.num_read == len(result.kept) + len(result.quarantined) + len(result.failed)

Order: stale and consent, length of the reply, duplicates, private data, then the brake on what was lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from metier.core.errors import DataError, counted
from metier.core.rows import Message, Role, Row, TargetKind, make_row
from metier.core.settings import CleanConfig, DataConfig
from metier.curate.duplicates import find_duplicates
from metier.curate.private import KINDS, Hit, find_private
from metier.curate.read import Failure, ReadResult, first_failures, read_rows
from metier.curate.records import expand
from metier.curate.surrogates import canonical, replace_private

__all__ = ["CLEAN_RULES", "CurateResult", "Quarantined", "clean_rows", "curate"]

CLEAN_RULES = 1
"""Version of these rules; raised when the same rows would be treated otherwise."""
MIN_CLASS_ROWS = 10
"""Classes with fewer rows do not brake: one duplicate among two rows says nothing."""
MIN_KEPT_ROWS = 2
"""With fewer rows nothing can be compared with anything."""
MIN_PUBLIC_ROWS, MIN_PUBLIC_SHARE = 5, 0.01
"""A contact given in replies to so many rows and groups is the organisation's own, not a person's."""


class Quarantined(NamedTuple):
    """A row set aside, and why."""

    row: Row
    reason: str
    survivor: str | None
    """`origin_id` of the row that stays in its place."""
    rule_version: int = CLEAN_RULES


@dataclass(frozen=True, slots=True, kw_only=True)
class CurateResult:
    """What became of every record: kept + quarantined + failed = read."""

    kept: list[Row]
    quarantined: list[Quarantined]
    failed: list[Failure]
    num_read: int
    private: Mapping[str, int] = field(default_factory=dict)
    """Pieces of private data found, by kind, whatever was done about them."""
    public: Mapping[str, int] = field(default_factory=dict)
    """Contacts of the organisation itself, left as they are: distinct values by kind."""
    conflicting_labels: int = 0
    """Rows whose label differs from that of a near-identical row; they are kept."""

    def __post_init__(self) -> None:
        num = len(self.kept) + len(self.quarantined) + len(self.failed)
        if num != self.num_read:
            raise DataError(
                f"cleaning lost rows: {len(self.kept)} kept + {len(self.quarantined)} quarantined + {len(self.failed)} "
                f"failed = {num}, but {self.num_read} were read. This is a defect of metier; please report it."
            )

    @property
    def reasons(self) -> dict[str, int]:
        """Quarantined rows by reason."""
        return dict(sorted(Counter(item.reason for item in self.quarantined).items()))

    def with_quarantined(self, reason_by_origin: Mapping[str, str]) -> CurateResult:
        """The result with more kept rows set aside, such as golds that fail their own grader."""
        moved = [
            Quarantined(row, reason_by_origin[row.origin_id], None)
            for row in self.kept
            if row.origin_id in reason_by_origin
        ]
        kept = [row for row in self.kept if row.origin_id not in reason_by_origin]
        return replace(self, kept=kept, quarantined=[*self.quarantined, *moved])


def curate(
    data: DataConfig,
    clean: CleanConfig,
    project_dir: Path,
    *,
    key: bytes,
    now: datetime,
    holdout_files: Sequence[str] = (),
) -> CurateResult:
    """Read and clean the rows of a project; rows of `holdout_files` survive their duplicates elsewhere.

    Raises:
        ConfigError: a setting cannot mean anything; see `read_rows`.
        DataError: nothing could be read, the brake closed, or fewer than two rows are left.
    """
    read = read_rows(data, project_dir, key=key, extra_files=holdout_files)
    given = {source for source, _ in expand(holdout_files, project_dir)} if holdout_files else set()
    result = clean_rows(
        read, clean, key=key, now=now, retired_policies=data.retired_policies, preferred_sources=frozenset(given)
    )
    if len(result.kept) < MIN_KEPT_ROWS:
        raise DataError(_too_few(result, (*data.files, *holdout_files)))
    return result


def _too_few(result: CurateResult, files: Sequence[str]) -> str:
    """What became of the rows of files that leave nothing to work with: counts by reason, and the first of them."""
    lost = {"failed": len(result.failed), **result.reasons}
    counts = ", ".join(f"{reason} {num}" for reason, num in lost.items() if num) or "nothing was set aside"
    aside = [(f"{row.meta.source}:{row.meta.source_row}", reason) for row, reason, *_ in result.quarantined]
    first = first_failures([*result.failed, *(Failure(*item) for item in aside)])
    return (
        f"{', '.join(files)}: {counted(len(result.kept), 'row')} left of {counted(result.num_read, 'record')} read "
        f"({counts}); expected at least {MIN_KEPT_ROWS}. Give more rows, or correct [data] or the records.{first}"
    )


def clean_rows(
    read: ReadResult,
    config: CleanConfig,
    *,
    key: bytes,
    now: datetime,
    retired_policies: Sequence[str] = (),
    preferred_sources: frozenset[str] = frozenset(),
) -> CurateResult:
    """Every row kept (perhaps as a new version without private data) or quarantined with its reason.

    Raises:
        DataError: cleaning would drop more than `max_drop_per_class` of one label's or source's rows.
    """
    quarantined: list[Quarantined] = []
    left: list[Row] = []
    for row in read.rows:
        if reason := _stale(row, now, retired_policies) or _length(row, config):
            quarantined.append(Quarantined(row, reason, None))
        else:
            left.append(row)
    preferred = [row.meta.source in preferred_sources for row in left]
    duplicates = find_duplicates(left, config.near_dup, preferred)
    for i, (reason, survivor) in sorted(duplicates.survivor_of.items()):
        quarantined.append(Quarantined(left[i], reason, left[survivor].origin_id))
    left = [row for i, row in enumerate(left) if i not in duplicates.survivor_of]
    kept, private_rows, found, public = _without_private(left, config.private, key)
    quarantined += private_rows
    _brake(read.rows, quarantined, config.max_drop_per_class)
    if not kept:
        reasons = ", ".join(f"{reason} {num}" for reason, num in Counter(q.reason for q in quarantined).most_common())
        raise DataError(
            f"cleaning would leave none of {len(read.rows)} rows ({reasons}); expected at least one. "
            "Correct [clean] or [data]."
        )
    return CurateResult(
        kept=kept,
        quarantined=quarantined,
        failed=read.failed,
        num_read=read.num_read,
        private=found,
        public=public,
        conflicting_labels=len(duplicates.conflicting),
    )


def _stale(row: Row, now: datetime, retired_policies: Sequence[str]) -> str:
    if row.meta.consent == "denied":
        return "consent_denied"
    if row.meta.expires_at is not None and row.meta.expires_at <= now:
        return "expired"
    return "retired_policy" if row.meta.policy_version in retired_policies else ""


def _length(row: Row, config: CleanConfig) -> str:
    """Why a reply's length rules it out; a closing tool call and a label have no length."""
    if row.target.kind is TargetKind.LABEL or row.messages[-1].tool_calls:
        return ""
    num_words = len(row.gold.split())
    if num_words == 0:
        return "empty_reply"
    if num_words < config.min_reply_words:
        return "too_few_words"
    return "too_many_words" if num_words > config.max_reply_words else ""


def _texts(row: Row) -> list[tuple[bool, str]]:
    """Every text of a row, with whether the organisation (not the person) wrote it."""
    target = row.target
    spoken = [(message.role in (Role.SYSTEM, Role.ASSISTANT), message.content) for message in row.messages]
    return spoken + [(True, text) for text in (target.chosen, target.rejected, target.answer) if text]


def _without_private(
    rows: Sequence[Row], what: str, key: bytes
) -> tuple[list[Row], list[Quarantined], dict[str, int], dict[str, int]]:
    """Rows to keep, rows to set aside, private values found and public ones left, by kind."""
    hits_of = [[(ours, find_private(text)) for ours, text in _texts(row)] for row in rows]
    public = _public_values(rows, hits_of)
    found: Counter[str] = Counter()
    kept: list[Row] = []
    quarantined: list[Quarantined] = []
    for row, texts in zip(rows, hits_of, strict=True):
        private = [hit for _, hits in texts for hit in hits if (hit.kind, canonical(hit)) not in public]
        # A pair's chosen reply stands in the messages too: count distinct values, not places.
        found.update(kind for kind, _ in {(hit.kind, canonical(hit)) for hit in private})
        if private and what == "quarantine":
            quarantined.append(Quarantined(row, "private_data", None))
        elif private and what == "replace":
            kept.append(_replaced(row, public, key))
        else:
            kept.append(row)
    in_order = {kind: found[kind] for kind in KINDS if found[kind]}
    return kept, quarantined, in_order, dict(sorted(Counter(kind for kind, _ in public).items()))


def _public_values(rows: Sequence[Row], hits_of: Sequence[Sequence[tuple[bool, list[Hit]]]]) -> set[tuple[str, str]]:
    """Contacts the organisation gives in its own words to many rows of different groups: its hotline, its mailbox."""
    givers: dict[tuple[str, str], set[str]] = {}
    said_by_people: set[tuple[str, str]] = set()
    for row, texts in zip(rows, hits_of, strict=True):
        who = str(sorted(row.meta.groups.items()) or row.meta.subjects or "")
        for ours, hits in texts:
            for hit in hits:
                value = (hit.kind, canonical(hit))
                if ours and hit.kind in ("email", "phone"):
                    givers.setdefault(value, set()).add(who or row.origin_id)
                elif not ours and not who:  # perhaps one person who wrote many times: nothing tells
                    said_by_people.add(value)
    needed = max(MIN_PUBLIC_ROWS, MIN_PUBLIC_SHARE * len(rows))
    return {value for value, who in givers.items() if len(who) >= needed and value not in said_by_people}


def _replaced(row: Row, public: set[tuple[str, str]], key: bytes) -> Row:
    """The row's next version, its private data replaced by surrogates."""

    def clean(text: str | None) -> str | None:
        if not text:
            return text
        hits = [hit for hit in find_private(text) if (hit.kind, canonical(hit)) not in public]
        return replace_private(text, hits, key)

    def message(old: Message) -> Message:
        return old.model_copy(update={"content": clean(old.content) or ""})

    target = row.target.model_copy(
        update={name: clean(getattr(row.target, name)) for name in ("chosen", "rejected", "answer")}  # getattr: by name
    )
    return make_row(
        key, messages=tuple(map(message, row.messages)), meta=row.meta, target=target, tools=row.tools, parent=row
    )


def _brake(rows: Sequence[Row], quarantined: Sequence[Quarantined], max_drop: float) -> None:
    """Refuse to clean away most of a class: such a rule is wrong far more often than the rows are."""
    dropped = {item.row.origin_id: item.reason for item in quarantined}
    sizes: Counter[str] = Counter()
    losses: dict[str, Counter[str]] = {}
    for row in rows:
        classes = [f"source {row.meta.source!r}"]
        if row.target.label is not None:
            classes.append(f"label {row.target.label!r}")
        for name in classes:
            sizes[name] += 1
            if reason := dropped.get(row.origin_id):
                losses.setdefault(name, Counter())[reason] += 1
    closed = [
        f"{name} would lose {lost.total()} of {sizes[name]} rows "
        f"({', '.join(f'{reason} {num}' for reason, num in lost.most_common())})"
        for name, lost in sorted(losses.items())
        if sizes[name] >= MIN_CLASS_ROWS and lost.total() > max_drop * sizes[name]
    ]
    if closed:
        raise DataError(
            f"cleaning stopped before anything was written: {'; '.join(closed[:5])}; expected a loss of at most "
            f"{max_drop:.0%}. Look at the rows: correct [clean] or [data], or raise [clean] max_drop_per_class if the "
            "loss is right."
        )
