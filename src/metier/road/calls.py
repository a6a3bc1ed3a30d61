"""Answers of endpoints, kept in the project: encrypted, one line each, with the money that was spent on them.

    .metier/calls/<arm>.jsonl
        {"sent": 3, "most": .0009, "row": <origin_id>, "to": <address>}     written before request 3 goes out
        {"for": 3, "cost": .0004, "key": ..., "call": <base64>}             its answer, written before it is used
        {"for": 4, "cost": .0009}                                           request 4 was lost, and may be billed
        {"row": <origin_id>, "to": <address>}                               a row with the prompt of another one
        {"cost": .0013}                                                     what answers cost that an erasure dropped

A request without an answer when the file is opened again was on its way when a run was killed: it is booked at the most
it can have cost. A line that a killed run cut off is dropped. `<arm>.room` keeps a MiB of the disk free for answers
that are paid for: when the disk is full, it is given up, they are written, and nothing more is sent. Erasing a person
drops all answers of the project; the sums stay, and which rows were sent where.
"""

from __future__ import annotations

import base64
import errno
import json
import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from metier.core.errors import StoreError
from metier.core.folders import storage_error, write_bytes
from metier.core.hashing import keyed_hash

__all__ = ["StoredCalls", "drop_answers", "sent_rows"]

ROOM_BYTES = 1 << 20
"""Disk kept for answers on their way; a chat answer of 500 tokens takes 4 KB."""


