"""Texts with planted private data and innocent numbers, in three languages: what recall and precision are measured on.

    rows = plant("de", "phone", rows=200, seed=7)

The recognisers never see this file's kinds, seeds or wordings: values, checksums and spellings are made here on their
own. Each row plants one value beside up to two innocents (orders, dates, amounts, versions, codes, references).
"""

from __future__ import annotations

import random
import string
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.curate.planting_words import (
    ADDRESSES,
    CLOSINGS,
    CUES,
    INNOCENTS,
    MENTIONS,
    NAMES,
    OPENINGS,
    PHONES,
    RECORDS,
    SECRETS,
    URLS,
)

LOCALES = ("en", "de", "fr")
CHECKSUMMED = ("card", "iban", "uk_nhs", "de_tax_id", "de_social", "fr_nir")
_COMMON = ("email", "phone", "card", "iban", "ip", "url", "secret", "record", "address", "name")
KINDS_OF = {
    "en": (*_COMMON, "us_ssn", "uk_nino", "uk_nhs"),
    "de": (*_COMMON, "de_tax_id", "de_social"),
    "fr": (*_COMMON, "fr_nir"),
}
D, U, L = string.digits, string.ascii_uppercase, string.ascii_lowercase
_SLOTS = {"#": D, "¹": D[1:], "²": D[2:], "^": U, "§": L, "~": D + L + U, "¤": D + "abcdef", "¥": U + D}


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A text, the value that must be found in it and the subjects its row declares."""

    locale: str
    kind: str
    text: str
    start: int
    end: int
    subjects: tuple[str, ...] = ()

    @property
    def value(self) -> str:
        return self.text[self.start : self.end]


def fill(rng: random.Random, form: str) -> str:
    """A form with its slots filled: # digit, ¹ and ² digits from 1 and 2, ^ § ~ letters, ¤ hex."""
    return "".join(rng.choice(_SLOTS[char]) if char in _SLOTS else char for char in form)


def grouped(digits: str, sizes: tuple[int, ...], gap: str) -> str:
    """Characters in groups; what is left over is the last group."""
    out, at = [], 0
    for size in sizes:
        out.append(digits[at : at + size])
        at += size
    return gap.join(part for part in [*out, digits[at:]] if part)


def ending(body: str, holds: Callable[[str], bool]) -> str:
    """The body with the digit that makes it hold; empty where none does."""
    return next((body + end for end in D if holds(body + end)), "")


def luhn(digits: str) -> bool:
    return sum(sum(divmod(int(d) * (1 + i % 2), 10)) for i, d in enumerate(reversed(digits))) % 10 == 0


def card(rng: random.Random, locale: str) -> str:
    form, sizes = rng.choice(
        [
            ("4" + "#" * 14, (4,) * 4),
            ("5²".replace("²", rng.choice("12345")) + "#" * 13, (4,) * 4),
            ("37" + "#" * 12, (4, 6, 5)),
        ]
    )
    return grouped(ending(fill(rng, form), luhn), sizes, rng.choice([" ", " ", " ", "-", "", "", "\u00a0"]))


_ACCOUNTS = {
    "DE": "#" * 18, "FR": "#" * 10 + "¥" * 11 + "##", "GB": "^^^^" + "#" * 14, "AT": "#" * 16, "CH": "#" * 17, "NL": "^^^^" + "#" * 10,
    "ES": "#" * 20, "IT": "^" + "#" * 22, "BE": "#" * 12, "PL": "#" * 24, "LU": "#" * 16, "IE": "^^^^" + "#" * 14,
}  # fmt: skip


def iban(rng: random.Random, locale: str) -> str:
    country = rng.choice([{"en": "GB", "de": "DE", "fr": "FR"}[locale]] * 12 + sorted(_ACCOUNTS))
    account = fill(rng, _ACCOUNTS[country])
    number = int("".join(str(int(char, 36)) for char in account + country + "00"))
    whole = f"{country}{98 - number % 97:02d}{account}"
    style = rng.random()
    if style < 0.35:
        return whole
    if style < 0.39:
        return grouped(whole.lower(), (4,) * 8, " ")
    if style < 0.43:
        return f"{whole[:4]} {whole[4:]}"
    return grouped(whole, (4,) * 8, rng.choice([" "] * 8 + ["\u00a0", "-", "."]))


def uk_nhs(rng: random.Random, locale: str) -> str:
    def holds(number: str) -> bool:
        return sum(int(d) * w for d, w in zip(number, range(10, 0, -1), strict=True)) % 11 == 0

    while not (number := ending(fill(rng, rng.choice("4679") + "#" * 8), holds)):
        pass
    return grouped(number, (3, 3, 4), rng.choice([" ", " ", " ", "-", ""]))


