"""House style limits that no linter knows: sizes, parameters, reasons beside escape hatches, ASCII, overdue TODOs.

Run: python checks/style.py  (prints every breach, exits 1 when there is one)
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "metier"

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_MAIN_LINES = 100
MAX_PARAMETERS = 8
MAX_CONFIG_FIELDS = 25
MAX_INIT_LINES = 20
FORBIDDEN_NAMES = {"utils", "helpers", "misc"}
TODO_FORM = re.compile(r"#\s*TODO\((?P<owner>[\w-]+), by (?P<year>\d{4})-(?P<month>\d{2})\): \S")


def python_files() -> list[Path]:
    """Every tracked or new Python file of the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return sorted(path for name in set(listed.stdout.split()) if (path := ROOT / name).exists())


def breaches_of_text(path: Path, text: str) -> list[str]:
    """File length, ASCII, names of files, TODOs."""
    found = []
    lines = text.splitlines()
    if len(lines) > MAX_FILE_LINES:
        found.append(f"{path}:1: {len(lines)} lines; at most {MAX_FILE_LINES}.")
    if FORBIDDEN_NAMES & {part.removesuffix(".py") for part in path.parts}:
        found.append(f"{path}:1: utils, helpers and misc are no names; say what it is.")
    for number, line in enumerate(lines, 1):
        comment = line.partition("#")[2] if "#" in line else ""
        if path.parts[0] == "src" and not line.isascii():
            found.append(f"{path}:{number}: a character outside ASCII; write it as an escape.")
        if re.search(r"\bTODO\b", comment) and "checks" not in path.parts:
            match = TODO_FORM.search(line)
            if not match:
                found.append(f"{path}:{number}: TODO without owner and month; write TODO(owner, by 2027-01): why.")
            elif (int(match["year"]), int(match["month"])) < (date.today().year, date.today().month):
                found.append(f"{path}:{number}: overdue TODO.")
        if re.search(r"#\s*(type: ignore|noqa)", line) and line.count("#") < 2:
            found.append(f"{path}:{number}: an ignore without a reason; add a second comment that says why.")
    return found


def breaches_of_tree(path: Path, text: str) -> list[str]:
    """Function length, parameters, fields, __init__ length, reasons beside Any, getattr and hasattr."""
    found = []
    lines = text.splitlines()
    strict = path.parts[0] == "src"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found += _breaches_of_function(path, node)
            if strict and _uses_any(node) and not _has_reason(lines, node, "Any"):
                found.append(f"{path}:{node.lineno}: {node.name} uses Any in its signature without '# Any: why'.")
        elif isinstance(node, ast.ClassDef) and strict:
            fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
            if node.name.endswith("Config") and len(fields) > MAX_CONFIG_FIELDS:
                found.append(
                    f"{path}:{node.lineno}: {node.name} has {len(fields)} fields; at most {MAX_CONFIG_FIELDS}."
                )
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and strict:
            name = node.func.id
            if name in ("getattr", "hasattr", "setattr") and not _has_reason(lines, node, name):
                found.append(f"{path}:{node.lineno}: {name} without a comment '# {name}: why' on or above its line.")
    return found


def _breaches_of_function(path: Path, node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    found = []
    length = (node.end_lineno or node.lineno) - node.lineno + 1
    limit = MAX_MAIN_LINES if node.name == "main" else MAX_FUNCTION_LINES
    if node.name == "__init__":
        limit = MAX_INIT_LINES
    if length > limit:
        found.append(f"{path}:{node.lineno}: {node.name} has {length} lines; at most {limit}.")
    arguments = node.args
    count = len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs)
    first = (arguments.posonlyargs + arguments.args)[:1]
    count -= bool(first and first[0].arg in ("self", "cls"))
    # A command's parameters are its flags: they are frozen and counted in checks/surface.toml.
    if count > MAX_PARAMETERS and path.name != "cli.py":
        found.append(f"{path}:{node.lineno}: {node.name} has {count} parameters; at most {MAX_PARAMETERS}.")
    return found


def _uses_any(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    arguments = node.args
    annotated = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    hints = [item.annotation for item in annotated if item is not None and item.annotation is not None]
    plain = [hint for hint in [*hints, node.returns] if isinstance(hint, ast.Name) and hint.id == "Any"]
    return bool(plain)


def _has_reason(lines: list[str], node: ast.AST, word: str) -> bool:
    first = max(0, node.lineno - 2)
    last = node.body[0].lineno if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else node.end_lineno
    return any(f"# {word}:" in line or f"{word}: " in line.partition("#")[2] for line in lines[first:last])


def main() -> int:
    """Print every breach; 1 when there is one."""
    found = []
    for path in python_files():
        shown = path.relative_to(ROOT)
        text = path.read_text(encoding="utf-8")
        found += breaches_of_text(shown, text) + breaches_of_tree(shown, text)
    for breach in found:
        print(breach)
    print(f"style: {len(found)} breaches in {len(python_files())} files")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
