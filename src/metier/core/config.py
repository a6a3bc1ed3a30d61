"""Settings as frozen dataclasses, built from TOML tables, with the docstring under each field as its only text.

>>> @dataclass(frozen=True, kw_only=True, slots=True)
... class CleanConfig(Settings):
...     near_dup: float = 0.85
...     '''Jaccard similarity of word shingles from which two rows are near-duplicates.'''
>>> CleanConfig.from_mapping({"near_dupe": 0.9}, where="metier.toml [clean]")
Traceback (most recent call last):
metier.core.errors.ConfigError: metier.toml [clean]: unknown setting 'near_dupe'; did you mean 'near_dup'?
"""

from __future__ import annotations

import ast
import inspect
import math
import textwrap
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from datetime import date
from difflib import get_close_matches
from enum import StrEnum
from itertools import pairwise
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from metier.core.errors import ConfigError

__all__ = ["Settings", "field_docs", "nearest"]


def nearest(name: str, known: list[str]) -> str:
    """The end of an error sentence about an unknown name: the nearest known one, or all of them."""
    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}."


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Base of every settings object: built by keyword, checked when built, never changed."""

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, where: str) -> Self:  # Any: TOML values
        """Build from a TOML table.

        Raises:
            ConfigError: an unknown key (with the nearest known one), a missing key, a value of the wrong type.
        """
        hints = get_type_hints(cls)
        known = [f.name for f in fields(cls)]
        for key in values:
            if key not in known:
                raise ConfigError(f"{where}: unknown setting {key!r}; {nearest(str(key), known)}")
        for f in fields(cls):
            required = f.default is MISSING and f.default_factory is MISSING
            if required and f.name not in values:
                raise ConfigError(f"{where}: {f.name!r} is missing; add it ({field_docs(cls)[f.name]})")
        checked = {key: _fit(value, hints[key], where=f"{where} {key}") for key, value in values.items()}
        try:
            return cls(**checked)
        except ConfigError as err:
            raise ConfigError(f"{where}: {err}") from err


def _fit(value: Any, hint: Any, *, where: str) -> Any:  # Any: a TOML value and its type annotation
    """The value as the annotated type (lists become tuples, whole numbers become floats), or an error."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _fit_union(value, hint, where=where)
    if origin is Literal:
        if value not in get_args(hint):
            known = [str(choice) for choice in get_args(hint)]
            raise ConfigError(f"{where} is {value!r}; {nearest(str(value), known)}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where} is {value!r}; expected a list.")
        return tuple(_fit(item, get_args(hint)[0], where=where) for item in value)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} is {value!r}; expected a table.")
        return {str(key): _fit(item, get_args(hint)[1], where=f"{where}.{key}") for key, item in value.items()}
    return _fit_plain(value, hint, where=where)


def _fit_union(value: Any, hint: Any, *, where: str) -> Any:  # Any: a TOML value and its type annotation
    """The value as the first member of the union that takes it; the last refusal is the error."""
    error = ConfigError(f"{where} is {value!r}; no type takes it.")
    for member in get_args(hint):
        if member is type(None):
            if value is None:
                return None
            continue
        try:
            return _fit(value, member, where=where)
        except ConfigError as err:
            error = err
    raise error


def _fit_plain(value: Any, hint: Any, *, where: str) -> Any:  # Any: a TOML value and its type annotation
    """The value as a plain class, an enum or a nested `Settings`."""
    if hint is Any:
        return _json_value(value, where=where)
    if isinstance(hint, type) and issubclass(hint, Settings):
        if isinstance(value, hint):
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} is {value!r}; expected a table.")
        return hint.from_mapping(value, where=where)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        known = [str(member) for member in hint]
        if value not in known:
            raise ConfigError(f"{where} is {value!r}; {nearest(str(value), known)}")
        return hint(value)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return _finite(value, where=where)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        quotes = " Put it in quotes." if isinstance(value, date) and hint is str else ""
        raise ConfigError(f"{where} is {value!r}, a {type(value).__name__}; expected {hint.__name__}.{quotes}")
    return value


def _finite(value: float, *, where: str) -> float:
    """The number as a float; nan, inf and what a float cannot hold are refused, as no bound sees them reliably."""
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ConfigError(f"{where} is {number}; expected a finite number.")
    return number


def _json_value(value: Any, *, where: str) -> Any:  # Any: a TOML value that some check will look at
    """The value, if JSON can hold it: settings are hashed as JSON, which knows neither dates nor nan."""
    if isinstance(value, Mapping):
        return {str(key): _json_value(item, where=f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item, where=where) for item in value]
    if isinstance(value, float):
        return _finite(value, where=where)
    if value is not None and not isinstance(value, str | int):
        raise ConfigError(f"{where} is {value}, a {type(value).__name__}; expected text. Put it in quotes.")
    return value


def field_docs(cls: type) -> dict[str, str]:
    """The docstring under each field of a settings class, whitespace folded: the text of help pages and errors."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    docs = {}
    for node, following in pairwise(body):
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            docs[node.target.id] = " ".join(str(following.value.value).split())
    return docs
