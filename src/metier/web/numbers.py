"""Numbers as a person reads them: shares, points, money, minutes, and how sure an interval is.

>>> money(0.00002, "USD")
'less than USD 0.0001'
"""

from __future__ import annotations

__all__ = ["confidence", "duration", "money", "number", "percent", "points", "signed_points"]

DASH = "\u2013"
MIN_MONEY = 0.0001
"""Amounts below are not told apart: their digits would be noise of a clock."""


def percent(value: float | None, digits: int = 1) -> str:
    """A 0-1 score as a person reads it; a missing one as a dash."""
    return DASH if value is None else f"{100 * value:.{digits}f} %"


def points(value: float) -> str:
    """A difference of 0-1 scores in points of 100, signed, without the unit."""
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "\u2212")


def signed_points(value: float) -> str:
    """A difference of 0-1 scores in points, with its sign."""
    return f"{points(value)} points"


def number(value: float | None, digits: int = 1) -> str:
    """A number with thousands separated; a small one keeps two digits that are not zero."""
    if value is None:
        return DASH
    shown = f"{value:,.{digits}f}"
    return f"{value:.2g}" if value and float(shown.replace(",", "")) == 0 else shown


def money(value: float | None, currency: str) -> str:
    """An amount with enough digits to be told from zero, or a bound where it is almost nothing."""
    if value is None:
        return DASH
    if 0 < abs(value) < MIN_MONEY:
        return f"less than {currency} {MIN_MONEY}"
    digits = 2 if value == 0 or abs(value) >= 0.1 else (4 if abs(value) >= 0.001 else 5)
    return f"{currency} {value:,.{digits}f}"


def duration(minutes: float | None) -> str:
    """Minutes as seconds, minutes or hours, whichever a person would say."""
    if minutes is None:
        return DASH
    if minutes < 1:
        seconds = 60 * minutes
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{minutes:,.1f} min" if minutes < 120 else f"{minutes / 60:,.1f} h"


def confidence(alpha: float) -> str:
    """How sure a one-sided bound at error rate `alpha` is."""
    return f"{100 * (1 - alpha):.1f}".removesuffix(".0") + " %"
