r"""Which texts are copies of one another: folded text, word shingles, exact Jaccard similarity.

    >>> fold("  Order\u00a0No. 7 ")
    'order no. 7'

Shingles are runs of three words, numbered exactly (no hashing, so no collisions). MinHash only proposes pairs, and only
where there are too many rows to list them; every similarity that leaves this module is exact. This finds copies, not
meaning: paraphrases are out of reach of any shingle (facts: 21 % of QQP).
"""

# Shapes: N texts, S shingles, P pairs.

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from metier.core.rows import Row, TargetKind

__all__ = [
    "Pairs", "conversation_text", "fold", "max_between", "near_between", "near_pairs", "prompt_key", "shingle_matrix",
    "shingle_matrices", "words",
]  # fmt: skip

SHINGLE_WORDS = 3
EXACT_ROWS = 20_000
"""Up to this many texts pairs are listed exactly; above, MinHash proposes them."""
NUM_PERM = 128
MAX_MISS = 1e-3
"""Largest chance that MinHash misses a pair exactly at the threshold."""
CHUNK_PRODUCTS = 20_000_000
"""Index products done at once: bounds memory to about 0.5 GB."""

# A script written without spaces counts every character as a word, else a sentence would be one word.
_WORD = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af]|[^\W\u2e80-\u9fff\uac00-\ud7af]+")

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Sparse = Any  # scipy.sparse.csr_array: scipy is imported inside functions only


class Pairs(NamedTuple):
    """Pairs of texts with their exact Jaccard similarity, as parallel arrays."""

    first: Ints
    second: Ints
    similarity: Floats


