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

_FORMS = (
    "%Y/%m/%d", "%Y/%m/%d %H:%M", "%Y/%m/%d %H:%M:%S", "%d.%m.%Y", "%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S", "%d %b %Y",
    "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%b %d %Y", "%B %d %Y", "%d-%b-%Y",
)  # fmt: skip
_SLASHES = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4})(?:[ T](\d{1,2}):(\d{2})(?::(\d{2}))?)?$")
_NUMBER = re.compile(r"-?\d{9,16}(\.\d+)?$")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_YEAR, LAST_YEAR = 1970, 2100


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
    found = _read(value)
    found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    if not FIRST_YEAR <= found.year <= LAST_YEAR:
        raise ValueError(f"{value!r} lies in the year {found.year}; expected {FIRST_YEAR} to {LAST_YEAR}")
    return found


def _read(value: Any) -> datetime:  # Any: a JSON, CSV or Parquet value
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _since_epoch(float(value), value)
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a time; expected for example 2026-03-01 or 2026-03-01T10:30:00Z")
    text = value.strip()
    if _NUMBER.match(text):
        return _since_epoch(float(text), value)
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        pass  # not ISO: the other forms follow
    if match := _SLASHES.match(text):
        return _slashes(text, [int(part) if part else 0 for part in match.groups()])
    for form in _FORMS:
        try:
            return datetime.strptime(text, form)
        except ValueError:
            continue
    try:
        return parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError):
        raise ValueError(f"{value!r} is not a time; expected for example 2026-03-01 or 2026-03-01T10:30:00Z") from None


def _slashes(text: str, part: list[int]) -> datetime:
    """day/month/year or month/day/year, refused where both are possible and differ."""
    first, second, year, hour, minute, second_of_minute = part
    if max(first, second) <= 12 and first != second:
        day_first, month_first = date(year, second, first), date(year, first, second)
        raise ValueError(
            f"{text!r} may be {first} {day_first:%B} or {month_first:%B} {second}; write {day_first} or {month_first}"
        )
    day, month = (first, second) if second <= 12 else (second, first)
    return datetime(year, month, day, hour, minute, second_of_minute)


def _since_epoch(number: float, value: Any) -> datetime:  # Any: the value as it stood, for the message
    """Seconds, milliseconds or microseconds since 1970, told apart by their size; below 1e8 it is no time."""
    size = abs(number)
    if not math.isfinite(number) or size < 1e8 or size >= 1e16:
        raise ValueError(f"{value!r} is not a time; expected seconds or milliseconds since 1970, or 2026-03-01")
    seconds = number if size < 1e11 else number / 1e3 if size < 1e14 else number / 1e6
    return _EPOCH + timedelta(seconds=seconds)
