import errno
import os
from hashlib import sha256

import pytest

from metier.core.errors import StoreError
from metier.ledger import ObjectStore, project_key, seal_key

KEY = bytes(range(32))


def test_an_object_is_named_by_its_bytes(tmp_path):
    store = ObjectStore(tmp_path)
    ref = store.put(b"rows")
    assert ref == sha256(b"rows").hexdigest()
    assert (tmp_path / ".metier" / "objects" / ref[:2] / ref[2:]).read_bytes() == b"rows"
    assert store.get(ref) == b"rows"
    assert store.get(store.put(b"")) == b""
    assert list(store.refs()) == sorted([ref, sha256(b"").hexdigest()])


def test_a_damaged_object_is_named_and_put_again_repairs_it(tmp_path):
    store = ObjectStore(tmp_path)
    ref = store.put(b"rows")
    path = store.path_of(ref)
    for damage in (b"row", b"rowz", b""):
        path.write_bytes(damage)
        with pytest.raises(StoreError) as err:
            store.get(ref)
        assert str(path) in str(err.value)
        assert f"found {len(damage)} bytes with hash {sha256(damage).hexdigest()[:12]}, expected {ref[:12]}" in str(
            err.value
        )
    assert store.get(store.put(b"rows")) == b"rows"
    path.unlink()
    with pytest.raises(StoreError, match="the object is missing; expected the bytes of"):
        store.get(ref)


@pytest.mark.parametrize("ref", ["", "ab", "g" * 64, "../../../etc/passwd", "A" * 64])
def test_what_is_no_reference_reaches_no_file(tmp_path, ref):
    with pytest.raises(StoreError, match="is no object reference; expected 64 hex digits"):
        ObjectStore(tmp_path).get(ref)


def test_a_full_disk_leaves_no_object(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    store = ObjectStore(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="no space left on the disk; nothing half-written was kept"):
        store.put(b"rows")
    assert list(store.refs()) == []
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_encrypted_objects_are_unreadable_and_equal_for_equal_bytes(tmp_path):
    store = ObjectStore(tmp_path)
    ref = store.put_encrypted(b"private rows", KEY)
    assert b"private" not in store.get(ref)
    assert store.get_encrypted(ref, KEY) == b"private rows"
    assert store.put_encrypted(b"private rows", KEY) == ref
    assert store.put_encrypted(b"private rowz", KEY) != ref
    assert store.put_encrypted(b"private rows", bytes(32)) != ref
    nonces = {store.get(found)[16:28] for found in store.refs()}
    assert len(nonces) == 3  # no nonce is used twice


def test_a_wrong_key_a_wrong_kind_and_a_short_key_are_told_apart(tmp_path):
    store = ObjectStore(tmp_path)
    ref = store.put_encrypted(b"rows", KEY)
    with pytest.raises(
        StoreError, match="cannot be opened with this key; the file is whole, so the key is another one"
    ):
        store.get_encrypted(ref, bytes(32))
    with pytest.raises(StoreError, match=r"not an encrypted object\. Read it with get\(\)"):
        store.get_encrypted(store.put(b"rows"), KEY)
    with pytest.raises(StoreError, match="an encryption key has 5 bytes; expected 32"):
        store.put_encrypted(b"rows", b"short")


def test_keys_are_made_once_for_the_owner_alone(tmp_path):
    key = project_key(tmp_path)
    assert len(key) == 32
    assert project_key(tmp_path) == key
    assert seal_key(tmp_path) != key
    for name in ("project.key", "seal.key"):
        assert (tmp_path / ".metier" / "keys" / name).stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in (tmp_path / ".metier" / "keys").iterdir()) == ["project.key", "seal.key"]
    assert project_key(tmp_path / "other") != key


def test_a_cut_key_is_refused(tmp_path):
    project_key(tmp_path)
    (tmp_path / ".metier" / "keys" / "project.key").write_bytes(b"half")
    with pytest.raises(StoreError, match=r"project\.key: holds 4 bytes; expected 32\. Restore the file"):
        project_key(tmp_path)


def test_of_two_makers_of_a_key_the_first_wins_for_both(tmp_path, monkeypatch):
    path = tmp_path / ".metier" / "keys" / "project.key"
    monkeypatch.setattr(os, "fsync", lambda _: path.write_bytes(b"k" * 32))  # the other one, in the meantime
    assert project_key(tmp_path) == b"k" * 32
    assert [found.name for found in path.parent.iterdir()] == ["project.key"]
