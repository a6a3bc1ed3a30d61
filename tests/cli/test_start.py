"""What the command line loads, and how long it takes to say what it can do."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time

import pytest

HEAVY = ("torch", "polars", "transformers", "sklearn", "scipy", "sqlalchemy", "peft")


def modules_after(code: str) -> set[str]:
    told = f"{code}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("code", ["import metier", "import metier.cli", "from metier import Project"])
def test_importing_loads_nothing_heavy(code: str) -> None:
    loaded = modules_after(code)
    assert "metier" in loaded
    assert [name for name in HEAVY if name in loaded] == []


def test_the_rooms_a_light_verb_needs_load_neither_torch_nor_polars() -> None:
    loaded = modules_after("from metier.project import Project, init_project, doctor; import metier.core.project_file")
    assert not {"torch", "polars"} & loaded


def test_help_is_there_within_300_ms() -> None:
    walls, works = [], []
    for _ in range(9):
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "metier.cli", "--help"], capture_output=True, text=True, check=True
        )
        walls.append(time.perf_counter() - started)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        works.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert "Go the whole road" in done.stdout
    # The wait for a core on a busy machine is not ours, nor are two threads' ticks a wait: one of the two must fit.
    assert min(statistics.median(walls), statistics.median(works)) < 0.3, (walls, works)
