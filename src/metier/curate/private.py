"""Obvious private data: e-mail, telephone, card, IBAN and IP address, found by form and checksum.

    >>> [(hit.kind, hit.text) for hit in find_private("Mail ana@example.org about ORD-12345")]
    [('email', 'ana@example.org')]

Built not to take order numbers, ticket references, amounts, dates and versions for private data: a run of digits alone
is never a telephone number, and "order" or "ticket" before a number speaks against it. Names are not in scope.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

__all__ = ["KINDS", "Hit", "card_is_valid", "find_private", "iban_is_valid"]

KINDS = ("email", "iban", "card", "phone", "ip")
_CONTEXT_CHARS = 28


class Hit(NamedTuple):
    """One piece of private data in a text."""

    kind: str
    start: int
    end: int
    text: str


_EMAIL = re.compile(
    r"(?<![\w.+-])[A-Za-z0-9][\w.+%-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,6}[A-Za-z]{2,24}(?![\w-])", re.ASCII
)
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?:[ ]?[A-Z0-9]){11,30}(?![a-z0-9])")
_CARD = re.compile(
    r"(?<![\w.,/#+-])(?<!\d )(?:\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{1,3})?|\d{4}([ -])\d{6}\2\d{5}|\d{13,19})"
    r"(?![\w/-]|[.,]\d)",
    re.ASCII,
)
_PHONES = (
    re.compile(
        r"(?<![\w+.])(?:\+|00(?=[1-9]\d[ ./()-]))\d{1,3}(?:[ ./-]{0,2}\(?\d{1,5}\)?){2,6}(?![\w-]|[.,]\d)", re.ASCII
    ),
    re.compile(
        r"(?<![\w+.,/#$-])(?<!\d )(?:1[ .-])?(?:\(\d{3}\)[ ]?|\d{3}[-.])\d{3}[-.]\d{4}(?![\w-]|[.,]\d)", re.ASCII
    ),
    re.compile(r"(?<![\w+.,/#$-])(?<!\d )\(?0\d{1,4}\)?(?:[ /-]\d{2,8}){1,4}(?![\w-]|[.,/]\d)", re.ASCII),
)
_CALLED = re.compile(
    r"(?:\b(?:tel|phone|telephone|telefon|mobile|cell|fax|whatsapp|handy|mobil)(?:\s*(?:no|nr|number|nummer|is))*"
    r"|\bcall(?:ed)?\s+(?:me|us|back)?(?:\s*(?:at|on|under))?)\b[\s.:#=]*(?:is\s+)?"
    r"(\+?\(?\d[\d ()./-]{5,17}\d)(?![\w-]|[.,]\d)",
    re.ASCII | re.IGNORECASE,
)
_IPV4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)", re.ASCII)
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){3,7}[0-9A-Fa-f]{1,4}(?![\w:])", re.ASCII)
# What stands before a number that is no telephone, card or address.
_REFERENCE = re.compile(
    r"(?:\b(?:order|ticket|ref|reference|invoice|case|claim|tracking|parcel|shipment|contract|policy|booking|purchase|"
    r"item|serial|batch|sku|article|customer|account|bestellung|rechnung|auftrag|vorgang)s?\b"
    r"(?:\s*(?:no|nr|num|number|id|code|nummer|is))*|#|\bid)[\s.:#=-]*$",
    re.IGNORECASE,
)
_VERSION = re.compile(
    r"\b(?:v|ver|version|release|build|firmware|update|section|clause|chapter)[\s.:]*$", re.IGNORECASE
)
_DATE = re.compile(r"(?:\d{4}[-./ ]\d{1,2}[-./ ]\d{1,2}|\d{1,2}[-./ ]\d{1,2}[-./ ](?:\d{2}|\d{4}))$", re.ASCII)
# Lengths from the SWIFT IBAN registry, the countries met most; others pass on the checksum alone.
_IBAN_LENGTH = {
    "AT": 20, "BE": 16, "BG": 22, "CH": 21, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "EE": 20, "ES": 24, "FI": 18,
    "FR": 27, "GB": 22, "GR": 27, "HR": 21, "HU": 28, "IE": 22, "IS": 26, "IT": 27, "LI": 21, "LT": 20, "LU": 20,
    "LV": 21, "MT": 31, "NL": 18, "NO": 15, "PL": 28, "PT": 25, "RO": 24, "SE": 24, "SI": 19, "SK": 24, "TR": 26,
    "AE": 23, "SA": 24,
}  # fmt: skip


def card_is_valid(digits: str) -> bool:
    """Whether digits pass the Luhn check and start as an issued card number of that length does."""
    two, four, size = int(digits[:2]), int(digits[:4]), len(digits)
    issued = (
        (digits[0] == "4" and size in (13, 16, 19))
        or ((51 <= two <= 55 or 2221 <= four <= 2720) and size == 16)
        or (two in (34, 37) and size == 15)
        or (two in (30, 36, 38) and size == 14)
        or ((four == 6011 or 644 <= four // 10 <= 659 or two in (35, 62)) and 16 <= size <= 19)
    )
    return issued and luhn_remainder(digits) == 0


def luhn_remainder(digits: str) -> int:
    """The Luhn sum modulo 10: 0 for a valid number."""
    total = sum(int(d) for d in digits[-1::-2])
    return (total + sum(sum(divmod(2 * int(d), 10)) for d in digits[-2::-2])) % 10


def iban_is_valid(iban: str) -> bool:
    """Whether letters and digits without blanks have an IBAN's length and leave 1 modulo 97.

    Source: ISO 13616, ISO 7064.
    """
    known = _IBAN_LENGTH.get(iban[:2])
    if not (15 <= len(iban) <= 34) or (known is not None and len(iban) != known):
        return False
    return iban_remainder(iban) == 1


def iban_remainder(iban: str) -> int:
    """The IBAN as a number, country and check digits last, modulo 97."""
    return int("".join(str(int(char, 36)) for char in iban[4:] + iban[:4])) % 97


def find_private(text: str) -> list[Hit]:
    """Every piece of private data in a text, in order, none overlapping another."""
    hits: list[Hit] = []
    if "@" in text:
        hits += [Hit("email", m.start(), m.end(), m.group()) for m in _EMAIL.finditer(text)]
    if any(char.isdigit() for char in text):
        for finder in (_ibans, _cards, _phones, _addresses):
            hits += finder(text)
    kept: list[Hit] = []
    for hit in sorted(hits, key=lambda hit: (KINDS.index(hit.kind), hit.start)):
        if all(hit.end <= other.start or other.end <= hit.start for other in kept):
            kept.append(hit)
    return sorted(kept, key=lambda hit: hit.start)


def _before(text: str, start: int, pattern: re.Pattern[str]) -> bool:
    return pattern.search(text[max(0, start - _CONTEXT_CHARS) : start]) is not None


def _ibans(text: str) -> list[Hit]:
    hits = []
    for match in _IBAN.finditer(text):
        start = match.start()
        # Capital words may follow the number: cut at the country's length, or at every group's end.
        ends = [start + i for i, char in enumerate(match.group(), start=1) if char != " "]
        known = _IBAN_LENGTH.get(match.group()[:2])
        sizes = [known] if known else range(len(ends), 14, -1)
        for size in sizes:
            if size <= len(ends) and iban_is_valid(text[start : ends[size - 1]].replace(" ", "")):
                hits.append(Hit("iban", start, ends[size - 1], text[start : ends[size - 1]]))
                break
    return hits


def _cards(text: str) -> list[Hit]:
    return [
        Hit("card", m.start(), m.end(), m.group())
        for m in _CARD.finditer(text)
        if card_is_valid(re.sub(r"\D", "", m.group())) and not _before(text, m.start(), _REFERENCE)
    ]


def _is_phone(text: str, start: int, found: str) -> bool:
    num_digits = sum(char.isdigit() for char in found)
    return 7 <= num_digits <= 15 and not _DATE.match(found) and not _before(text, start, _REFERENCE)


def _phones(text: str) -> list[Hit]:
    hits = [
        Hit("phone", m.start(), m.end(), m.group())
        for pattern in _PHONES
        for m in pattern.finditer(text)
        if _is_phone(text, m.start(), m.group())
    ]
    for match in _CALLED.finditer(text):
        if _is_phone(text, match.start(1), match.group(1)):
            hits.append(Hit("phone", match.start(1), match.end(1), match.group(1)))
    return hits


def _addresses(text: str) -> list[Hit]:
    candidates = [*_IPV4.finditer(text), *_IPV6.finditer(text)]
    return [
        Hit("ip", m.start(), m.end(), m.group())
        for m in candidates
        if _parses(ip_address, m.group()) and not _before(text, m.start(), _VERSION) and not _is_clock(m.group())
    ]


def _is_clock(found: str) -> bool:
    """Hours, minutes and seconds pass for a short IPv6 address in no reading; all-decimal groups of two do in ours."""
    return ":" in found and all(len(part) == 2 and part.isdigit() for part in found.split(":"))


def _parses(parse: Callable[[str], object], found: str) -> bool:
    try:
        return not (isinstance(parsed := parse(found), IPv6Address) and parsed.is_unspecified)
    except ValueError:
        return False
