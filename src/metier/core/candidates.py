"""Which pairs of texts can be near-duplicates at all: an index of rare shingles, or of MinHash bands.

A pair of Jaccard similarity t or more shares one of the rarest shingles of either text: each text is listed under its
rarest `size - ceil(t * size) + 1` shingles only, its *prefix*. Text that many rows share is frequent, so it seldom
stands in a prefix, and templated rows do not meet over their template. For many long texts prefixes grow large; there
bands of MinHash values stand in for them, at a small chance of missing a pair. Nothing here decides:
`metier.core.similarity` does.

Source: prefix filter, Chaudhuri, Ganti & Kaushik 2006; bound by place, Xiao et al. 2008 (PPJoin); banding, Leskovec,
Rajaraman & Ullman, chapter 3. Unlike PPJoin, frequencies are counted by hash: any one order of shingles is right.
"""

# Shapes: N texts, S shingles, E entries of the index, P pairs.

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from metier.core.shingles import Bools, Codes, Ints, Shingles, mixed

__all__ = [
    "Compared", "Entries", "Nearness", "Sizes", "band_entries", "pairs_across", "pairs_inside", "pairs_meeting",
    "prefix_entries", "refined",
]  # fmt: skip

NUM_PERM = 128
MAX_MISS = 1e-3
"""Largest chance that MinHash misses a pair exactly at the threshold."""
CHUNK_TEXTS = 4096
"""Texts indexed at once; 12 bits number them beside a shingle's place in the order."""
CHUNK_PAIRS = 1_000_000
"""Pairs listed at once: about 100 MB."""
CHUNK_CODES = 1 << 22
"""Shingles of the larger side looked up at once."""
LARGE_GROUP = 256
"""Texts of one group above which splitting it is tried."""
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """Texts to compare and, where text shared by many of them is to be left out, which shingles are the texts' own."""

    shingles: Shingles
    own_S: Bools | None = None
    """[S]: True for a shingle that is not template; None where there is no template."""

    def own_sizes(self) -> Ints:
        """Shingles of each text that are not template."""
        if self.own_S is None:
            return self.shingles.size_N
        own_N, start_N = np.zeros(len(self.shingles), dtype=np.int64), self.shingles.start_N
        for low in range(0, len(own_N), CHUNK_TEXTS):  # running sums of all shingles would take 8 bytes each
            start = start_N[low : low + CHUNK_TEXTS + 1]
            total = np.concatenate([[0], np.cumsum(self.own_S[start[0] : start[-1]])])
            own_N[low : low + CHUNK_TEXTS] = np.diff(total[start - start[0]])
        return own_N

    def listed_sizes(self) -> Ints:
        """Shingles by which each text is looked for: its own, or all of them where it is all template."""
        own_N = self.own_sizes()
        return np.where(own_N > 0, own_N, self.shingles.size_N)


class Entries(NamedTuple):
    """An index: texts listed by group, sorted by group and text; every text at most once a group."""

    group_E: Ints
    text_E: Ints
    place_E: Ints
    """How many of the text's shingles that count are rarer than this one."""

    def where(self, kept: Bools) -> Entries:
        """Some of the entries."""
        return Entries(self.group_E[kept], self.text_E[kept], self.place_E[kept])

    def shared(self) -> Entries:
        """The entries of groups with more than one text."""
        return self.where(_repeated(self.group_E))

    def num_pairs(self) -> int:
        """Pairs of texts in one group, over all groups."""
        return int((np.arange(len(self.group_E)) - _group_starts(self.group_E)).sum())


class Nearness(NamedTuple):
    """How alike two texts must be."""

    threshold: float
    """Smallest Jaccard similarity."""
    max_other: int | None = None
    """Most shingles of either text that the other has not; None sets no limit."""

    def listed(self, size_N: Ints) -> Ints:
        """Under how many of its rarest shingles a text is listed: one more than it may have alone."""
        # 1e-9: a product such as .8 * 5 must not round above the integer it means.
        alone = size_N - np.ceil(self.threshold * size_N - 1e-9).astype(np.int64)
        if self.max_other is not None:
            alone = np.minimum(alone, self.max_other)
        listed: Ints = np.minimum(size_N, alone + 1)
        return listed


class Sizes(NamedTuple):
    """Shingles of the texts on both sides of a comparison, and the similarity they should reach."""

    first_N: Ints
    second_N: Ints
    threshold: float


