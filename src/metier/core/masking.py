"""Texts of rows made fit for a page that many people read: only words that everybody uses are left.

    >>> mask("Hello Viggo, my Glimmer Heron (LK-40009) does not work. It cost GBP 43.75.", keep_words={"work", "cost"})
    'Hello ***, my *** (***) does not work. It cost *** 000.'

Default deny: a word is shown when it stands in a list of everyday words of English, German and French, or in
`keep_words`; never a number, an address, or a word with a capital inside a sentence. A name spelled like an everyday
word ("My", "In") cannot be told from that word.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable
from functools import lru_cache
from pathlib import Path

__all__ = ["MASK", "MAX_MASKED_CHARS", "NUMBER_MASK", "everyday_words", "mask"]

MASK, NUMBER_MASK, CUT = "***", "000", "\u2026"
MAX_MASKED_CHARS = 160
MIN_PERSONS = 20
"""A word that so many different people use tells of none of them."""
MAX_CAPITAL_SHARE = 0.1
"""A word written with a capital more often than this, inside sentences, is taken for a name."""
_MAX_WORD_CHARS = 24
_LISTS = Path(__file__).parent / "everyday_words.toml"
_CHUNK = re.compile(r"""(?P<front>[("'\[]{0,3})(?P<core>.*?)(?P<back>[.,;:!?)"'\]]{0,3})""", re.DOTALL)
_NUMBER = re.compile(r"[-+(]{0,2}\d[\d.,:/%'()+-]*")
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_PLAIN = {"\u2019": "'", "\u2018": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-", "\u00ad": None}
_QUOTES = str.maketrans(_PLAIN)


def mask(text: str, *, keep_words: Collection[str] = ()) -> str:
    """The text with everything but everyday words and `keep_words` (lower case) blocked out, at most 160 characters.

    Runs of blocked words become one block, whose length tells nothing.
    """
    keep = keep_words if isinstance(keep_words, set | frozenset) else frozenset(keep_words)
    pieces: list[str] = []
    num_chars = 0
    for piece in _pieces(unicodedata.normalize("NFKC", text).translate(_QUOTES), keep):
        if pieces and pieces[-1] in (MASK, NUMBER_MASK) and piece.startswith(pieces[-1]):
            num_chars -= len(pieces.pop()) + 1  # the run goes on, and ends as its last piece does
        if num_chars + len(piece) > MAX_MASKED_CHARS - 2:
            return " ".join([*pieces, CUT])
        pieces.append(piece)
        num_chars += len(piece) + 1
    return " ".join(pieces)


def _pieces(text: str, keep: Collection[str]) -> Iterable[str]:
    for line in text.splitlines():
        begins = True
        for chunk in line.split():
            match = _CHUNK.fullmatch(chunk)
            assert match is not None  # every part may be empty
            core, back = match["core"], match["back"]
            yield match["front"] + (_masked(core, keep, begins=begins) if core else "") + back
            begins = any(char in ".!?:" for char in back)


def _masked(core: str, keep: Collection[str], *, begins: bool) -> str:
    """One word, number or whatever stands between two blanks, its outer punctuation removed."""
    if core in ("-", "/", "&", "+", "=", "..."):
        return core
    if _NUMBER.fullmatch(core):
        return NUMBER_MASK
    if all(_is_shown(part, keep, begins=begins) for part in core.split("-")):
        return core
    return MASK


def _is_shown(word: str, keep: Collection[str], *, begins: bool) -> bool:
    lowered = word.lower()
    if _WORD.fullmatch(word) is None:  # also an accent that is a character of its own
        return False
    if word == lowered:
        return _bare(word) in _listed("shown") or word in keep
    if word in ("I", "I'm", "I've", "I'll", "I'd"):
        return True
    return begins and word[1:] == lowered[1:] and _bare(lowered) in _listed("openers")


@lru_cache(maxsize=4)
def _listed(name: str) -> frozenset[str]:
    return frozenset(tomllib.loads(_LISTS.read_text(encoding="utf-8"))[name].split())


def _bare(word: str) -> str:
    """The word without accents, as the lists spell it."""
    if word.isascii():
        return word
    return "".join(char for char in unicodedata.normalize("NFKD", word) if not unicodedata.combining(char))


def everyday_words(
    texts: Iterable[tuple[str, str]], *, never: Iterable[str] = (), min_persons: int = MIN_PERSONS
) -> frozenset[str]:
    """Words of the data that may stay in its masked examples, from (whom the row is about, its text).

    A word stays that `min_persons` different people use in lower case, hardly ever with a capital inside a sentence,
    and that is no word of `never`, such as the subjects of the rows. A few thousand rows are enough: the words are a
    help to read, none is needed.
    """
    forbidden = _listed("numbers").union(word.lower() for text in never for word in _WORD.findall(text))
    persons: dict[str, set[str]] = {}
    lower: Counter[str] = Counter()
    capital: Counter[str] = Counter()
    for who, text in texts:
        for line in unicodedata.normalize("NFKC", text).translate(_QUOTES).splitlines():
            begins = True
            for chunk in line.split():
                for word in _WORD.findall(chunk):
                    if len(word) > _MAX_WORD_CHARS:
                        continue
                    if word == word.lower():
                        lower[word] += 1
                        seen = persons.setdefault(word, set())
                        if len(seen) < min_persons:
                            seen.add(who)
                    elif not begins:
                        capital[word.lower()] += 1
                    begins = False
                begins = chunk[-1] in ".!?:"
    return frozenset(
        word
        for word, seen in persons.items()
        if len(seen) >= min_persons
        and word.partition("'")[0] not in forbidden
        and capital[word] <= MAX_CAPITAL_SHARE * (lower[word] + capital[word])
    )
