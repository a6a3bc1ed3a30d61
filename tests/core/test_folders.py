"""A folder is finished or it is not, whatever killed the writer."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from metier.core import StoreError
from metier.core.folders import exclusive, finish, finished, fresh_dir, read_json, stage_hash, write_bytes, write_json


def test_a_stage_is_finished_only_under_its_own_hash(tmp_path: Path) -> None:
    stage_dir = fresh_dir(tmp_path / "stage")
    write_json(stage_dir / "a.json", {"x": 1})
    assert not finished(stage_dir, "h1")
    finish(stage_dir, "h1")
    assert finished(stage_dir, "h1")
    assert not finished(stage_dir, "h2")


@pytest.mark.parametrize("damage", ["edit", "delete"])
def test_a_damaged_file_makes_the_stage_unfinished(tmp_path: Path, damage: str) -> None:
    stage_dir = fresh_dir(tmp_path / "stage")
    write_json(stage_dir / "a.json", {"x": 1})
    finish(stage_dir, "h1")
    if damage == "edit":
        (stage_dir / "a.json").write_text('{"x": 2}')
    else:
        (stage_dir / "a.json").unlink()
    assert not finished(stage_dir, "h1")


def test_stage_hash_sees_every_part() -> None:
    base = {"stage": "s", "version": 1, "inputs": ["a"], "config": {"k": 1}}
    hashes = {
        stage_hash(**{**base, **change})
        for change in ({}, {"stage": "t"}, {"version": 2}, {"inputs": []}, {"config": {}})
    }
    assert len(hashes) == 5


def test_a_full_disk_keeps_the_old_file_and_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": True})

    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="no space left on the disk; nothing half-written was kept"):
        write_json(path, {"new": True})
    assert read_json(path) == {"old": True}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a file, not a folder")
    with pytest.raises(StoreError, match="could not be written"):
        write_bytes(tmp_path / "a" / "b", b"x")


def test_truncated_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"x": ')
    with pytest.raises(StoreError, match=r"a.json: not readable as JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(StoreError, match="found none"):
        read_json(tmp_path / "b.json")


def test_nan_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_a_file_in_place_of_the_workspace_is_named(tmp_path: Path) -> None:
    (tmp_path / ".metier").write_text("a file")
    with (
        pytest.raises(StoreError, match=r"\.metier: a file; expected a folder that metier makes. Move it away and run"),
        exclusive(tmp_path / ".metier" / "run.lock", what="metier run"),
    ):
        pass
    assert (tmp_path / ".metier").read_text() == "a file"


def test_a_workspace_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("a file where a folder should be")
    with (
        pytest.raises(StoreError, match="could not be written"),
        exclusive(tmp_path / "p" / ".metier" / "run.lock", what="metier run"),
    ):
        pass


def test_two_runs_never_share_a_project(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from metier.core.folders import exclusive; from metier.core import StoreError\n"
        "try:\n"
        "    with exclusive(pathlib.Path(sys.argv[1]), what='metier run'): print('in')\n"
        "except StoreError as err: print(err)\n"
    )
    lock_path = tmp_path / "run.lock"

    def other() -> str:
        return subprocess.run(
            [sys.executable, "-c", code, str(lock_path)], capture_output=True, text=True, check=True
        ).stdout

    with exclusive(lock_path, what="metier run"):
        assert "another metier process is at work in this project" in other()
    assert other() == "in\n"
