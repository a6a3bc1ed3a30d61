"""A process that has torch loaded and answers every question in a fork of its own: three seconds once, not for each.

Peak memory is that of the fork. It is filled with the code the process has read, which a fork otherwise reads again as
it goes: its start would seem smaller than that of a process of its own, and what it takes later larger.

Run: python -m tests.tune.forked_runs  (a JSON line {"part", "base_dir", "draw"} each; answers with one)
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import numpy as np

from metier.engine.load import sha256_of
from metier.engine.reference import check_compact
from metier.engine.weight_files import weight_paths
from tests.tune.drawn_runs import predict, random_base, run

ROOT = Path(__file__).resolve().parents[2]
MADV_POPULATE_READ = 22
"""Of Linux; `mmap` does not name it."""


class ForkedRuns:
    """The process, as its client sees it."""

    def __init__(self, cache_dir: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.tune.forked_runs"],
            cwd=ROOT,
            env={**os.environ, "METIER_CACHE": str(cache_dir)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    def ask(self, part: str, *, base_dir: Path, draw: Mapping[str, Any] | None = None) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"part": part, "base_dir": str(base_dir), "draw": draw}) + "\n")
        self.process.stdin.flush()
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        assert "error" not in found, found["error"]
        return found


def answer(part: str, base_dir: Path, draw: Mapping[str, Any]) -> dict[str, Any]:
    """One part of one draw."""
    if part == "prepare":  # and compare it with transformers' own, so that no run does
        random_base(base_dir, name=base_dir.name)
        check_compact(base_dir, base_sha256=sha256_of(weight_paths(base_dir)))
        return {}
    with tempfile.TemporaryDirectory() as work:
        return {"predict": predict, "run": run}[part](draw, base_dir, Path(work))


def code_in_memory() -> list[tuple[int, int]]:
    """(address, bytes) of what this process has in memory of the files it maps."""
    page = os.sysconf("SC_PAGE_SIZE")
    found: list[tuple[int, int]] = []
    with Path("/proc/self/pagemap").open("rb") as pagemap:
        for line in Path("/proc/self/maps").read_text(encoding="ascii").splitlines():
            where, *_, name = line.split(maxsplit=5)
            if not name.startswith("/"):
                continue
            start, stop = (int(end, 16) // page for end in where.split("-"))
            pagemap.seek(8 * start)
            pages = np.frombuffer(pagemap.read(8 * (stop - start)), dtype=np.uint64) >> np.uint64(63)
            edges = np.flatnonzero(np.diff(pages.astype(np.int8), prepend=0, append=0)).tolist()
            found += [((start + a) * page, (b - a) * page) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return found


def in_a_fork(line: str, code: list[tuple[int, int]]) -> str:
    """The answer to one line, written by a child."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        madvise = ctypes.CDLL(None).madvise
        for address, size in code:
            madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), MADV_POPULATE_READ)
        given = json.loads(line)
        try:
            found = answer(given["part"], Path(given["base_dir"]), given["draw"])
        except Exception:  # noqa: BLE001  # told to the client, whose test fails by it
            found = {"error": traceback.format_exc()[-2000:]}
        with os.fdopen(write, "w") as pipe:
            pipe.write(json.dumps(found))
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        found_text = pipe.read()
    os.waitpid(child, 0)
    return found_text or json.dumps({"error": "the process ended without an answer"})


def main() -> None:
    for name in ("transformers", "torch._dynamo"):  # what every run comes to import; starts no thread
        import_module(name)
    code = code_in_memory()
    for line in sys.stdin:
        print(in_a_fork(line, code), flush=True)


if __name__ == "__main__":
    main()
