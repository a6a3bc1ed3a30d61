"""Who can open the sealed hold-out: one module to score it, one to verify it. What chooses never gets its rows."""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "metier"
OPENERS = {
    "open_look": {"road/look.py"},
    "seal_key": {"road/verify.py"},
}
CHOOSING = ("arms", "tune")
"""Rooms that choose: a prompt, a shot set, k, a checkpoint, a setting."""


def names_in(path: Path) -> set[str]:
    """Every name and attribute a module uses, and every argument it takes."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.arg | ast.keyword) and node.arg:
            found.add(node.arg)
    return found


def test_one_module_scores_the_hold_out_and_one_verifies_it() -> None:
    modules = [path for path in SOURCE.rglob("*.py") if path.relative_to(SOURCE).parts[0] != "ledger"]
    used = {path.relative_to(SOURCE).as_posix(): names_in(path) for path in modules}
    for name, allowed in OPENERS.items():
        assert {module for module, names in used.items() if name in names} == allowed, name


def test_what_chooses_knows_of_no_hold_out() -> None:
    for room in CHOOSING:
        for path in (SOURCE / room).glob("*.py"):
            assert not {name for name in names_in(path) if "holdout" in name}, path
