"""Values of one case filled into the reply of another: names, amounts, numbers, dates and references.

    >>> fill(
    ...     "Hello Ana, GBP 12.50 for LK-1 is on its way.",
    ...     "Order LK-1 cost GBP 12.50. Thanks, Ana Lima",
    ...     "Order LK-7 cost GBP 9.00. Thanks, Bo Ek",
    ... ).text
    'Hello Bo, GBP 9.00 for LK-7 is on its way.'

A value of the old reply that stands in the old prompt is replaced by the value of the same kind that plays
the same part in the new prompt; where both prompts share their wording, so is any word between the shared
words. What stands in no prompt is left as it is: this is a rival that copies well, not one that reasons.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Filled", "Value", "fewest_open", "fill", "masked", "number_gap", "values_in"]

Floats = NDArray[np.float64]

# Shapes: O values of the old prompt, N values of the new one.

_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*"
_CODE = r"(?:USD|GBP|EUR|CHF|INR|JPY|CAD|AUD)"
_AMOUNT = r"\d+(?:[.,]\d+)*"
# A capitalised word of two letters or more, accents, hyphens and apostrophes included; no part of a reference.
_WORD = r"[A-Z\u00c0-\u00de](?:['\u2019][A-Z])?[^\W\d_]+(?:['\u2019-][^\W\d_]+)*(?![\w'\u2019]|[-/#]\d)"
# Words that open a sentence before a name and are no part of it.
_OPENERS = (
    r"(?:My|Our|Your|The|This|That|Dear|Hello|Hi|Hey|Thanks|Regards|Order|When|Where|What|How|For|From|In|On|At)\b"
)
# Kinds in order of precedence: a reference holds digits that must not be taken for a number.
_KINDS = (
    ("email", r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"),
    ("link", r"https?://[^\s<>]*[\w/]"),
    ("placeholder", r"\{\{[^{}]+\}\}|\[[A-Z][A-Z_ ]+\]|<[A-Z][A-Z_]+>"),
    ("date", rf"\b\d{{4}}-\d\d-\d\d\b|\b\d\d?[/.]\d\d?[/.]\d{{2,4}}\b|\b\d\d? {_MONTH}(?: \d{{4}})?\b"),
    ("date", rf"\b{_MONTH} \d\d?(?:, \d{{4}})?\b"),
    ("time", r"\b\d\d?:\d\d\b"),
    ("phone", r"\+\d[\d ()-]{6,}\d|\b0\d{2,4}[ -]\d[\d -]{4,}\d\b"),
    ("money", rf"(?:[$\u00a3\u20ac\u20b9\u00a5] ?|\b{_CODE} ?){_AMOUNT}|\b{_AMOUNT} ?(?:{_CODE}\b|[$\u00a3\u20ac])"),
    ("reference", r"\b[A-Z]{1,6}[-/#]\d[\w-]*|#\d+\b|\b\d{5,}\b|\b(?=\w*\d)(?=\w*[A-Z])\w{5,}\b"),
    ("percent", rf"\b{_AMOUNT} ?%"),
    ("number", rf"\b{_AMOUNT}"),
    # Capitalised words inside a sentence. At the start of a line one such word says nothing, unless it is
    # the whole line (a signature) or a comma follows (a greeting).
    ("name", rf"(?:(?<=[^\W\d_][,;:] )|(?<=[^\W\d_] )|(?<=[(\"'])){_WORD}(?: {_WORD}){{0,2}}"),
    ("name", rf"^(?!{_OPENERS}){_WORD}(?: {_WORD}){{1,2}}|^(?!{_OPENERS}){_WORD}(?=,|\s*$)"),
)
_PATTERN = re.compile("|".join(f"(?P<{kind}_{i}>{pattern})" for i, (kind, pattern) in enumerate(_KINDS)), re.MULTILINE)
_KIN = frozenset({"reference", "number", "phone"})
"""Kinds that may stand for each other where none of the same kind is left: digits are digits."""
_COUNTS = frozenset({"number", "percent"})
_CONTEXT_CHARACTERS = 40
_MAX_PHRASE_WORDS = 4
_NEVER = -100.0
"""Likeness of two values whose kinds never stand for each other."""


class Value(NamedTuple):
    """One value found in a text."""

    kind: str
    text: str
    before: tuple[str, ...]
    """Lower-case words in the characters before it, nearest first."""
    after: tuple[str, ...]
    """Lower-case words in the characters after it, nearest first."""
    place: float
    """Where it stands, 0 (start) to 1 (end)."""


class Filled(NamedTuple):
    """A filled reply."""

    text: str
    """The old reply with the new values."""
    num_open: int
    """Values of the old prompt left standing in the reply because the new prompt has none of their kind."""


@lru_cache(maxsize=4096)  # a train prompt is filled from many times
def values_in(text: str) -> tuple[Value, ...]:
    """Every typed value of a text, in order."""
    found = []
    for match in _PATTERN.finditer(text):
        before = text[max(0, match.start() - _CONTEXT_CHARACTERS) : match.start()]
        after = text[match.end() : match.end() + _CONTEXT_CHARACTERS]
        kind = str(match.lastgroup).rpartition("_")[0]
        place = match.start() / max(1, len(text))
        found.append(Value(kind, match.group(), tuple(reversed(_words(before))), tuple(_words(after)), place))
    return tuple(found)


def masked(text: str) -> str:
    """The text with the kind of every value in its place: what the case is about, whoever it is about."""
    return _PATTERN.sub(lambda match: f" {str(match.lastgroup).rpartition('_')[0]}value ", text)


def fill(reply: str, old_prompt: str, new_prompt: str) -> Filled:
    """The old reply with the old prompt's values replaced by the new prompt's, all at once."""
    swaps, unmatched = _swaps_of_values(values_in(old_prompt), values_in(new_prompt))
    for old, new in (*_name_parts(swaps), *_phrases(old_prompt, new_prompt)):
        swaps.setdefault(old, new)
    num_open = sum(1 for text in unmatched if text not in swaps and re.search(_whole(text), reply))
    if not swaps:
        return Filled(reply, num_open)
    longest_first = sorted(swaps, key=len, reverse=True)
    pattern = re.compile("|".join(_whole(text) for text in longest_first))
    return Filled(pattern.sub(lambda match: swaps[match.group()], reply), num_open)


def fewest_open(cases: Iterable[tuple[str, str]], new_prompt: str) -> Filled:
    """Of old replies with their prompts, filled: the first without an open value, else the one with the fewest.

    `cases` are in order of preference, at least one; those behind the first complete one are not filled.
    """
    filled = (fill(reply, old_prompt, new_prompt) for reply, old_prompt in cases)
    best = next(filled)
    for other in filled:
        if best.num_open == 0:
            break
        best = min(best, other, key=lambda found: found.num_open)
    return best


def number_gap(old_prompt: str, new_prompt: str) -> float:
    """How far apart the numbers of two prompts are, 0 (the same) to 1; money and dates do not count.

    The mean of |log((1 + a) / (1 + b))|, at most 1 each, over the numbers that play the same part. A prompt
    with numbers and one without are 1 apart, two prompts without numbers 0.
    """
    old, new = ([value for value in values_in(text) if value.kind in _COUNTS] for text in (old_prompt, new_prompt))
    if not old or not new:
        return float(len(old) != len(new))
    pairs = ((_size(old[o].text), _size(new[n].text)) for o, n, _ in _matched(_likeness_of_all(old, new)))
    gaps = [min(1.0, abs(math.log1p(a) - math.log1p(b))) for a, b in pairs]
    return sum(gaps) / len(gaps) if gaps else 1.0


def _swaps_of_values(old: Sequence[Value], new: Sequence[Value]) -> tuple[dict[str, str], list[str]]:
    """New text by old text, and the old texts without a counterpart.

    Values are matched one to one, so that two amounts do not become the same one; an old value that is
    left over (the new prompt says fewer) takes the most alike of its kind.
    """
    if not old or not new:
        return {}, [value.text for value in old]
    likeness_ON = _likeness_of_all(old, new)
    swaps: dict[str, str] = {}
    for o, n, _ in sorted(_matched(likeness_ON), key=lambda match: -match[2]):
        swaps.setdefault(old[o].text, new[n].text)
    unmatched = []
    for o, value in enumerate(old):
        n = int(likeness_ON[o].argmax())
        if value.text not in swaps and value.kind == new[n].kind:
            swaps[value.text] = new[n].text
        elif value.text not in swaps:
            unmatched.append(value.text)
    return swaps, unmatched


def _likeness_of_all(old: Sequence[Value], new: Sequence[Value]) -> Floats:
    return np.array([[_likeness(a, b) for b in new] for a in old])


def _matched(likeness_ON: Floats) -> list[tuple[int, int, float]]:
    """Old, new and likeness of the one-to-one matching that is most alike in sum."""
    from scipy.optimize import linear_sum_assignment

    pairs = zip(*linear_sum_assignment(-likeness_ON), strict=True)
    return [(int(o), int(n), float(likeness_ON[o, n])) for o, n in pairs if likeness_ON[o, n] > _NEVER]


def _size(text: str) -> float:
    """The number a text holds."""
    found = re.match(r"\d+(?:\.\d+)?", text.replace(",", ""))
    assert found is not None, text  # its kind is number or percent
    return float(found.group())


def _name_parts(swaps: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """For "Ana Lima" also "Ana" and "Lima": replies greet by a part of the name."""
    for old, new in swaps.items():
        old_words, new_words = old.split(), new.split()
        if len(old_words) > 1 and not any(c.isdigit() for c in old):
            yield old_words[0], new_words[0]
            yield old_words[-1], new_words[-1]


def _phrases(old_prompt: str, new_prompt: str) -> Iterator[tuple[str, str]]:
    """Runs of up to four words that differ between two prompts, two shared words or the end on either side.

    Runs of stop words ("is", "was") are left alone: they stand all over the reply.
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    old, new = re.findall(r"\w+|[^\w\s]", old_prompt), re.findall(r"\w+|[^\w\s]", new_prompt)
    shared = SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks()
    for before, after in pairwise(shared):
        old_run = old[before.a + before.size : after.a]
        new_run = new[before.b + before.size : after.b]
        framed = before.size >= 2 and (after.size >= 2 or after.a == len(old))
        short = 1 <= len(old_run) <= _MAX_PHRASE_WORDS and 1 <= len(new_run) <= _MAX_PHRASE_WORDS
        words = all(word.isalpha() for word in (*old_run, *new_run))
        if framed and short and words and not ENGLISH_STOP_WORDS.issuperset(word.lower() for word in old_run):
            yield " ".join(old_run), " ".join(new_run)