def fold(text: str) -> str:
    """The text in one Unicode form (NFKC), case folded, every run of white space one blank."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def words(text: str) -> list[str]:
    """The words of the folded text; a text without letters or digits is one word, an empty one none."""
    folded = fold(text)
    return _WORD.findall(folded) or ([folded] if folded else [])


def conversation_text(row: Row) -> str:
    """What is compared between rows: all but system text, then what a perfect reply says."""
    parts = [row.prompt_text, row.gold]
    if row.target.kind is TargetKind.PAIR:
        parts.append(row.target.rejected or "")
    return "\n".join(parts)


def prompt_key(row: Row) -> str:
    """The folded prompt: rows with equal keys ask the same thing in the same words."""
    return fold(row.prompt_text)


def shingle_matrices(*parts: Sequence[str]) -> list[Sparse]:
    """One 0/1 matrix [N, S] for each list of texts, over the shingles of all of them.

    A text of fewer than three words has one shingle, padded; an empty text has none and is similar to nothing.
    """
    import scipy.sparse as sp

    texts = [text for part in parts for text in part]
    number: dict[str, int] = {"": 0}
    flat: list[int] = []
    starts = np.zeros(len(texts) + 1, dtype=np.int64)
    for i, text in enumerate(texts):
        found = words(text)
        if found:
            found += [""] * (SHINGLE_WORDS - len(found))
        flat.extend(number.setdefault(word, len(number)) for word in found)
        starts[i + 1] = len(flat)
    word = np.asarray(flat, dtype=np.int64)
    code = word
    for step in range(1, SHINGLE_WORDS):
        # Renumbering after each word keeps codes below 2**63 whatever the vocabulary.
        _, compact = np.unique(code[: len(word) - step] * len(number) + word[step:], return_inverse=True)
        code = compact.astype(np.int64)
    owner = np.repeat(np.arange(len(texts)), np.diff(starts))[: len(code)]
    inside = np.arange(len(code)) + SHINGLE_WORDS <= starts[owner + 1]  # no shingle across two texts
    shape = (len(texts), int(code.max()) + 1 if len(code) else 1)
    whole = sp.csr_array((np.ones(int(inside.sum()), dtype=np.int32), (owner[inside], code[inside])), shape=shape)
    whole.sum_duplicates()
    whole.data[:] = 1
    cuts = np.cumsum([0, *(len(part) for part in parts)])
    return [whole[low:high] for low, high in pairwise(cuts)]


def shingle_matrix(texts: Sequence[str]) -> Sparse:
    """The 0/1 matrix [N, S] of which text has which shingle."""
    return shingle_matrices(texts)[0]


def _sizes(matrix: Sparse) -> Ints:
    return np.asarray(np.diff(matrix.indptr), dtype=np.int64)


def _row_chunks(left: Sparse, right: Sparse) -> Iterator[tuple[int, int]]:
    """Ranges of rows of `left` whose product with `right` transposed stays within memory."""
    frequency = np.bincount(right.indices, minlength=right.shape[1])
    work = np.cumsum(np.add.reduceat(np.append(frequency[left.indices], 0), left.indptr[:-1])) if left.nnz else None
    low = 0
    while low < left.shape[0]:
        if work is None:
            high = left.shape[0]
        else:
            done = work[low - 1] if low else 0
            high = max(low + 1, int(np.searchsorted(work, done + CHUNK_PRODUCTS, side="right")))
        yield low, min(high, left.shape[0])
        low = high


def _between(left: Sparse, right: Sparse) -> Iterator[Pairs]:
    """Every pair that shares a shingle, in chunks of rows of `left`."""
    left_size, right_size = _sizes(left), _sizes(right)
    transposed = right.T.tocsr()
    for low, high in _row_chunks(left, right):
        shared = (left[low:high] @ transposed).tocoo()
        first, second = shared.row.astype(np.int64) + low, shared.col.astype(np.int64)
        common = shared.data.astype(np.float64)
        yield Pairs(first, second, common / (left_size[first] + right_size[second] - common))


def near_between(left_texts: Sequence[str], right_texts: Sequence[str], threshold: float) -> Pairs:
    """All pairs (left, right) with Jaccard similarity of at least `threshold`, exactly."""
    left, right = shingle_matrices(left_texts, right_texts)
    return _joined(_at_least(pairs, threshold) for pairs in _between(left, right))


def max_between(left_texts: Sequence[str], right_texts: Sequence[str]) -> tuple[float, int, int]:
    """The largest exact Jaccard similarity between two lists and its indices; (0.0, -1, -1) if no shingle is shared."""
    left, right = shingle_matrices(left_texts, right_texts)
    best = (0.0, -1, -1)
    for pairs in _between(left, right):
        if len(pairs.similarity) and pairs.similarity.max() > best[0]:
            at = int(pairs.similarity.argmax())
            best = (float(pairs.similarity[at]), int(pairs.first[at]), int(pairs.second[at]))
    return best


def near_pairs(
    texts: Sequence[str], threshold: float, *, block: Sequence[str] | None = None, exact_rows: int = EXACT_ROWS
) -> Iterator[Pairs]:
    """All pairs i < j of one list with Jaccard similarity of at least `threshold`, each once, in chunks.

    With `block`, only texts of equal block are compared. Up to `exact_rows` texts the list is complete. Above, a pair
    at the threshold is missed with a chance of at most .001; what is listed is still exact.

    Source: prefix filter, Chaudhuri, Ganti & Kaushik 2006; banding, Leskovec, Rajaraman & Ullman, chapter 3.
    """
    matrix = shingle_matrix(texts)
    block_N = np.zeros(len(texts), dtype=np.int64)
    if block is not None and len(block):
        block_N = np.unique(np.asarray(block, dtype=str), return_inverse=True)[1].astype(np.int64)
    candidates = _prefix_candidates if len(texts) <= exact_rows else _minhash_candidates
    for first, second in candidates(matrix, threshold, block_N):
        yield _at_least(_exact(matrix, first, second), threshold)


def _prefix_candidates(matrix: Sparse, threshold: float, block_N: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Pairs that share one of their rarest shingles: no pair at the threshold can avoid that."""
    import scipy.sparse as sp

    size = _sizes(matrix)
    frequency = np.bincount(matrix.indices, minlength=matrix.shape[1])
    rank = np.empty(matrix.shape[1], dtype=np.int64)
    rank[np.argsort(frequency, kind="stable")] = np.arange(matrix.shape[1])
    owner = np.repeat(np.arange(matrix.shape[0]), size)
    order = np.lexsort((rank[matrix.indices], owner))
    place = np.arange(len(owner)) - matrix.indptr[:-1][owner]
    # 1e-9: a product such as .8 * 5 must not round above the integer it means.
    prefix = size - np.ceil(threshold * size - 1e-9).astype(np.int64) + 1
    kept = order[place < prefix[owner]]
    # A shingle counts once for each block, so texts of different blocks never meet.
    column = np.unique(block_N[owner[kept]] * matrix.shape[1] + matrix.indices[kept], return_inverse=True)[1]
    ones = np.ones(len(kept), dtype=np.int32)
    shape = (matrix.shape[0], int(column.max()) + 1 if len(column) else 1)
    short = sp.csr_array((ones, (owner[kept], column)), shape=shape)
    transposed = short.T.tocsr()
    for low, high in _row_chunks(short, short):
        shared = (short[low:high] @ transposed).tocoo()
        first, second = shared.row.astype(np.int64) + low, shared.col.astype(np.int64)
        ratio = np.minimum(size[first], size[second]) / np.maximum(size[first], size[second])
        fits = (first < second) & (ratio >= threshold - 1e-9)
        yield first[fits], second[fits]


