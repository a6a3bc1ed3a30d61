"""Telephone numbers as people write them in Britain, the United States, Germany, France and with a country code.

    >>> [hit.text for hit in find_phones("ring 030/1234567 or +33 (0)1 23 45 67 89", 0, 40, re.compile("order $"))]
    ['030/1234567', '+33 (0)1 23 45 67 89']

A run of digits alone is a telephone number with a country code, with one zero and nine or ten digits after it, or after
a word such as "phone". Dates, amounts and references are not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from metier.curate.private_hit import Hit, before

__all__ = ["CALLED", "find_phones"]

_START, _END = r"(?<![\w+.,/#$-])(?<!\d )", r"(?![\w-]|[.,/]\d|:\d)"
_GAP = r"(?: ?[./-] ?| )"
_FORMS = (
    # Country code, with or without a trunk zero in brackets; 00 for + only before a code that is met often.
    re.compile(
        r"(?<![\w+.,])(?<!\d )\(?(?:\+ ?|(?<!-)00 ?(?=[1-9]\d?\d?[ ./()-]|(?:1|3[0-9]|4[0-9])\d{8,12}(?!\d)))"
        r"[1-9]\d{0,2}\)?"
        r"(?:[ ./-]{0,3}\(?\d{1,5}\)?){2,7}(?: ?(?:x|ext\.?) ?\d{1,5})?(?![\w-]|[.,]\d)",
        re.ASCII,
    ),
    # Ten digits of North America: neither area nor exchange starts with 0 or 1, but 555-0100 style is met in examples.
    re.compile(
        _START + r"(?:1[ .-])?(?:\([2-9]\d\d\)[ .-]?|[2-9]\d\d([ ./-]))(?:[2-9]\d\d(?:\1|[ .-])|0\d\d-)\d{4}"
        r"(?: ?(?:x|ext\.?) ?\d{1,5})?" + _END,
        re.ASCII,
    ),
    # France: five pairs.
    re.compile(_START + r"0[1-9](?:[ .-]\d\d){4}" + _END, re.ASCII),
    # A leading zero: area code, then one to five groups.
    re.compile(
        r"(?<![\w+.,/#$-])(?<!\d )\(?0 ?[1-9]\d{0,4}\)?(?:" + _GAP + r"|(?<=\)))\d{2,8}(?:[ -]\d{1,5}){0,4}" + _END,
        re.ASCII,
    ),
    # Without a blank: one zero and nine or ten digits, and German mobile numbers, which may have one more.
    re.compile(_START + r"(?:0[1-9]\d{8,9}|01[567]\d{9})" + _END, re.ASCII),
)
_AFTER_WORD = re.compile(r"(?<![\w.,+])\(?\d[\d ()./-]{5,17}\d" + _END, re.ASCII)
CALLED = re.compile(
    r"(?:\b(?:tel|phone|telephone|telefon|telefonnummer|mobilnummer|handynummer|rufnummer|mobile|cell|fax|whatsapp|"
    r"handy|mobil|portable|r\xfcckruf(?: an| unter)?|my number|meine nummer|mon num[\xe9e]ro|"
    r"t[\xe9e]l(?:[\xe9e]phone)?)s?\b\.?"
    r"(?:\s*(?:no|nr|number|nummer|is|ist|est|le|num[\xe9e]ro))*"
    r"|\b(?:call|ring|text|reach)(?:ed)?\s+(?:me|us|back|him|her)?(?:\s*(?:at|on|under))?"
    r"|\b(?:erreichbar|erreichen|rufen|anrufen) (?:sie mich |mich )?(?:unter|auf)(?: der nummer)?"
    r"|\b(?:joindre|joignable|appele[rz](?:-moi)?|rappele[rz](?:-moi)?) (?:au|sur le))[\s.:#=]*$",
    re.IGNORECASE,
)
_DATE = re.compile(
    r"\(?(?:(?:19|20)\d\d([-./ ])\d{1,2}\1\d{1,2}(?!\d)|\d{1,2}([-./ ])\d{1,2}\2(?:19|20)\d\d(?!\d)"
    r"|\d{1,2}[-./]\d{1,2}[-./]\d{2}$)",
    re.ASCII,
)
_MOST_DIGITS = {"49": 13, "33": 11, "44": 12, "1": 11, "43": 14, "41": 11}
"""Digits of a number with its country code; a trunk zero in brackets comes on top."""
_LAST_GROUP = re.compile(r"[ ./()-]+\d+\)?$", re.ASCII)


def find_phones(text: str, lo: int, hi: int, reference: re.Pattern[str]) -> Iterator[Hit]:
    """Telephone numbers of a flat text between two places; `reference` names what stands before other numbers."""
    for number, form in enumerate(_FORMS):
        for match in form.finditer(text, lo, hi):
            found = _trimmed(match.group()) if number in (0, 3) else match.group()
            least = 8 if number == 0 else 9
            if _digits(found) < least or _DATE.match(found):
                continue
            if found.lstrip("(").startswith("+") or not before(text, match.start(), reference):
                yield Hit("phone", match.start(), match.start() + len(found), found)
    for match in _AFTER_WORD.finditer(text, lo, hi):
        found = _trimmed(match.group())
        if _digits(found) >= 7 and before(text, match.start(), CALLED) and not _DATE.match(found):
            yield Hit("phone", match.start(), match.start() + len(found), found)


def _digits(found: str) -> int:
    return sum(map(str.isdigit, found))


def _trimmed(found: str) -> str:
    """The number without groups that would make it longer than a telephone number is: a date or amount after it."""
    if found.count("(") != found.count(")"):
        found = found.rstrip(")") if found.count(")") > found.count("(") else found
    bare = found.lstrip("(").replace(" ", "")
    most = 13
    if bare.startswith(("+", "00")):
        code = bare.lstrip("+").removeprefix("00")
        most = next((size for lead, size in _MOST_DIGITS.items() if code.startswith(lead)), 15)
        most += ("(0)" in bare) + 2 * bare.startswith("00") + 5 * ("x" in bare)
    while _digits(found) > most and (last := _LAST_GROUP.search(found)):
        found = found[: last.start()]
    return found if _digits(found) <= most else ""
