"""Runs that die by SIGKILL, each in a process of its own, forked from a server that has the packages loaded."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.road.running import metier, one_core

PRELOADED = [
    "torch._dynamo", "torch.profiler", "transformers.modeling_utils", "transformers.generation", "tokenizers",
    "transformers.tokenization_utils_tokenizers", "transformers.models.auto.tokenization_auto", "polars", "scipy.stats",
    "sklearn.linear_model", "sklearn.feature_extraction.text", "alembic.command", "metier.road", "metier.curate",
    "metier.engine", "metier.ledger.ledger", "metier.ledger.looks", "metier.ledger.seal", "metier.tune.running",
    "metier.assess", "metier.models.resolve", "metier.models.tiny", "metier.render.renderer", "metier.web",
    "metier.project", "cryptography.hazmat.primitives.ciphers.aead", "tests.road.killing",
]  # fmt: skip


def forks() -> Any:
    """A context whose processes start in milliseconds; nothing of it has run before, so nothing is inherited."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def die() -> None:
    """The end nobody can catch."""
    os.kill(os.getpid(), signal.SIGKILL)


def run_until(project_dir: Path, cache_dir: Path, module: str, name: str, call: int, *, within: bool) -> None:
    """Run, and die at the n-th call of a function: before it, or inside it after its first write."""
    os.environ["METIER_CACHE"] = str(cache_dir)
    owner = import_module(module)
    for part in name.split(".")[:-1]:
        owner = getattr(owner, part)
    real, calls = getattr(owner, name.split(".")[-1]), []

    def deadly(*arguments: Any, **named: Any) -> Any:
        calls.append(name)
        if len(calls) == call:
            if not within:
                die()
            _die_in_the_next_write()
        return real(*arguments, **named)

    setattr(owner, name.split(".")[-1], deadly)
    with one_core():
        metier("run", "-C", project_dir)


def _die_in_the_next_write() -> None:
    """The bytes are on the disk under their temporary name, the rename has not happened."""
    os.fsync = lambda _file: die()  # type: ignore[assignment]  # what is patched is looked up by name


def run_for(project_dir: Path, cache_dir: Path, seconds: float) -> None:
    """Run, and die after so many seconds, wherever that is."""
    os.environ["METIER_CACHE"] = str(cache_dir)

    def killer() -> None:
        time.sleep(seconds)
        die()

    threading.Thread(target=killer, daemon=True).start()
    with one_core():
        metier("run", "-C", project_dir)


def killed(target: Callable[..., None], *arguments: Any, **named: Any) -> bool:
    """Whether the process was killed; False when it finished before."""
    process = forks().Process(target=target, args=arguments, kwargs=named)
    process.start()
    process.join(timeout=240)
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return process.exitcode != 0
