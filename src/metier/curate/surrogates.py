"""Private data replaced by values of the same type and form, the same one for the same value everywhere.

A surrogate is drawn from an HMAC of the value under the project key: without the key nobody can test a guess, and a
customer who writes twice stays one customer. Checksums hold, so a check that reads the row still passes.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from ipaddress import ip_address

from metier.curate.private import Hit, iban_remainder, luhn_remainder

__all__ = ["canonical", "replace_private", "surrogate"]

_FIRST = (
    "alex",
    "kim",
    "robin",
    "sam",
    "toni",
    "jo",
    "chris",
    "pat",
    "lee",
    "mika",
    "noa",
    "sasha",
    "charlie",
    "rene",
    "max",
    "dana",
)


def canonical(hit: Hit) -> str:
    """The value without its spelling: what makes two hits the same."""
    if hit.kind == "email":
        return hit.text.casefold()
    if hit.kind == "ip":
        return str(ip_address(hit.text))
    return "".join(char for char in hit.text.upper() if char.isalnum())


def _digits(key: bytes, kind: str, value: str) -> Iterator[int]:
    """An endless run of keyed numbers 0-255."""
    block = 0
    while True:
        yield from hmac.new(key, f"{kind}\x1f{value}\x1f{block}".encode(), hashlib.sha256).digest()
        block += 1


def surrogate(key: bytes, hit: Hit) -> str:
    """The stand-in of one value, in the form it was written in; never the value itself."""
    value = canonical(hit)
    for attempt in range(8):
        drawn = _digits(key, f"{hit.kind}{attempt or ''}", value)
        if hit.kind == "email":
            name, domain = _FIRST[next(drawn) % len(_FIRST)], ("com", "org", "net")[next(drawn) % 3]
            made = f"{name}.{_number(drawn, 100_000):05d}@example.{domain}"
        elif hit.kind == "ip":
            made = _address(value, drawn)
        elif hit.kind == "iban":
            made = _in_form(hit.text, _iban(value, drawn))
        elif hit.kind == "card":
            made = _in_form(hit.text, _card(value, drawn))
        else:
            made = _in_form(hit.text, _phone(value, drawn, hit.text))
        if made != hit.text:
            return made
    raise AssertionError("eight draws all gave the value itself")


def _number(drawn: Iterator[int], below: int) -> int:
    return (next(drawn) << 24 | next(drawn) << 16 | next(drawn) << 8 | next(drawn)) % below


def _in_form(shape: str, value: str) -> str:
    """The letters and digits of `value` where `shape` has some, everything else as in `shape`."""
    chars = iter(value)
    return "".join(next(chars) if char.isalnum() else char for char in shape)


def _phone(value: str, drawn: Iterator[int], written: str) -> str:
    """The same length; country code, or leading zeros and the digit after them, kept."""
    kept = 2 if written.lstrip("(").startswith(("+", "00")) else 1
    if value.startswith("00"):
        kept += 2
    first = str(1 + _number(drawn, 9))  # no number goes on with a zero here
    return value[:kept] + first + "".join(str(_number(drawn, 10)) for _ in value[kept + 1 :])


def _card(value: str, drawn: Iterator[int]) -> str:
    """The same issuer prefix (4 digits) and length, with a valid check digit."""
    body = value[:4] + "".join(str(_number(drawn, 10)) for _ in value[5:])
    return body + str((10 - luhn_remainder(body + "0")) % 10)


def _iban(value: str, drawn: Iterator[int]) -> str:
    """The same country, letters for letters and digits for digits, with valid check digits."""
    body = "".join(str(_number(drawn, 10)) if char.isdigit() else chr(65 + _number(drawn, 26)) for char in value[4:])
    return f"{value[:2]}{98 - iban_remainder(value[:2] + '00' + body):02d}{body}"


def _address(value: str, drawn: Iterator[int]) -> str:
    """An address from the blocks set aside for benchmarks (198.18.0.0/15) and documentation (2001:db8::/32)."""
    if ":" in value:
        return "2001:db8:" + ":".join(f"{_number(drawn, 65536):x}" for _ in range(6))
    return f"198.{18 + next(drawn) % 2}.{next(drawn)}.{next(drawn)}"


def replace_private(text: str, hits: list[Hit], key: bytes) -> str:
    """The text with every hit replaced by its surrogate."""
    pieces, at = [], 0
    for hit in hits:
        pieces += [text[at : hit.start], surrogate(key, hit)]
        at = hit.end
    return "".join([*pieces, text[at:]])
