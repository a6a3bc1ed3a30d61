"""Graders and rows for the tests of evaluation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metier.core.project_file import ProjectConfig
from metier.core.rows import Row
from metier.evaluate import Grader, make_grader
from tests.conventions.builders import row


def grader(conventions: Sequence[dict[str, Any]] = (), project_dir: Path = Path(), **metric: Any) -> Grader:
    values = {
        "project": {"name": "t"},
        "data": {"files": ["t.jsonl"]},
        "decision": {"margin": 0.05},
        "metric": metric,
        "convention": list(conventions),
    }
    return make_grader(ProjectConfig.from_mapping(values, where="metier.toml"), project_dir)


def tickets(num: int) -> list[Row]:
    """Rows whose right reply names the ticket of the prompt."""
    return [row(f"Please look at T-{i}.", f"Dear customer, T-{i} is solved.", number=i) for i in range(num)]


TICKET = {"name": "ticket", "check": "contains", "args": {"from_prompt": r"T-\d+"}, "row_specific": True, "weight": 3.0}
GREETING = {"name": "greeting", "check": "starts_with", "args": {"any": ["Dear"]}}
POLITE = {"name": "polite", "check": "forbids", "args": {"words": ["fault"]}}
