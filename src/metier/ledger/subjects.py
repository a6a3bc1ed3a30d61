"""The keys of the persons rows are about: a person's rows can be read as long as the person's key exists.

    keys = SubjectKeys.open(project_dir)
    key = keys.key_of([keys.hash_of("Ana Silva")])
    keys.destroy(keys.hash_of("Ana Silva"))      # from now on nobody reads those rows, in any copy

Each person has 32 random bytes, made when the first row about them is stored; they lie in `.metier/keys/subjects.keys`,
one line a person under a keyed hash of the name. Destroying a key overwrites it in place. What a disk keeps of
overwritten
blocks (flash memory, snapshots, backups of the file) is beyond reach: keep backups of this file no longer than you may.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

from metier.core.errors import StoreError
from metier.core.folders import storage_error
from metier.core.hashing import keyed_hash
from metier.core.similarity import fold
from metier.ledger.keys import project_key, workspace

__all__ = ["SubjectKeys", "subject_hash"]

FILE_NAME = "subjects.keys"
_HASH_CHARS, _KEY_CHARS = 32, 64
_LINE_CHARS = _HASH_CHARS + 1 + _KEY_CHARS + 1
_GONE = "-" * _KEY_CHARS


def subject_hash(key: bytes, subject: str) -> str:
    """Keyed hash of a person's name or number, 32 hex digits; case, white space and Unicode form do not matter."""
    return keyed_hash(key, ["subject", fold(subject)])


class SubjectKeys:
    """Keys by subject hash. Made keys are in memory until `save`; a destroyed key never comes back."""

    def __init__(self, path: Path, key: bytes) -> None:
        self.path = path
        self._project_key = key
        self._known: dict[str, str] = {}
        self._fresh: list[str] = []
        self._hashes: dict[str, str] = {}

    @classmethod
    def open(cls, project_dir: Path) -> Self:
        """The keys of a project; an end cut off by a killed run is dropped, as no row was stored under it.

        Raises:
            StoreError: the file is damaged.
        """
        keys = cls(workspace(project_dir) / "keys" / FILE_NAME, project_key(project_dir))
        try:
            text = keys.path.read_text(encoding="ascii")
        except FileNotFoundError:
            return keys
        except (OSError, UnicodeDecodeError) as err:
            raise StoreError(f"{keys.path}: could not be read ({err}). Restore the file from a backup.") from err
        for start in range(0, len(text) - _LINE_CHARS + 1, _LINE_CHARS):
            line = text[start : start + _LINE_CHARS]
            if line[_HASH_CHARS] != " " or line[-1] != "\n":
                raise StoreError(
                    f"{keys.path}: line {start // _LINE_CHARS + 1} is damaged; expected a hash, a blank and a key. "
                    "Restore the file from a backup."
                )
            keys._known[line[:_HASH_CHARS]] = line[_HASH_CHARS + 1 : -1]
        return keys

    def hash_of(self, subject: str) -> str:
        """The keyed hash a person is known by."""
        found = self._hashes.get(subject)
        if found is None:
            found = self._hashes[subject] = subject_hash(self._project_key, subject)
        return found

    def is_destroyed(self, hashed: str) -> bool:
        """Whether the key existed and is gone."""
        return hashed in self._known and not _is_key(self._known[hashed])

    @property
    def destroyed(self) -> list[str]:
        """Hashes of everybody who was erased, sorted."""
        return sorted(hashed for hashed, key in self._known.items() if not _is_key(key))

    def key_of(self, hashes: Iterable[str]) -> bytes:
        """The 32-byte key of a row about these persons, made where there is none; the project's where there is nobody.

        A row about several persons needs all of their keys: it is gone with the first.

        Raises:
            StoreError: the key of one of them was destroyed.
        """
        found = []
        for hashed in sorted(set(hashes)):
            held = self._known.get(hashed)
            if held is None:
                held = self._known[hashed] = secrets.token_hex(_KEY_CHARS // 2)
                self._fresh.append(hashed)
            if not _is_key(held):
                raise StoreError(
                    f"{self.path}: the key of subject {hashed} was destroyed by an erasure; rows about this person are "
                    "refused. Remove them from the data files."
                )
            found.append(bytes.fromhex(held))
        material = b"".join(found) or self._project_key
        return hmac.digest(material, b"row-key", hashlib.sha256)

    def can_read(self, hashes: Sequence[str]) -> bool:
        """Whether every key of a row is still there."""
        return all(_is_key(self._known.get(hashed, "")) for hashed in hashes)

    def save(self) -> None:
        """Write the keys made since the last call, before anything encrypted with them is referred to.

        Raises:
            StoreError: the disk is full or the folder cannot be written.
        """
        if not self._fresh:
            return
        lines = "".join(f"{hashed} {self._known[hashed]}\n" for hashed in self._fresh)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                whole = os.fstat(file).st_size // _LINE_CHARS * _LINE_CHARS
                os.ftruncate(file, whole)  # what a killed run left of a line
                os.pwrite(file, lines.encode("ascii"), whole)
                os.fsync(file)
            finally:
                os.close(file)
        except OSError as err:
            raise storage_error(self.path, err) from err
        self._fresh.clear()

    def destroy(self, hashed: str) -> bool:
        """Overwrite a key; returns whether there was one. A killed call is simply repeated.

        Somebody who has no key is remembered as erased all the same, so that rows about them are refused.

        Raises:
            StoreError: the file cannot be written.
        """
        self.save()
        if self.is_destroyed(hashed):
            return False
        if hashed not in self._known:
            self._known[hashed] = _GONE
            self._fresh.append(hashed)
            self.save()
            return False
        place = list(self._known).index(hashed) * _LINE_CHARS + _HASH_CHARS + 1
        try:
            file = os.open(self.path, os.O_RDWR)
            try:
                os.pwrite(file, _GONE.encode("ascii"), place)
                os.fsync(file)
            finally:
                os.close(file)
        except OSError as err:
            raise storage_error(self.path, err) from err
        self._known[hashed] = _GONE
        return True


def _is_key(text: str) -> bool:
    """64 hex digits; a half overwritten key is none."""
    return len(text) == _KEY_CHARS and "-" not in text
