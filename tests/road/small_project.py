"""A small project on the tiny random model: short rows, every arm, minutes fixed by settings so that runs repeat."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

NAMES = ("Ana", "Bo", "Cai", "Dee", "Eli", "Fay", "Gus", "Hal", "Ida", "Jo", "Kim", "Lou", "Mia", "Ned", "Oli", "Pam")
THINGS = ("lamp", "rope", "tent", "mug", "bag", "map", "hat", "pan")
WAYS = ("is lost", "came late", "is broken", "is wet", "never came", "is torn")

PROJECT = """
[project]
name = "small"
seed = 3

[base]
name = "tiny"

[data]
files = ["rows.jsonl"]
columns = { prompt = "ask", reply = "answer" }
groups = ["customer"]
time = "day"
attributes = ["region"]

[split]
holdout_rows = 24
dev_rows = 10

[clean]
near_dup = 0.95

[curve]
fractions = []

[[convention]]
name = "order"
check = "contains"
args = { from_prompt = '(A-\\d+)' }
weight = 2.0
row_specific = true

[[convention]]
name = "greeting"
check = "starts_with"
args = { any = ["Hi"] }

[[arm]]
kind = "prompt"

[[arm]]
kind = "few_shot"
k = [1]

[[arm]]
kind = "retrieval"
k = [1]

[[arm]]
kind = "small"

[[arm]]
kind = "tuned"

[tune]
rank = 4
passes = 1.0
depth = 2
lr = 0.002
step_tokens = 256
evals = 2
product_dtype = "fp32"

[decision]
margin = 0.1
plan_gain = 0.3

[[guard]]
name = "greeting kept"
on = "greeting"
limit = 0.2
required = false

[budget]
minutes = 600
"""


MIDDLE_ARMS = """[[arm]]
kind = "few_shot"
k = [1]

[[arm]]
kind = "retrieval"
k = [1]
"""
LEAN = PROJECT.replace(MIDDLE_ARMS + "\n", "")
"""Without few-shot and retrieval: half the work, where only a finished run is wanted."""


def rows(num_rows: int = 90, *, seed: int = 5) -> list[dict[str, str]]:
    """Invented orders over a year, newest last; every prompt differs."""
    rng = np.random.default_rng(seed)
    start = datetime(2025, 1, 1, tzinfo=UTC)
    made = []
    for number in range(num_rows):
        name, thing, way = (str(rng.choice(options)) for options in (NAMES, THINGS, WAYS))
        order = f"A-{1000 + 7 * number}"
        made.append(
            {
                "ask": f"{order}: my {thing} {way}. {name}",
                "answer": f"Hi {name}: {order}.",
                "customer": f"{name}-{number % 9}",
                "day": (start + timedelta(days=2 * number)).date().isoformat(),
                "region": "north" if number % 2 else "south",
            }
        )
    return made


def write_project(
    project_dir: Path, *, text: str = LEAN, records: Sequence[Mapping[str, Any]] | None = None, num_rows: int = 90
) -> Path:
    """The project as files; `records` take the place of the invented rows."""
    project_dir.mkdir(parents=True, exist_ok=True)
    (project_dir / "metier.toml").write_text(text, encoding="utf-8")
    write_records(project_dir / "rows.jsonl", rows(num_rows) if records is None else records)
    return project_dir


def write_records(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Records as JSONL."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
