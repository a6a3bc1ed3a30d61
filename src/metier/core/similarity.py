"""Which texts are copies of one another: exact Jaccard similarity of word shingles, over lists of any length.

    >>> texts = shingles_of(["the lamp came broken", "The lamp  came broken.", "where is it"])
    >>> [pairs.first.tolist() + pairs.second.tolist() for pairs in near_pairs(texts, 0.8)]
    [[0, 1]]

Shingles are runs of three words, held as keyed 64-bit hashes (`metier.core.shingles`). Every similarity given is exact.
`near_between` and `max_between` find every pair. `near_pairs` and `stars` find every pair among up to `EXACT_TEXTS`
texts, and among any number while their prefixes hold at most `EXACT_ENTRIES` shingles (a million texts of about 150
words at a threshold of 0.8); beyond, MinHash proposes the pairs and misses one at the threshold with a chance of at
most .001, a closer one less often. This finds copies, not meaning: paraphrases are out of reach of any shingle (facts:
21 % of QQP).
"""

# Shapes: N texts, S shingles, E entries of an index, P pairs.

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from metier.core.candidates import (
    Compared,
    Entries,
    Nearness,
    Sizes,
    band_entries,
    pairs_across,
    pairs_inside,
    pairs_meeting,
    prefix_entries,
    refined,
)
from metier.core.shingles import (
    Bools,
    Codes,
    Floats,
    Ints,
    Shingles,
    conversation_text,
    fold,
    prompt_key,
    shingles_of,
    text_codes,
    words,
)

__all__ = [
    "Compared", "Pairs", "Shingles", "conversation_text", "fold", "max_between", "near_between", "near_pairs",
    "prompt_key", "shingles_of", "stars", "text_codes", "words",
]  # fmt: skip

EXACT_TEXTS = 20_000
"""Up to this many texts every pair is found, however long they are."""
EXACT_ENTRIES = 32_000_000
"""Up to this many shingles in all prefixes every pair is found; while it is sorted their index takes 50 bytes each."""
CHUNK_PAIRS = 50_000
"""Pairs compared at once."""
OWN_SHARE = 0.5
"""Of the shingles of two texts that are not template, this share at least must be common: what one adds to the other
is no more than what they have."""
STAR_PAIRS = 500_000
"""Above this many pairs of one index, stars are grown from the better half before the other half is looked at."""
_STEPS = (0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)
_WIDTH = np.int64(2**63 - 1)

Sparse = Any  # scipy.sparse.csr_array: scipy is imported inside functions only


class Pairs(NamedTuple):
    """Pairs of texts with their exact Jaccard similarity, as parallel arrays."""

    first: Ints
    second: Ints
    similarity: Floats


def _matrix(shingles: Shingles, own_S: Bools | None = None) -> Sparse:
    """The texts as a matrix of one column a hash, the codes not copied; 1 stands for template, 2 for the rest."""
    import scipy.sparse as sp

    data = np.full(len(shingles.code_S), 2, np.uint8) if own_S is None else own_S.view(np.uint8) + np.uint8(1)
    matrix = sp.csr_array((data, shingles.code_S.view(np.int64), shingles.start_N), shape=(len(shingles), _WIDTH))
    matrix.has_canonical_format = True  # codes are sorted and unique; scipy would read all of them to learn it
    return matrix


def _common(left: Sparse, right: Sparse, first: Ints, second: Ints) -> tuple[Ints, Ints]:
    """Shingles that both texts of each pair have, and how many of those are not template."""
    common, own = np.zeros(len(first), np.int64), np.zeros(len(first), np.int64)
    for low in range(0, len(first), CHUNK_PAIRS):
        part = slice(low, low + CHUNK_PAIRS)
        both = left[first[part]].multiply(right[second[part]]).tocsr()
        total = np.concatenate([[0], np.cumsum(both.data == 4)])  # 2 * 2: a shingle is template everywhere or nowhere
        common[part] = np.diff(both.indptr)
        own[part] = np.diff(total[both.indptr])
    return common, own


def _jaccard(common: Ints, left: Ints, right: Ints) -> Floats:
    union = left + right - common
    result: Floats = common / np.maximum(union, 1)
    return result