def de_tax_id(rng: random.Random, locale: str) -> str:
    def holds(number: str) -> bool:
        left = 10
        for d in number[:-1]:
            left = ((int(d) + left) % 10 or 10) * 2 % 11
        return (left + int(number[-1])) % 10 == 1

    while True:
        pool = rng.sample(D, 9)
        body = [*pool, rng.choice(pool)]
        rng.shuffle(body)
        if body[0] != "0":
            return grouped(ending("".join(body), holds), (2, 3, 3, 3), rng.choice([" ", " ", "", "", "/", "\u00a0"]))


def de_social(rng: random.Random, locale: str) -> str:
    def holds(number: str) -> bool:
        plain = number[:8] + f"{U.index(number[8]) + 1:02d}" + number[9:11]
        products = [int(d) * w for d, w in zip(plain, [2, 1, 2, 5, 7, 1, 2, 1, 2, 1, 2, 1], strict=True)]
        return sum(int(d) for p in products for d in str(p)) % 10 == int(number[11])

    born = f"{rng.randint(1, 31):02d}{rng.randint(1, 12):02d}{rng.randint(30, 99)}"
    number = ending(fill(rng, f"{rng.choice(['12', '13', '15', '24', '53', '65'])}{born}^##"), holds)
    spaced = grouped(number, (2, 6, 1, 3), " ")
    return rng.choice([number, number, spaced, spaced, grouped(number, (2, 2, 2, 2, 1, 3), " "), number.lower()])


def fr_nir(rng: random.Random, locale: str) -> str:
    department = rng.choice(
        [f"{rng.randint(1, 19):02d}", f"{rng.randint(21, 95)}", f"{rng.randint(21, 95)}", rng.choice(["2A", "2B"])]
    )
    body = fill(
        rng,
        f"{rng.choice('12')}{rng.randint(30, 99)}{rng.randint(1, 12):02d}{department}{rng.randint(1, 899):03d}{rng.randint(1, 999):03d}",
    )
    number = body + f"{97 - int(body.replace('2A', '19').replace('2B', '18')) % 97:02d}"
    spaced = grouped(number, (1, 2, 2, 2, 3, 3, 2), " ")
    return rng.choice(
        [
            number,
            number,
            spaced,
            spaced,
            spaced.replace(" ", "\u00a0"),
            f"{number[:13]} {number[13:]}",
            f"{spaced[:-3]} / {number[13:]}",
        ]
    )


def us_ssn(rng: random.Random, locale: str) -> str:
    return f"{rng.choice([rng.randint(1, 665), rng.randint(667, 899)]):03d}-{rng.randint(1, 99):02d}-{rng.randint(1, 9999):04d}"


def uk_nino(rng: random.Random, locale: str) -> str:
    number = fill(rng, rng.choice("ABCEHJKLMPRST") + rng.choice("ABCEHJKLMPRST") + "######" + rng.choice("ABCD"))
    return rng.choice(
        [
            number,
            number,
            grouped(number, (2, 2, 2, 2, 1), " "),
            grouped(number, (2, 2, 2, 2, 1), " "),
            grouped(number, (2, 6, 1), " "),
        ]
    )


def phone(rng: random.Random, locale: str) -> str:
    made = fill(rng, rng.choice(PHONES[locale]))
    return made.replace(" ", "\u00a0") if rng.random() < 0.04 else made


def email(rng: random.Random, locale: str) -> str:
    first, last = (
        unicodedata.normalize("NFKD", rng.choice(NAMES[locale][i]).replace("\u0131", "i"))
        .encode("ascii", "ignore")
        .decode()
        .lower()
        .replace(" ", "")
        for i in (0, 1)
    )
    user = rng.choice(
        [
            f"{first}.{last}",
            f"{first[0]}{last}",
            f"{last}{rng.randint(1, 99)}",
            f"{first}_{last}",
            f"{first}-{last}",
            f"{first}.{last}+shop",
            first + str(rng.randint(1940, 2010)),
        ]
    )
    host = rng.choice(
        [
            "gmail.com",
            "outlook.com",
            "web.de",
            "gmx.net",
            "orange.fr",
            "free.fr",
            "btinternet.com",
            "mail.firma-nord.de",
            "uni.ac.uk",
            "t-online.de",
            "corp.example.co.uk",
        ]
    )
    style = rng.random()
    if style < 0.05:
        return f"{user} [at] {host}"
    return f"{user}@{host}".upper() if style < 0.09 else f"{user}@{host}"


