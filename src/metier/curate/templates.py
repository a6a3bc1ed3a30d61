"""Text that very many rows share: what a form, a signature or a standard reply says, as opposed to the row's own words.

    own_S = own_shingles(prompts, template_shingles(prompts, source_N, rows))

A shingle is *template* if more than `SHARE` of the rows of one source have it, but in any case more than `FEW`, and
from `MANY` on always: more rows than copies by hand explain. Rows are then compared twice, as they stand and without
template, and are near only if both say so (`metier.core.similarity.stars`). Two rows with the same long form and other
words in it therefore stay different; a row that is all template is compared as it stands, with its like. The price: of
more than `FEW` rows that are near-copies of one another without being equal, those with a shingle of their own stay, as
nothing tells them from a form filled in.
"""

# Shapes: N texts, S shingles.

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from metier.core.shingles import Shingles

__all__ = ["own_shingles", "template_shingles"]

SHARE = 0.001
"""Share of a source's rows above which their common text is template."""
FEW, MANY = 20, 1000
"""Fewest and most rows that `SHARE` may come to."""
CHUNK_TEXTS = 50_000
_BITS = 22

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint64]


def template_shingles(texts: Shingles, source_N: npt.NDArray[np.int32], rows: Ints) -> Codes:
    """The sorted hashes of all template shingles among these rows; a shingle counts once a row."""
    found = [np.zeros(0, dtype=np.uint64)]
    in_order = rows[np.argsort(source_N[rows], kind="stable")]
    cuts = np.flatnonzero(np.diff(source_N[in_order])) + 1
    groups = [group for group in np.split(in_order, cuts) if len(group) > FEW]
    if len(cuts):
        groups.append(rows)  # what every source has a little of
    for group in groups:
        found.append(_in_many(texts, group, int(np.clip(SHARE * len(group), FEW, MANY))))
    return np.unique(np.concatenate(found))


def _in_many(texts: Shingles, rows: Ints, limit: int) -> Codes:
    """Shingles that more than `limit` of these rows have: counted by hash, then exactly where a hash is frequent."""
    if len(rows) <= limit:
        return np.zeros(0, dtype=np.uint64)
    chunks = [rows[low : low + CHUNK_TEXTS] for low in range(0, len(rows), CHUNK_TEXTS)]
    count = np.zeros(1 << _BITS, dtype=np.int64)
    for chunk in chunks:
        count += np.bincount(_cell(texts.take(chunk).code_S), minlength=1 << _BITS)
    frequent = count > limit
    codes, counts = np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64)
    for chunk in chunks:
        code = texts.take(chunk).code_S
        more, num = np.unique(code[frequent[_cell(code)]], return_counts=True)
        codes, place = np.unique(np.concatenate([codes, more]), return_inverse=True)
        counts = np.bincount(place, weights=np.concatenate([counts, num]), minlength=len(codes)).astype(np.int64)
    return codes[counts > limit]


def own_shingles(texts: Shingles, template: Codes) -> Bools | None:
    """[S]: which shingles are not template; None if none is."""
    if not len(template):
        return None
    hot = np.zeros(1 << _BITS, dtype=bool)
    hot[_cell(template)] = True
    own_S = np.ones(len(texts.code_S), dtype=bool)
    step = 1 << 22
    for low in range(0, len(own_S), step):
        code = texts.code_S[low : low + step]
        at = np.flatnonzero(hot[_cell(code)])
        own_S[low + at] = ~np.isin(code[at], template)
    return own_S


def _cell(codes: Codes) -> Ints:
    return (codes >> np.uint64(63 - _BITS)).astype(np.int64)
