r"""Folded text, its words, and its word shingles as keyed 64-bit hashes: texts are compared without being held.

    >>> fold("  Order\u00a0No. 7 ")
    'order no. 7'
    >>> shingles_of(["a b c d", "B, c D"], key=b"project").size_N.tolist()
    [2, 1]

A shingle is a run of three words. `metier.core.similarity` compares; this module only makes what is compared.
"""

# Shapes: N texts, S shingles, W words.

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from metier.core.rows import Row, TargetKind

__all__ = ["Shingles", "conversation_text", "fold", "mixed", "prompt_key", "shingles_of", "text_codes", "words"]

SHINGLE_WORDS = 3
CHUNK_TEXTS = 2048
"""Texts worked on at once; 11 bits number them beside a hash."""
MAX_WORDS = 200_000
"""Different words whose hashes are remembered: about 30 MB."""
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

# A script written without spaces counts every character as a word, else a sentence would be one word.
_WORD = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af]|[^\W\u2e80-\u9fff\uac00-\ud7af]+")
# Most text is ASCII, where splitting at blanks is five times as fast as the pattern.
_BLANKS = str.maketrans({chr(i): " " for i in range(128) if not _WORD.match(chr(i))})

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]


def fold(text: str) -> str:
    """The text in one Unicode form (NFKC), case folded, every run of white space one blank."""
    return " ".join(_cased(text).split())


def _cased(text: str) -> str:
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def words(text: str) -> list[str]:
    """The words of the folded text; a text without letters or digits is one word, an empty one none."""
    cased = _cased(text)
    found = cased.translate(_BLANKS).split() if cased.isascii() else _WORD.findall(cased)
    if found:
        return found
    folded = " ".join(cased.split())
    return [folded] if folded else []


def conversation_text(row: Row) -> str:
    """What is compared between rows: all but system text, then what a perfect reply says."""
    parts = [row.prompt_text, row.gold]
    if row.target.kind is TargetKind.PAIR:
        parts.append(row.target.rejected or "")
    return "\n".join(parts)


def prompt_key(row: Row) -> str:
    """The folded prompt: rows with equal keys ask the same thing in the same words."""
    return fold(row.prompt_text)


@dataclass(frozen=True, slots=True, eq=False)
class Shingles:
    """The word shingles of N texts as keyed hashes below 2**63: sorted, each once a text, texts one after the other.

    Two different shingles of ten million share a hash with a chance of 5e-6; every similarity is exact but for that.
    """

    start_N: Ints
    """[N + 1]: where each text's codes begin."""
    code_S: Codes
    """[S] hashes."""

    def __len__(self) -> int:
        return len(self.start_N) - 1

    @property
    def size_N(self) -> Ints:
        """Shingles of each text."""
        return np.diff(self.start_N)

    def take(self, index: Ints) -> Shingles:
        """The texts of these places, in their order."""
        start_N = np.concatenate([[0], np.cumsum(self.size_N[index])]).astype(np.int64)
        code_S = np.empty(start_N[-1], dtype=np.uint64)
        for low in range(0, len(index), CHUNK_TEXTS):  # the places of all codes at once take three times their memory
            part = index[low : low + CHUNK_TEXTS]
            code_S[start_N[low] : start_N[low + len(part)]] = self.code_S[self.places(part)[1]]
        return Shingles(start_N, code_S)

    def places(self, index: Ints) -> tuple[Ints, Ints]:
        """Where the codes of these texts begin once put one after the other, and where each stands in `code_S`."""
        size = self.start_N[index + 1] - self.start_N[index]
        start_N = np.concatenate([[0], np.cumsum(size)]).astype(np.int64)
        return start_N, np.arange(start_N[-1]) + np.repeat(self.start_N[index] - start_N[:-1], size)

    @staticmethod
    def joined(parts: Sequence[Shingles]) -> Shingles:
        """All texts of several lists, one list after the other."""
        sizes = [np.zeros(1, dtype=np.int64), *(part.size_N for part in parts)]
        codes = [np.zeros(0, dtype=np.uint64), *(part.code_S for part in parts)]
        return Shingles(np.cumsum(np.concatenate(sizes)), np.concatenate(codes))


