"""Ten drawn configurations on SmolLM2-135M: rehearsed and predicted in one process, run in another; prints one object.

Run: python benchmarks/plan_accuracy.py --json             (about an hour on two cores)
     python benchmarks/plan_accuracy.py --json --draws 2   (fewer)
     python benchmarks/plan_accuracy.py --json --seed 7    (the same draws again)
"""

from __future__ import annotations

import argparse
import json
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = 0.15


def child(part: str, draw: dict[str, Any], base_dir: Path) -> dict[str, Any]:
    given = json.dumps({"part": part, "draw": draw, "base_dir": str(base_dir)})
    command = [sys.executable, "-m", "tests.tune.drawn_runs", given]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from tests.tune.drawn_runs import drawn

    from metier.models import resolve

    seed = secrets.randbelow(10**6) if given.seed is None else given.seed
    base_dir = resolve("smollm2-135m-instruct").dir
    rows = []
    for index in range(given.draws):
        draw = drawn(np.random.default_rng([seed, index]), num_layers=30)
        told, ran = child("predict", draw, base_dir), child("run", draw, base_dir)
        ratios = {name: told[name] / ran[name] for name in ("gib", "seconds")}
        rows.append({"config": draw["config"], "rows": len(draw["lengths"]), "longest": max(draw["lengths"]),
                     "predicted": told, "actual": ran, "ratio": ratios})  # fmt: skip
        print(f"{index}: memory {ratios['gib']:.3f}, time {ratios['seconds']:.3f}", file=sys.stderr)
    worst = {name: max(abs(row["ratio"][name] - 1) for row in rows) for name in ("gib", "seconds")}
    found = {
        "benchmark": "plan_accuracy",
        "seed": seed,
        "worst_memory_error": worst["gib"],
        "worst_time_error": worst["seconds"],
        "longest_rehearsal_s": max(row["predicted"]["rehearsed_s"] for row in rows),
        "within_tolerance": max(worst.values()) <= TOLERANCE,
        "draws": rows,
    }
    print(json.dumps(found) if given.json else f"memory within {worst['gib']:.1%}, time within {worst['seconds']:.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
