"""The keys of a project: one names and encrypts rows, one seals the hold-out, one signs certificates.

    >>> key = project_key(project_dir)  # 32 random bytes, made on the first call

They are files in `.metier/keys`, readable by the owner alone. Losing `project.key` makes every row id
and every encrypted object unreadable: back it up apart from the data. Who can read `seal.key` can open
the hold-out without the ledger; the seal shows tampering, it does not prevent it.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from metier.core.errors import StoreError
from metier.core.folders import storage_error

__all__ = ["LEDGER_FILE", "project_key", "seal_key", "sign", "signed_by_project", "workspace"]

LEDGER_FILE = "ledger.db"
_KEY_BYTES = 32


def workspace(project_dir: Path) -> Path:
    """The folder `.metier` of a project, in which everything derived is kept."""
    return project_dir / ".metier"


def project_key(project_dir: Path) -> bytes:
    """The 32 bytes that row ids are keyed with; made once, in `.metier/keys/project.key`.

    Raises:
        StoreError: the file does not hold 32 bytes, or it is gone while the ledger stands.
    """
    return _key(project_dir, "project.key", loss="every row id is keyed with it")


def seal_key(project_dir: Path) -> bytes:
    """The 32 bytes the hold-out is sealed with; made once, in `.metier/keys/seal.key`.

    Raises:
        StoreError: the file does not hold 32 bytes, or it is gone while the ledger stands.
    """
    return _key(project_dir, "seal.key", loss="the sealed hold-out cannot be opened without it")


def sign(project_dir: Path, data: bytes) -> tuple[str, str]:
    """Ed25519 signature of bytes and the public key that checks it, in hex; the key is made on first use.

    Raises:
        StoreError: the key file is damaged, or cannot be written.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    path = workspace(project_dir) / "keys" / "signing.key"
    if not path.exists():
        _make_key(path)
    key = Ed25519PrivateKey.from_private_bytes(_read(path))
    return key.sign(data).hex(), key.public_key().public_bytes_raw().hex()


def signed_by_project(project_dir: Path, data: bytes, signature: str) -> bool:
    """Whether a signature in hex is this project's over these bytes."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    path = workspace(project_dir) / "keys" / "signing.key"
    if not path.exists():
        return False
    try:
        Ed25519PrivateKey.from_private_bytes(_read(path)).public_key().verify(bytes.fromhex(signature), data)
    except (InvalidSignature, ValueError):
        return False
    return True


def _key(project_dir: Path, name: str, *, loss: str) -> bytes:
    """Read a key, or make it in a project that has no ledger yet."""
    path = workspace(project_dir) / "keys" / name
    try:
        return _read(path)
    except FileNotFoundError:
        if (workspace(project_dir) / LEDGER_FILE).exists():
            raise StoreError(
                f"{path}: the key is gone, but the project has a ledger; {loss}. Restore the file from a backup, "
                "or move the .metier folder away to start anew."
            ) from None
        _make_key(path)
        return _read(path)


def _read(path: Path) -> bytes:
    """The 32 bytes of a key file."""
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as err:
        raise StoreError(f"{path}: could not be read ({err.strerror}). Check the rights of the file.") from err
    if len(key) != _KEY_BYTES:
        raise StoreError(f"{path}: holds {len(key)} bytes; expected {_KEY_BYTES}. Restore the file from a backup.")
    return key


def _make_key(path: Path) -> None:
    """Write 32 random bytes, for the owner alone; of two processes at once the first wins for both."""
    temp_path = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = os.open(temp_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(file, secrets.token_bytes(_KEY_BYTES))
            os.fsync(file)
        finally:
            os.close(file)
        # A link never replaces an existing file, so a key that was handed out stays the key.
        os.link(temp_path, path)
    except FileExistsError:
        pass
    except OSError as err:
        raise storage_error(path, err) from err
    finally:
        temp_path.unlink(missing_ok=True)
