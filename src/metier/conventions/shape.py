"""Checks of a reply's shape: words, sentences, sections, language."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from metier.conventions.placeholders import compiled, fill, plain
from metier.conventions.registry import PASSED, Check, CheckResult, register
from metier.conventions.text import shown, words
from metier.core.config import nearest
from metier.core.errors import ConfigError
from metier.core.rows import Row

__all__ = ["Language", "Sections", "SentenceCount", "WordCount", "count_sentences"]


def _check_range(least: int, most: int | None) -> None:
    """Refuse a range that nothing or everything is in."""
    if least < 0 or (most is not None and most < max(least, 1)):
        raise ConfigError(f"min is {least} and max {most}; expected 0 <= min <= max, and max of 1 or more.")
    if least == 0 and most is None:
        raise ConfigError("neither min nor max is given: every reply would pass. Give at least one.")


def _in_range(num: int, unit: str, least: int, most: int | None) -> CheckResult:
    """1 when the number is in the range, ends included."""
    counted = f"{num} {unit}{'' if num == 1 else 's'}"
    if num < least:
        return CheckResult(0.0, f"The reply has {counted}; at least {least} expected.")
    if most is not None and num > most:
        return CheckResult(0.0, f"The reply has {counted}; at most {most} allowed.")
    return PASSED


def _range_sentence(unit: str, least: int, most: int | None) -> str:
    if most is None:
        return f"Write at least {least} {unit}."
    return f"Write between {least} and {most} {unit}." if least else f"Write at most {most} {unit}."


@register("word_count")
@dataclass(frozen=True, kw_only=True, slots=True)
class WordCount(Check):
    """The number of words is in a range; a word is a piece between white space with a letter or digit."""

    min: int = 0
    """Fewest words."""
    max: int | None = None
    """Most words; by default any number."""

    def __post_init__(self) -> None:
        _check_range(self.min, self.max)

    def result(self, _row: Row, text: str) -> CheckResult:
        """1 in the range, ends included."""
        return _in_range(len(words(text)), "word", self.min, self.max)

    def guideline(self) -> str:
        """The range."""
        return _range_sentence("words", self.min, self.max)


_ABBREVIATIONS = frozenset(
    {
        "mr",
        "mrs",
        "ms",
        "dr",
        "prof",
        "st",
        "vs",
        "etc",
        "e.g",
        "i.e",
        "cf",
        "al",
        "approx",
        "dept",
        "inc",
        "ltd",
        "corp",
    }
)
_BEFORE_NUMBERS = frozenset({"no", "nos", "pp", "vol", "fig", "art", "sec"})  # "No. 4411", but "No. We cannot."
_FULL_WIDTH_END = re.compile("[\u3002\uff01\uff1f]+")
_CLOSING = "\"')]\u201d\u2019"


def count_sentences(text: str) -> int:
    """Sentences that end in a mark; a text with words but no such mark is one sentence.

    Abbreviations ("Dr.", "e.g."), initials and numbered items ("1.") end none; greeting and sign-off lines
    without a mark are not counted.
    """
    num = 0
    for line in text.splitlines():
        pieces = line.split()
        for place, piece in enumerate(pieces):
            following = pieces[place + 1] if place + 1 < len(pieces) else ""
            num += len(_FULL_WIDTH_END.findall(piece)) + _ends_sentence(piece, following, first=place == 0)
    return num or int(bool(words(text)))


def _ends_sentence(piece: str, following: str, *, first: bool) -> bool:
    """Whether a sentence ends with this piece between white space; `first` on its line it may be an item number."""
    bare = piece.rstrip(_CLOSING)
    stem = bare.rstrip(".!?\u2026")
    if bare == stem:
        return False
    name = stem.lstrip("(\"'[").lower()
    initial = len(name) == 1 and name.isalpha() and name != "i"
    short = name in _ABBREVIATIONS or (name in _BEFORE_NUMBERS and following[:1].isdigit())
    return bare[len(stem) :] != "." or not (short or initial or (first and name.isdigit()))


@register("sentence_count")
@dataclass(frozen=True, kw_only=True, slots=True)
class SentenceCount(Check):
    """The number of sentences is in a range; see `count_sentences`."""

    min: int = 0
    """Fewest sentences."""
    max: int | None = None
    """Most sentences; by default any number."""

    def __post_init__(self) -> None:
        _check_range(self.min, self.max)

    def result(self, _row: Row, text: str) -> CheckResult:
        """1 in the range, ends included."""
        return _in_range(count_sentences(text), "sentence", self.min, self.max)

    def guideline(self) -> str:
        """The range."""
        return _range_sentence("sentences", self.min, self.max)


@register("sections")
@dataclass(frozen=True, kw_only=True, slots=True)
class Sections(Check):
    """Every section's name stands at the start of a line, in this order; "#", "*", ">", "-" before it are skipped."""

    names: tuple[str, ...]
    """Section names, case as written."""

    def __post_init__(self) -> None:
        if not self.names or not all(name.strip() for name in self.names):
            raise ConfigError(f"names is {list(self.names)}; expected one or more names, none empty.")

    def result(self, row: Row, text: str) -> CheckResult:
        """0 when one is missing or out of order."""
        start = 0
        for name in (fill(item, row) for item in self.names):
            line = compiled(rf"^[ \t#*>-]*{re.escape(name)}(?!\w)")
            found = line.search(text, start)
            if found is None:
                anywhere = line.search(text)
                fault = "is out of order" if anywhere else "is missing at the start of a line"
                return CheckResult(0.0, f"The section {shown(name)} {fault}.")
            start = found.end()
        return PASSED

    def guideline(self) -> str:
        """The names in order."""
        names = ", ".join(shown(plain(item)) for item in self.names)
        return f"Write these sections in this order, each name at the start of its own line: {names}."


