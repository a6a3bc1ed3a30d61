"""Optional dependencies: imported where they are used, or named with the extra that brings them."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from metier.core.errors import MissingExtra

__all__ = ["require"]


def require(module: str, *, extra: str, why: str) -> ModuleType:
    """Import an optional dependency, or say which extra brings it.

    Raises:
        MissingExtra: the module's own package is absent. A package that is there but broken
            inside raises its own error: that is not ours to hide.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as err:
        if err.name != module.partition(".")[0]:
            raise
        raise MissingExtra(f"{why} needs {module!r}: pip install 'metier[{extra}]'") from err
