"""Which files of a project grade its replies: those its `python` conventions name, and all they import from there.

    >>> [path.name for path in files_imported(project_dir, ["checks"])]  # doctest: +SKIP
    ['checks.py', 'wording.py']

Read, never run: a module that is imported by a name computed at run time is not found, nor is a data file.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path

__all__ = ["files_imported"]


def files_imported(project_dir: Path, modules: Iterable[str]) -> list[Path]:
    """The files of these modules and, in turn, of all they import, that lie in the project folder; sorted.

    A name is looked for from every folder between the project's and that of the file that imports it: which of them
    a convention puts on `sys.path` to reach its neighbours is not known without running it.
    """
    root = project_dir.resolve()
    left = [path for module in modules for path in _files_of(module, [root])]
    found: set[Path] = set()
    while left:
        path = left.pop()
        if path in found or not path.is_relative_to(root):
            continue
        found.add(path)
        folders = [folder for folder in path.parents if folder.is_relative_to(root)]
        left += [each for name in _imports(path) for each in _files_of(name, folders)]
    return sorted(found)


def _imports(path: Path) -> Iterator[str]:
    """Dotted names a file imports, inside functions too; nothing where it is not Python, which is told elsewhere."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            front = f"{node.module}." if node.module else ""
            yield from (front + alias.name for alias in node.names)


def _files_of(name: str, folders: Iterable[Path]) -> Iterator[Path]:
    """The module's file and those of the packages it lies in; of `a.b` also a.py, where b is one of its functions."""
    parts = list(takewhile(str.isidentifier, name.split(".")))  # not the * of `from a import *`
    for folder in folders:
        for count in range(1, len(parts) + 1):
            place = folder.joinpath(*parts[:count])
            yield from (path.resolve() for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file())
