"""What other people's tunings would have told of the next one: LoRA Land's 31 tasks, each predicted from the other 30.

    python benchmarks/loraland.py --json

Known before a task is tuned are its base's own score and that of a large prompted model; a straight line from these two
to the lift is fitted on the bases of all other tasks and asked about the task left out. Told is the rank correlation of
predicted and true lift over tasks (the mean over ten bases), with a 95 % bootstrap interval over tasks. Half of it is
built in: a lift contains the base's score with a minus. So the same is told of the tuned score, where nothing is.

Source: Zhao et al. 2024, "LoRA Land", arXiv:2405.00732, table 12.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

TABLE = Path(__file__).resolve().parents[2] / "shared" / "data" / "loraland" / "table12.txt"
REPETITIONS = 5000


class Task(NamedTuple):
    """One task, over the bases: scores before and after, 0-1."""

    name: str
    before_B: np.ndarray
    after_B: np.ndarray
    large: float
    """Score of GPT-4, prompted."""


def read_tasks(text: str) -> list[Task]:
    """The table's rows; a cell is "tuned score : lift"."""
    tasks = []
    for line in text.splitlines():
        if line.startswith(("#", "task ")) or not line.strip():
            continue
        name, _, _, *cells = line.split()
        pairs = np.array([[float(value) for value in cell.split(":")] for cell in cells[:-2]])
        tasks.append(Task(name, pairs[:, 0] - pairs[:, 1], pairs[:, 0], float(cells[-1])))
    return tasks


def predicted_lifts(tasks: list[Task]) -> np.ndarray:
    """Lift of every task and base, by a line through all others: (tasks, bases)."""
    found = []
    for left_out in tasks:
        others = [task for task in tasks if task.name != left_out.name]
        known = np.concatenate([inputs(task) for task in others])
        lift = np.concatenate([task.after_B - task.before_B for task in others])
        line, *_ = np.linalg.lstsq(known, lift, rcond=None)
        found.append(inputs(left_out) @ line)
    return np.array(found)


def inputs(task: Task) -> np.ndarray:
    """What is known before the tuning: (bases, 3)."""
    ones = np.ones_like(task.before_B)
    return np.stack([ones, task.before_B, task.large * ones], axis=1)


def correlation(predicted: np.ndarray, actual: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    """Spearman's rank correlation with its bootstrap interval."""
    drawn = [rng.integers(len(actual), size=len(actual)) for _ in range(REPETITIONS)]
    draws = [stats.spearmanr(predicted[i], actual[i]).statistic for i in drawn]
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return {"rho": round(float(stats.spearmanr(predicted, actual).statistic), 3), "low": round(float(low), 3),
            "high": round(float(high), 3)}  # fmt: skip


def main() -> int:
    """Predict, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="only the JSON object on stdout")
    args = parser.parse_args()
    tasks = read_tasks(TABLE.read_text(encoding="utf-8"))
    lifts = predicted_lifts(tasks)
    true_lift = np.array([(task.after_B - task.before_B).mean() for task in tasks])
    before = np.array([task.before_B.mean() for task in tasks])
    rng = np.random.default_rng(2026)
    result: dict[str, Any] = {
        "num_tasks": len(tasks),
        "num_bases": len(tasks[0].before_B),
        "mean_lift": round(float(true_lift.mean()), 3),
        "lift": correlation(lifts.mean(1), true_lift, rng),
        "tuned_score": correlation(before + lifts.mean(1), before + true_lift, rng),
        "base_score_alone_for_lift": correlation(-before, true_lift, rng),
        "mean_absolute_error_of_lift": round(float(np.abs(lifts.mean(1) - true_lift).mean()), 3),
    }
    print(json.dumps(result, indent=None if args.json else 2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
