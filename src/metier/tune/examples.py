"""What a step is drawn from, and which of it can be learned from within the limit."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from metier.core.errors import DataError
from metier.core.tune_config import TuneConfig
from metier.engine import check_row

if TYPE_CHECKING:
    from metier.render import RenderedRow

__all__ = ["Examples", "within_limit"]

log = logging.getLogger(__name__)

Examples = Sequence["tuple[RenderedRow, ...]"]
"""What a step is drawn from: of sft single rows, of dpo (chosen, rejected)."""


def within_limit(examples: Examples, config: TuneConfig, *, part: str) -> list[tuple[RenderedRow, ...]]:
    """Examples without a row longer than the limit; others are left out whole, never cut.

    Raises:
        DataError: none is left, or one that nothing could be learned from.
    """
    for example in examples:
        for row in example:
            check_row(row)
    kept = [each for each in examples if all(len(row.tokens) <= config.max_row_tokens for row in each)]
    rows = examples
    if not kept:
        raise DataError(
            f"tune: 0 of {len(rows)} {part} rows have at most {config.max_row_tokens} tokens; expected at least one. "
            "Add rows or raise tune.max_row_tokens."
        )
    if len(kept) < len(rows):
        counts = (len(rows) - len(kept), len(rows), part, config.max_row_tokens)
        log.warning("%d of %d %s rows are longer than %d tokens and left out", *counts)
    return kept
