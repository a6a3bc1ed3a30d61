"""Packs of rows: what comes out is what went in; a destroyed key or an erased row is gone, damage is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from metier.core.errors import StoreError
from metier.core.rows import Message, Meta, Role, Row, make_row
from metier.ledger import ObjectStore, SubjectKeys, is_pack, pack_ids, pack_rows, unpack_rows, without_rows

KEY = b"k" * 32


def row(number: int, *subjects: str, text: str = "where is my lamp") -> Row:
    return make_row(
        KEY,
        messages=(
            Message(role=Role.USER, content=f"{text} {number}"),
            Message(role=Role.ASSISTANT, content="on its way"),
        ),
        meta=Meta(source="rows.jsonl", source_row=number, subjects=subjects, groups={"order": str(number)}),
    )


def test_rows_come_back_equal_and_the_same_rows_make_the_same_bytes(tmp_path: Path) -> None:
    keys = SubjectKeys.open(tmp_path)
    rows = [row(1, "Ana Silva"), row(2), row(3, "Ben Ode", "Ana Silva")]
    data = pack_rows(rows, keys)
    assert is_pack(data)
    assert unpack_rows(data, keys, where=tmp_path) == rows
    assert unpack_rows(data, keys, where=tmp_path, wanted={0, 2}) == [rows[0], rows[2]]
    assert pack_rows(rows, SubjectKeys.open(tmp_path)) == data
    assert pack_ids(data, where=tmp_path) == [(r.origin_id, r.row_id, False) for r in rows]


def test_nothing_can_be_read_in_a_pack_but_keyed_ids(tmp_path: Path) -> None:
    data = pack_rows([row(1, "Ana Silva")], SubjectKeys.open(tmp_path))
    for text in (b"Ana", b"ana silva", b"lamp", b"rows.jsonl", b"on its way"):
        assert text not in data


def test_a_destroyed_key_takes_every_row_about_the_person(tmp_path: Path) -> None:
    keys = SubjectKeys.open(tmp_path)
    rows = [row(1, "Ana Silva"), row(2), row(3, "Ben Ode", "ANA  silva"), row(4, "Ben Ode")]
    data = pack_rows(rows, keys)
    assert keys.destroy(keys.hash_of("ana silva"))
    again = SubjectKeys.open(tmp_path)
    assert unpack_rows(data, again, where=tmp_path) == [None, rows[1], None, rows[3]]
    with pytest.raises(StoreError, match="was destroyed by an erasure; rows about this person are refused"):
        pack_rows([row(5, "Ana Silva")], again)


def test_an_erased_row_leaves_its_ids_and_no_bytes(tmp_path: Path) -> None:
    keys = SubjectKeys.open(tmp_path)
    rows = [row(1, "Ana Silva"), row(2), row(3)]
    data = pack_rows(rows, keys)
    less = without_rows(data, {rows[1].origin_id}, where=tmp_path)
    assert unpack_rows(less, keys, where=tmp_path) == [rows[0], None, rows[2]]
    assert pack_ids(less, where=tmp_path)[1] == (rows[1].origin_id, rows[1].row_id, True)
    assert len(less) < len(data)
    assert without_rows(less, {rows[1].origin_id}, where=tmp_path) == less


def test_a_pack_of_no_rows(tmp_path: Path) -> None:
    keys = SubjectKeys.open(tmp_path)
    assert unpack_rows(pack_rows([], keys), keys, where=tmp_path) == []


def test_damage_is_told(tmp_path: Path) -> None:
    keys = SubjectKeys.open(tmp_path)
    data = pack_rows([row(1), row(2)], keys)
    flipped = data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]
    with pytest.raises(StoreError, match="cannot be opened: the file was changed, or the keys are others"):
        unpack_rows(flipped, keys, where=tmp_path)
    with pytest.raises(StoreError, match="do not fit the pack's list of rows"):
        unpack_rows(data[:-1], keys, where=tmp_path)
    with pytest.raises(StoreError, match="not a pack of rows"):
        unpack_rows(b"rows", keys, where=tmp_path)
    other = SubjectKeys.open(tmp_path / "other")
    with pytest.raises(StoreError, match="the keys are others"):
        unpack_rows(data, other, where=tmp_path)


def test_keys_survive_reopening_a_cut_off_end_and_refuse_damage(tmp_path: Path) -> None:
    keys = SubjectKeys.open(tmp_path)
    first = keys.key_of([keys.hash_of("Ana Silva")])
    keys.key_of([keys.hash_of("Ben Ode")])
    keys.save()
    assert oct(keys.path.stat().st_mode & 0o777) == "0o600"
    whole = keys.path.read_bytes()
    keys.path.write_bytes(whole[:-30])  # killed while the last line was written
    again = SubjectKeys.open(tmp_path)
    assert again.key_of([again.hash_of("ana silva")]) == first
    assert not again.can_read([again.hash_of("Ben Ode")])
    again.key_of([again.hash_of("Ben Ode")])
    again.save()
    assert len(keys.path.read_bytes()) == len(whole)
    keys.path.write_bytes(whole.replace(b" ", b"_", 1))
    with pytest.raises(StoreError, match="line 1 is damaged; expected a hash, a blank and a key"):
        SubjectKeys.open(tmp_path)


def test_a_half_overwritten_key_is_no_key_and_an_unknown_person_stays_erased(tmp_path: Path) -> None:
    keys = SubjectKeys.open(tmp_path)
    hashed = keys.hash_of("Ana Silva")
    keys.key_of([hashed])
    keys.save()
    data = keys.path.read_bytes()
    keys.path.write_bytes(data[:40] + b"-" * 8 + data[48:])
    assert SubjectKeys.open(tmp_path).is_destroyed(hashed)
    assert not keys.destroy(keys.hash_of("Nobody"))
    assert SubjectKeys.open(tmp_path).is_destroyed(keys.hash_of("nobody"))
    assert keys.destroy(hashed)
    assert not keys.destroy(hashed)
    assert b"-" * 64 in keys.path.read_bytes()
    assert keys.destroyed == sorted([hashed, keys.hash_of("Nobody")])


def test_a_removed_object_is_gone_and_removing_it_twice_is_no_error(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path)
    ref = store.put(b"rows")
    store.remove(ref)
    store.remove(ref)
    assert list(store.refs()) == []
    with pytest.raises(StoreError, match="the object is missing"):
        store.get(ref)
