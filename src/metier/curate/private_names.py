"""The row's declared subjects, wherever they stand in a text: names in every spelling, mail addresses and ids as such.

    >>> [hit.text for hit in find_subjects("Silva, Ana wrote; ms silva and A. Silva agree", ("Ana Silva",))]
    ['Silva, Ana', 'silva', 'A. Silva']

A name alone is found with a capital, after a title or greeting, or in lower case when it is no common word. A common
word ("Brown", "Rose", "Klein") or a name of two letters needs its other half or a title beside it. An id needs four
characters, a number five digits: a subject "7" or "2024" would blank the text. Nicknames and misspellings are missed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from metier.curate.private_hit import Hit, holds_word
from metier.curate.private_lists import COMMON, PARTICLES, PLACEHOLDERS, SUFFIXES, TITLES, fold, folded

__all__ = ["Person", "find_subjects", "person_of"]

MIN_ID_CHARS, MIN_ID_DIGITS = 4, 5
"""An id with letters, and one of digits only."""
MIN_ALONE, MIN_ALONE_LOWER = 3, 4
"""Letters of a name that may stand without its other half, with a capital and without one."""
MAX_NAME_WORDS = 6
"""A longer subject is a sentence, and is found only as it stands."""
WORD = re.compile(r"[^\W\d_]+")
# Two mentions side by side are one hit: each word of it gets its own stand-in.
_BETWEEN = frozenset((" ", ", ", ",", ".", ". ", "-", "'", "_", "  ", "., ", " - ", "\n", ",\n"))
_CUE = re.compile(
    r"(?:\b(?:mr|mrs|ms|miss|mx|dr|prof|sir|madam|herrn?|frau|fr|hr|m|mme|mlle|monsieur|madame|mademoiselle|"
    r"ma[i\xee]tre)\.?"
    r"|\b(?:dear|hi|hello|hey|hallo|liebe[rs]?|sehr geehrte[rs]?|guten tag|moin|servus|bonjour|bonsoir|salut|"
    r"ch[e\xe8]re?)"
    r"|\b(?:my name is|name is|name|i am|i'm|this is|called|ich bin|ich hei(?:ss|\xdf)e|mein name ist|je suis|"
    r"je m'appelle|mon nom est|signed|regards|gr(?:\xfc|u|ue)(?:ss|\xdf)e|gru(?:ss|\xdf)|cordialement|thanks|merci|"
    r"danke))[,:.]?\s*$",
    re.IGNORECASE,
)
_CUE_CHARS = 20


class Person(NamedTuple):
    """A name taken apart; every word folded."""

    given: tuple[str, ...]
    surname: tuple[str, ...]

    @property
    def identity(self) -> str:
        """What makes two spellings of a name the same person."""
        return " ".join((*self.given, *self.surname))

    @property
    def particles(self) -> tuple[str, ...]:
        """What stands before the surname proper: "van der", "de la", the O of O'Brien; they stay as they are."""
        words = self.surname[:-1]
        return words[: next((i for i, word in enumerate(words) if word not in PARTICLES and len(word) > 1), len(words))]


@lru_cache(maxsize=65536)
def person_of(name: str) -> Person:
    """Given names and surname of a name as a column holds it: "Ana Silva", "Silva, Ana", "Dr. A. van der Berg"."""
    front, comma, _ = name.partition(",")
    parts = [
        (fold(match.group()), match.end() <= len(front), name[match.end() : match.end() + 1] in ("'", "\u2019"))
        for match in WORD.finditer(name)
    ]
    parts = [part for part in parts if part[0] not in TITLES and part[0] not in SUFFIXES]
    words = [word for word, _, _ in parts]
    num_front = sum(in_front for _, in_front, _ in parts)
    if comma and 0 < num_front < len(parts):
        return Person(tuple(words[num_front:]), tuple(words[:num_front]))
    # The surname begins with a particle or O', is the last word, or two words joined by a hyphen.
    leads = (i for i, (word, _, elided) in enumerate(parts) if i and (word in PARTICLES or elided))
    begins = next(leads, len(words) - 1)
    joined = re.search(r"(\w+)-\w+\s*$", front)
    if joined and len(words) > 2 and fold(joined[1]) == words[-2]:
        begins = min(begins, len(words) - 2)
    return Person(tuple(words[: max(begins, 0)]), tuple(words[max(begins, 0) :]))


def find_subjects(text: str, subjects: Sequence[str]) -> list[Hit]:
    """Every mention of the subjects in a flat text."""
    hits: list[Hit] = []
    low = ""
    for subject in subjects:
        value = subject.strip()
        if "@" in value or any(char.isdigit() for char in value) or len(WORD.findall(value)) > MAX_NAME_WORDS:
            hits += _literal(text, value)
            continue
        person = person_of(value)
        if PLACEHOLDERS.issuperset((*person.given, *person.surname)):
            continue
        low = low or folded(text)
        if any(holds_word(low, word) for word in (*person.given, *person.surname) if len(word) > 1):
            hits += _mentions(text, value, person)
    return hits


