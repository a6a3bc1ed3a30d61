"""The trunk benchmark's quick form: three sides on the same rows, and whole runs beside each other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("part", ["speed", "quality"])
def test_the_quick_benchmark_prints_one_object(part: str) -> None:
    command = [sys.executable, "benchmarks/trunk_cache.py", "--quick", "--json"]
    command += ["--quality"] if part == "quality" else []
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    if part == "speed":
        assert (found["num_layers"], found["k"], found["num_rows"]) == (4, 1, 32)
        assert 0 < found["trunk_bytes"] < found["num_tokens"] * 64 * 2 * 2
        assert found["all_layers_over_stored"]["median"] > 1, "one layer of four is less work than four"
    else:
        (run,) = found["made up"]["runs"]
        assert run["top_k"]["passes"] == run["all_layers"]["passes"] == 1
        assert all(0 < side["dev_loss_nats"] < 20 for side in run.values())