def text_codes(texts: Iterable[str], *, key: bytes) -> Codes:
    """A keyed 64-bit hash of each text as it stands."""
    made = bytearray()
    for text in texts:
        made += blake2b(text.encode("utf-8", "backslashreplace"), digest_size=8, key=key[:64]).digest()
    return np.frombuffer(bytes(made), dtype=np.uint64)


class _WordCodes(dict[str, int]):
    """The keyed hash of every word asked for so far."""

    def __init__(self, key: bytes) -> None:
        super().__init__()
        self.key = key

    def __missing__(self, word: str) -> int:
        code = int(text_codes((word,), key=self.key)[0])
        self[word] = code
        return code


@lru_cache(maxsize=4)
def _word_codes(key: bytes) -> _WordCodes:
    return _WordCodes(key)


def shingles_of(texts: Sequence[str], *, key: bytes = b"") -> Shingles:
    """The shingles of texts; the same key gives equal codes in any call.

    A text of fewer than three words has one shingle, padded; an empty text has none and is similar to nothing.
    """
    return Shingles.joined([
        _chunk_shingles(texts[low : low + CHUNK_TEXTS], _word_codes(key)) for low in range(0, len(texts), CHUNK_TEXTS)
    ])  # fmt: skip


def _chunk_shingles(texts: Sequence[str], codes: _WordCodes) -> Shingles:
    """The shingles of at most `CHUNK_TEXTS` texts."""
    if len(codes) > MAX_WORDS:
        codes.clear()
    flat: list[str] = []
    start_N = np.zeros(len(texts) + 1, dtype=np.int64)
    for i, text in enumerate(texts):
        found = words(text)
        if 0 < len(found) < SHINGLE_WORDS:
            found += [""] * (SHINGLE_WORDS - len(found))
        flat += found
        start_N[i + 1] = len(flat)
    word_W = np.fromiter(map(codes.__getitem__, flat), dtype=np.uint64, count=len(flat))
    num = max(0, len(word_W) - SHINGLE_WORDS + 1)
    code = word_W[:num].copy()
    for step in range(1, SHINGLE_WORDS):
        code = mixed(code * _MULTIPLIER + word_W[step : step + num])
    owner = np.repeat(np.arange(len(texts)), np.diff(start_N))[:num]
    inside = np.arange(num) + SHINGLE_WORDS <= start_N[owner + 1]  # no shingle across two texts
    return _sorted_once(owner[inside], code[inside] >> np.uint64(1), len(texts))


def _sorted_once(owner: Ints, code: Codes, num_texts: int) -> Shingles:
    """Codes sorted within each text, each once; `owner` is sorted."""
    # One 64-bit sort does for both: 11 bits of text, 53 of the hash. Where those 53 tie, sort again by all bits.
    packed = (owner.astype(np.uint64) << np.uint64(53)) | (code >> np.uint64(10))
    order = np.argsort(packed, kind="stable")  # already in order of texts, which a stable sort makes use of
    packed = packed[order]
    if np.any((packed[1:] == packed[:-1]) & (code[order][1:] != code[order][:-1])):
        order = np.lexsort((code, owner))
    owner, code = owner[order], code[order]
    first = np.ones(len(code), dtype=bool)
    first[1:] = (owner[1:] != owner[:-1]) | (code[1:] != code[:-1])
    size_N = np.bincount(owner[first], minlength=num_texts)
    return Shingles(np.concatenate([[0], np.cumsum(size_N)]).astype(np.int64), code[first])


def mixed(code: Codes) -> Codes:
    """Every input bit spread over all output bits (the finaliser of SplitMix64)."""
    code = (code ^ (code >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    code = (code ^ (code >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return code ^ (code >> np.uint64(31))
