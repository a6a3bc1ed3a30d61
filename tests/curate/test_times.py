"""Times as people write them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest

from metier.curate.times import parse_time

MARCH = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-03-01", MARCH),
        ("2026-03-01T00:00:00Z", MARCH),
        ("2026-03-01 02:00:00+02:00", MARCH),
        ("20260301", MARCH),
        ("2026/03/01", MARCH),
        ("01.03.2026", MARCH),
        ("1.3.2026 00:00", MARCH),
        ("2026/3/1 00:00:00", MARCH),
        ("1 Mar 2026", MARCH),
        ("March 1, 2026", MARCH),
        ("Sun, 01 Mar 2026 00:00:00 +0000", MARCH),
        ("03/31/2026", MARCH + timedelta(days=30)),
        ("31/03/2026 10:30", MARCH + timedelta(days=30, hours=10, minutes=30)),
        ("02/02/2026", MARCH - timedelta(days=27)),
        (1772323200, MARCH),
        (1772323200000, MARCH),
        ("1772323200", MARCH),
        (1772323200000000, MARCH),
        (datetime(2026, 3, 1, 2, tzinfo=timezone(timedelta(hours=2))), MARCH),
        (date(2026, 3, 1), MARCH),
        ("", None),
        (None, None),
        (float("nan"), None),
    ],
)
def test_time_is_read_in_utc(value: Any, expected: datetime | None) -> None:
    assert parse_time(value) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("01/02/2026", "'01/02/2026' may be 1 February or January 2; write 2026-02-01 or 2026-01-02"),
        ("yesterday", "'yesterday' is not a time; expected for example 2026-03-01"),
        ("2026-13-01", "is not a time"),
        (17, "17 is not a time; expected seconds or milliseconds since 1970"),
        (float("inf"), "is not a time"),
        (True, "True is not a time"),
        ("31.02.2026", "'31.02.2026' is not a time; expected for example 2026-03-01"),
        ("2026/13/01", "'2026/13/01' is not a time"),
        ("00/00/0000", "'00/00/0000' is not a time"),
        (10**400, "a number of more than 300 digits is not a time"),
        ("0001-01-01T00:00:00+05:00", "is not a time"),
        ("1066-10-14", "lies in the year 1066; expected 1970 to 2100"),
        ([2026], "is not a time"),
    ],
)
def test_what_is_no_time_is_refused(value: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_time(value)
    assert message in str(caught.value)
