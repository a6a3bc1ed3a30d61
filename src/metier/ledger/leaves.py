"""How a record of a table is checked, compared and hashed: one form a table.

    >>> form_of(alias).leaf(("champion", "9c41..."))
    '5d1e...'

A leaf is SHA-256 of the canonical JSON of `[table, {column: value}]`. What is written once is hashed the same way for
ever: the golden ledger in the tests holds leaves of the first version. Only what both SQLite and PostgreSQL give back
as it was written is taken; the rest is refused before anything is written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from json.encoder import encode_basestring
from operator import itemgetter
from typing import Any

from sqlalchemy import Column, Float, Integer, Table

from metier.core.errors import DataError
from metier.core.hashing import canonical_json, sha256_hex

__all__ = ["MAX_KEY_BYTES", "RecordForm", "Values", "form_of"]

MAX_KEY_BYTES = 2_000
"""Longest key of a record, all its columns together; PostgreSQL indexes no value above 2,704 bytes."""
_INT_LIMIT = 2**63
_TEXTS = {str}

Values = tuple[Any, ...]  # Any: SQL values
"""A record as a tuple in the order of the table's columns, without `seq`."""


class RecordForm:
    """What is known of the records of one table."""

    def __init__(self, table: Table) -> None:
        self.name = table.name
        self.columns: tuple[Column[Any], ...] = tuple(column for column in table.columns if column.name != "seq")
        self.names = tuple(column.name for column in self.columns)
        self.num_keys = len(table.primary_key)
        self._known = frozenset((*self.names, "seq"))
        self._only_text = not any(isinstance(column.type, Float | Integer) for column in self.columns)
        self._get = itemgetter(*self.names)
        order = sorted(range(len(self.names)), key=self.names.__getitem__)
        self._sort = itemgetter(*order)
        members = ",".join(f'"{self.names[place]}":%s' for place in order)
        self._pattern = f'["{self.name}",{{{members}}}]'

    def key_of(self, values: Values) -> Values:
        """The part of a record that identifies it; the key's columns come first in every table."""
        return values[: self.num_keys]

    def name_of(self, values: Values) -> str:
        """How messages name a record: by its key."""
        return " ".join(str(value) for value in self.key_of(values))

    def leaf(self, values: Values) -> str:
        """Hash of a record, 64 hex digits; unset columns are left out.

        Unset columns are left out so that a column added by a later revision keeps the hashes of old records.
        """
        if set(map(type, values)) == _TEXTS:
            # The spelling of canonical_json, without sorting and asking again for every record.
            text = self._pattern % tuple(map(encode_basestring, self._sort(values)))
            return sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
        named = zip(self.columns, values, strict=True)
        told = {column.name: _plain(column, value) for column, value in named if value is not None}
        return sha256_hex(canonical_json([self.name, told]))

    def leaves(self, records: Sequence[Values]) -> list[str]:
        """The leaves of checked records, in their order."""
        if not self._only_text or any(column.nullable for column in self.columns):
            return [self.leaf(values) for values in records]
        pattern, sort = self._pattern, self._sort
        texts = (pattern % tuple(map(encode_basestring, sort(values))) for values in records)
        return [sha256(text.encode()).hexdigest() for text in texts]

    def checked(self, record: Mapping[str, Any], where: str) -> Values:  # Any: SQL values
        """The values of a record as the database will give them back; `where` begins the message.

        Raises:
            DataError: a column is unknown, or a value is not one that both databases keep.
        """
        try:
            values: Values = self._get(record)
            is_exact = len(record) == len(values)
        except KeyError:
            values, is_exact = tuple(record.get(name) for name in self.names), False
        if not is_exact and (strange := record.keys() - self._known):
            raise DataError(
                f"{where}: {self.name} has no column {sorted(strange)[0]!r}; known: {', '.join(self.names)}."
            )
        if self._only_text and set(map(type, values)) == _TEXTS:
            joined = "".join(values)
            if joined.isascii() and len(joined) <= MAX_KEY_BYTES and "\0" not in joined:
                return values
        return self._checked_one_by_one(values, where)

    def _checked_one_by_one(self, values: Values, where: str) -> Values:
        """The slow way: every column by itself, so that the message can name it."""
        kept = []
        for column, value in zip(self.columns, values, strict=True):
            try:
                kept.append(_kept(column, value))
            except ValueError as err:
                raise DataError(f"{where}: {self.name} {self.name_of(values)!a}: {column.name} {err}") from err
        key_bytes = sum(len(str(value).encode()) for value in self.key_of(tuple(kept)))
        if key_bytes > MAX_KEY_BYTES:
            named = " and ".join(self.names[: self.num_keys])
            raise DataError(
                f"{where}: {self.name}: its key ({named}) has {key_bytes} bytes; expected at most {MAX_KEY_BYTES}. "
                "Use a shorter name."
            )
        return tuple(kept)


@cache
def form_of(table: Table) -> RecordForm:
    """The form of a table's records, made once."""
    return RecordForm(table)


def _plain(column: Column[Any], value: Any) -> str | int | float:  # Any: SQL values
    """A value as it is hashed; what only an edit can have put there is hashed by its `repr`."""
    if isinstance(column.type, Float) and isinstance(value, int):
        value = float(value)  # SQL gives 1.0 back for a 1
    if isinstance(value, float):
        return value + 0.0 if math.isfinite(value) else repr(value)  # SQLite keeps no sign of a zero
    return value if isinstance(value, str | int) else repr(value)


def _kept(column: Column[Any], value: Any) -> str | int | float | None:  # Any: whatever a caller passes
    """A value as the database gives it back.

    Raises:
        ValueError: it would come back as something else; the text goes on from the column's name.
    """
    if value is None:
        if not column.nullable:
            raise ValueError("is not set; expected a value.")
        return None
    if isinstance(column.type, Float):
        return _kept_float(value)
    if isinstance(column.type, Integer):
        if not isinstance(value, int) or not -_INT_LIMIT <= value < _INT_LIMIT:
            raise ValueError(f"is {value!r}; expected a whole number of at most 64 bits.")
        return int(value)
    if not isinstance(value, str):
        raise ValueError(f"is {value!r}; expected text.")
    return _kept_text(str(value))


def _kept_float(value: Any) -> float:  # Any: whatever a caller passes
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"is {value!r}; expected a finite number.")
    return float(value) + 0.0  # SQLite keeps no sign of a zero


def _kept_text(text: str) -> str:
    if "\0" in text:
        raise ValueError(
            f"holds a NUL character at place {text.index(chr(0))}; PostgreSQL keeps none. Remove it from the text."
        )
    try:
        text.encode()
    except UnicodeEncodeError as err:
        raise ValueError(
            f"holds the character {text[err.start]!a} at place {err.start}, which is no Unicode text. Rename the file "
            "or mend the text."
        ) from err
    return text
