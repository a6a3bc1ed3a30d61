"""Word lists of the private-data recognisers and the surrogates, read from `private_words.toml`; how words compare.

>>> fold("Mueller"), "will" in COMMON
('muller', True)
"""

from __future__ import annotations

import tomllib
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

__all__ = [
    "ADDRESS_WORDS",
    "CITIES",
    "COMMON",
    "GIVEN_BY_LETTER",
    "MAYBE_SECRET_NAMES",
    "PARTICLES",
    "PLACEHOLDERS",
    "SECRET_NAMES",
    "STAND_IN_CITIES",
    "STATES",
    "STATE_NAMES",
    "STREET_STEMS",
    "SUFFIXES",
    "SURNAME_PARTS",
    "TITLES",
    "fold",
    "folded",
]

_LATIN = str.maketrans(
    {"\xf8": "o", "\u0142": "l", "\u0111": "d", "\xe6": "a", "\u0153": "o", "\u0131": "i", "\xf0": "d", "\xfe": "th"}
)


def folded(text: str) -> str:
    """A text without case, accents and the German spellings ae, oe, ue, ss of one letter; lengths change."""
    low = text.casefold()
    if not low.isascii():
        low = low.translate(_LATIN)
        low = "".join(char for char in unicodedata.normalize("NFKD", low) if not unicodedata.combining(char))
    return low.replace("ae", "a").replace("oe", "o").replace("ue", "u")


fold = lru_cache(maxsize=65536)(folded)
"""`folded` of one word, remembered: a few thousand words are most of a text."""


def _folds(words: Iterable[str]) -> frozenset[str]:
    return frozenset(map(fold, words))


_WORDS = tomllib.loads((Path(__file__).parent / "private_words.toml").read_text(encoding="utf-8"))

TITLES = _folds(_WORDS["titles"].split())
SUFFIXES = _folds(_WORDS["suffixes"].split())
PARTICLES = _folds(_WORDS["particles"].split())
PLACEHOLDERS = _folds(_WORDS["placeholders"].split())
"""What stands in a subject column for no name."""
COMMON = _folds(_WORDS["common"].split())
"""Words that are also names."""
ADDRESS_WORDS = _folds(_WORDS["address_words"].split())
CITIES = {
    fold(city): language
    for table in ("cities", "stand_in_cities")
    for language, words in _WORDS[table].items()
    for city in words.split()
}
"""Language by city, the stand-ins included: what takes an address's place is an address."""
STATES = frozenset(_WORDS["states"].split())
STATE_NAMES = tuple(_WORDS["state_names"])
SECRET_NAMES = frozenset(_WORDS["secret_names"].split())
MAYBE_SECRET_NAMES = frozenset(_WORDS["maybe_secret_names"].split())

_GIVEN = _WORDS["given"].split()
GIVEN_BY_LETTER: dict[str, tuple[str, ...]] = {
    letter: tuple(n for n in _GIVEN if n[0] == letter) for letter in sorted({n[0] for n in _GIVEN})
}
SURNAME_PARTS: dict[str, tuple[tuple[str, ...], ...]] = {
    language: tuple(tuple(word.strip("-") for word in parts[part].split()) for part in ("front", "middle", "back"))
    for language, parts in _WORDS["surname"].items()
}
"""Fronts, middles and backs of surnames by language."""
STREET_STEMS = {language: tuple(words.split()) for language, words in _WORDS["streets"].items()}
STAND_IN_CITIES = {language: tuple(words.split()) for language, words in _WORDS["stand_in_cities"].items()}
