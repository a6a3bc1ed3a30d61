"""The back-tests of the learning curve in their quick form, and the table of other people's tunings by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def ran(name: str, *arguments: str) -> dict:
    command = [sys.executable, str(ROOT / "benchmarks" / name), *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_the_back_test_of_cheap_arms_prints_coverage_and_scores_and_predicts_again(tmp_path: Path) -> None:
    scores = tmp_path / "scores.json"
    found = ran("curve_backtest.py", "--quick", "--record", str(scores))
    assert len(json.loads(scores.read_text(encoding="utf-8"))) == 2 * 2 * 2
    assert ran("curve_backtest.py", "--again", str(scores)) == found
    assert found["num_predictions"] == 2 * 2 * 2 * 2
    assert 0 <= found["covered"] <= 1 and found["score"] > 0
    assert set(found["tasks"]) == {"made up 0", "made up 1"}


def test_the_back_test_of_tuned_models_records_scores_and_judges_them_again(tmp_path: Path) -> None:
    found = ran("curve_tuned.py", "--quick")
    (record,), (task,) = found["records"].values(), found["tasks"].values()
    assert [num for chain, num, _ in record["points"]["tuned"] if not chain] == [2, 4, 8, 16, 32, 64]
    assert [num for chain, num, _ in record["points"]["tuned"] if chain] == [2, 4, 8, 16]
    assert list(task["scores"]) == list(task["gains"]) == ["32", "64"]
    assert list(task["verdicts"]) == ["16", "32", "64"]
    assert task["verdicts"]["64"]["small"] > 0.3, "the small arm learns these rows"
    path = tmp_path / "found.json"
    path.write_text(json.dumps(found), encoding="utf-8")
    assert ran("curve_tuned.py", "--again", str(path)) == found


@pytest.mark.data
def test_lifts_of_other_tasks_are_the_published_ones() -> None:
    if not (ROOT.parent / "shared" / "data" / "loraland" / "table12.txt").exists():
        pytest.skip("no ../shared/data")
    found = ran("loraland.py")
    assert (found["num_tasks"], found["num_bases"]) == (31, 10)
    assert found["mean_lift"] == pytest.approx(0.384, abs=0.001)  # 38.4 points, recomputed from the table
    assert found["lift"]["low"] < found["lift"]["rho"] < found["lift"]["high"]
