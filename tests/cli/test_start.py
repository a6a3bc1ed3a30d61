"""What the command line loads, and how long it takes to say what it can do."""

from __future__ import annotations

import json
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
    times = []
    for _ in range(9):
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "metier.cli", "--help"], capture_output=True, text=True, check=True
        )
        times.append(time.perf_counter() - started)
    assert "Go the whole road" in done.stdout
    assert statistics.median(times) < 0.3, [round(seconds, 3) for seconds in times]
