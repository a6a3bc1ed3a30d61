"""The brake: refuse to clean away most of a source or class, as the rule is wrong far more often than the rows are.

Rows nobody permitted to use are not counted: that they leave is no accident, however many they are.
"""

# Shapes: N rows.

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from metier.core.errors import DataError
from metier.core.table import RowTable, Values

__all__ = ["brake"]

MIN_CLASS_ROWS = 10
"""Classes with fewer rows do not brake: one duplicate among two rows says nothing."""
NUM_SHOWN = 5
PERMISSION = frozenset({"consent_denied", "consent_unknown", "licence_not_allowed"})
"""Reasons that say a row may not be used, not that something is wrong with it."""


def brake(table: RowTable, reason: Values, max_drop: float) -> None:
    """Pass only where no source and no label loses more than its share of the permitted rows, and something is left.

    Raises:
        DataError: one does; the message counts by reason.
    """
    closed = [
        *_losses("source", table.source, reason, max_drop),
        *_losses("label", table.label, reason, max_drop),
    ]
    if closed:
        raise DataError(
            f"cleaning stopped before anything was recorded: {'; '.join(closed[:NUM_SHOWN])}; expected a loss of at "
            f"most {max_drop:.0%}. Look at the rows: correct [clean] or [data], or raise [clean] max_drop_per_class if "
            "the loss is right."
        )
    if len(table) and (reason.code_N >= 0).all():
        counts = np.bincount(reason.code_N, minlength=len(reason.names))
        told = ", ".join(f"{reason.names[code]} {counts[code]}" for code in np.argsort(-counts, kind="stable"))
        raise DataError(
            f"cleaning would leave none of {len(table)} rows ({told}); expected at least one. Correct "
            "[clean] or [data]."
        )


def _losses(what: str, values: Values, reason: Values, max_drop: float) -> Iterator[str]:
    """A sentence for every value whose rows would mostly leave."""
    num_names, num_reasons = len(values.names), len(reason.names)
    if not num_names or not num_reasons:
        return
    refused = [code for code, name in enumerate(reason.names) if name in PERMISSION]
    known = (values.code_N >= 0) & ~np.isin(reason.code_N, refused)
    size = np.bincount(values.code_N[known], minlength=num_names)
    lost = known & (reason.code_N >= 0)
    pair_N = values.code_N[lost].astype(np.int64) * num_reasons + reason.code_N[lost]
    by_reason = np.bincount(pair_N, minlength=num_names * num_reasons).reshape(num_names, num_reasons)
    for code in sorted(range(num_names), key=values.names.__getitem__):
        total = int(by_reason[code].sum())
        if size[code] >= MIN_CLASS_ROWS and total > max_drop * size[code]:
            told = ", ".join(
                f"{reason.names[i]} {by_reason[code, i]}"
                for i in np.argsort(-by_reason[code], kind="stable")
                if by_reason[code, i]
            )
            yield f"{what} {values.names[code]!r} would lose {total} of {size[code]} rows ({told})"
