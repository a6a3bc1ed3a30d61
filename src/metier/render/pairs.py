"""Rows of kind `pair` to tokens: the chosen and the rejected reply behind one prompt, each as a rendered row.

    >>> pairs = render_pairs(renderer, rows, max_row_tokens=1024)  # doctest: +SKIP
    >>> pairs.kept[0].chosen.tokens, pairs.dropped  # doctest: +SKIP
    ([1, 9690, ...], {"5f0c...": "identical_replies"})

Trained is the last reply of each side alone: what stands before it is the same on both sides.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from metier.core.errors import DataError
from metier.core.rows import Message, Role, Row, Target, TargetKind
from metier.render.renderer import RenderedRow, Renderer

__all__ = ["RenderedPair", "RenderedPairs", "render_pairs"]


@dataclass(frozen=True, slots=True)
class RenderedPair:
    """Two replies to one prompt."""

    row_id: str
    chosen: RenderedRow
    rejected: RenderedRow

    @property
    def rows(self) -> tuple[RenderedRow, RenderedRow]:
        """Chosen, rejected."""
        return self.chosen, self.rejected

    @property
    def num_tokens(self) -> int:
        """Tokens of both rows."""
        return len(self.chosen.tokens) + len(self.rejected.tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderedPairs:
    """The pairs that can be trained on, and why the others cannot."""

    kept: list[RenderedPair]
    """In the order of the input."""
    dropped: dict[str, str]
    """Reason code by row id: those of `RenderedRows`, of either side, and identical_replies."""
    num_read: int
    """Rows given; kept + dropped, where a row id given twice counts twice."""


def render_pairs(
    renderer: Renderer,
    rows: Sequence[Row],
    *,
    max_row_tokens: int,
    instruction: str | None = None,
    unfinished: Collection[str] = (),
) -> RenderedPairs:
    """Render both sides of every row; a pair of which one side cannot be trained on is dropped with the reason.

    The rejected replies of the rows named in `unfinished` were cut off when they were sampled: nobody chose to end
    them there, so that their end of turn is not trained.

    Raises:
        DataError: a row is not of kind `pair`, or lacks a side.
        ModelError: the template rewrites earlier turns when a turn is added.
    """
    sides = []
    for name in ("chosen", "rejected"):
        asked = [_side(row, name) for row in rows]
        found = renderer.render_rows(asked, max_row_tokens=max_row_tokens, instruction=instruction)
        sides.append((found.dropped, {row.row_id: row for row in found.kept}))
    (chosen_drops, chosen_by_id), (rejected_drops, rejected_by_id) = sides
    dropped = {**rejected_drops, **chosen_drops}
    kept = []
    for row in rows:
        if row.row_id in dropped:
            continue
        chosen, rejected = chosen_by_id[row.row_id], rejected_by_id[row.row_id]
        if row.row_id in unfinished:
            rejected = _open_ended(rejected)
        if chosen.tokens == rejected.tokens or not rejected.num_trained:
            dropped[row.row_id] = "identical_replies"
        else:
            kept.append(RenderedPair(row.row_id, chosen, rejected))
    return RenderedPairs(kept=kept, dropped=dropped, num_read=len(rows))


def _side(row: Row, name: str) -> Row:
    """The row with one of its replies as the only trained turn."""
    target = row.target
    reply = target.chosen if name == "chosen" else target.rejected
    if target.kind is not TargetKind.PAIR or reply is None:
        raise DataError(
            f"row {row.row_id}: of kind {target.kind.value}, its {name} reply "
            f"{'missing' if reply is None else 'there'}; expected a pair with both replies."
        )
    prompt = tuple(
        message.model_copy(update={"train": False}) if message.role is Role.ASSISTANT else message
        for message in row.prompt
    )
    messages = (*prompt, Message(role=Role.ASSISTANT, content=reply))
    return row.model_copy(update={"messages": messages, "target": Target()})


def _open_ended(rendered: RenderedRow) -> RenderedRow:
    """The row without weight on its last trained token, the end of turn."""
    last = max(i for i, value in enumerate(rendered.weight) if value)
    weight = [0.0 if i == last else value for i, value in enumerate(rendered.weight)]
    return RenderedRow(rendered.row_id, rendered.tokens, weight)
