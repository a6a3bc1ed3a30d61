"""A small project on the tiny random model: short rows, every arm, minutes fixed by settings so that runs repeat."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

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
holdout_rows = 40
dev_rows = 20

[clean]
near_dup = 0.95

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
step_tokens = 512
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


def rows(num_rows: int = 160, *, seed: int = 5) -> list[dict[str, str]]:
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
                "answer": f"Hi {name}, we send a {thing} for {order}.",
                "customer": f"{name}-{number % 9}",
                "day": (start + timedelta(days=2 * number)).date().isoformat(),
                "region": "north" if number % 2 else "south",
            }
        )
    return made


def write_project(project_dir: Path, *, num_rows: int = 160, text: str = PROJECT) -> Path:
    """The project as files."""
    project_dir.mkdir(parents=True, exist_ok=True)
    (project_dir / "metier.toml").write_text(text, encoding="utf-8")
    lines = "".join(json.dumps(row) + "\n" for row in rows(num_rows))
    (project_dir / "rows.jsonl").write_text(lines, encoding="utf-8")
    return project_dir
