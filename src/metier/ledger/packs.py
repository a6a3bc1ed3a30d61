r"""Rows in encrypted packs: each row under the key of the persons it is about, many rows in one object.

    ref = store.put(pack_rows(rows, keys))
    rows = unpack_rows(store.get(ref), keys, where=store.path_of(ref))     # None where a row was erased

A pack is a line of magic, a line of JSON (for each row its ids, subject hashes and length) and the ciphertexts
one after the other. Nothing in it can be read without the keys but keyed hashes. The same rows under the same keys
give the same bytes.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from metier.core.errors import StoreError
from metier.core.rows import Row, row_from_bytes, row_to_bytes
from metier.ledger.subjects import SubjectKeys

__all__ = ["PACK_ROWS", "is_pack", "pack_ids", "pack_rows", "pack_subjects", "unpack_rows", "without_rows"]

PACK_ROWS = 2048
"""Rows of a full pack: what is held in memory, and rewritten when one of them is erased."""
_MAGIC = b"metier-rows-1\n"
_EARLIER = b"PAR1"
_NONCE_BYTES = 12


class _Entry(NamedTuple):
    """One row of a pack; an erased one has no bytes."""

    origin_id: str
    row_id: str
    subjects: list[str]
    num_bytes: int


def pack_rows(rows: Sequence[Row], keys: SubjectKeys) -> bytes:
    """The bytes of a pack; keys that are made for it are saved first.

    Raises:
        StoreError: a row is about a person who was erased, or the keys cannot be saved.
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    entries, blobs = [], []
    made: dict[bytes, tuple[AESGCM, bytes]] = {}
    for row in rows:
        subjects = sorted({keys.hash_of(subject) for subject in row.meta.subjects})
        key = keys.key_of(subjects)
        if key not in made:
            made[key] = AESGCM(_purpose(key, b"row-cipher")), _purpose(key, b"row-nonce")
        cipher, nonce_key = made[key]
        plain = row_to_bytes(row)
        nonce = hmac.digest(nonce_key, plain, hashlib.sha256)[:_NONCE_BYTES]
        blobs.append(nonce + cipher.encrypt(nonce, plain, row.origin_id.encode()))
        entries.append(_Entry(row.origin_id, row.row_id, subjects, len(blobs[-1])))
    keys.save()
    return _joined(entries, blobs)


def unpack_rows(
    data: bytes, keys: SubjectKeys, *, where: Path, wanted: Collection[int] | None = None
) -> list[Row | None]:
    """The rows of a pack in their order, or those at the wanted places; None for an erased row.

    Raises:
        StoreError: not a pack, damaged, or made with other keys.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    rows: list[Row | None] = []
    made: dict[bytes, AESGCM] = {}
    for place, (entry, blob) in enumerate(_entries(data, where)):
        if wanted is not None and place not in wanted:
            continue
        if not blob or not keys.can_read(entry.subjects):
            rows.append(None)
            continue
        key = keys.key_of(entry.subjects)
        if key not in made:
            made[key] = AESGCM(_purpose(key, b"row-cipher"))
        try:
            plain = made[key].decrypt(blob[:_NONCE_BYTES], blob[_NONCE_BYTES:], entry.origin_id.encode())
        except (InvalidTag, ValueError) as err:
            raise StoreError(
                f"{where}: row {entry.row_id} cannot be opened: the file was changed, or the keys are others. Restore "
                "the file and .metier/keys from a backup."
            ) from err
        rows.append(row_from_bytes(plain))
    return rows


def is_pack(data: bytes) -> bool:
    """Whether bytes are a pack of rows."""
    return data.startswith(_MAGIC)


def pack_subjects(data: bytes, *, where: Path) -> dict[str, list[str]]:
    """Hashes of the persons each row of a pack is about, by `origin_id`; erased rows are left out.

    Raises:
        StoreError: not a pack, or damaged.
    """
    return {entry.origin_id: entry.subjects for entry, blob in _entries(data, where) if blob}


def pack_ids(data: bytes, *, where: Path) -> list[tuple[str, str, bool]]:
    """(origin_id, row_id, whether it is erased) of every row of a pack; needs no key.

    Raises:
        StoreError: not a pack, or damaged.
    """
    return [(entry.origin_id, entry.row_id, not blob) for entry, blob in _entries(data, where)]


def without_rows(data: bytes, erased: Collection[str], *, where: Path) -> bytes:
    """The pack with the bytes of these origins gone; their ids stay as tombstones."""
    entries, blobs = [], []
    for entry, blob in _entries(data, where):
        is_gone = entry.origin_id in erased
        entries.append(entry._replace(subjects=[], num_bytes=0) if is_gone else entry)
        blobs.append(b"" if is_gone else blob)
    return _joined(entries, blobs)


def _purpose(key: bytes, purpose: bytes) -> bytes:
    """A key for one purpose, so that none serves two."""
    return hmac.digest(key, purpose, hashlib.sha256)


def _joined(entries: Sequence[_Entry], blobs: Sequence[bytes]) -> bytes:
    head = json.dumps(entries, separators=(",", ":")).encode()
    return b"".join([_MAGIC, head, b"\n", *blobs])


def _entries(data: bytes, where: Path) -> Iterator[tuple[_Entry, bytes]]:
    """Every entry with its bytes."""
    at = data.find(b"\n", len(_MAGIC)) + 1
    if data.startswith(_EARLIER):
        raise StoreError(
            f"{where}: sealed by an earlier version, before rows lay in packs; this one cannot read it. Keep the "
            "folder for its report, and begin anew: move .metier away and run again."
        )
    if not data.startswith(_MAGIC) or not at:
        raise StoreError(f"{where}: not a pack of rows. Restore the file from a backup.")
    try:
        entries = [_Entry(*entry) for entry in json.loads(data[len(_MAGIC) : at])]
    except (ValueError, TypeError) as err:
        raise StoreError(f"{where}: the pack's list of rows is damaged. Restore the file from a backup.") from err
    if at + sum(entry.num_bytes for entry in entries) != len(data):
        raise StoreError(f"{where}: {len(data)} bytes do not fit the pack's list of rows. Restore it from a backup.")
    for entry in entries:
        yield entry, data[at : at + entry.num_bytes]
        at += entry.num_bytes
