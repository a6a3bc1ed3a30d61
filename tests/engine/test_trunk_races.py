"""The trunk cache under other runs: evicted while it is opened, its file replaced while rows are read or written."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest
import torch

from metier.engine import trunk_files
from metier.engine.trunk_files import TrunkFiles, folder_bytes, make_room
from tests.engine.test_trunk import damage, states_path


def test_a_folder_that_is_evicted_while_it_is_opened_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = {"a": torch.ones(3, 4, dtype=torch.bfloat16)}
    first = TrunkFiles(tmp_path / "trunk", 4)
    first.append(block)
    first.close()
    is_deleting, rmtree = threading.Event(), shutil.rmtree

    def slowly(folder: Path) -> None:
        is_deleting.set()
        time.sleep(0.3)
        rmtree(folder)

    monkeypatch.setattr(trunk_files.shutil, "rmtree", slowly)
    evicting = threading.Thread(target=trunk_files._evict, args=(tmp_path / "trunk",))
    evicting.start()
    assert is_deleting.wait(10)
    second = TrunkFiles(tmp_path / "trunk", 4)  # waits for the lock of a folder that goes meanwhile
    evicting.join()
    second.take(["a"])
    assert not second.views
    second.append(block)
    assert second.stored() == {"a"}
    second.close()


def test_a_reader_finds_its_rows_while_another_run_replaces_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = TrunkFiles(tmp_path / "trunk", 4)
    writer.append({key: torch.ones(num, 4, dtype=torch.bfloat16) for key, num in (("a", 3), ("b", 2))})
    reader, map_file = TrunkFiles(tmp_path / "trunk", 4), TrunkFiles._map
    replacing = threading.Thread(target=writer.keep_only, args=(["a"],))

    def late(files: TrunkFiles, name: str) -> torch.Tensor:
        if files is reader and not replacing.is_alive():
            replacing.start()
            replacing.join(0.3)  # does it get between the index and the file?
        return map_file(files, name)

    monkeypatch.setattr(TrunkFiles, "_map", late)
    reader.take(["a", "b"])
    replacing.join()
    assert sorted(reader.views) == ["a", "b"]
    assert writer.stored() == {"a"}
    reader.close()
    writer.close()


def ones(num_tokens: int) -> torch.Tensor:
    return torch.ones(num_tokens, 4, dtype=torch.bfloat16)


def test_a_run_loses_nothing_to_an_eviction_of_the_folder_it_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, mine = tmp_path / "old", tmp_path / "mine"
    mine.mkdir()
    files = TrunkFiles(folder, 4)
    files.append({"row": ones(3)})
    files.close()
    is_deleting, may_delete, real, opened = threading.Event(), threading.Event(), shutil.rmtree, []

    def slow(path: Path) -> None:
        is_deleting.set()
        assert may_delete.wait(20)
        real(path)

    def reopen() -> None:
        opened.append(TrunkFiles(folder, 4))

    monkeypatch.setattr("metier.engine.trunk_files.shutil.rmtree", slow)
    room = threading.Thread(target=make_room, args=(tmp_path, mine), kwargs={"wanted_bytes": 1, "limit_bytes": 1})
    room.start()
    assert is_deleting.wait(20)
    opener = threading.Thread(target=reopen)
    opener.start()
    opener.join(20)
    (again,) = opened  # while the deletion has still to begin
    may_delete.set()
    room.join(20)
    again.take(["row"])
    assert again.views == {}, "the states are gone"
    again.append({"row": ones(3)})
    assert torch.equal(again.views["row"], ones(3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "old"]
    assert not make_room(tmp_path, mine, wanted_bytes=1, limit_bytes=1), "it is in use"
    again.close()


def test_a_folder_of_bytes_that_another_run_evicts_meanwhile_counts_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"123")
    (tmp_path / "b").write_bytes(b"12")
    real = Path.is_file

    def vanishing(self: Path) -> bool:
        found = real(self)
        if self.name == "b":
            self.unlink()
        return found

    monkeypatch.setattr(Path, "is_file", vanishing)
    assert folder_bytes(tmp_path) == 3


def test_damage_in_a_file_that_another_run_replaces_throws_nothing_away_in_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    writer = TrunkFiles(tmp_path / "key", 4)
    writer.append({"a": ones(3), "b": ones(2)})
    damage(states_path(tmp_path), 3 * 8)  # of row b
    reader, real = TrunkFiles(tmp_path / "key", 4), TrunkFiles._forget

    def overtaken(self: TrunkFiles, name: str, keys: list[str]) -> None:
        writer.keep_only(["a"])
        writer.append({"b": ones(2)})
        real(self, name, keys)

    monkeypatch.setattr(TrunkFiles, "_forget", overtaken)
    reader.take(["a", "b"])
    assert sorted(reader.views) == ["a"]
    assert writer.stored() == {"a", "b"}, "what it found damaged is gone with the old file"
    for files in (reader, writer):
        files.close()


def test_a_writer_maps_its_block_before_another_run_replaces_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = TrunkFiles(tmp_path / "key", 4), TrunkFiles(tmp_path / "key", 4)
    first.append({"a": ones(3)})
    real = TrunkFiles._map
    other = threading.Thread(target=second.keep_only, args=(["b"],))

    def overtaken(self: TrunkFiles, name: str) -> torch.Tensor:
        if self is first:
            other.start()
            other.join(0.5)
        return real(self, name)

    monkeypatch.setattr(TrunkFiles, "_map", overtaken)
    first.append({"b": 2 * ones(2)})
    other.join(20)
    assert torch.equal(first.views["b"], 2 * ones(2))
    assert sorted(second.stored()) == ["b"]
    for files in (first, second):
        files.close()
