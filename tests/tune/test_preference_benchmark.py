"""The preference benchmark's quick form: three adapters on one split, every convention compared in pairs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_quick_benchmark_prints_one_object_with_paired_intervals() -> None:
    command = [sys.executable, "benchmarks/preference.py", "--quick", "--json", "--seed", "5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["mined"]["pairs"] == found["mined"]["train_pairs"] + found["mined"]["dev_pairs"] > 1
    assert found["passes"]["more_sft"] > found["passes"]["sft"]
    for versus, other in (("dpo_minus_sft", "sft"), ("dpo_minus_more_sft", "more_sft")):
        assert {"all_pass", "greeting", "settlement", "sign_off"} <= found[versus].keys()
        for name, gain in found[versus].items():
            assert gain["low"] <= gain["gain"] <= gain["high"]
            difference = found["scores"]["dpo"][name] - found["scores"][other][name]
            assert abs(gain["gain"] - difference) < 1e-9
        one = found[versus]["all_pass"]
        assert one["gain"] == (one["better"] - one["worse"]) / found["dev_rows"], "of all together scores are 0 or 1"