def near_between(left: Shingles, right: Shingles, threshold: float) -> Pairs:
    """All pairs (left, right) with a Jaccard similarity of at least `threshold`, by left, then right; exact."""
    empty = np.zeros(0, dtype=np.int64)
    parts = [Pairs(empty, empty, np.zeros(0)), *_between(left, right, threshold)]
    first, second, found = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((second, first))
    return Pairs(first[order], second[order], found[order])


def max_between(left: Shingles, right: Shingles) -> tuple[float, int, int]:
    """The largest Jaccard similarity between two lists and its indices, exact; (0.0, -1, -1) if no shingle is shared.

    Of equally similar pairs it is the one that comes first by left, then right.
    """
    for step in _STEPS:  # a high threshold is cheap, and the first that finds anything has found the largest
        best = (0.0, -1, -1)
        for pairs in _between(left, right, step):
            if not len(pairs.first):
                continue
            at = np.lexsort((pairs.second, pairs.first, -pairs.similarity))[0]
            found = (float(pairs.similarity[at]), int(pairs.first[at]), int(pairs.second[at]))
            if (found[0], -found[1], -found[2]) > (best[0], -best[1], -best[2]):
                best = found
        if best[0] > 0:
            return best
    return (0.0, -1, -1)


def _between(left: Shingles, right: Shingles, threshold: float) -> Iterator[Pairs]:
    """Pairs at the threshold, in chunks: only texts of the larger side that have a rare shingle of the smaller."""
    if len(left.code_S) > len(right.code_S):
        for pairs in _between(right, left, threshold):
            yield Pairs(pairs.second, pairs.first, pairs.similarity)
        return
    matrices = _matrix(left), _matrix(right)
    sizes = Sizes(left.size_N, right.size_N, threshold)
    for first, second in pairs_meeting(left, right, sizes):
        common = _common(*matrices, first, second)[0]
        yield _at_least(Pairs(first, second, _jaccard(common, left.size_N[first], right.size_N[second])), threshold)


def near_pairs(
    texts: Shingles,
    threshold: float,
    *,
    rows: Ints | None = None,
    block: Codes | None = None,
    own_S: Bools | None = None,
    max_other: int | None = None,
    exact_texts: int = EXACT_TEXTS,
    exact_entries: int = EXACT_ENTRIES,
) -> Iterator[Pairs]:
    """All pairs i < j of one list with a Jaccard similarity of at least `threshold`, each once, in chunks.

    With `rows` (ascending), only those texts are compared; with `block`, only texts of equal block; `own_S` and
    `max_other` are those of `stars`. Complete within `exact_texts` or `exact_entries`; see the module. A text that
    stands m times gives m * m / 2 pairs: for one survivor a set of copies, use `stars`.
    """
    compared = Compared(texts, own_S)
    order = np.arange(len(texts)) if rows is None else rows
    nearness = Nearness(threshold, max_other)
    index = _index(compared, order, block, nearness, (exact_texts, exact_entries))
    near = _Near([compared], nearness)
    size_N = texts.size_N[order]
    for first, second in pairs_inside(index, Sizes(size_N, size_N, threshold)):
        i, j = order[first], order[second]
        kept, found = near.with_similarity(i, j)
        yield Pairs(i[kept], j[kept], found[kept])


def _index(compared: Compared, order: Ints, block: Codes | None, nearness: Nearness, exact: tuple[int, int]) -> Entries:
    size_N = compared.shingles.size_N[order]
    num_entries = int(np.minimum(nearness.listed(size_N), compared.listed_sizes()[order]).sum())
    fits = len(order) <= exact[0] or num_entries <= exact[1]
    block_N = np.zeros(len(compared.shingles), dtype=np.uint64) if block is None else block
    return (prefix_entries if fits else band_entries)(compared, order, block_N, nearness)


def _at_least(pairs: Pairs, threshold: float) -> Pairs:
    kept = pairs.similarity >= threshold - 1e-12
    return Pairs(pairs.first[kept], pairs.second[kept], pairs.similarity[kept])


