"""Two reports of the same project compared: everything but when, how long, how dear and how large it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WHEN_AND_HOW_LONG = {
    "": ("costs", "plan"),  # minutes, money, memory: predicted and happened
    "files": ("scores_sha256",),  # the file holds seconds a reply
    "question": ("frozen_at",),
    "exposure": ("seconds",),
    "provenance": ("finished", "ledger_head", "before_look_at"),
    "arms": ("latency_ms", "cost_per_1k_requests"),
    "money": ("tuning", "evaluation", "request_before", "request_after"),
}


def comparable(report: dict[str, Any]) -> dict[str, Any]:
    """The report without minutes, seconds, memory, cost, dates, the ledger's head and hashes of files with seconds."""
    kept = {name: value for name, value in report.items() if name not in WHEN_AND_HOW_LONG[""]}
    for name in ("files", "question", "exposure", "provenance"):
        kept[name] = {key: value for key, value in kept[name].items() if key not in WHEN_AND_HOW_LONG[name]}
    kept["arms"] = [
        {key: value for key, value in arm.items() if key not in WHEN_AND_HOW_LONG["arms"]} for arm in kept["arms"]
    ]
    # Reasons tell of free memory.
    chosen = kept["model"]["execution"]
    kept["model"] = {**kept["model"], "execution": {name: words.split(" (")[0] for name, words in chosen.items()}}
    # Fixed before the look from measured seconds: minutes, and the ratio of two costs.
    facts = kept["provenance"]["before_look"]
    kept["provenance"]["before_look"] = {
        key: value for key, value in facts.items() if key not in ("cost_ratio", "tune_minutes", "costs")
    }
    kept["money"] = {key: value for key, value in kept["money"].items() if key not in WHEN_AND_HOW_LONG["money"]}
    return kept


def scores(project_dir: Path) -> dict[tuple[str, str], float]:
    """The score of every arm on every row."""
    from metier.evaluate import ScoreTable

    table = ScoreTable.from_parquet((project_dir / ".metier/report/scores.parquet").read_bytes())
    return {(arm, row_id): score for arm, row_id, score in zip(table.arm, table.row_id, table.score, strict=True)}
