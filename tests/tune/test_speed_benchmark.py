"""The speed benchmark's quick form: it measures both sides on the same rows and prints one object."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_quick_benchmark_prints_one_object_and_both_sides_agree() -> None:
    pytest.importorskip("trl")
    command = [sys.executable, "benchmarks/tune_speed.py", "--quick", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    found = found["made up"]
    assert {
        "ratio_vs_trl_nockpt",
        "ratio_vs_trl_best",
        "memory_ratio_vs_trl_nockpt",
    } <= found.keys()
    assert 0 < found["roofline_share"][0] < 1
    assert found["fp32_loss_error"] < 1e-5
    assert found["fp32_grad_error"] < 1e-4
    assert found["bf16_error_ratio"] < 1.2
    assert len(found["dev_loss_ratio"]) == 1
    assert abs(found["dev_loss_ratio"][0] - 1) < 0.01
    assert found["trl_best"]["name"] == "trl_best"
    assert all(entry["tokens_per_s"] > 0 for entry in found["trl_tried"]), found["trl_tried"]
