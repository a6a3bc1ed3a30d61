"""JSON values as the frozen dataclasses they were written from: the one reader behind every file with a fixed shape.

    built(Part, {"name": "train", "num": 600}, "data_facts.json")

It refuses what the type does not allow and says where it stands; it computes no defaults beyond the dataclass's own.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from metier.core.errors import DataError

__all__ = ["built"]

_PLAIN: dict[Any, tuple[tuple[type, ...], str]] = {  # Any: a type annotation is no type to a checker
    str: ((str,), "a text"),
    int: ((int,), "a whole number"),
    float: ((float, int), "a number"),
    bool: ((bool,), "true or false"),
}


def built(hint: Any, value: Any, where: str) -> Any:  # Any: a type annotation and a JSON value
    """The JSON value as the annotated type; lists become tuples.

    Raises:
        DataError: an unknown or a missing field, or a value of another type.
    """
    origin = get_origin(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        members = [member for member in get_args(hint) if member is not type(None)]
        return None if value is None else built(members[0], value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _wrong(where, value, "a list")
        return tuple(built(get_args(hint)[0], item, f"{where}[{place}]") for place, item in enumerate(value))
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise _wrong(where, value, "an object")
        return {key: built(get_args(hint)[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin is Literal:
        return _one_of(get_args(hint), value, where)
    if isinstance(hint, type) and is_dataclass(hint):
        return _object(hint, value, where)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return hint(_one_of(tuple(hint), value, where))
    kinds, expected = _PLAIN[hint]
    # A bool is an int to Python, but never a count.
    if not isinstance(value, kinds) or (isinstance(value, bool) and hint is not bool):
        raise _wrong(where, value, expected)
    return value


def _object(hint: type, value: Any, where: str) -> Any:  # Any: a JSON value, and the dataclass made of it
    if not isinstance(value, Mapping):
        raise _wrong(where, value, "an object")
    hints = get_type_hints(hint)
    names = {item.name for item in fields(hint)}
    if unknown := sorted(set(value) - names):
        raise DataError(f"{where}: unknown field {unknown[0]!r}; the file was not written by this version.")
    try:
        return hint(**{name: built(hints[name], item, f"{where}.{name}") for name, item in value.items()})
    except TypeError as err:
        raise DataError(f"{where}: {err}; the file was not written by this version.") from err


def _one_of(known: tuple[Any, ...], value: Any, where: str) -> Any:  # Any: a JSON value
    if value not in known:
        raise _wrong(where, value, f"one of {', '.join(map(str, known))}")
    return value


def _wrong(where: str, value: Any, expected: str) -> DataError:  # Any: a JSON value
    """The value is named by its type: its text may be a person's."""
    found = "null" if value is None else type(value).__name__
    return DataError(f"{where} is {found}; expected {expected}. The file was not written by this version.")
