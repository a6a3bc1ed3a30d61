"""Times as people write them, read the same way every time or refused.

>>> parse_time("2026-03-01").isoformat()
'2026-03-01T00:00:00+00:00'
>>> parse_time("01/02/2026")
Traceback (most recent call last):
ValueError: '01/02/2026' may be 1 February or January 2; write 2026-02-01 or 2026-01-02
"""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

__all__ = ["parse_time"]

_MONTHS = ("%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%b %d %Y", "%B %d %Y", "%d-%b-%Y")
_CLOCK = r"(?:[ T](\d{1,2}):(\d{1,2})(?::(\d{1,2}))?)?$"
_YEAR_FIRST = re.compile(r"(\d{4})/(\d{1,2})/(\d{1,2})" + _CLOCK)
_DOTS = re.compile(r"(\d{1,2})\.(\d{1,2})\.(\d{4})" + _CLOCK)
_SLASHES = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4})" + _CLOCK)
_NUMBER = re.compile(r"-?\d{9,16}(\.\d+)?$")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_YEAR, LAST_YEAR = 1970, 2100
_NO_TIME = "is not a time; expected for example 2026-03-01 or 2026-03-01T10:30:00Z"


def parse_time(value: Any) -> datetime | None:  # Any: a JSON, CSV or Parquet value
    """The moment in UTC; None for an empty value; a time without a zone is taken as UTC.

    Accepts ISO 8601, year/month/day, day.month.year, names of months in English, mail dates, and seconds,
    milliseconds or microseconds since 1970.

    Raises:
        ValueError: no time, more than one reading, or outside 1970-2100.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, float) and math.isnan(value):
        return None
    try:
        found = _read(value)
        found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{_shown(value)} {_NO_TIME}") from None
    if not FIRST_YEAR <= found.year <= LAST_YEAR:
        raise ValueError(f"{value!r} lies in the year {found.year}; expected {FIRST_YEAR} to {LAST_YEAR}")
    return found


def _shown(value: Any) -> str:  # Any: a JSON, CSV or Parquet value
    """The value for a message; Python refuses to write out numbers of thousands of digits."""
    return "a number of more than 300 digits" if isinstance(value, int) and abs(value) >= 10**300 else repr(value)


def _read(value: Any) -> datetime:  # Any: a JSON, CSV or Parquet value
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _since_epoch(float(value), value)
    if not isinstance(value, str):
        raise ValueError(f"{value!r} {_NO_TIME}")
    text = value.strip()
    if _NUMBER.match(text):
        return _since_epoch(float(text), value)
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        pass  # not ISO: the other forms follow
    if match := _YEAR_FIRST.match(text):
        year, month, day, *clock = _numbers(match)
        return _moment(value, (year, month, day), clock)
    if match := _DOTS.match(text):
        day, month, year, *clock = _numbers(match)
        return _moment(value, (year, month, day), clock)
    if match := _SLASHES.match(text):
        first, second, year, *clock = _numbers(match)
        return _slashes(value, first, second, year, clock)
    for form in _MONTHS:
        try:
            return datetime.strptime(text, form)
        except ValueError:
            continue
    try:
        return parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, AttributeError, OverflowError):
        raise ValueError(f"{value!r} {_NO_TIME}") from None


def _numbers(match: re.Match[str]) -> list[int]:
    return [int(part) if part else 0 for part in match.groups()]


def _moment(value: Any, day: tuple[int, int, int], clock: list[int]) -> datetime:  # Any: for the message
    hour, minute, second = clock
    try:
        return datetime(*day, hour, minute, second)
    except ValueError:
        raise ValueError(f"{value!r} {_NO_TIME}") from None


def _slashes(value: Any, first: int, second: int, year: int, clock: list[int]) -> datetime:  # Any: for the message
    """day/month/year or month/day/year, refused where both are possible and differ."""
    if max(first, second) > 12 or first == second:
        day, month = (first, second) if second <= 12 else (second, first)
        return _moment(value, (year, month, day), clock)
    day_first = _moment(value, (year, second, first), clock)
    month_first = _moment(value, (year, first, second), clock)
    raise ValueError(
        f"{value!r} may be {first} {day_first:%B} or {month_first:%B} {second}; "
        f"write {day_first.date()} or {month_first.date()}"
    )


def _since_epoch(number: float, value: Any) -> datetime:  # Any: the value as it stood, for the message
    """Seconds, milliseconds or microseconds since 1970, told apart by their size; below 1e8 it is no time."""
    size = abs(number)
    if not math.isfinite(number) or size < 1e8 or size >= 1e16:
        raise ValueError(f"{value!r} is not a time; expected seconds or milliseconds since 1970, or 2026-03-01")
    seconds = number if size < 1e11 else number / 1e3 if size < 1e14 else number / 1e6
    return _EPOCH + timedelta(seconds=seconds)