def _literal(text: str, value: str) -> Iterator[Hit]:
    """An e-mail address, an id or a long subject, in any case, not inside another word or number."""
    num_digits = sum(map(str.isdigit, value))
    num_chars = sum(map(str.isalnum, value))
    if num_chars < (MIN_ID_DIGITS if num_digits == num_chars else MIN_ID_CHARS):
        return
    if value.casefold() not in text.casefold():
        return
    kind = "email" if "@" in value else "record"
    for match in re.finditer(rf"(?<![^\W_])(?<!\d[.,]){re.escape(value)}(?![^\W_]|[.,]\d)", text, re.IGNORECASE):
        yield Hit(kind, match.start(), match.end(), match.group())


class _Word(NamedTuple):
    """A word of the text that belongs to the person."""

    start: int
    end: int
    folded: str
    role: str
    """full, initial, or particle."""


def _words(text: str, person: Person) -> list[_Word | None]:
    """The text's words; None for those that are nothing of the person's."""
    particles = person.particles
    full = {word for word in (*person.given, *person.surname[len(particles) :]) if len(word) > 1}
    # Of a subject written "A. Silva" only the initial is known; of "Ana Silva" A is one.
    initials = {word[0] for word in person.given}
    found: list[_Word | None] = []
    for match in WORD.finditer(text):
        start, end, word = match.start(), match.end(), fold(match.group())
        if word in full:
            found.append(_Word(start, end, word, "full"))
        elif len(word) > 4 and word[-1] == "s" and word[:-1] in full:  # Silvas Konto
            found.append(_Word(start, end - 1, word[:-1], "full"))
        elif word in particles and (len(word) > 1 or text[end : end + 1] == "'"):
            found.append(_Word(start, end, word, "particle"))
        elif len(word) == 1 and word in initials and (match.group().isupper() or text[end : end + 1] == "."):
            found.append(_Word(start, end, word, "initial"))
        else:
            found.append(None)
    return found


def _mentions(text: str, subject: str, person: Person) -> Iterator[Hit]:
    words = _words(text, person)
    lead = person.particles
    run: list[_Word] = []
    for word in (*words, None):
        if word is not None and (not run or text[run[-1].end : word.start] in _BETWEEN):
            run.append(word)
            continue
        yield from _settle(text, subject, run, lead)
        run = [word] if word is not None else []


def _settle(text: str, subject: str, run: list[_Word], lead: tuple[str, ...]) -> Iterator[Hit]:
    """The hits of neighbouring words of one person: all of them together, or those that may stand alone."""
    first, last = 0, len(run)
    while first < last and not _begins(text, run, first, lead):
        first += 1
    while first < last and not _ends(text, run[first:last]):
        last -= 1
    run = run[first:last]
    if not run:
        return
    end = run[-1].end + (run[-1].role == "initial" and text[run[-1].end : run[-1].end + 1] == ".")
    written = text[run[0].start : end]
    full = {word.folded for word in run if word.role == "full"}
    if len(full) >= 2 or any(word.role == "initial" for word in run):
        if not (full <= COMMON and written.islower() and " " in written):
            yield Hit("name", run[0].start, end, written, subject)
        return
    for at, word in enumerate(run):
        start = run[at - len(lead)].start if at >= len(lead) and _leads(run, at - len(lead), lead) else word.start
        if word.role == "full" and _stands_alone(text, word, start):
            yield Hit("name", start, word.end, text[start : word.end], subject)


def _leads(run: list[_Word], at: int, lead: tuple[str, ...]) -> bool:
    """Whether all the particles of the surname stand there: "de la" in front of Tour."""
    behind = at + len(lead)
    return bool(lead) and len(run) > behind and tuple(word.folded for word in run[at:behind]) == lead


def _begins(text: str, run: list[_Word], at: int, lead: tuple[str, ...]) -> bool:
    """Whether a mention can begin with the word: particles with the rest of the surname, an initial before it.

    "A. Silva" and "for A Silva" do; the first word A of a sentence, and I, do not.
    """
    word = run[at]
    if word.role == "full":
        return True
    if word.role == "particle":
        return _leads(run, at, lead)
    if len(run) - at < 2 or not any(other.role == "full" for other in run[at : at + 4]):
        return False
    if text[word.end : word.end + 1] == ".":
        return True
    first, inside = text[word.start], text[max(0, word.start - 8) : word.start].rstrip()[-1:].isalpha()
    return first.isupper() and first != "I" and (first != "A" or inside) and text[run[at + 1].start].isupper()


def _ends(text: str, run: list[_Word]) -> bool:
    """Whether a mention can end with its last word: "Silva, A." or "Ana S." may, a new sentence's "A" may not."""
    word = run[-1]
    if word.role != "initial":
        return word.role == "full"
    if len(run) < 2 or not any(other.role == "full" for other in run[-4:]):
        return False
    between = text[run[-2].end : word.start]
    return text[word.start].isupper() and between in (" ", ", ", ",") and text[word.end : word.end + 1] == "."


def _stands_alone(text: str, word: _Word, start: int) -> bool:
    written = text[word.start : word.end]
    if word.folded in PLACEHOLDERS:
        return False
    if _CUE.search(text[max(0, start - _CUE_CHARS) : start]):
        return len(written) >= 2
    if word.folded in COMMON or len(written) < MIN_ALONE:
        return False
    return written[0].isupper() or len(written) >= MIN_ALONE_LOWER
