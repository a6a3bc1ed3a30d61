"""`check = "python"`: a function of the project's own, read from the project folder only.

    [[convention]]
    name = "polite"
    check = "python"
    args = { function = "checks:polite" }        # checks.py beside metier.toml

    def polite(row, text):
        '''Say please or thank you.'''
        return 1.0 if "thank" in text.lower() else (0.0, "The reply does not say thank you.")

The function's existence is checked by reading the file; its code runs at the first reply that is scored,
with the rights of the user. It is not a sandbox.
"""

from __future__ import annotations

import ast
import importlib.util
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from pathlib import Path
from typing import Any, Self

from metier.conventions.registry import PASSED, Check, CheckResult, register
from metier.conventions.text import row_name
from metier.core.config import nearest
from metier.core.errors import ConfigError, DataError
from metier.core.hashing import file_sha256, sha256_hex
from metier.core.rows import Row

__all__ = ["PythonCheck", "PythonArgs"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PythonArgs(Check):
    """The args of `check = "python"`."""

    function: str
    """module:function, the module a file of the project folder: "checks:polite" is `polite` in checks.py."""


@register("python")
@dataclass(frozen=True, kw_only=True, slots=True)
class PythonCheck(Check):
    """A function of the project: (row, text) to a score in 0-1, or to (score, sentence)."""

    function: str
    """module:function."""
    path: Path
    """The file it is defined in."""
    sha256: str
    """Hash of the file when the check was built."""
    doc: str
    """First line of the function's docstring."""

    @classmethod
    def build(cls, args: Mapping[str, Any], where: str, project_dir: Path) -> Self:  # Any: TOML values
        """Find the function without running its file.

        Raises:
            ConfigError: not module:function, no such file in the project folder, not Python, no such function.
        """
        name = PythonArgs.from_mapping(args, where=where).function
        module, colon, function = name.partition(":")
        if not colon or not all(part.isidentifier() for part in [*module.split("."), function]):
            raise ConfigError(f"{where} function is {name!r}; expected module:function, for example checks:polite.")
        path = project_dir.joinpath(*module.split(".")).with_suffix(".py")
        if not path.is_file() or not path.resolve().is_relative_to(project_dir.resolve()):
            raise ConfigError(
                f"{where} function is {name!r}; {path} is not a file of the project folder. Write it there."
            )
        try:
            tree = ast.parse(path.read_bytes(), filename=str(path))
        except (SyntaxError, ValueError) as err:
            raise ConfigError(f"{where}: {path} is not Python: {err}.") from err
        defined = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        if function not in defined:
            hint = nearest(function, list(defined)) if defined else "it defines no functions."
            raise ConfigError(f"{where}: {path} defines no function {function!r}; {hint}")
        doc = (ast.get_docstring(defined[function]) or "").partition("\n")[0].strip()
        return cls(function=name, path=path, sha256=file_sha256(path), doc=doc)

    @property
    def binary(self) -> bool:
        """Not known before it ran, so no."""
        return False

    def result(self, row: Row, text: str) -> CheckResult:
        """The function's score.

        Raises:
            DataError: the file does not run, the function raised, or it returned no number in 0-1.
        """
        function = _loaded(self.path, self.sha256, self.function)
        try:
            returned = function(row, text)
        except Exception as err:  # the project's code: whatever it raises is told with its row, never scored
            line = _line_in(err, self.path)
            raise DataError(f"{self.function}{line} raised {type(err).__name__} for {row_name(row)}: {err}") from err
        score, why = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, "")
        value = float(score) if isinstance(score, Real) else math.nan
        if not 0 <= value <= 1:  # also true of NaN
            raise DataError(
                f"{self.function} returned {returned!r} for {row_name(row)}; expected a number from 0 to 1, or "
                "(number, sentence). Correct the function; no score was made up."
            )
        return (
            PASSED if value == 1 else CheckResult(value, str(why) or f"The function {self.function} gives {value:g}.")
        )

    def guideline(self) -> str:
        """The first line of the function's docstring."""
        return self.doc or "Obey the rule: {name}."


@lru_cache(maxsize=64)
def _loaded(path: Path, sha256: str, name: str) -> Callable[[Row, str], Any]:  # Any: what the function returns
    """The function, its file run once under a module name of its own.

    Raises:
        DataError: the file changed since the check was built, or running it raised.
    """
    if file_sha256(path) != sha256:
        raise DataError(
            f"{path} changed while {name} was in use; run again, so that all rows are scored by one version."
        )
    module_name = f"_metier_project_{sha256_hex(f'{path.resolve()}{sha256}'.encode())[:16]}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None  # a .py file always has a loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except Exception as err:  # the project's code: told, never scored
        del sys.modules[module_name]
        raise DataError(f"{path}{_line_in(err, path)} could not be run: {type(err).__name__}: {err}") from err
    return getattr(module, name.partition(":")[2])  # type: ignore[no-any-return]  # getattr: the name is from the file


def _line_in(err: BaseException, path: Path) -> str:
    """The deepest line of a file in an error's traceback, as ":12"."""
    lines, step = [], err.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == str(path):
            lines.append(step.tb_lineno)
        step = step.tb_next
    return f" (line {lines[-1]})" if lines else ""
