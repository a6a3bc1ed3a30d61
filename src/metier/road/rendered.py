"""Train and dev rows as the tuned model sees them: tokens and mask, rows that are too long left out and counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metier.arms import short_instruction
from metier.core.arm_config import ArmConfig
from metier.core.errors import DataError
from metier.road.cut import Parts
from metier.road.session import Session

if TYPE_CHECKING:
    from metier.render import RenderedRow

__all__ = ["Rendered", "instruction_text", "render_parts"]

MIN_TRAIN_ROWS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """Rows that can be trained on."""

    train: list[RenderedRow]
    dev: list[RenderedRow]
    dropped: Mapping[str, str]
    """Reason by row id of those that cannot."""

    @property
    def golds(self) -> list[RenderedRow]:
        """All of them: what the reply limit follows."""
        return [*self.train, *self.dev]


def render_parts(session: Session, parts: Parts) -> Rendered:
    """Train and dev with the instruction the tuned arm carries; rendered once a session, what is left out told once.

    Raises:
        DataError: too few rows are left, with the first reasons.
    """
    if session.rendered is not None:
        return session.rendered
    from metier.render import check_invariants

    tuned = next(arm for arm in session.config.arm if arm.kind == "tuned")
    instruction = instruction_text(tuned, session.wordings)
    limit = session.config.tune.max_row_tokens
    train = session.renderer.render_rows(parts.train, max_row_tokens=limit, instruction=instruction)
    dev = session.renderer.render_rows(parts.dev, max_row_tokens=limit, instruction=instruction)
    place = {row.row_id: f"{row.meta.source}:{row.meta.source_row}" for row in [*parts.train, *parts.dev]}
    told = [f"{place[row_id]}: {text}" for row_id, text in {**train.sentences, **dev.sentences}.items()]
    kept, kept_dev = ({row.row_id for row in part.kept} for part in (train, dev))
    if len(kept) < MIN_TRAIN_ROWS or not kept_dev:
        raise DataError(
            f"{len(kept)} train and {len(kept_dev)} dev rows can be trained on; expected at least "
            f"{MIN_TRAIN_ROWS} and 1. Raise [tune] max_row_tokens, or shorten the rows ([clean] max_reply_words). "
            "The first:" + "".join(f"\n  {sentence}" for sentence in told[:5])
        )
    check_invariants(session.renderer, [row for row in parts.train if row.row_id in kept][:64], instruction)
    dropped = {**train.dropped, **dev.dropped}
    if dropped:
        num_read = train.num_read + dev.num_read
        session.progress.say(f"{len(dropped)} of {num_read} rows cannot be trained on; the first: {told[0]}")
    session.rendered = Rendered(train=train.kept, dev=dev.kept, dropped=dropped)
    return session.rendered


def instruction_text(config: ArmConfig, wordings: Mapping[str, str]) -> str | None:
    """The instruction an arm carries by its setting; the tuned arm carries none unless asked to."""
    wanted = config.instruction or ("none" if config.kind == "tuned" else "full")
    if wanted == "full":
        return next(iter(wordings.values()), None)
    return short_instruction(wordings) if wanted == "short" else None
