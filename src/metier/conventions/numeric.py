"""The last number of a reply against the gold's, as written in prose: "GBP 1,234.50", "(12%)", "3.2 million".

Both "1,234.5" and "1.234,5" are read; "3,500" is three thousand five hundred, "3,5" is three and a half.
"3.500" is three and a half: a point alone is a decimal point. Fractions and number words are not read.
"""

from __future__ import annotations

import math
import re
from collections import deque
from dataclasses import dataclass

from metier.conventions.registry import PASSED, Check, CheckResult, register
from metier.conventions.text import shown
from metier.core.errors import ConfigError
from metier.core.rows import Row

__all__ = ["Numeric", "WrittenNumber", "last_number"]

_SYMBOLS = {"$": "USD", "\u00a3": "GBP", "\u20ac": "EUR", "\u00a5": "JPY"}
_MONEY = r"[$\u00a3\u20ac\u00a5]|\b(?:USD|GBP|EUR|JPY|CHF)\b"
_SCALES = {"thousand": 1e3, "million": 1e6, "mn": 1e6, "billion": 1e9, "bn": 1e9, "trillion": 1e12}
_LETTERS = {"k": 1e3, "m": 1e6, "b": 1e9}  # read only right after an amount of money: "$5m", never "5 m"
_NUMBER = re.compile(
    rf"""
    (?P<open>\()?\s?
    (?P<sign>(?<![\w)])[-+\u2212])?\s?
    (?P<money>{_MONEY})?\s?
    (?P<sign2>(?<![\w)])[-+\u2212])?
    (?<![A-Za-z_\d])(?<!\d[.,])
    (?P<digits>\d+(?:[.,'\u2019\u00a0\u202f]\d+)*|(?<!\d)\.\d+)
    (?P<exponent>e[-+]?\d{{1,3}}(?!\w))?
    (?:\s?(?P<scale>thousand|million|billion|trillion|mn|bn)\b|(?P<letter>[kmb])(?!\w))?
    \s?(?P<percent>%|per\s?cent\b|pct\b)?
    \s?(?P<money2>{_MONEY})?
    \s?(?P<close>\))?
    """,
    re.VERBOSE | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class WrittenNumber:
    """A number as it was written."""

    value: float
    """The value; 12 for "12%"."""
    percent: bool
    """Whether a percent sign follows."""
    money: str
    """Currency code, empty where none is written."""
    text: str
    """The spelling."""


def last_number(text: str) -> WrittenNumber | None:
    """The last number in a text, or None. Digits right after a letter ("Q3", "A12") are no number."""
    found = deque(_NUMBER.finditer(text), maxlen=1)
    if not found:
        return None
    last = found[0]
    money = (last["money"] or last["money2"] or "").upper()
    value = _digits_value(last["digits"]) * float(f"1{last['exponent'] or ''}")
    value *= _SCALES.get((last["scale"] or "").lower(), 1.0)
    if last["letter"] and money:
        value *= _LETTERS[last["letter"].lower()]
    signs = (last["sign"], last["sign2"])
    if "-" in signs or "\u2212" in signs or (last["open"] and last["close"]):
        value = -value
    return WrittenNumber(value, bool(last["percent"]), _SYMBOLS.get(money, money), last[0].strip())


def _digits_value(digits: str) -> float:
    """The value of digits with separators."""
    digits = re.sub(r"['\u2019\u00a0\u202f]", "", digits)
    if "." in digits and "," in digits:
        decimal = max(".,", key=digits.rfind)
        whole, _, part = digits.rpartition(decimal)
        if decimal not in whole:
            return float(f"{re.sub('[.,]', '', whole)}.{part}")
    elif re.fullmatch(r"\d{1,3}(?:,\d{3})+|\d{1,3}(?:\.\d{3}){2,}", digits):
        return float(re.sub("[.,]", "", digits))
    elif len(re.findall("[.,]", digits)) <= 1:
        return float(digits.replace(",", "."))
    return float(re.split("[.,]", digits)[-1])  # a list without spaces, "1,2,3": its last item


@register("numeric")
@dataclass(frozen=True, kw_only=True, slots=True)
class Numeric(Check):
    """The last number of the reply equals the last number of the gold reply."""

    tolerance: float = 0.0
    """Largest difference, in the gold's own unit (points where the gold is a percentage)."""
    relative: float = 0.0
    """Largest difference as a share of the gold number; the larger of both allowances counts."""

    def __post_init__(self) -> None:
        if not (0 <= self.tolerance < math.inf and 0 <= self.relative < 1):
            raise ConfigError(
                f"tolerance is {self.tolerance} and relative {self.relative}; expected tolerance >= 0 and "
                "0 <= relative < 1."
            )

    @property
    def needs_gold(self) -> bool:
        """Always."""
        return True

    def result(self, row: Row, text: str) -> CheckResult:
        """1 within the allowance; "12%" equals "0.12"; two different currencies are never equal."""
        gold, reply = last_number(row.gold), last_number(text)
        if gold is None:
            return CheckResult(0.0, f"The gold reply {shown(row.gold)} holds no number to compare with.")
        if reply is None:
            return CheckResult(0.0, f"The reply holds no number; expected {shown(gold.text)}.")
        if gold.money and reply.money and gold.money != reply.money:
            return CheckResult(
                0.0, f"The reply's last number is {shown(reply.text)}, in {reply.money}; expected {shown(gold.text)}."
            )
        value = reply.value
        if gold.percent != reply.percent:
            value = value * 100 if gold.percent else value / 100
        # The last term forgives binary rounding only: 0.1 + 0.2 is 0.3.
        allowed = max(self.tolerance, self.relative * abs(gold.value)) + 1e-9 * max(1.0, abs(gold.value))
        if abs(value - gold.value) <= allowed:
            return PASSED
        return CheckResult(0.0, f"The reply's last number is {shown(reply.text)}; expected {shown(gold.text)}.")

    def guideline(self) -> str:
        """Where the number has to stand."""
        return "Give the result as a number, as the last number of the reply."