def _likeness(old: Value, new: Value) -> float:
    """How alike the parts of two values are; larger is more alike."""
    if old.kind != new.kind and not {old.kind, new.kind} <= _KIN:
        return _NEVER
    around = _shared(old.before, new.before) + _shared(old.after, new.after)
    form = 0.25 * (_form(old.text) == _form(new.text))
    return around + form - 0.5 * abs(old.place - new.place) - (old.kind != new.kind)


def _shared(old: tuple[str, ...], new: tuple[str, ...]) -> float:
    """Share of the words around two values that are the same, nearer words counting more (0-1)."""
    weight_old = {word: 1 / (1 + i) for i, word in reversed(list(enumerate(old)))}
    weight_new = {word: 1 / (1 + i) for i, word in reversed(list(enumerate(new)))}
    union = weight_old.keys() | weight_new.keys()
    both = sum(min(weight_old.get(word, 0.0), weight_new.get(word, 0.0)) for word in union)
    either = sum(max(weight_old.get(word, 0.0), weight_new.get(word, 0.0)) for word in union)
    return both / either if either else 0.0


def _form(text: str) -> str:
    """The letters a value starts with and the number of its words: LK-1 and LK-22 have the same form."""
    start = re.match(r"[A-Z]*(?=\W|\d)", text)
    return f"{start.group() if start else ''} {len(text.split())}"


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text.lower())


def _whole(text: str) -> str:
    """A pattern for the text where no word character touches it."""
    return rf"(?<!\w){re.escape(text)}(?!\w)"
