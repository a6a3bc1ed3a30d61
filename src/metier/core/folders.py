"""Folders that are finished or not, never half: atomic writes, `done.json`, one run at a time.

A stage writes its files into its folder and, last and by rename, `done.json`. The file exists if
and only if the stage completed with exactly the inputs, config and stage version it names.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from metier.core.errors import StoreError
from metier.core.hashing import file_sha256, value_hash

__all__ = [
    "drop_parts",
    "exclusive",
    "finish",
    "finished",
    "fresh_dir",
    "locked",
    "open_locked",
    "read_json",
    "stage_hash",
    "write_bytes",
    "write_json",
    "write_pieces",
]


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that it is wholly old or wholly new, whatever kills the process.

    Raises:
        StoreError: the disk is full or the folder cannot be written; the old file is intact.
    """
    write_pieces(path, (data,))


def write_pieces(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Write a file as `write_bytes` does, piece by piece, for data that is never whole in memory.

    Raises:
        StoreError: as of `write_bytes`.
    """
    temp_path = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temp_path.open("wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        temp_path.replace(path)
    except OSError as err:
        with suppress(OSError):  # the folder itself may be what is in the way
            temp_path.unlink()
        raise storage_error(path, err) from err


def storage_error(path: Path, err: OSError) -> StoreError:
    """The `StoreError` that says what to do about a failed write."""
    if err.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(
            f"{path}: no space left on the disk; nothing half-written was kept. Free some space and run the "
            "same command again: it resumes."
        )
    return StoreError(f"{path}: could not be written ({err.strerror or err}). Check the folder and run again.")


def write_json(path: Path, value: Any) -> None:  # Any: whatever json accepts
    """Write indented JSON atomically; NaN and infinity are refused, as they are not JSON."""
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:  # Any: whatever the file holds
    """Read a JSON file of ours.

    Raises:
        StoreError: the file is missing or truncated.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise StoreError(f"{path}: expected a file written by an earlier stage, found none.") from err
    except ValueError as err:
        raise StoreError(f"{path}: not readable as JSON ({err}); delete its folder to compute it again.") from err


def stage_hash(*, stage: str, version: int, inputs: Any, config: Any) -> str:  # Any: whatever json accepts
    """What a finished stage is identified by: its inputs, config and version constant."""
    return value_hash({"stage": stage, "version": version, "inputs": inputs, "config": config})


def finished(stage_dir: Path, wanted_hash: str) -> bool:
    """Whether the folder holds the completed stage of exactly this hash, every file with its bytes."""
    done_path = stage_dir / "done.json"
    if not done_path.exists():
        return False
    done = read_json(done_path)
    if done.get("hash") != wanted_hash:
        return False
    return all(
        (stage_dir / name).exists() and file_sha256(stage_dir / name) == sha for name, sha in done["files"].items()
    )


def finish(
    stage_dir: Path, wanted_hash: str, *, passing: Collection[str] = (), **facts: Any
) -> None:  # Any: json values kept beside the hash
    """Write `done.json`, last: the stage's hash, its files with their hashes, and `facts`.

    Files and folders directly inside that `passing` names are not part of the result and may go afterwards.
    """
    paths = [path.relative_to(stage_dir) for path in stage_dir.rglob("*") if path.is_file()]
    names = sorted(
        str(path)
        for path in paths
        if path.name != "done.json" and not path.name.endswith(".part") and path.parts[0] not in passing
    )
    files = {name: file_sha256(stage_dir / name) for name in names}
    write_json(stage_dir / "done.json", {"hash": wanted_hash, "files": files, **facts})


def drop_parts(stage_dir: Path) -> None:
    """Delete what a killed process left half-written anywhere in a folder; nothing may be writing there."""
    for path in stage_dir.rglob(".*.part"):
        if path.is_file():
            path.unlink()


def fresh_dir(stage_dir: Path) -> Path:
    """An empty folder in place of whatever unfinished or outdated one stood there."""
    if stage_dir.exists():
        shutil.rmtree(stage_dir)
    stage_dir.mkdir(parents=True)
    return stage_dir


@contextmanager
def exclusive(lock_path: Path, *, what: str) -> Iterator[None]:
    """Hold a kernel file lock, so that two runs never work on one project; a killed run frees it.

    Raises:
        StoreError: another process holds the lock, or its folder cannot be made.
    """
    with _lock_file(lock_path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            raise StoreError(
                f"{what}: another metier process is at work in this project. Wait for it, or stop it; "
                "`metier status` shows how far it is."
            ) from err
        yield


@contextmanager
def locked(path: Path, *, shared: bool = False) -> Iterator[BinaryIO]:
    """The file, open and locked once whoever holds it lets go; a killed holder, with all it started, frees it.

    Raises:
        StoreError: it cannot be opened.
    """
    with open_locked(path, shared=shared) as file:
        yield file


def open_locked(path: Path, *, shared: bool = False, waits: bool = True) -> BinaryIO:
    """The file of `locked`, locked until it is closed; its folder is made where it is gone.

    Raises:
        StoreError: it cannot be opened.
        BlockingIOError: it is held, and this is not to wait.
    """
    how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if waits else fcntl.LOCK_NB)
    while True:
        try:
            file = _lock_file(path)
        except StoreError as err:
            if isinstance(err.__cause__, FileNotFoundError):  # the folder was deleted as soon as it was made
                continue
            raise
        try:
            fcntl.flock(file, how)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    return file
        except BaseException:
            file.close()
            raise
        file.close()  # whoever held it has deleted it meanwhile


def _lock_file(lock_path: Path) -> BinaryIO:
    """The lock's file, open; its folder is made on the way."""
    folder = lock_path.parent
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder}: a file; expected a folder that metier makes. Move it away and run again.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return lock_path.open("a+b")
    except OSError as err:
        raise storage_error(lock_path, err) from err
