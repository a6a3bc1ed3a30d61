"""Numbers with a form or a checksum: IBAN, card, national ids, IP addresses, and record numbers after their words.

    >>> [(hit.kind, hit.text) for hit in find_numbers("NHS number 943 476 5919, order 4111111111111111")]
    [('uk_nhs', '943 476 5919')]

A number that is called an order, a ticket or an invoice is left, whatever its checksum says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import NamedTuple

from metier.curate import checksums
from metier.curate.private_hit import Hit, before, window
from metier.curate.private_phones import CALLED, find_phones

__all__ = ["REFERENCE", "find_numbers"]

MAX_IBAN = 52
"""Characters of the longest IBAN with its blanks, and words behind it."""
RECORD_WORD_CHARS = 56
"""Characters of "medical record number" and longer words, and of the letters a number begins with."""
# Six digits with at most nine other characters between two: anything else is no number of a person, but after a word.
_DIGITS = re.compile(r"[0-9](?:[^0-9\n]{0,9}[0-9]){5,}")
_FOUR_DIGITS = re.compile(r"[0-9](?:[^0-9\n]{0,6}[0-9]){3,}")
_DOTTED = re.compile(r"[0-9]\.[0-9]{1,3}\.[0-9]")
_NUMBER_WORD = r"(?:no|nr|num|number|id|code|nummer|num[e\xe9]ro|n[\xb0\xba])"
# What stands before a number that is no telephone, card or id. A customer or an account needs the word number, too:
# "customer: 0171 5550199" is a telephone.
REFERENCE = re.compile(
    r"(?:\b(?:order|ticket|ref|reference|invoice|case|claim|tracking|parcel|shipment|contract|policy|booking|purchase|item|"
    r"serial|batch|sku|article|part|model|product|isbn(?:-1[03])?|ean|gtin|upc|imei|asin|p/n|s/n|sn|pn|bestellung|rechnung|"
    r"auftrag|vorgang|artikel|sendung|vertrag|charge|commande|facture|r[e\xe9]f(?:[e\xe9]rence)?|colis|suivi|dossier|"
    rf"contrat)s?\b(?:\s*(?:{_NUMBER_WORD}|is|ist|est))*"
    rf"|\b(?:customer|account|client|kunde|konto|compte)s?(?:\s*{_NUMBER_WORD})+(?:\s*(?:is|ist|est))?"
    r"|\b(?:bestell|rechnungs?|auftrags?|vorgangs?|kunden|artikel|serien|vertrags?|sendungs?|liefer|ticket|fall)"
    r"-?(?:nummer|nr|no|id)\b(?:\s*(?:is|ist|lautet))?|#|\bid)[\s.:#=-]*$",
    re.IGNORECASE,
)
_VERSION = re.compile(
    r"\b(?:v|ver|version|release|build|firmware|update|section|clause|chapter|point|kapitel|abschnitt|absatz|"
    r"ziffer|punkt|anlage|chapitre|article)[\s.:]*$",
    re.IGNORECASE,
)
_SAYS_SSN = re.compile(r"\b(?:ssn|social[ -]security|soc\.? sec)\b[^\d\n]{0,36}$", re.IGNORECASE)
_SAYS_NINO = re.compile(r"\b(?:nino|ni (?:no|number)|national insurance)\b[^\d\n]{0,36}$", re.IGNORECASE)
_SAYS_NHS = re.compile(r"\bnhs\b[^\d\n]{0,36}$", re.IGNORECASE)
_SAYS_TAX = re.compile(r"\b(?:steuer\S*|id-?nr|tin|tax(?:payer)? id)\b[^\d\n]{0,36}$", re.IGNORECASE)
_SAYS_SOCIAL = re.compile(r"\b(?:sv|sozialvers\w*|rentenvers\w*|versicherungs?n\w*)\b[^\d\n]{0,36}$", re.IGNORECASE)
_SAYS_NIR = re.compile(r"\b(?:nir|s[\xe9e]cu\w*|n[\xb0\xba] ?ss|insee)\b[^\d\n]{0,36}$", re.IGNORECASE)
_SAYS_DNI = re.compile(r"\b(?:dni|nie|nif)\b[^\d\n]{0,16}$", re.IGNORECASE)
_NEVER = re.compile(r"(?!)")

_START, _END = r"(?<![\w.,/#+-])", r"(?![\w-]|[.,/]\d)"
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2} ?\d{2}(?:[ .-]?[A-Za-z0-9]){11,30}", re.ASCII)
_CARD = re.compile(
    r"(?<![\w.,/#+-])(?<!\d )(?:\d{4}([ .-])\d{4}\1\d{4}\1\d{4}(?:\1\d{1,3})?|\d{4}([ .-])\d{6}\2\d{4,5}|\d{12,19})"
    r"(?![\w/-]|[.,]\d)",
    re.ASCII,
)
_IPV4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)", re.ASCII)
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])", re.ASCII)


class _Form(NamedTuple):
    """How one national id is written and checked."""

    kind: str
    num_digits: int
    written: re.Pattern[str]
    holds: Callable[[str], bool]
    said: re.Pattern[str]
    """Words before it that name it."""
    plain: re.Pattern[str]
    """The spelling that needs no such words."""


def _form(
    kind: str, digits: int, written: str, holds: Callable[[str], bool], said: re.Pattern[str] = _NEVER, plain: str = ""
) -> _Form:
    return _Form(kind, digits, re.compile(_START + written + _END), holds, said, re.compile(plain))


_IDS = (
    _form(
        "fr_nir", 14,
        r"[1-478][ .-]?\d\d[ .-]?\d\d[ .-]?(?:\d\d|"
        r"2[ABab])[ .-]?\d{3}[ .-]?\d{3} ?[(/-]? ?\d\d", checksums.nir_is_valid, _SAYS_NIR,
    ),
    _form(
        "de_social", 11, r"\d\d[ ./-]?\d\d[ .]?\d\d[ .]?\d\d[ ./-]?[A-Za-z][ ./-]?\d\d[ .-]?\d",
        checksums.social_is_valid, _SAYS_SOCIAL,
    ),
    _form("de_tax_id", 11, r"[1-9](?:[ /-]?\d){10}", checksums.tax_id_is_valid, _SAYS_TAX),
    # Without the word only as the health service prints it, and only where such numbers start today: others are
    # telephone numbers and references.
    _form("uk_nhs", 10, r"\d{3}[ .-]?\d{3}[ .-]?\d{4}", checksums.nhs_is_valid, _SAYS_NHS, r"[4679]\d\d \d{3} \d{4}"),
    _form("us_ssn", 9, r"\d{3}[ .-]?\d\d[ .-]?\d{4}", checksums.ssn_is_valid, _SAYS_SSN, r"\d{3}-\d\d-\d{4}"),
    _form(
        "uk_nino", 6, r"[A-Za-z]{2}[ -]?\d\d[ -]?\d\d[ -]?\d\d[ -]?[A-Da-d]", checksums.nino_is_valid, _SAYS_NINO,
        r"[A-Z]{2}[\d -]+[A-D]",
    ),
    _form(
        "es_dni", 7, r"(?:\d\d\.?\d{3}\.?\d{3}|[XYZxyz]-?\d{7})[ -]?[A-Za-z]", checksums.dni_is_valid, _SAYS_DNI,
        r"(?:\d{8}|[XYZ]-?\d{7})-?[A-Z]",
    ),
)  # fmt: skip

_RECORD_WORDS = (
    "mrn", "record", "chart", "patient", "policy", "police", "policen", "versicher", "kranken", "member", "insurance",
    "passport", "passeport", "reisepass", "ausweis", "identit", "licen", "f\xfchrerschein", "permis", "adh\xe9rent",
    "mutuelle", "assur", "dossier m", "ipp", "mitglied", "adherent",
)  # fmt: skip
_NO = r"(?:\s*(?:-?\s?(?:(?:no|nr|num|number|nummer|id|num[e\xe9]ro)\b\.?|n[\xb0\xba])|#))"
_RECORD_OF = (
    r"patient|chart|policy|member(?:ship)?|insurance|insured|passport|driver'?s?'? licen[cs]e|driving licen[cs]e|"
    r"patienten|policen|police|versicherungs(?:schein)?|versicherten|krankenversicher(?:ten|ungs)|(?:reise)?pass|"
    r"(?:personal)?ausweis|f[u\xfc]hrerschein|mitglieds|adh[e\xe9]rent|passeport|permis de conduire|"
    r"dossier m[e\xe9]dical|carte d'identit[e\xe9]"
)
_OF_RECORD = (
    r"patient|police|adh[e\xe9]rent|passeport|permis(?: de conduire)?|dossier (?:m[e\xe9]dical|patient)|"
    r"carte d'identit[e\xe9]|mutuelle|contrat d'assurance|assur[e\xe9]"
)
_RECORD = re.compile(
    rf"\b(?:mrn|ipp|(?:medical|health|patient)[ -]records?{_NO}?|(?:{_RECORD_OF}){_NO}"
    rf"|(?:n[\xb0\xbao]|num[e\xe9]ro)\s?(?:de\s|d')?(?:{_OF_RECORD}))"
    r"(?:\s(?:is|ist|lautet|est))?\s?[.:#=]{0,2}\s{0,2}"
    r"((?:[A-Z]{1,4}[ -]?)?\d[\dA-Z]*(?:[./-][\dA-Z]+|[ ]\d{2,})*)(?![\w-])",
    re.IGNORECASE,
)


# A number with a country code or after "call" is a telephone number, even where it passes for a health number.
_OTHER = {"uk_nhs": re.compile(rf"{REFERENCE.pattern}|\+\d{{1,3}}[ .-]?$|{CALLED.pattern}", re.IGNORECASE)}


def find_numbers(text: str, low: str) -> list[Hit]:
    """Every number of a person in a flat text; hits may overlap, the surer kind settles it. `low`: in lower case."""
    hits: list[Hit] = []
    for found in _DIGITS.finditer(text):
        lo, hi = window(text, found)
        num = sum(map(str.isdigit, found.group())) if len(found.group()) < 40 else 40
        hits += _ids(text, lo, hi, num)
        if num >= 12:
            hits += _cards(text, lo, hi)
        if num >= 12 or (num >= 8 and text[lo : found.start()].strip()):
            hits += _ibans(text, lo, max(hi, found.start() + MAX_IBAN))
        if num >= 7:
            hits += find_phones(text, lo, hi, REFERENCE)
    if _DOTTED.search(text) or "::" in text or text.count(":") >= 7:
        hits += _addresses(text)
    if any(word in low for word in _RECORD_WORDS):
        hits += _records(text)
    return hits


def _bare(written: str) -> str:
    return "".join(char for char in written.upper() if char.isalnum())


def _ids(text: str, lo: int, hi: int, num: int) -> Iterator[Hit]:
    for kind, num_digits, written, holds, said, plain in _IDS:
        if num < num_digits:
            continue
        for match in written.finditer(text, lo, hi):
            start, found = match.start(), match.group()
            if not holds(_bare(found)):
                continue
            named = before(text, start, said)
            if named or (plain.match(found) and not before(text, start, _OTHER.get(kind, REFERENCE))):
                yield Hit(kind, start, match.end(), found)


def _ibans(text: str, lo: int, hi: int) -> Iterator[Hit]:
    for match in _IBAN.finditer(text, lo, hi):
        start, found = match.start(), match.group()
        size = checksums.IBAN_LENGTH.get(found[:2].upper())
        # Other words may follow the number: cut at the country's length.
        ends = [start + i for i, char in enumerate(found, start=1) if char.isalnum()]
        if size is None or size > len(ends):
            continue
        end = ends[size - 1]
        if not text[end : end + 1].isalnum() and checksums.iban_is_valid(_bare(text[start:end])):
            yield Hit("iban", start, end, text[start:end])


def _cards(text: str, lo: int, hi: int) -> Iterator[Hit]:
    for match in _CARD.finditer(text, lo, hi):
        start, found = match.start(), match.group()
        # An order number may pass for a card, but is not written in groups.
        if found.isdigit() and before(text, start, REFERENCE):
            continue
        # A fifth group may be a number of the sentence.
        for written in (found, found[:19]) if match[1] and len(found) > 19 else (found,):
            if checksums.card_is_valid(_bare(written)):
                yield Hit("card", start, start + len(written), written)
                break


def _records(text: str) -> Iterator[Hit]:
    places = ((max(0, four.start() - RECORD_WORD_CHARS), four.end() + 14) for four in _FOUR_DIGITS.finditer(text))
    for match in (match for lo, hi in places for match in _RECORD.finditer(text, lo, hi)):
        value = match.group(1)
        if sum(map(str.isdigit, value)) > 16:  # a number of the next sentence
            value = value.partition(" ")[0]
        if 4 <= sum(map(str.isdigit, value)) <= 16 and len(value) <= 24:
            yield Hit("record", match.start(1), match.start(1) + len(value), value)


def _addresses(text: str) -> Iterator[Hit]:
    for match in (*_IPV4.finditer(text), *(_IPV6.finditer(text) if ":" in text else ())):
        found = match.group()
        if _is_address(found) and not before(text, match.start(), _VERSION):
            yield Hit("ip", match.start(), match.end(), found)


def _is_address(found: str) -> bool:
    """An IP address that can lead to somebody: no clock, no net mask, not the machine itself."""
    try:
        parsed = ip_address(found)
    except ValueError:
        return False
    if ":" in found and all(len(part) == 2 and part.isdigit() for part in found.split(":")):
        return False  # hours, minutes and seconds are no short IPv6 address
    return not (parsed.is_unspecified or parsed.is_loopback or found.startswith(("255.", "0.")))
