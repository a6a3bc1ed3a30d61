"""Files named by the hash of their bytes: `.metier/objects/ab/cdef...`, whole or absent, checked when read.

    >>> ref = store.put(b"rows")
    >>> store.get(ref)
    b'rows'

Encrypted objects (AES-256-GCM) are named by the hash of what is on the disk. Their nonce is derived from
the key and the bytes, so the same bytes under the same key are one object and a rerun writes nothing new;
who reads the folder can therefore see that two objects are equal, and nothing more.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from metier.core.errors import StoreError
from metier.core.folders import storage_error, write_bytes
from metier.core.hashing import sha256_hex
from metier.ledger.keys import workspace

__all__ = ["ObjectStore", "decrypt", "encrypt"]

_MAGIC = b"metier-aesgcm-1\n"
_NONCE_BYTES = 12
_HEX = frozenset("0123456789abcdef")


class ObjectStore:
    """The content-addressed files of one project."""

    def __init__(self, project_dir: Path) -> None:
        self.root = workspace(project_dir) / "objects"

    def path_of(self, ref: str) -> Path:
        """Where an object lies.

        Raises:
            StoreError: the reference is not 64 hex digits.
        """
        if len(ref) != 64 or not _HEX.issuperset(ref):
            raise StoreError(f"{self.root}: {ref!r} is no object reference; expected 64 hex digits.")
        return self.root / ref[:2] / ref[2:]

    def put(self, data: bytes) -> str:
        """Keep bytes; returns their reference. Bytes that are kept already are not written again.

        Raises:
            StoreError: the disk is full or the folder cannot be written; nothing half-written is kept.
        """
        ref = sha256_hex(data)
        path = self.path_of(ref)
        if not (path.exists() and sha256_hex(path.read_bytes()) == ref):
            write_bytes(path, data)
        return ref

    def get(self, ref: str) -> bytes:
        """The bytes of a reference.

        Raises:
            StoreError: the file is missing, or its bytes are not those that were put.
        """
        path = self.path_of(ref)
        try:
            data = path.read_bytes()
        except FileNotFoundError as err:
            raise StoreError(
                f"{path}: the object is missing; expected the bytes of {ref[:12]}. Restore it from a backup, or "
                "run again from the raw data."
            ) from err
        except OSError as err:
            raise StoreError(f"{path}: could not be read ({err.strerror}). Check the rights of the file.") from err
        if sha256_hex(data) != ref:
            raise StoreError(
                f"{path}: the bytes changed; found {len(data)} bytes with hash {sha256_hex(data)[:12]}, expected "
                f"{ref[:12]}. Restore the file from a backup."
            )
        return data

    def put_encrypted(self, data: bytes, key: bytes) -> str:
        """Keep bytes encrypted under a 32-byte key; returns the reference of the encrypted object."""
        return self.put(encrypt(data, key))

    def get_encrypted(self, ref: str, key: bytes) -> bytes:
        """The bytes put by `put_encrypted`.

        Raises:
            StoreError: missing, changed, not an encrypted object, or another key.
        """
        return decrypt(self.get(ref), key, where=self.path_of(ref))

    def remove(self, ref: str) -> None:
        """Overwrite an object's bytes and delete it; one that is not there is gone already.

        It loses its name first, so that a killed call leaves no object with other bytes.

        Raises:
            StoreError: the folder cannot be written.
        """
        path = self.path_of(ref)
        nameless = path.with_name(f".{path.name}.gone")
        try:
            path.replace(nameless)
        except FileNotFoundError:
            return
        except OSError as err:
            raise storage_error(path, err) from err
        _wipe(nameless)

    def keep_only(self, refs: Collection[str]) -> None:
        """Remove every other object, and whatever a killed removal or writing left.

        Raises:
            StoreError: the folder cannot be written.
        """
        for ref in list(self.refs()):
            if ref not in refs:
                self.remove(ref)
        for path in self.root.glob("??/.*"):
            _wipe(path)

    def refs(self) -> Iterator[str]:
        """The references of all whole objects on the disk, sorted."""
        for path in sorted(self.root.glob("??/*")):
            if not path.name.startswith("."):
                yield path.parent.name + path.name


def _wipe(path: Path) -> None:
    """Overwrite a file and delete it."""
    try:
        with path.open("r+b") as file:
            file.write(bytes(path.stat().st_size))
            file.flush()
            os.fsync(file.fileno())
        path.unlink()
    except OSError as err:
        raise storage_error(path, err) from err


def encrypt(data: bytes, key: bytes) -> bytes:
    """Bytes under a 32-byte key; the same bytes under the same key give the same result."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    cipher_key, nonce_key = _derived(key)
    nonce = hmac.new(nonce_key, data, hashlib.sha256).digest()[:_NONCE_BYTES]
    return _MAGIC + nonce + AESGCM(cipher_key).encrypt(nonce, data, _MAGIC)


def decrypt(blob: bytes, key: bytes, *, where: Path) -> bytes:
    """The bytes given to `encrypt`; `where` names the file in messages.

    Raises:
        StoreError: not encrypted here, or by another key.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    start = len(_MAGIC) + _NONCE_BYTES
    if not blob.startswith(_MAGIC) or len(blob) < start:
        raise StoreError(f"{where}: not an encrypted object. Read it with get().")
    cipher_key, _ = _derived(key)
    try:
        return AESGCM(cipher_key).decrypt(blob[len(_MAGIC) : start], blob[start:], _MAGIC)
    except InvalidTag as err:
        raise StoreError(
            f"{where}: cannot be opened with this key; the file is whole, so the key is another one. "
            "Restore .metier/keys from a backup."
        ) from err


def _derived(key: bytes) -> tuple[bytes, bytes]:
    """Cipher key and nonce key of a 32-byte key, so that no key serves two purposes."""
    if len(key) != 32:
        raise StoreError(f"an encryption key has {len(key)} bytes; expected 32.")
    return tuple(hmac.new(key, purpose, hashlib.sha256).digest() for purpose in (b"object-cipher", b"object-nonce"))  # type: ignore[return-value]  # two purposes, two keys