def ip(rng: random.Random, locale: str) -> str:
    if rng.random() < 0.7:
        return f"{rng.choice([10, 172, 192, 81, 203, 93])}.{rng.randint(0, 255)}.{rng.randint(0, 255)}.{rng.randint(1, 254)}"
    groups = [f"{rng.randrange(65536):x}" for _ in range(7)]
    return rng.choice(
        [
            "2a02:" + ":".join(groups),
            f"2001:db8::{groups[0]}:{groups[1]}",
            f"fe80::{groups[2]}:{groups[3]}:{groups[4]}:{groups[5]}",
        ]
    )


_MAKERS: dict[str, Callable[[random.Random, str], str]] = {
    "card": card, "iban": iban, "uk_nhs": uk_nhs, "de_tax_id": de_tax_id, "de_social": de_social, "fr_nir": fr_nir, "us_ssn": us_ssn,
    "uk_nino": uk_nino, "phone": phone, "email": email, "ip": ip,
}  # fmt: skip
_IN_CONTEXT = {"url": URLS, "secret": SECRETS, "record": RECORDS}


def _slotted(rng: random.Random, form: str) -> tuple[str, str, str]:
    """What stands before, the value, what stands behind, of a form whose value is in double brackets."""
    front, _, rest = form.partition("[[")
    value, _, back = rest.partition("]]")
    return fill(rng, front), fill(rng, value), fill(rng, back)


def _address(rng: random.Random, locale: str) -> str:
    forms, streets, cities = ADDRESSES[locale]
    city, code = rng.choice(cities)
    return fill(rng, rng.choice(forms).format(street=rng.choice(streets), city=city, code=code))


def _mention(rng: random.Random, locale: str) -> tuple[str, str, str, str]:
    """A declared name, and a mention of it: what stands before, the mention, what stands behind."""
    given, surname = rng.choice(NAMES[locale][0]), rng.choice(NAMES[locale][1])
    plain = (
        unicodedata.normalize("NFKD", surname.replace("ß", "ss").replace("\u0131", "i"))
        .encode("ascii", "ignore")
        .decode()
    )
    umlauts = surname
    for letter, spelt in zip("äöüßÄÖÜ", ("ae", "oe", "ue", "ss", "Ae", "Oe", "Ue"), strict=True):
        umlauts = umlauts.replace(letter, spelt)
    values = {"g": given, "s": surname, "G": given.upper(), "S": surname.upper(), "gl": given.lower(), "sl": surname.lower(),
              "i": given[0], "sp": plain, "su": umlauts}  # fmt: skip
    front, value, back = (part.format(**values) for part in _slotted(rng, rng.choice(MENTIONS[locale])))
    return rng.choice([f"{given} {surname}"] * 3 + [f"{surname}, {given}"]), front, value, back


def innocent(rng: random.Random, locale: str) -> str:
    """A sentence with a number that is nobody's."""
    return fill(rng, rng.choice(INNOCENTS[locale])) + " "


def around(rng: random.Random, locale: str, kind: str, value: str) -> Planted:
    """A value in a sentence that fits its kind, beside innocents."""
    front, _, back = rng.choice(CUES[locale].get(kind, CUES[locale]["any"])).partition("[[]]")
    return _row(rng, locale, kind, (front, value, back))


def _row(
    rng: random.Random, locale: str, kind: str, parts: tuple[str, str, str], subjects: tuple[str, ...] = ()
) -> Planted:
    front, value, back = parts
    before = rng.choice(OPENINGS[locale]) + "".join(innocent(rng, locale) for _ in range(rng.choice([0, 1, 1]))) + front
    after = (
        back + " " + "".join(innocent(rng, locale) for _ in range(rng.choice([0, 1]))) + rng.choice(CLOSINGS[locale])
    )
    return Planted(
        locale=locale,
        kind=kind,
        text=before + value + after,
        start=len(before),
        end=len(before) + len(value),
        subjects=subjects,
    )


def plant(locale: str, kind: str, *, rows: int, seed: int) -> Iterator[Planted]:
    """Texts with one value of a kind each."""
    rng = random.Random(f"{seed}/{locale}/{kind}")
    for _ in range(rows):
        if kind == "name":
            declared, *parts = _mention(rng, locale)
            yield _row(rng, locale, kind, (parts[0], parts[1], parts[2]), (declared,))
        elif kind in _IN_CONTEXT:
            yield _row(rng, locale, kind, _slotted(rng, rng.choice(_IN_CONTEXT[kind][locale])))
        else:
            yield around(rng, locale, kind, _address(rng, locale) if kind == "address" else _MAKERS[kind](rng, locale))


def innocents(locale: str, *, rows: int, seed: int) -> Iterator[str]:
    """Texts that hold nobody's number, three sentences each."""
    rng = random.Random(f"{seed}/{locale}/innocent")
    for _ in range(rows):
        yield (
            rng.choice(OPENINGS[locale])
            + "".join(innocent(rng, locale) for _ in range(3))
            + rng.choice(CLOSINGS[locale])
        )
