"""Hidden states on disk: one growing file of bf16 rows and an index of what is whole in it.

    trunk/<key>/states-0.bin   rows of hidden states end to end, memory-mapped
    trunk/<key>/index.json     {"file": "states-0.bin", "end": 81, "width": 576, "rows": {key: [at, tokens, sha256]}}
    trunk/<key>/writer.lock    held while a block is appended, or the file mapped
    trunk/<key>/in_use         held, shared, by every run that reads here; its time is that of the last use

The index is written last, by rename, after the states are on the disk: a killed writer leaves bytes behind the last
`end`, which the next one cuts off. Places never change within a file and none is used twice, so that what is mapped
needs no lock; a reader holds the writer's lock while it maps.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from metier.core.errors import StoreError
from metier.core.folders import locked, open_locked, read_json, storage_error, write_json

__all__ = ["STATE_BYTES", "TrunkFiles", "make_room"]

log = logging.getLogger(__name__)

STATE_BYTES = 2
"""One number of a hidden state, bf16."""
SPARE_BYTES = 1 << 30
"""Disk space left free: checkpoints, exports and everything else of the machine need some."""


class Entry(NamedTuple):
    """Where a row's states are, and what they must hash to."""

    start: int
    """First token, counted from the start of the file."""
    num_tokens: int
    sha256: str


class Index(NamedTuple):
    """What is whole."""

    file: str
    end: int
    """Tokens of the file that were ever used; a thrown-away row leaves a hole."""
    rows: dict[str, Entry]


class TrunkFiles:
    """The states of one (base, layer, precision); open while a run uses them."""

    def __init__(self, folder: Path, width: int) -> None:
        self.folder, self.width = folder, width
        self.views: dict[str, Tensor] = {}
        """States of the rows this run has checked: (tokens, width) bf16, views of the mapped file."""
        self.in_use = open_locked(folder / "in_use", shared=True)
        try:
            os.utime(folder / "in_use")
        except OSError as err:
            raise storage_error(folder, err) from err

    def close(self) -> None:
        """Let others evict this folder."""
        self.in_use.close()

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's state."""
        return self.width * STATE_BYTES

    def take(self, wanted: Collection[str]) -> None:
        """Map the wanted rows that are here, each checked against its hash; a damaged one is thrown away."""
        with self._writing() as index:  # the file it names stays there until it is mapped
            states = self._map(index.file)
        found = {key: index.rows[key] for key in wanted if key in index.rows and key not in self.views}
        damaged = []
        for key, entry in found.items():
            view = states[entry.start : entry.start + entry.num_tokens]
            if len(view) == entry.num_tokens and _sha256(view) == entry.sha256:
                self.views[key] = view
            else:
                damaged.append(key)
        if damaged:
            log.warning(
                "%s: %d of %d cached rows are damaged (%s%s); they are thrown away and computed again",
                self.folder / index.file, len(damaged), len(found), ", ".join(key[:12] for key in damaged[:5]),
                ", ..." if len(damaged) > 5 else "",
            )  # fmt: skip
            self._forget(index.file, damaged)

    def append(self, block: Mapping[str, Tensor]) -> None:
        """Add rows, (tokens, width) bf16; those another process added meanwhile are left out.

        Raises:
            StoreError: the disk is full; what the index names is whole.
        """
        with self._writing() as index:
            path, at = self.folder / index.file, index.end
            try:
                with path.open("r+b" if path.exists() else "w+b") as file:
                    file.truncate(at * self.token_bytes)  # what a killed writer left behind the last indexed row
                    file.seek(0, os.SEEK_END)
                    for key, states in block.items():
                        if key not in index.rows:
                            file.write(state_bytes(states))
                            index.rows[key] = Entry(at, len(states), _sha256(states))
                            at += len(states)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as err:
                raise storage_error(path, err) from err
            self._write_index(index._replace(end=at))
            mapped = self._map(index.file)
        for key in block:
            entry = index.rows[key]
            self.views[key] = mapped[entry.start : entry.start + entry.num_tokens]

    def keep_only(self, keys: Collection[str]) -> None:
        """Write a new file with these rows alone; rows mapped before stay readable where they are."""
        with self._writing() as index:
            kept = {key: entry for key, entry in index.rows.items() if key in keys}
            moved, at, new_path = {}, 0, self.folder / self._next_name()
            try:
                with (self.folder / index.file).open("rb") as old, new_path.open("wb") as new:
                    for key, entry in kept.items():
                        old.seek(entry.start * self.token_bytes)
                        new.write(old.read(entry.num_tokens * self.token_bytes))
                        moved[key] = entry._replace(start=at)
                        at += entry.num_tokens
                    new.flush()
                    os.fsync(new.fileno())
            except OSError as err:
                raise storage_error(new_path, err) from err
            self._write_index(Index(new_path.name, at, moved))
            (self.folder / index.file).unlink()

    def stored(self) -> frozenset[str]:
        """Keys of the rows that are here, checked or not."""
        return frozenset(self._read_index().rows)

    @property
    def num_tokens(self) -> int:
        """Tokens the file of states holds, holes included."""
        return self._read_index().end

    def _forget(self, name: str, keys: Collection[str]) -> None:
        """Throw rows of a file away, unless another process has written a new one meanwhile."""
        with self._writing() as index:
            if index.file == name:
                kept = {key: entry for key, entry in index.rows.items() if key not in keys}
                self._write_index(index._replace(rows=kept))

    @contextmanager
    def _writing(self) -> Iterator[Index]:
        """The index as it is now, under the writer's lock, which a killed process frees."""
        with locked(self.folder / "writer.lock"):
            index = self._read_index()
            for path in self.folder.glob("states-*.bin"):
                if path.name != index.file:  # of a rewriting that was killed
                    path.unlink()
            yield index

    def _read_index(self) -> Index:
        """What is whole; a damaged index counts as none, and its file is not written to again."""
        path = self.folder / "index.json"
        if not path.exists():
            return Index("states-0.bin", 0, {})
        try:
            found = read_json(path)
            if found["width"] != self.width:
                raise StoreError(f"{path}: rows of width {found['width']}, expected {self.width}.")
            rows = {str(key): Entry(int(at), int(num), str(sha)) for key, (at, num, sha) in found["rows"].items()}
            return Index(str(found["file"]), int(found["end"]), rows)
        except (StoreError, KeyError, TypeError, ValueError, AttributeError) as err:
            log.warning("%s: not readable as an index of hidden states (%s); all rows are computed again", path, err)
            index = Index(self._next_name(), 0, {})
            self._write_index(index)
            return index

    def _next_name(self) -> str:
        numbers = [int(path.stem.removeprefix("states-")) for path in self.folder.glob("states-*.bin")]
        return f"states-{max(numbers, default=-1) + 1}.bin"

    def _write_index(self, index: Index) -> None:
        write_json(self.folder / "index.json", {**index._asdict(), "width": self.width})

    def _map(self, name: str) -> Tensor:
        """All states of the file, (tokens, width) bf16; empty where there is no file."""
        path = self.folder / name
        size = path.stat().st_size // self.token_bytes * self.token_bytes if path.exists() else 0
        if not size:
            return torch.empty(0, self.width, dtype=torch.bfloat16)
        with path.open("rb") as file:
            pages = mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        return torch.frombuffer(pages, dtype=torch.bfloat16).view(-1, self.width)


