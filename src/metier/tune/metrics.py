"""`metrics.jsonl`: one JSON object a step, names `stage/quantity_unit`.

{"step": 40, "tune/loss_nats": 1.31, "time/step_s": 0.42}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from metier.core.folders import storage_error, write_bytes

__all__ = ["Metrics"]


class Metrics:
    """Appends one line a step; after a resume the lines of steps that are taken again are dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, line: Mapping[str, float]) -> None:
        """Append one step.

        Raises:
            StoreError: the disk is full.
        """
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as err:
            raise storage_error(self.path, err) from err

    def keep_until(self, step: int) -> None:
        """Drop lines after `step`, and a line a killed process left half-written."""
        kept = []
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        for line in text.splitlines():
            try:
                if json.loads(line)["step"] > step:
                    break
            except ValueError:
                break
            kept.append(line + "\n")
        write_bytes(self.path, "".join(kept).encode())
