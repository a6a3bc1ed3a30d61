"""Hashes that name things: canonical JSON, content hashes, keyed row ids, Merkle roots.

Not an encryption module: keys live in `metier.ledger`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["canonical_json", "file_sha256", "keyed_hash", "merkle_root", "sha256_hex", "value_hash"]


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(value: Any) -> bytes:  # Any: whatever json accepts
    """The one JSON spelling of a value: sorted keys, no spaces, UTF-8, NaN refused."""
    text = _CANONICAL.encode(value)
    # A lone surrogate cannot be written as UTF-8; escape it the same way every time instead of failing.
    return text.encode("utf-8", "backslashreplace")


def sha256_hex(data: bytes) -> str:
    """SHA-256 of bytes, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def value_hash(value: Any) -> str:  # Any: whatever json accepts
    """SHA-256 of the canonical JSON of a value."""
    return sha256_hex(canonical_json(value))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def keyed_hash(key: bytes, value: Any) -> str:  # Any: whatever json accepts
    """HMAC-SHA256 of the canonical JSON of a value, 32 hex digits.

    Without the key nobody can test a guess of the text against the id (unkeyed hashes of names
    are reversed in practice: facts, presidio #1845).
    """
    return hmac.new(key, canonical_json(value), hashlib.sha256).hexdigest()[:32]


def merkle_root(leaves: Iterable[str]) -> str:
    """Root of the Merkle tree over the sorted, unique leaves; 64 hex digits.

    Leaves and inner nodes are hashed under different prefixes, so an inner node never passes for a
    leaf; an odd node moves up unchanged. The tree of no leaves is the hash of the empty string.
    """
    level = [hashlib.sha256(b"\x00" + leaf.encode()).digest() for leaf in sorted(set(leaves))]
    if not level:
        return hashlib.sha256(b"").hexdigest()
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        parents = [hashlib.sha256(b"\x01" + left + right).digest() for left, right in pairs]
        level = parents + level[len(parents) * 2 :]
    return level[0].hex()
