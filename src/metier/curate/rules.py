"""Why one row, looked at alone, must not be used: consent, licence, age, policy, length."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from metier.core.rows import Row, TargetKind
from metier.core.settings import CleanConfig, DataConfig

__all__ = ["RowRules"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RowRules:
    """The rules of one project on one day."""

    data: DataConfig
    clean: CleanConfig
    now: datetime
    restored: Collection[str] = frozenset()
    """`origin_id` of rows a person put back; they are only refused for consent, licence or age."""

    def reason(self, row: Row) -> str:
        """The first rule a row breaks, as a code; empty when it breaks none."""
        return self._permission(row) or ("" if row.origin_id in self.restored else self._length(row))

    def _permission(self, row: Row) -> str:
        meta, data = row.meta, self.data
        if meta.consent == "denied":
            return "consent_denied"
        if meta.consent == "unknown" and data.unknown_consent == "denied":
            return "consent_unknown"
        if data.allowed_licences and meta.licence not in data.allowed_licences:
            return "licence_not_allowed"
        if meta.expires_at is not None and meta.expires_at <= self.now:
            return "expired"
        return "retired_policy" if meta.policy_version in data.retired_policies else ""

    def _length(self, row: Row) -> str:
        """Why a reply's length rules it out; a closing tool call and a label have no length."""
        if row.target.kind is TargetKind.LABEL or row.messages[-1].tool_calls:
            return ""
        num_words = len(row.gold.split())
        if num_words == 0:
            return "empty_reply"
        if num_words < self.clean.min_reply_words:
            return "too_few_words"
        return "too_many_words" if num_words > self.clean.max_reply_words else ""
