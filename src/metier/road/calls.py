"""Answers of endpoints, kept in the project: encrypted, one line each, with the money that was spent on them.

    .metier/calls/<arm>.jsonl    {"key": ..., "cost": .0004, "call": base64}, or {"cost": .0004} for a lost answer

A line is on the disk before its answer is used; a line that a killed run cut off is dropped. Erasing a person drops all
answers of the project and keeps the sums.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metier.core.errors import StoreError
from metier.core.folders import storage_error, write_bytes
from metier.core.hashing import keyed_hash

__all__ = ["StoredCalls", "drop_answers"]


class StoredCalls:
    """The answers of one arm; one run of the project has them open at a time."""

    def __init__(self, path: Path, key: bytes) -> None:
        self.path, self.key = path, key
        self.answers: dict[str, bytes] = {}
        self.spent = 0.0
        data = path.read_bytes() if path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                entry = json.loads(line)
                self.spent += float(entry["cost"])
                if "key" in entry:
                    self.answers[str(entry["key"])] = base64.b64decode(entry["call"])
            except (ValueError, KeyError, TypeError) as err:
                raise StoreError(
                    f"{path}: line {number} is not an answer ({err}); what was spent is not known without it. Restore "
                    "the file from a backup, or delete it: all answers are then asked for, and paid, again."
                ) from err
        if len(whole) < len(data):
            write_bytes(path, whole)

    def find(self, key: str) -> dict[str, Any] | None:  # Any: JSON values
        """The kept answer to a request."""
        from metier.ledger.objects import decrypt

        blob = self.answers.get(keyed_hash(self.key, key))
        return None if blob is None else dict(json.loads(decrypt(blob, self.key, where=self.path)))

    def keep(self, key: str, call: Mapping[str, Any], *, cost: float) -> None:  # Any: JSON values
        """Keep an answer and book its cost.

        Raises:
            StoreError: the disk is full; the answer is lost, and paid for.
        """
        from metier.ledger.objects import encrypt

        key = keyed_hash(self.key, key)  # a hash of the prompt alone would let a guess of it be confirmed
        blob = encrypt(json.dumps(call).encode(), self.key)
        self._append({"key": key, "cost": cost, "call": base64.b64encode(blob).decode()})
        self.answers[key] = blob

    def lose(self, cost: float) -> None:
        """Book a request whose answer was lost on the way."""
        self._append({"cost": cost})

    def _append(self, entry: Mapping[str, Any]) -> None:  # Any: JSON values
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(json.dumps(entry).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as err:
            raise storage_error(self.path, err) from err
        self.spent += float(entry["cost"])


def drop_answers(calls_dir: Path) -> None:
    """Drop all answers, keep what was spent: the cap of money counts it still.

    Raises:
        StoreError: the folder cannot be written.
    """
    for path in sorted(calls_dir.glob("*.jsonl")):
        spent = StoredCalls(path, b"").spent
        write_bytes(path, json.dumps({"cost": spent}).encode() + b"\n")