class Rarity:
    """An order of shingles from rare to frequent, by counts in a table of hashes."""

    def __init__(self, codes: Codes) -> None:
        bits = int(np.clip(len(codes).bit_length() + 1, 10, 23))
        self.shift = np.uint64(63 - bits)
        count = np.zeros(1 << bits, dtype=np.int32)
        for low in range(0, len(codes), 1 << 22):
            place = (codes[low : low + (1 << 22)] >> self.shift).astype(np.int64)
            count += np.bincount(place, minlength=1 << bits).astype(np.int32)
        # Eight steps to a factor of two: 256 levels reach counts of 2**31.
        self.level = np.minimum(255, 8 * np.log2(np.maximum(count, 1), dtype=np.float32)).astype(np.uint8)

    def of(self, codes: Codes) -> Codes:
        """A 52-bit number of each shingle, growing with its frequency."""
        level = self.level[(codes >> self.shift).astype(np.int64)].astype(np.uint64)
        number: Codes = (level << np.uint64(44)) | (codes >> np.uint64(19))
        return number


def _chunks(compared: Compared, order: Ints) -> Iterator[tuple[int, Codes, Ints, Codes]]:
    """Texts in this order, some at a time: first place, their codes, the text of each code, and its kind as a key.

    A text is listed by its own shingles; one that is all template, by all of them, and under keys of its own: the two
    kinds are never similar.
    """
    own_N = compared.own_sizes() > 0
    for low in range(0, len(order), CHUNK_TEXTS):
        texts = order[low : low + CHUNK_TEXTS]
        start, place = compared.shingles.places(texts)
        owner = np.repeat(np.arange(len(texts)), np.diff(start))
        if compared.own_S is not None:
            kept = compared.own_S[place] | ~own_N[texts][owner]
            owner, place = owner[kept], place[kept]
        yield low, compared.shingles.code_S[place], owner, own_N[texts].astype(np.uint64)


def prefixes(
    compared: Compared, order: Ints, rarity: Rarity, nearness: Nearness
) -> Iterator[tuple[Codes, Ints, Ints, Codes]]:
    """The prefix of each text: codes, the text's place in `order`, the code's place in the text, the text's kind.

    In the prefixes of two near texts stands the first of their common shingles in this order: each has too few before
    it to fill its prefix. That holds for any part of their shingles, so also for those that are not template.
    """
    size_N = compared.shingles.size_N
    for low, code, owner, kind in _chunks(compared, order):
        by_rarity = np.argsort((owner.astype(np.uint64) << np.uint64(52)) | rarity.of(code), kind="stable")
        size = np.bincount(owner, minlength=len(kind))
        start = np.cumsum(size) - size
        place = np.arange(len(owner)) - start[owner]
        short = place < nearness.listed(size_N[order[low : low + len(kind)]])[owner]
        yield code[by_rarity][short], owner[short] + low, place[short], kind[owner[short]]