@lru_cache(maxsize=1)
def _profiles() -> Mapping[str, tuple[str, frozenset[str], str]]:
    """Language code to its name, commonest function words (about half of running text) and own letters."""
    table = json.loads(files("metier.conventions").joinpath("languages.json").read_text(encoding="utf-8"))
    return {code: (part["name"], frozenset(part["words"].split()), part["letters"]) for code, part in table.items()}


_MIN_STOP_SHARE = 0.15


@register("language")
@dataclass(frozen=True, kw_only=True, slots=True)
class Language(Check):
    """The reply is in a language, told by its function words and letters.

    It cannot judge replies without running text (a label, a list of names), sees one language a reply, and
    does not tell dialects or languages outside its list apart: about five words of a sentence are needed.
    """

    code: str
    """en, de, fr, es, it, nl or pt."""

    def __post_init__(self) -> None:
        if self.code not in _profiles():
            raise ConfigError(f"code is {self.code!r}; {nearest(self.code, list(_profiles()))}")

    def result(self, _row: Row, text: str) -> CheckResult:
        """1 when no other language of the list fits better and enough function words are there."""
        tokens = re.findall(r"[^\W\d_]+", unicodedata.normalize("NFC", text).lower())
        hits = {code: sum(token in known for token in tokens) for code, (_, known, _) in _profiles().items()}
        wanted = _profiles()[self.code][0]
        if not tokens or hits[self.code] < _MIN_STOP_SHARE * len(tokens):
            return CheckResult(0.0, f"The reply holds too few common words of {wanted} to be in that language.")
        for code, (_, _, letters) in _profiles().items():
            hits[code] += sum(any(letter in token for letter in letters) for token in tokens)
        best = max(hits, key=lambda code: (hits[code], code == self.code))
        if best == self.code:
            return PASSED
        return CheckResult(0.0, f"The reply looks like {_profiles()[best][0]}, not {wanted}.")

    def guideline(self) -> str:
        """The language's name."""
        return f"Write in {_profiles()[self.code][0]}."
