"""Private data replaced by values of the same type and form, the same one for the same value everywhere.

A surrogate is drawn from an HMAC of the value under the project key: without the key nobody can test a guess, and a
customer who writes twice stays one customer. Checksums hold, so a check that reads the row still passes. Two values may
share a surrogate: of people with one given name about one pair in 20,000 (docs/curate.md).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import ip_address
from typing import NamedTuple

from metier.curate import checksums
from metier.curate.private_hit import Hit
from metier.curate.private_secrets import KEY_FORMS
from metier.curate.private_stand_ins import address_identity, name_identity, stand_in_address, stand_in_name

__all__ = ["canonical", "replace_private", "surrogate"]

_FIRST = (
    "alex", "kim", "robin", "sam", "toni", "jo", "chris", "pat", "lee", "mika", "noa", "sasha", "charlie", "rene",
    "max", "dana",
)  # fmt: skip
_COUNTRY_CODES = ("49", "33", "44", "43", "41", "1")
_SOCIAL_AREAS = ("10", "12", "13", "14", "15", "20", "23", "24", "25", "40", "53", "54", "63", "65", "80")
_NINO_LETTERS = "ABCEGHJKLMNPRSTWXYZ"
_NHS_FIRST = "4679"
_HEX, _ESCAPE = re.compile(r"[0-9a-f-]{12,}|[0-9A-F-]{12,}"), re.compile(r"%[0-9A-Fa-f]{2}")


def canonical(hit: Hit) -> str:
    """The value without its spelling: what makes two hits the same."""
    if hit.kind == "email":
        return hit.text.casefold()
    if hit.kind == "ip":
        return str(ip_address(unicodedata.normalize("NFKC", hit.text)))
    if hit.kind == "name":
        return name_identity(hit)
    if hit.kind == "address":
        return address_identity(hit.text)
    if hit.kind in ("url", "secret"):
        return hit.text  # case is part of a secret
    plain = unicodedata.normalize("NFKC", hit.text).upper()
    if hit.kind == "phone":
        return _dialled(plain).identity
    return "".join(char for char in plain if char.isalnum())


def _keyed(key: bytes, kind: str, value: str) -> Iterator[int]:
    """An endless run of keyed numbers 0-255."""
    block = 0
    while True:
        yield from hmac.new(
            key, f"{kind}\x1f{value}\x1f{block}".encode("utf-8", "surrogatepass"), hashlib.sha256
        ).digest()
        block += 1


def surrogate(key: bytes, hit: Hit) -> str:
    """The stand-in of one value, in the form it was written in; never the value itself."""
    value = canonical(hit)
    for attempt in range(8):
        made = _made(key, hit, value, attempt)
        if canonical(hit._replace(text=made, of="")) != value:
            return made
    raise AssertionError("eight draws all gave the value itself")


def _made(key: bytes, hit: Hit, value: str, attempt: int) -> str:
    tried = f"{attempt or ''}"
    if hit.kind == "name":
        return stand_in_name(partial(_purpose, key, f"name{tried}"), hit)
    if hit.kind == "address":
        return stand_in_address(partial(_purpose, key, f"address{tried}"), hit)
    drawn = _keyed(key, f"{hit.kind}{tried}", value)
    if hit.kind == "email":
        name, domain = _FIRST[next(drawn) % len(_FIRST)], ("com", "org", "net")[next(drawn) % 3]
        return f"{name}.{_number(drawn, 100_000):05d}@example.{domain}"
    if hit.kind == "ip":
        return _address(value, drawn)
    if hit.kind in ("url", "secret"):
        return _random_like(hit.text, drawn)
    if hit.kind == "phone":
        return _phone(hit.text, drawn)
    return _in_form(hit.text, _NUMBERS.get(hit.kind, _record)(value, drawn))


def _purpose(key: bytes, kind: str, purpose: str, value: str) -> Iterator[int]:
    return _keyed(key, f"{kind}/{purpose}", value)


def _number(drawn: Iterator[int], below: int) -> int:
    return (next(drawn) << 24 | next(drawn) << 16 | next(drawn) << 8 | next(drawn)) % below


def _digits(drawn: Iterator[int], count: int) -> str:
    return "".join(str(_number(drawn, 10)) for _ in range(count))


def _in_form(shape: str, value: str) -> str:
    """The letters and digits of `value` where `shape` has some, in its case; everything else as in `shape`."""
    chars = iter(value)
    made = (next(chars) if char.isalnum() else char for char in shape)
    return "".join(new.lower() if old.islower() else new for old, new in zip(shape, made, strict=True))


class _Dialled(NamedTuple):
    """A telephone number taken apart."""

    lead: str
    """Digits that say how to dial: country code, trunk zero."""
    number: str
    identity: str
    """What is the same in all its spellings."""


def _dialled(written: str) -> _Dialled:
    digits = "".join(char for char in written if char.isdigit())
    bare = "".join(char for char in written if char.isdigit() or char == "+")
    kept = 0
    if bare.startswith(("+", "00")):
        kept = 2 if bare.startswith("00") else 0
        code = next((code for code in _COUNTRY_CODES if digits.startswith(code, kept)), "")
        if not code:
            return _Dialled(digits[: kept + 2], digits[kept + 2 :], digits[kept:])
        kept += len(code)
        kept += digits.startswith("0", kept)
    elif digits.startswith("0") or (len(digits) == 11 and digits.startswith("1")):
        kept = 1
    return _Dialled(digits[:kept], digits[kept:], digits[kept:])


def _phone(written: str, drawn: Iterator[int]) -> str:
    """The same length and form; what says how to dial stays, and two digits that make a number a mobile one."""
    lead, number, _ = _dialled(unicodedata.normalize("NFKC", written))
    mobile = len(number) in (9, 10, 11) and (number[0] in "67" or number[:2] in ("15", "16", "17"))
    made = number[:2] if mobile else str(2 + _number(drawn, 8)) + _digits(drawn, 1)
    # A digit from 2 in the fourth place: the exchange of an American number.
    made += _digits(drawn, 1) + str(2 + _number(drawn, 8)) + _digits(drawn, max(0, len(number) - 4))
    digits = iter(lead + made)
    return "".join(next(digits) if char.isdigit() else char for char in written)


def _card(value: str, drawn: Iterator[int]) -> str:
    """The same issuer prefix (4 digits) and length, with a valid check digit."""
    body = value[:4] + _digits(drawn, len(value) - 5)
    return body + str((10 - checksums.luhn_remainder(body + "0")) % 10)


def _iban(value: str, drawn: Iterator[int]) -> str:
    """The same country, letters for letters and digits for digits, with valid check digits."""
    body = "".join(str(_number(drawn, 10)) if char.isdigit() else chr(65 + _number(drawn, 26)) for char in value[4:])
    return f"{value[:2]}{98 - checksums.iban_remainder(value[:2] + '00' + body):02d}{body}"


def _address(value: str, drawn: Iterator[int]) -> str:
    """An address from the blocks set aside for benchmarks (198.18.0.0/15) and documentation (2001:db8::/32)."""
    if ":" in value:
        return "2001:db8:" + ":".join(f"{_number(drawn, 65536):x}" for _ in range(6))
    return f"198.{18 + next(drawn) % 2}.{next(drawn)}.{next(drawn)}"


def _nhs(_: str, drawn: Iterator[int]) -> str:
    while True:
        nine = _NHS_FIRST[_number(drawn, 4)] + _digits(drawn, 8)
        if (check := checksums.nhs_check(nine)) < 10:
            return f"{nine}{check}"


def _tax_id(_: str, drawn: Iterator[int]) -> str:
    """Nine different digits, one of them twice, in a drawn order, and the check digit."""
    while True:
        order = sorted(range(10), key=lambda _: _number(drawn, 1 << 30))
        ten = [str(digit) for digit in [*order[:9], order[0]]]
        ten.sort(key=lambda _: _number(drawn, 1 << 30))
        if ten[0] != "0":
            return "".join(ten) + str(checksums.tax_id_check("".join(ten)))


def _social(_: str, drawn: Iterator[int]) -> str:
    area, letter = _SOCIAL_AREAS[_number(drawn, len(_SOCIAL_AREAS))], chr(65 + _number(drawn, 26))
    birthday = f"{1 + _number(drawn, 28):02d}{1 + _number(drawn, 12):02d}{_number(drawn, 100):02d}"
    eleven = f"{area}{birthday}{letter}{_number(drawn, 100):02d}"
    return f"{eleven}{checksums.social_check(eleven)}"


def _nir(_: str, drawn: Iterator[int]) -> str:
    department = (d := 1 + _number(drawn, 94)) + (d >= 20)  # 20 was Corsica, now 2A and 2B
    thirteen = f"{1 + _number(drawn, 2)}{_number(drawn, 100):02d}{1 + _number(drawn, 12):02d}{department:02d}"
    thirteen += f"{1 + _number(drawn, 899):03d}{1 + _number(drawn, 999):03d}"
    return f"{thirteen}{checksums.nir_key(thirteen):02d}"


def _ssn(_: str, drawn: Iterator[int]) -> str:
    area = (a := 1 + _number(drawn, 898)) + (a >= 666)
    return f"{area:03d}{1 + _number(drawn, 99):02d}{1 + _number(drawn, 9999):04d}"


def _nino(_: str, drawn: Iterator[int]) -> str:
    while True:
        pair = "".join(_NINO_LETTERS[_number(drawn, len(_NINO_LETTERS))] for _ in range(2))
        made = f"{pair}{_digits(drawn, 6)}{'ABCD'[_number(drawn, 4)]}"
        if checksums.nino_is_valid(made):
            return made


def _dni(value: str, drawn: Iterator[int]) -> str:
    if value[0].isdigit():
        number = _number(drawn, 100_000_000)
        return f"{number:08d}{checksums.dni_letter(number)}"
    first, seven = _number(drawn, 3), _digits(drawn, 7)
    return f"{'XYZ'[first]}{seven}{checksums.dni_letter(int(f'{first}{seven}'))}"


def _record(value: str, drawn: Iterator[int]) -> str:
    """The letters at the front, which say what number it is, and other digits and letters."""
    front = value[: next((i for i, char in enumerate(value) if not char.isalpha()), 0)]
    rest = value[len(front) :]
    made = [str(_number(drawn, 10)) if char.isdigit() else chr(65 + _number(drawn, 26)) for char in rest]
    if rest[:1] not in ("", "0") and made[0] == "0":
        made[0] = str(1 + _number(drawn, 9))
    return front + "".join(made)


def _random_like(written: str, drawn: Iterator[int]) -> str:
    """A secret of the same shape: the issuer's prefix and all punctuation kept, letters and digits drawn."""
    if written.startswith("-----BEGIN"):
        head, newline, rest = written.partition("-----\n")
        body, dashes, tail = rest.partition("-----END")
        return (
            head + newline + _random_like(body, drawn) + dashes + tail
            if newline
            else written[:10] + _letters(written[10:], drawn)
        )
    prefix = next((prefix for prefix in sorted(KEY_FORMS, key=len, reverse=True) if written.startswith(prefix)), "")
    if prefix == "eyJ":
        return ".".join(
            "eyJ" + _letters(part[3:], drawn) if part.startswith("eyJ") else _letters(part, drawn)
            for part in written.split(".")
        )
    return prefix + _letters(written[len(prefix) :], drawn)


