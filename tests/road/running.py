"""One verb in this process, on one core: what it printed, and how it ended."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from metier.cli import main


class Ran(NamedTuple):
    """One finished command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        return json.loads(self.out)


@contextmanager
def one_core() -> Iterator[None]:
    """A process that sees one core: on a busy machine threads that wait for each other take 20 times as long."""
    import torch

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with patch.object(os, "sched_getaffinity", lambda _process: {0}):
            yield
    finally:
        torch.set_num_threads(num_threads)


def metier(*arguments: str | Path) -> Ran:
    """Run one command as the console script does."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Ran(code, out.getvalue(), err.getvalue())


def copy_of(project_dir: Path, target: Path) -> Path:
    """A project with its workspace, to be damaged."""
    return Path(shutil.copytree(project_dir, target))


def change(project_dir: Path, old: str, new: str) -> None:
    """Edit the project file; the text must stand there once."""
    path = project_dir / "metier.toml"
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in metier.toml"
    path.write_text(text.replace(old, new), encoding="utf-8")


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def events_of(project_dir: Path) -> list[str]:
    """Kinds of the ledger's events, oldest first."""
    from metier.ledger import Ledger

    with Ledger.open(project_dir) as ledger:
        return [event.kind for event in ledger.events()]
