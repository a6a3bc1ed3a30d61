"""One spelling for dates and for amounts of money: any other spelling in the reply is wrong.

A reply without a date (or amount) passes: ask for one with `contains` or `regex`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Literal

from metier.conventions.placeholders import check_pattern, fill_pattern, plain
from metier.conventions.registry import PASSED, Check, CheckResult, register
from metier.conventions.text import listed
from metier.core.config import nearest
from metier.core.errors import ConfigError
from metier.core.rows import Row

__all__ = ["DateFormat", "MoneyFormat"]

_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_SHORT = tuple(month[:3] for month in _MONTHS)
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_DIRECTIVES = {
    "%d": r"(?P<day>0[1-9]|[12]\d|3[01])",
    "%-d": r"(?P<day>[12]\d|3[01]|[1-9])",
    "%m": r"(?P<month>0[1-9]|1[0-2])",
    "%-m": r"(?P<month>1[0-2]|[1-9])",
    "%B": rf"(?P<name>{'|'.join(_MONTHS)})",
    "%b": rf"(?P<short>{'|'.join(_SHORT)})",
    "%Y": r"(?P<year>\d{4})",
    "%y": r"(?P<year2>\d{2})",
    "%A": rf"(?P<weekday>{'|'.join(_DAYS)})",
}
_MONTH = rf"(?:{'|'.join(_MONTHS)}|(?:{'|'.join(_SHORT)}|Sept)\.?)"
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
# Every spelling of a date: with a month's name (day and month are enough), or three numbers with one separator.
_ANY_DATE = re.compile(
    rf"(?<!\w)(?:{_DAY}[ -](?:of )?{_MONTH}(?:,?[ -]\d{{4}}|[ -]'?\d{{2}}(?!\d))?"
    rf"|{_MONTH} {_DAY}(?!\d)(?:,? \d{{4}})?"
    rf"|\d{{4}}([-/.])\d{{1,2}}\1\d{{1,2}}|\d{{1,2}}([-/.])\d{{1,2}}\2(?:\d{{4}}|\d{{2}}))(?!\w)"
)


@lru_cache(maxsize=64)
def _date_pattern(spelling: str) -> re.Pattern[str]:
    """The pattern of dates in a strftime spelling.

    Raises:
        ConfigError: a directive that is not supported, or one twice.
    """
    pieces = []
    for piece in re.split(r"(%-?[a-zA-Z%])", spelling):
        if piece.startswith("%") and piece not in _DIRECTIVES:
            raise ConfigError(f"format is {spelling!r}; {piece} is not known here: {nearest(piece, list(_DIRECTIVES))}")
        pieces.append(_DIRECTIVES.get(piece) or re.escape(piece))
    try:
        pattern = re.compile(rf"(?<![\w/.-]){''.join(pieces)}(?!\w)")
    except re.error as err:
        raise ConfigError(f"format is {spelling!r}; a part stands twice.") from err
    named = set(pattern.groupindex)
    if "day" not in named or not named & {"month", "name", "short"}:
        raise ConfigError(f"format is {spelling!r}; expected a day and a month, for example '%d %B %Y'.")
    return pattern


def _exists(found: re.Match[str]) -> bool:
    """Whether the date is in the calendar and its weekday, where given, is right."""
    parts = found.groupdict()
    year = int(parts.get("year") or 2000 + int(parts.get("year2") or 0))
    if parts.get("month"):
        month = int(parts["month"])
    else:
        month = _MONTHS.index(parts["name"]) + 1 if parts.get("name") else _SHORT.index(parts["short"]) + 1
    try:
        day = date(year, month, int(parts["day"]))
    except ValueError:
        return False
    known_year = parts.get("year") or parts.get("year2")
    return not (parts.get("weekday") and known_year) or _DAYS[day.weekday()] == parts["weekday"]


@register("date_format")
@dataclass(frozen=True, kw_only=True, slots=True)
class DateFormat(Check):
    """Every date of the reply is written in one way and exists; English month names."""

    format: str = "%d %B %Y"
    """strftime spelling of %d %-d %m %-m %B %b %Y %y %A; %d is "05", %-d is "5"."""

    def __post_init__(self) -> None:
        _date_pattern(self.format)

    def result(self, _row: Row, text: str) -> CheckResult:
        """0 when a date is spelt otherwise or is not in the calendar; no date passes."""
        wrong: list[str] = []

        def take(found: re.Match[str]) -> str:
            if not _exists(found):
                wrong.append(found[0])
            return "\x00"

        rest = _date_pattern(self.format).sub(take, text)
        wrong += [found[0] for found in _ANY_DATE.finditer(rest)]
        if not wrong:
            return PASSED
        example = _spelt(self.format)
        return CheckResult(0.0, f"The date {listed(wrong)} is not a date written as {example}.")

    def guideline(self) -> str:
        """The spelling, by example."""
        return f"Write every date as {_spelt(self.format)}."


def _spelt(spelling: str) -> str:
    """5 March 2024 in a spelling; without strftime, whose month names follow the locale and %-d the platform."""
    parts = {
        "%d": "05", "%-d": "5", "%m": "03", "%-m": "3", "%B": "March", "%b": "Mar", "%Y": "2024", "%y": "24",
        "%A": "Tuesday",
    }  # fmt: skip
    return re.sub(r"%-?[a-zA-Z]", lambda found: parts[found[0]], spelling)


_SYMBOLS = {"GBP": "\u00a3", "EUR": "\u20ac", "USD": "$", "JPY": "\u00a5", "INR": "\u20b9"}
_CODES = (*_SYMBOLS, "CHF", "CAD", "AUD", "NZD", "SEK", "NOK", "DKK", "PLN", "CNY")
_UNITS = r"(?:pounds?|euros?|dollars?|pence|cents?|francs?|yen|rupees?|quid|bucks?)"
_AMOUNT = r"\d(?:[\d.,'\u2019\u00a0\u202f]*\d)?"
_MARK = rf"(?:[{''.join(_SYMBOLS.values())}]|\b(?:{'|'.join(_CODES)})\b)"
_ANY_MONEY = re.compile(
    rf"{_MARK}\s?[-\u2212]?{_AMOUNT}(?:\s?{_MARK})?"
    rf"|(?<![\w.,]){_AMOUNT}\s?{_MARK}"
    rf"|(?<![\w.,]){_AMOUNT}[ -](?i:{_UNITS})\b"
)


@register("money_format")
@dataclass(frozen=True, kw_only=True, slots=True)
class MoneyFormat(Check):
    """Every amount of money in the reply is written in one way."""

    pattern: str = ""
    """Regular expression the whole amount must match, mark included."""
    currency: str = ""
    """Instead of a pattern: code of the currency, such as GBP."""
    style: Literal["symbol_first", "symbol_last", "code_first", "code_last"] = "symbol_first"
    """Where the symbol (no space first, a space last) or the code (with a space) stands."""
    decimals: int = 2
    """Digits after the point."""

    def __post_init__(self) -> None:
        if bool(self.pattern) == bool(self.currency):
            found = "both" if self.pattern else "neither"
            raise ConfigError(f"found {found} of pattern and currency; give exactly one, for example currency = 'GBP'.")
        check_pattern("pattern", self.pattern)
        if self.currency:
            known = _SYMBOLS if self.style.startswith("symbol") else _CODES
            if self.currency not in known:
                hint = nearest(self.currency, list(known))
                raise ConfigError(f"currency is {self.currency!r}; {hint} Give a pattern for any other.")
        if self.decimals < 0:
            raise ConfigError(f"decimals is {self.decimals}; expected 0 or more.")

    def result(self, row: Row, text: str) -> CheckResult:
        """0 when an amount is spelt otherwise or in another currency; no amount passes."""
        pattern = fill_pattern(self.pattern or self._spelling(), row)
        wrong = [found[0] for found in _ANY_MONEY.finditer(text) if not pattern.fullmatch(found[0])]
        if not wrong:
            return PASSED
        expected = self._example() or f"text that matches {self.pattern}"
        return CheckResult(0.0, f"The amount {listed(wrong)} is not written as {expected}.")

    def guideline(self) -> str:
        """The spelling, by example."""
        if self.pattern:
            return f"Write every amount of money so that it matches the pattern {plain(self.pattern)} ({{name}})."
        return f"Write every amount of money as {self._example()}."

    def _around(self, amount: str, symbol: str) -> str:
        """An amount with the mark where the style puts it."""
        return {
            "symbol_first": f"{symbol}{amount}",
            "symbol_last": f"{amount} {symbol}",
            "code_first": f"{self.currency} {amount}",
            "code_last": f"{amount} {self.currency}",
        }[self.style]

    def _spelling(self) -> str:
        """The pattern of the style; the comma between thousands may be left out."""
        part = rf"\.\d{{{self.decimals}}}" if self.decimals else ""
        amount = rf"-?(?:\d{{1,3}}(?:,\d{{3}})+|\d+){part}"
        return self._around(amount, re.escape(_SYMBOLS.get(self.currency, "")))

    def _example(self) -> str:
        """1234.5 in the style; empty with a pattern."""
        amount = f"{1234.5:,.{self.decimals}f}" if self.decimals else "1,234"
        return "" if self.pattern else self._around(amount, _SYMBOLS.get(self.currency, ""))