class StoredCalls:
    """The answers of one arm; one run of the project has them open at a time."""

    def __init__(self, path: Path, key: bytes) -> None:
        self.path, self.key = path, key
        self.room_path = path.with_suffix(".room")
        self.answers: dict[str, bytes] = {}
        self.rows: set[tuple[str, str]] = set()
        """(origin_id, address) of everything that was sent."""
        self.on_way: dict[int, float] = {}
        """The most that each request without an answer can cost, by its number."""
        self.spent, self.last = 0.0, 0
        data = path.read_bytes() if path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            self._take_line(line, number)
        if len(whole) < len(data):
            write_bytes(path, whole)

    @property
    def pending(self) -> float:
        """The most that requests on their way can cost."""
        return sum(self.on_way.values())

    def book_killed(self) -> str:
        """Book the requests that were on their way when a run was killed; what to tell about them, or nothing."""
        num, money = len(self.on_way), self.pending
        for begun, most in list(self.on_way.items()):
            self.lose(begun, most)
        were = "1 request was" if num == 1 else f"{num} requests were"
        return f"{were} on the way when a run was killed and may be billed: booked at most, {money:.4f}" if num else ""

    def find(self, key: str) -> dict[str, Any] | None:  # Any: JSON values
        """The kept answer to a request."""
        from metier.ledger.objects import decrypt

        blob = self.answers.get(keyed_hash(self.key, key))
        return None if blob is None else dict(json.loads(decrypt(blob, self.key, where=self.path)))

    def begin(self, worst: float, *, origin_id: str, url: str) -> int:
        """Write down that a row is sent to an address, and the most it can cost; returns the number of the request.

        Raises:
            StoreError: the disk is full; there would be no room for the answer.
        """
        self._make_room()
        self._append({"sent": self.last + 1, "most": worst, "row": origin_id, "to": url})
        return self.last

    def keep(self, key: str, call: Mapping[str, Any], *, cost: float, begun: int | None) -> None:  # Any: JSON values
        """Keep an answer and book its cost; `begun` is None for a refusal, which was booked.

        Raises:
            StoreError: not even the room kept for it is left; the answer is lost, and booked at its most.
        """
        from metier.ledger.objects import encrypt

        key = keyed_hash(self.key, key)  # a hash of the prompt alone would let a guess of it be confirmed
        blob = encrypt(json.dumps(call).encode(), self.key)
        entry = {"cost": cost, "key": key, "call": base64.b64encode(blob).decode()}
        self._append(entry if begun is None else {"for": begun, **entry}, is_paid=True)

    def lose(self, begun: int, cost: float) -> None:
        """Book a request that brought no answer; 0 where it was not billed."""
        self._append({"for": begun, "cost": cost}, is_paid=True)

    def note(self, *, origin_id: str, url: str) -> None:
        """Write down that the prompt of another row was sent: it is the same prompt."""
        if (origin_id, url) not in self.rows:
            self._append({"row": origin_id, "to": url})

    def _take_line(self, line: bytes, number: int) -> None:
        try:
            self._take(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError) as err:
            raise StoreError(
                f"{self.path}: line {number} is not an answer ({err}); what was spent is not known without it. Restore "
                "the file from a backup, or delete it: all answers are then asked for, and paid, again."
            ) from err

    def _take(self, entry: Mapping[str, Any]) -> None:  # Any: JSON values
        """What a line says."""
        if not {"cost", "sent", "row"} & entry.keys():
            raise KeyError("cost")
        if "row" in entry:
            self.rows.add((str(entry["row"]), str(entry["to"])))
        if "sent" in entry:
            self.last = int(entry["sent"])
            self.on_way[self.last] = float(entry["most"])
        if "for" in entry:
            del self.on_way[int(entry["for"])]
        if "key" in entry:
            self.answers[str(entry["key"])] = base64.b64decode(entry["call"])
        self.spent += float(entry.get("cost", 0.0))

    def _append(self, entry: Mapping[str, Any], *, is_paid: bool = False) -> None:  # Any: JSON values
        """Put a line on the disk; what is paid for may take the room that was kept for it."""
        data = json.dumps(entry).encode() + b"\n"
        try:
            self._write(data)
        except OSError as err:
            if not is_paid or err.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise storage_error(self.path, err) from err
            with suppress(OSError):
                self.room_path.unlink()
            try:
                self._write(data)
            except OSError as second:
                raise StoreError(
                    f"{self.path}: no space left on the disk for the end of a request that was sent. It is booked at "
                    f"the most it can cost, {self.on_way.get(int(entry.get('for', 0)), 0.0):.4f}, and asked again. "
                    "Free some space and run the same command again: it resumes."
                ) from second
        self._take(entry)

    def _write(self, data: bytes) -> None:
        """Append, wholly or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab", buffering=0) as file:
            size = file.tell()
            try:
                left = memoryview(data)
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except OSError:
                with suppress(OSError):
                    file.truncate(size)
                raise

    def _make_room(self) -> None:
        """Take the room for answers; there already after the first request."""
        if self.room_path.exists():
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.room_path.open("wb") as file:
                file.write(os.urandom(ROOM_BYTES))  # zeros take no room on a disk that compresses
                file.flush()
                os.fsync(file.fileno())
        except OSError as err:
            with suppress(OSError):
                self.room_path.unlink()
            raise storage_error(self.room_path, err) from err


def drop_answers(calls_dir: Path) -> None:
    """Drop all answers; what was spent stays, which the cap of money counts, and which rows were sent where.

    Raises:
        StoreError: the folder cannot be written.
    """
    for path in sorted(calls_dir.glob("*.jsonl")):
        calls = StoredCalls(path, b"")
        lines = [{"cost": calls.spent + calls.pending}, *({"row": row, "to": url} for row, url in sorted(calls.rows))]
        write_bytes(path, b"".join(json.dumps(line).encode() + b"\n" for line in lines))


def sent_rows(calls_dir: Path, origins: Collection[str]) -> dict[str, int]:
    """How many of these rows were sent to which address."""
    wanted, found = set(origins), set[tuple[str, str]]()
    for path in sorted(calls_dir.glob("*.jsonl")):
        found |= {(url, row) for row, url in StoredCalls(path, b"").rows if row in wanted}
    return {url: sum(to == url for to, _ in found) for url in sorted({url for url, _ in found})}