def _letters(written: str, drawn: Iterator[int]) -> str:
    """Letters for letters and digits for digits; hex stays hex, and percent signs keep what they escape."""
    num_letters = 6 if _HEX.fullmatch(written) else 26
    escaped = {i for match in _ESCAPE.finditer(written) for i in range(*match.span())}
    made = []
    for i, char in enumerate(written):
        if i in escaped or not char.isalnum():
            made.append(char)
        elif char.isdigit():
            made.append(str(_number(drawn, 10)))
        else:
            made.append(chr((65 if char.isupper() else 97) + _number(drawn, num_letters)))
    return "".join(made)


_NUMBERS: dict[str, Callable[[str, Iterator[int]], str]] = {
    "card": _card, "iban": _iban, "uk_nhs": _nhs, "de_tax_id": _tax_id, "de_social": _social, "fr_nir": _nir,
    "us_ssn": _ssn, "uk_nino": _nino, "es_dni": _dni,
}  # fmt: skip


def replace_private(text: str, hits: list[Hit], key: bytes) -> str:
    """The text with every hit replaced by its surrogate."""
    pieces, at = [], 0
    for hit in hits:
        pieces += [text[at : hit.start], surrogate(key, hit)]
        at = hit.end
    return "".join([*pieces, text[at:]])
