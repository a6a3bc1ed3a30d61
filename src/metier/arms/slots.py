"""Values of one case filled into the reply of another: names, amounts, numbers and references.

    >>> fill(
    ...     "Hello Ana, GBP 12.50 for LK-1 is on its way.",
    ...     "Order LK-1 cost GBP 12.50. Thanks, Ana",
    ...     "Order LK-7 cost GBP 9.00. Thanks, Bo",
    ... )
    'Hello Bo, GBP 9.00 for LK-7 is on its way.'

A value of the old reply that stands in the old prompt is replaced by the value of the same kind at the
most similar place of the new prompt. What stands in no prompt is left as it is: this is a rival that
copies well, not one that reasons.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["fill", "values_in"]

# Kinds in order of precedence: a reference holds digits that must not be taken for a number.
_KINDS = (
    ("email", r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"),
    ("placeholder", r"\{\{[^{}]+\}\}"),
    ("reference", r"\b[A-Z]{1,6}[-/#]\d[\w-]*|#\d+\b|\b(?=\w*\d)(?=\w*[A-Z])\w{5,}\b"),
    ("date", r"\b\d{4}-\d{2}-\d{2}\b|\b\d{1,2}[/.]\d{1,2}[/.]\d{2,4}\b"),
    ("money", r"(?:[$\u00a3\u20ac]|\b(?:USD|GBP|EUR)\s?)\d[\d,]*(?:\.\d+)?"),
    ("number", r"\b\d[\d,]*(?:\.\d+)?%?"),
    # A capitalised word (or two) that does not open a sentence, or that closes the text as a signature.
    ("name", r"(?:(?<=[a-z,;:] )|(?<=\n)|(?<=^))[A-Z][a-z]+(?: [A-Z][a-z]+)?"),
)
_PATTERN = re.compile("|".join(f"(?P<{kind}>{pattern})" for kind, pattern in _KINDS), re.MULTILINE)
_CONTEXT_CHARACTERS = 40


class Value(NamedTuple):
    """One value found in a text."""

    kind: str
    text: str
    before: frozenset[str]
    """Lower-case words in the characters before it."""
    place: float
    """Where it stands, 0 (start) to 1 (end)."""


def values_in(text: str) -> list[Value]:
    """Every typed value of a text, in order."""
    found = []
    for match in _PATTERN.finditer(text):
        before = text[max(0, match.start() - _CONTEXT_CHARACTERS) : match.start()]
        words = frozenset(re.findall(r"\w+", before.lower()))
        place = match.start() / max(1, len(text))
        found.append(Value(str(match.lastgroup), match.group(), words, place))
    return found


def fill(reply: str, old_prompt: str, new_prompt: str) -> str:
    """The old reply with the old prompt's values replaced by the new prompt's."""
    new_values = values_in(new_prompt)
    swaps: dict[str, str] = {}
    for old in values_in(old_prompt):
        if old.text in swaps or not re.search(_whole(old.text), reply):
            continue
        same_kind = [new for new in new_values if new.kind == old.kind]
        if same_kind:
            swaps[old.text] = max(same_kind, key=lambda new: _likeness(old, new)).text
    _add_first_names(swaps, reply)
    if not swaps:
        return reply
    longest_first = sorted(swaps, key=len, reverse=True)
    pattern = re.compile("|".join(_whole(text) for text in longest_first))
    return pattern.sub(lambda match: swaps[match.group()], reply)


def _add_first_names(swaps: dict[str, str], reply: str) -> None:
    """Where "Ana Lima" was swapped, swap "Ana" alone too: replies greet by the first name."""
    for old, new in list(swaps.items()):
        old_first, new_first = old.split(" ")[0], new.split(" ")[0]
        if old_first.isalpha() and old_first not in swaps and re.search(_whole(old_first), reply):
            swaps[old_first] = new_first


def _whole(text: str) -> str:
    """A pattern for the text where no word character touches it."""
    return rf"(?<!\w){re.escape(text)}(?!\w)"


def _likeness(old: Value, new: Value) -> float:
    """How alike the surroundings of two values are; larger is more alike."""
    union = len(old.before | new.before)
    words = len(old.before & new.before) / union if union else 0.0
    return words - 0.5 * abs(old.place - new.place)
