"""Rows for split tests: text, groups and time as the test says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from metier.core.rows import Message, Meta, Role, Row, Target, TargetKind, make_row

KEY = b"project"
START = datetime(2026, 1, 1, tzinfo=UTC)


def make(
    number: int,
    *,
    prompt: str = "",
    reply: str = "",
    day: float | None = None,
    source: str = "rows.jsonl",
    label: str | None = None,
    kind: TargetKind = TargetKind.REPLY,
    **meta: Any,
) -> Row:
    """One row; without text its own three words make it like no other."""
    return make_row(
        KEY,
        messages=(
            Message(role=Role.USER, content=prompt or f"ask{number} about{number} thing{number}"),
            Message(role=Role.ASSISTANT, content=reply or f"say{number} of{number} it{number}"),
        ),
        target=Target(kind=kind, label=label),
        meta=Meta(
            source=source, source_row=number, collected_at=None if day is None else START + timedelta(days=day), **meta
        ),
    )
