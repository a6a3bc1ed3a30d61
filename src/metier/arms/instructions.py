"""The instruction a prompted model gets: the project's guidelines in full, in at least three wordings.

A rival that is prompted badly is no rival. A project that gives fewer than three wordings gets the others
built from what it gave and from its conventions, none of them shorter than the guidelines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from metier.core.errors import ConfigError

__all__ = ["read_wordings", "short_instruction"]

MIN_WORDINGS = 3


def read_wordings(project_dir: Path, files: Sequence[str], rules: Sequence[str]) -> dict[str, str]:
    """Instruction text by the name of its wording; empty when there are neither guidelines nor conventions.

    `rules` are the conventions as sentences (`metier.conventions.describe`).

    Raises:
        ConfigError: a guidelines file is missing or empty.
    """
    wordings: dict[str, str] = {}
    for name in files:
        path = project_dir / name
        if not path.is_file() or not (text := path.read_text(encoding="utf-8").strip()):
            found = "is empty" if path.is_file() else "was not found"
            raise ConfigError(f"[project] guidelines: {path} {found}; name a text file with the rules of a good reply.")
        wordings[name] = text
    listed = "\n".join(f"{number}. {rule}" for number, rule in enumerate(rules, 1))
    first = next(iter(wordings.values()), "")
    if not first and not listed:
        return {}
    built = {
        "checklist": "\n\n".join(part for part in (first, f"Check every reply against this list:\n{listed}") if part),
        "rules first": "\n\n".join(part for part in (f"Rules of a reply:\n{listed}", first) if part),
        "closing request": "\n\n".join(
            part for part in (first or listed, "Write only the reply to the next message, and follow every rule above.")
        ),
    }
    if not listed:
        built = {
            "closing request": built["closing request"],
            "opening request": f"Follow these guidelines in the reply you write next.\n\n{first}",
        }
    for name, text in built.items():
        if len(wordings) >= MIN_WORDINGS:
            break
        wordings[name] = text
    return wordings


def short_instruction(wordings: Mapping[str, str]) -> str | None:
    """The first line of the first wording that says something: what a tuned model may keep of the guidelines."""
    for text in wordings.values():
        for line in text.splitlines():
            if stripped := line.strip().strip("#").strip():
                return stripped
    return None
