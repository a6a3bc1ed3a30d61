r"""One piece of private data, and what every recogniser needs: a text without odd blanks, and the words before a place.

>>> flat_text("+33\u00a01\u202f23")
'+33 1 23'
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Hit", "before", "flat_text", "holds_word", "window"]

CONTEXT_CHARS = 44
"""How far back a word may stand that says what a number is."""
# Blanks and dashes people paste from documents, and full-width digits: one character each, so places stay.
_ODD = {ord(c): " " for c in "\t\u00a0\u1680\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"}
_ODD |= {ord(c): "-" for c in "\u2010\u2011\u2012\u2013\u2014\u2212"} | {0xFF10 + i: str(i) for i in range(10)}
_ODD |= {0x2019: "'", 0xFF20: "@", 0xFF0B: "+"}


class Hit(NamedTuple):
    """One piece of private data in a text."""

    kind: str
    start: int
    end: int
    text: str
    of: str = ""
    """The declared subject a name belongs to: what makes "Ms Silva" and "A. Silva" one person."""


def flat_text(text: str) -> str:
    """The text, as long as before, with plain blanks, hyphens and digits."""
    return text.replace("\t", " ") if text.isascii() else text.translate(_ODD)


def before(text: str, start: int, pattern: re.Pattern[str]) -> bool:
    """Whether the words before a place match a pattern that ends in `$`."""
    return pattern.search(text[max(0, start - CONTEXT_CHARS) : start]) is not None


def window(text: str, found: re.Match[str]) -> tuple[int, int]:
    """Where to look for a number around digits that were found: prefix letters before, check letters after."""
    return max(0, found.start() - 8), min(len(text), found.end() + 14)


def holds_word(low: str, word: str) -> bool:
    """Whether a lower-case text holds a word on its own, or with a possessive s; quicker than a pattern."""
    at = low.find(word)
    while at >= 0:
        end = at + len(word)
        if not (at and low[at - 1].isalpha()) and not low[end + (low[end : end + 1] == "s") : end + 2][:1].isalpha():
            return True
        at = low.find(word, at + 1)
    return False
