"""Every error metier raises on purpose.

The tree, with the exit code of the command line::

    MetierError (1)
    |- ConfigError      (2, ValueError)    a setting is unknown, missing or out of range
    |- DataError        (1, ValueError)    a row, a split or a sample breaks its contract
    |- ModelError       (1, RuntimeError)  a base model, adapter or template breaks an invariant
    |- StoreError       (1, RuntimeError)  a file, ledger or lock of the project is not as it must be
    |- MissingExtra     (1, ImportError)   an optional dependency is not installed
    `- GateClosed       (3)                a check ran properly and its answer is no

A message says where, what was found, what was expected and what to do.
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "DataError",
    "GateClosed",
    "MetierError",
    "MissingExtra",
    "ModelError",
    "StoreError",
    "counted",
]


def counted(num: int, noun: str) -> str:
    """A number with its noun, for a message: "1 group", "3 groups"."""
    return f"{num} {noun}" if num == 1 else f"{num} {noun}s"


class MetierError(Exception):
    """Base of every error this project raises on purpose; shown without a traceback."""

    exit_code = 1


class ConfigError(MetierError, ValueError):
    """A setting is unknown, missing or out of range. Nothing has run yet."""

    exit_code = 2


class DataError(MetierError, ValueError):
    """A row, a split or a sample breaks its contract."""


class ModelError(MetierError, RuntimeError):
    """A base model, an adapter or a template breaks an invariant; nothing was trained or scored with it."""


class StoreError(MetierError, RuntimeError):
    """A file, the ledger or a lock of the project is not as it must be; the last good state is intact."""


class MissingExtra(MetierError, ImportError):
    """An optional dependency is not installed."""


class GateClosed(MetierError):
    """A check ran properly and its answer is no."""

    exit_code = 3