def _sha256(states: Tensor) -> str:
    return hashlib.sha256(state_bytes(states)).hexdigest()


def state_bytes(states: Tensor) -> memoryview:
    """The bytes of a row's states."""
    return states.contiguous().view(torch.uint8).numpy().reshape(-1).data


def make_room(trunk_dir: Path, mine: Path, *, wanted_bytes: int, limit_bytes: int) -> bool:
    """Evict the least recently used folders beside `mine` until `wanted_bytes` in all fit the limit and the disk.

    A folder that a run has open is never touched. Returns whether there is room.
    """
    others = sorted(
        (path for path in trunk_dir.iterdir() if path.is_dir() and path != mine), key=lambda path: _used_at(path)
    )
    held = {path: folder_bytes(path) for path in others}
    for path in [*others, None]:
        on_disk = shutil.disk_usage(trunk_dir).free + folder_bytes(mine)
        if wanted_bytes + sum(held.values()) <= limit_bytes and wanted_bytes + SPARE_BYTES <= on_disk:
            return True
        if path is not None and _evict(path):
            log.info("trunk: evicted %s (%.2f GiB), not used for longest", path, held.pop(path) / 2**30)
    return False


def folder_bytes(folder: Path) -> int:
    """Bytes of the files of a folder, while others may be writing and evicting there."""
    total = 0
    for path in folder.glob("*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def _used_at(folder: Path) -> float:
    with suppress(OSError):
        return (folder / "in_use").stat().st_mtime
    return 0.0


def _evict(folder: Path) -> bool:
    """Delete a folder that no run has open."""
    try:
        with open_locked(folder / "in_use", waits=False):
            # Out of the way first: a run that opens it now makes a new one, and loses nothing to this deletion.
            gone = folder.rename(folder.with_name(f"{folder.name}.{os.getpid()}.evicted"))
            shutil.rmtree(gone)
            return True
    except (OSError, StoreError):
        return False