def _minhash_candidates(matrix: Sparse, threshold: float, block_N: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Pairs whose MinHash signatures agree in one whole band, each in the first band where they do."""
    texts = np.flatnonzero(_sizes(matrix))
    signature = _signatures(matrix)[texts]
    band_rows = _band_rows(threshold)
    earlier: list[Ints] = []
    for low in range(0, NUM_PERM - band_rows + 1, band_rows):
        band = np.column_stack([block_N[texts].astype(np.uint64), signature[:, low : low + band_rows]])
        bytes_N = np.ascontiguousarray(band).view(f"V{band.itemsize * band.shape[1]}").ravel()
        bucket = np.unique(bytes_N, return_inverse=True)[1].astype(np.int64)
        order = np.argsort(bucket, kind="stable")
        for members in np.split(order, np.flatnonzero(np.diff(bucket[order])) + 1):
            step = max(1, CHUNK_PRODUCTS // 20 // len(members))
            for start in range(0, len(members) - 1, step):
                first, second = np.meshgrid(members[start : start + step], members[start:], indexing="ij")
                fits = (first < second) & ~_met(earlier, first, second)
                yield texts[first[fits]], texts[second[fits]]
        earlier.append(bucket)


def _met(earlier: list[Ints], first: Ints, second: Ints) -> npt.NDArray[np.bool_]:
    """Whether pairs already shared a bucket in an earlier band."""
    met = np.zeros(first.shape, dtype=bool)
    for bucket in earlier:
        met |= bucket[first] == bucket[second]
    return met


def _signatures(matrix: Sparse) -> npt.NDArray[np.uint64]:
    """MinHash signatures [N, `NUM_PERM`]."""
    from rensa import RMinHash

    # rensa takes token hashes as 64-bit words; an odd multiplier spreads the shingle numbers over them.
    tokens = matrix.indices.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    parts = [np.zeros((0, NUM_PERM), dtype=np.uint64)]
    for low in range(0, matrix.shape[0], 4096):  # the digests arrive as Python lists, which are large
        starts = matrix.indptr[low : low + 4097].astype(np.uint64)
        flat = tokens[starts[0] : starts[-1]]
        digests = RMinHash.digest_matrix_from_flat_token_hashes(flat, starts - starts[0], NUM_PERM, 1)
        parts.append(np.asarray(digests.to_rows(), dtype=np.uint64))
    return np.concatenate(parts)


def _band_rows(threshold: float) -> int:
    """The widest band with which a pair at the threshold is missed with a chance of at most `MAX_MISS`."""
    widths = [r for r in range(1, 17) if (1 - threshold**r) ** (NUM_PERM // r) <= MAX_MISS]
    return max(widths, default=1)


def _exact(matrix: Sparse, first: Ints, second: Ints) -> Pairs:
    """The exact similarity of given pairs."""
    size = _sizes(matrix)
    common = np.zeros(len(first))
    for low in range(0, len(first), 50_000):
        part = slice(low, low + 50_000)
        common[part] = matrix[first[part]].multiply(matrix[second[part]]).sum(axis=1)
    return Pairs(first, second, common / (size[first] + size[second] - common))


def _at_least(pairs: Pairs, threshold: float) -> Pairs:
    kept = pairs.similarity >= threshold - 1e-12
    return Pairs(pairs.first[kept], pairs.second[kept], pairs.similarity[kept])


def _joined(chunks: Iterator[Pairs]) -> Pairs:
    empty = np.zeros(0, dtype=np.int64)
    parts = [Pairs(empty, empty, np.zeros(0)), *chunks]
    columns = zip(*parts, strict=True)
    first, second, similarity = (np.concatenate(column) for column in columns)
    return Pairs(first, second, similarity)
