"""The language of a row's text, told by its commonest words: a fact for slices, not a judgement.

    >>> language_of("Where is my order and when will it be here?")
    'en'

Knows the languages of the `language` convention. A label, a list of names or another language has none. Only the
first few hundred characters are looked at.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

__all__ = ["language_of"]

MAX_CHARS = 250
MIN_HITS = 3
"""Different common words needed: two of them also meet by chance in a language that is not known here."""
MIN_SHARE = 0.15
"""Function words are about half of running text; fewer than this share is no running text of that language."""


@cache
def _languages_by_word() -> tuple[tuple[str, ...], Mapping[str, tuple[int, ...]]]:
    """The codes, and for each common word the places of the languages that have it."""
    table = json.loads(files("metier.conventions").joinpath("languages.json").read_text(encoding="utf-8"))
    places: dict[str, tuple[int, ...]] = {}
    for place, part in enumerate(table.values()):
        for word in part["words"].split():
            places[word] = (*places.get(word, ()), place)
    return tuple(table), places


def language_of(text: str) -> str | None:
    """Code of the language most of the common words belong to; None where too few are there or two languages tie."""
    codes, places = _languages_by_word()
    words = set(text[:MAX_CHARS].lower().split())
    hits = [0] * len(codes)
    for found in [places[word] for word in words if word in places]:
        for place in found:
            hits[place] += 1
    best = max(hits)
    if best < MIN_HITS or best < MIN_SHARE * len(words) or hits.count(best) > 1:
        return None
    return codes[hits.index(best)]