def prefix_entries(compared: Compared, order: Ints, block_N: Codes, nearness: Nearness) -> Entries:
    """The index by prefix; texts are numbered by their place in `order`, texts of different blocks never meet."""
    rarity = Rarity(compared.shingles.code_S)
    keys, texts, places = [np.zeros(0, np.uint64)], [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    for code, text, place, kind in prefixes(compared, order, rarity, nearness):
        keys.append(mixed(code ^ _block_key(block_N[order[text]], kind)))
        texts.append(text.astype(np.int32))
        places.append(place.astype(np.int32))
    text_E, place_E = np.concatenate(texts), np.concatenate(places)
    texts.clear()
    places.clear()
    key_E = np.concatenate(keys)
    keys.clear()  # a million rows have ten million keys: their parts must not stay beside them
    return _entries(key_E, text_E, place_E)


def band_entries(compared: Compared, order: Ints, block_N: Codes, nearness: Nearness) -> Entries:
    """The index by MinHash of whole texts: a pair at the threshold is missed with a chance of at most `MAX_MISS`."""
    from rensa import RMinHash

    width = _band_width(nearness.threshold)
    lows = range(0, NUM_PERM - width + 1, width)
    key_NB = np.zeros((len(order), len(lows)), dtype=np.uint64)
    filled_N = np.zeros(len(order), dtype=bool)
    for low, code, owner, kind in _chunks(Compared(compared.shingles), order):
        size = np.bincount(owner, minlength=len(kind))
        start = np.concatenate([[0], np.cumsum(size)]).astype(np.uint64)
        digests = RMinHash.digest_matrix_from_flat_token_hashes(code, start, NUM_PERM, 1)
        signature = np.asarray(digests.to_rows(), dtype=np.uint64)
        block = _block_key(block_N[order[low : low + len(kind)]], kind)
        for band, first in enumerate(lows):
            key = mixed(block + np.uint64(band))
            for column in range(first, first + width):
                key = mixed(key * _MULTIPLIER + signature[:, column])
            key_NB[low : low + len(kind), band] = key
        filled_N[low : low + len(kind)] = size > 0
    texts = np.flatnonzero(filled_N).astype(np.int32)
    parts = [
        _entries(np.ascontiguousarray(key_NB[texts, band]), texts, np.zeros(len(texts), np.int32))
        for band in range(len(lows))
    ]
    shift = np.cumsum([0, *(int(part.group_E[-1]) + 1 if len(part.group_E) else 0 for part in parts)])
    groups = [part.group_E + shift[band] for band, part in enumerate(parts)]
    return Entries(
        np.concatenate(groups),
        np.concatenate([part.text_E for part in parts]),
        np.concatenate([part.place_E for part in parts]),
    )


def refined(entries: Entries, compared: Compared, order: Ints, nearness: Nearness) -> Entries:
    """The index with its large groups split by a second column, which must be near too: no such pair is lost.

    Where thousands of rows ask the same, few of them have the same answer. A group stays as it is where splitting gives
    more pairs, as it does where all have the same answer.
    """
    bounds = np.append(np.flatnonzero(np.append(True, np.diff(entries.group_E) > 0)), len(entries.group_E))
    large = np.flatnonzero(np.diff(bounds) > LARGE_GROUP) if len(entries.group_E) else np.zeros(0, dtype=np.int64)
    if not len(large):
        return entries
    inside = np.zeros(len(entries.group_E), dtype=bool)
    for group in large:
        inside[bounds[group] : bounds[group + 1]] = True
    texts = np.unique(entries.text_E[inside])
    starts, codes = _listed(compared, order[texts], nearness)
    kept, parts, shift = np.ones(len(inside), dtype=bool), [], int(entries.group_E[-1]) + 1
    for low, high in zip(bounds[large], bounds[large + 1], strict=True):
        text, place = entries.text_E[low:high], entries.place_E[low:high]
        at = np.searchsorted(texts, text)
        num = starts[at + 1] - starts[at]
        member = np.repeat(np.arange(len(text)), num)
        code = codes[np.arange(len(member)) + np.repeat(starts[at] - (np.cumsum(num) - num), num)]
        split = _entries(code, text[member].astype(np.int32), place[member].astype(np.int32))
        if split.num_pairs() < len(text) * (len(text) - 1) // 2:
            kept[low:high] = False
            parts.append(Entries(split.group_E + shift, split.text_E, split.place_E))
            shift += int(split.group_E[-1]) + 1 if len(split.group_E) else 0
    every = [entries.where(kept), *parts]
    group_E, text_E, place_E = (np.concatenate(column) for column in zip(*every, strict=True))
    return Entries(group_E, text_E, place_E)


def _listed(compared: Compared, texts: Ints, nearness: Nearness) -> tuple[Ints, Codes]:
    """Under which codes each of these texts is listed, one after the other; an empty text under one of its own."""
    size, parts = np.zeros(len(texts), dtype=np.int64), [np.zeros(0, dtype=np.uint64)]
    for code, text, _, kind in prefixes(compared, texts, Rarity(compared.shingles.code_S), nearness):
        parts.append(mixed(code ^ _block_key(np.zeros(len(code), dtype=np.uint64), kind)))
        size += np.bincount(text, minlength=len(texts))
    codes = np.concatenate(parts)
    empty = np.flatnonzero(size == 0)
    codes = np.insert(codes, (np.cumsum(size) - size)[empty], np.uint64(0))
    size[empty] = 1
    return np.concatenate([[0], np.cumsum(size)]).astype(np.int64), codes


def _block_key(block: Codes, kind: Codes) -> Codes:
    return mixed(block * _MULTIPLIER + kind + np.uint64(1))


def _band_width(threshold: float) -> int:
    """The widest band with which a pair at the threshold is missed with a chance of at most `MAX_MISS`."""
    widths = [r for r in range(1, 17) if (1 - threshold**r) ** (NUM_PERM // r) <= MAX_MISS]
    return max(widths, default=1)


def _entries(key: Codes, text: npt.NDArray[np.int32], place: npt.NDArray[np.int32]) -> Entries:
    """The entries of keys that more than one text has, grouped."""
    order = np.argsort(key)
    key = key[order]
    shared = _repeated(key)
    order, key = order[shared], key[shared]
    group = np.cumsum(np.append(False, key[1:] != key[:-1])[: len(key)])
    text_E = text[order].astype(np.int64)
    inside = np.argsort((group << 32) | text_E)
    return Entries(group[inside], text_E[inside], place[order][inside].astype(np.int64))


def _repeated(values: npt.NDArray[np.generic]) -> Bools:
    """Which of sorted values stand more than once."""
    same = values[1:] == values[:-1]
    repeated: Bools = (np.append(same, False) | np.append(False, same))[: len(values)]
    return repeated


def _group_starts(group_E: Ints) -> Ints:
    """Where the group of each entry begins."""
    begins = np.append(True, group_E[1:] != group_E[:-1])[: len(group_E)]
    start_E: Ints = np.flatnonzero(begins)[np.cumsum(begins) - 1]
    return start_E


def pairs_inside(entries: Entries, sizes: Sizes) -> Iterator[tuple[Ints, Ints]]:
    """Pairs first < second of texts that share a group and may be similar enough: each once, by second, then first."""
    here = np.arange(len(entries.group_E))
    return _paired(entries, entries, _group_starts(entries.group_E), here, sizes)


def pairs_across(known: Entries, seek: Entries, sizes: Sizes) -> Iterator[tuple[Ints, Ints]]:
    """The same for pairs of a text of `known` and one of `seek`."""
    low = np.searchsorted(known.group_E, seek.group_E, side="left")
    high = np.searchsorted(known.group_E, seek.group_E, side="right")
    return _paired(known, seek, low, high, sizes)


def pairs_meeting(left: Shingles, right: Shingles, sizes: Sizes) -> Iterator[tuple[Ints, Ints]]:
    """Pairs of a left and a right text that may be similar enough, each once.

    The right text has a rare shingle of the left one. The right list is only read through, a chunk at a time; the index
    is of the left.
    """
    rarity = Rarity(right.code_S)  # a shingle that the right side has not is the rarest of all
    parts = list(prefixes(Compared(left), np.arange(len(left)), rarity, Nearness(sizes.threshold)))
    if not parts:
        return
    code, text, place, _ = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(code)
    code, known = code[order], Entries(np.zeros(0, np.int64), text[order], place[order])
    hot = np.zeros(1 << 22, dtype=bool)
    shift = np.uint64(63 - 22)
    hot[(code >> shift).astype(np.int64)] = True
    low = 0
    while low < len(right):
        high = max(low + 1, int(np.searchsorted(right.start_N, right.start_N[low] + CHUNK_CODES, side="right")) - 1)
        codes = right.code_S[right.start_N[low] : right.start_N[high]]
        at = np.flatnonzero(hot[(codes >> shift).astype(np.int64)])
        begin = np.searchsorted(code, codes[at], side="left")
        end = np.searchsorted(code, codes[at], side="right")
        owner = np.searchsorted(right.start_N, right.start_N[low] + at, side="right") - 1
        # Where a shingle stands among those of the right text is not known: place 0 rules nothing out.
        seek = Entries(np.zeros(0, np.int64), owner, np.zeros(len(at), np.int64))
        yield from _paired(known, seek, begin, end, sizes)
        low = high


def _paired(known: Entries, seek: Entries, low_E: Ints, high_E: Ints, sizes: Sizes) -> Iterator[tuple[Ints, Ints]]:
    """Pairs of each entry of `seek` with the entries low to high of `known`; all pairs of one text in one chunk."""
    met = np.flatnonzero(high_E > low_E)
    by_text = met[np.argsort(seek.text_E[met], kind="stable")]
    text = seek.text_E[by_text]
    count = (high_E - low_E)[by_text]
    ends = np.append(np.flatnonzero(text[1:] != text[:-1]) + 1, len(text)) if len(text) else np.zeros(0, np.int64)
    done = np.cumsum(count)
    low = 0
    while low < len(text):
        before = done[low - 1] if low else 0
        fits = int(np.searchsorted(done[ends - 1], before + CHUNK_PAIRS, side="right"))
        high = int(ends[max(fits - 1, int(np.searchsorted(ends, low, side="right")))])  # one text at the least
        here, num = by_text[low:high], count[low:high]
        begin = np.repeat(low_E[here] - (np.cumsum(num) - num), num)
        other = begin + np.arange(len(begin))
        mine = np.repeat(here, num)
        first, second = known.text_E[other], seek.text_E[mine]
        kept = _may_reach(sizes, (first, known.place_E[other]), (second, seek.place_E[mine]))
        width = len(sizes.first_N) + 1
        pair = np.unique(second[kept] * width + first[kept])
        yield pair % width, pair // width
        low = high


def _may_reach(sizes: Sizes, first: tuple[Ints, Ints], second: tuple[Ints, Ints]) -> Bools:
    """Whether texts whose first common shingle is this one can share enough of what comes after it."""
    left, right = sizes.first_N[first[0]], sizes.second_N[second[0]]
    needed = np.ceil(sizes.threshold / (1 + sizes.threshold) * (left + right) - 1e-9)
    reached: Bools = np.minimum(left - first[1], right - second[1]) >= needed
    return reached