def stars(
    columns: Sequence[Compared],
    threshold: float,
    *,
    order: Ints,
    block: Codes | None = None,
    max_other: int | None = None,
    exact_texts: int = EXACT_TEXTS,
    exact_entries: int = EXACT_ENTRIES,
) -> Ints:
    """For each text of `order`, best first, the place in `order` of the better text it leaves for; its own if it stays.

    One text has several columns (a prompt, an answer); two texts are near where every column is. A text leaves if and
    only if it is near one that stays, for the best such; so every text is near its survivor, and no two survivors are
    near each other. An empty first column is near nothing; in the others two empty texts are near. With `max_other`,
    neither text of a pair may have more shingles than that which the other has not. Where a column knows its template,
    the rest must fit as well: the shorter one in the longer to the threshold, and at least `OWN_SHARE` of both in
    common, or both empty. So a copy with a sentence added is one, and a form filled in otherwise is none.

    A set of m copies costs about m comparisons: stars are grown from the better half of the texts first, and only what
    is left is compared with one another.
    """
    nearness = Nearness(threshold, max_other)
    index = _index(columns[0], order, block, nearness, (exact_texts, exact_entries))
    for column in columns[1:]:
        index = refined(index, column, order, nearness)
    size_N = columns[0].shingles.size_N[order]
    sizes = Sizes(size_N, size_N, threshold)
    near = _Near(columns, nearness)
    survivor_N = np.arange(len(order))

    def grow(entries: Entries) -> None:
        if entries.num_pairs() <= STAR_PAIRS:
            _grow_by_pairs(survivor_N, _near_only(pairs_inside(entries, sizes), order, near))
            return
        middle = np.median(np.unique(entries.text_E))
        better = entries.where(entries.text_E <= middle)
        grow(better.shared())
        centres = better.where(survivor_N[better.text_E] == better.text_E)
        worse = entries.where(entries.text_E > middle)
        for first, second in _near_only(pairs_across(centres, worse, sizes), order, near):
            np.minimum.at(survivor_N, second, first)
        grow(worse.where(survivor_N[worse.text_E] == worse.text_E).shared())

    grow(index)
    return survivor_N


def _grow_by_pairs(survivor_N: Ints, found: Iterator[tuple[Ints, Ints]]) -> None:
    """Stars over listed pairs; they come by second, then first, so every first is decided before it is asked for."""
    for first, second in found:
        for i, j in zip(first.tolist(), second.tolist(), strict=True):
            if survivor_N[i] == i and survivor_N[j] == j:
                survivor_N[j] = i


def _near_only(
    found: Iterator[tuple[Ints, Ints]], order: Ints, near: Callable[[Ints, Ints], Bools]
) -> Iterator[tuple[Ints, Ints]]:
    for first, second in found:
        kept = near(order[first], order[second])
        yield first[kept], second[kept]


class _Near:
    """Whether pairs of texts are near in every column."""

    def __init__(self, columns: Sequence[Compared], nearness: Nearness) -> None:
        self.threshold = nearness.threshold - 1e-12
        self.max_other = np.iinfo(np.int64).max if nearness.max_other is None else nearness.max_other
        self.columns = [
            (_matrix(column.shingles, column.own_S), column.shingles.size_N, column.own_sizes()) for column in columns
        ]

    def __call__(self, first: Ints, second: Ints) -> Bools:
        return self.with_similarity(first, second)[0]

    def with_similarity(self, first: Ints, second: Ints) -> tuple[Bools, Floats]:
        """Whether they are near, and how similar those are in the last column that was looked at."""
        near, found = np.ones(len(first), dtype=bool), np.zeros(len(first))
        for matrix, size_N, own_N in self.columns:
            at = np.flatnonzero(near)
            i, j = first[at], second[at]
            common, own = _common(matrix, matrix, i, j)
            found[at] = _jaccard(common, size_N[i], size_N[j])
            alike = (found[at] >= self.threshold) | (size_N[i] + size_N[j] == 0)
            alike &= np.maximum(size_N[i], size_N[j]) - common <= self.max_other
            near[at] = alike & self._own_near(own, own_N[i], own_N[j])
        return near, found

    def _own_near(self, own: Ints, left: Ints, right: Ints) -> Bools:
        """Whether the shorter rest without template is in the longer one, and at least half of it."""
        inside = own >= self.threshold * np.minimum(left, right)
        half = _jaccard(own, left, right) >= OWN_SHARE
        near: Bools = (inside & half) | (left + right == 0)  # both all template: nothing tells them apart
        return near
