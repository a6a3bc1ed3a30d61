"""A full disk and an interrupt: a clear end, and the same command goes on to the report."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from tests.road.comparing import comparable, scores
from tests.road.running import copy_of, files_of, metier


@pytest.mark.parametrize("at", [3, 30])
def test_a_disk_that_fills_up_keeps_what_is_finished(fresh: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    real, calls = os.fsync, []

    def fsync(file: int) -> None:
        calls.append(file)
        if len(calls) >= at:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        ran = metier("run", "-C", fresh)
    assert ran.code == 1, f"{len(calls)} writes in a run"
    assert "no space left on the disk; nothing half-written was kept." in ran.err
    assert "run the same command again: it resumes." in ran.err
    assert not [name for name in files_of(fresh / ".metier") if name.endswith(".part")]
    assert metier("run", "-C", fresh).code == 0
    assert metier("verify", "-C", fresh).code == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, mounted; needs root."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True)
    if done.returncode:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def resize(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


def test_a_disk_without_room_for_the_run_is_told_before_it_is_spent(small_disk: Path, keyed_project: Path) -> None:
    resize(small_disk, "8m")
    ran = metier("run", "-C", copy_of(keyed_project, small_disk / "p"))
    assert ran.code == 3, ran.err
    assert "GiB of disk are free, the run needs 0.50 GiB for checkpoints, adapter and report. Free" in ran.err


def test_a_disk_that_is_really_full_is_told_at_every_size(
    small_disk: Path, keyed_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metier.road import rehearsal

    # The room is there when the run begins, and somebody else takes it: no small disk passes the check beforehand.
    monkeypatch.setattr(rehearsal, "SPARE_DISK_GIB", -1.0)
    project, settings = copy_of(keyed_project, small_disk / "p"), ("--set", "tune.trunk_gib=0")
    for size in ("64k", "200k", "400k", "480k", "560k"):
        resize(small_disk, size)
        ran = metier("run", "-C", project, *settings)
        assert ran.code == 1, f"{size}: {ran.err}"
        assert "no space left on " in ran.err.lower(), f"{size}: {ran.err}"
        assert "run the same command again: it resumes." in ran.err, f"{size}: {ran.err}"
        assert "Traceback" not in ran.err
    resize(small_disk, "8m")
    ran = metier("run", "-C", project, *settings, "--json")
    assert ran.code == 0, ran.err
    # Without stored states: whether the disk has room for them is part of what a run is.
    whole = metier("run", "-C", copy_of(keyed_project, tmp_path / "whole"), *settings, "--json")
    assert comparable(ran.json) == comparable(whole.json)
    assert metier("verify", "-C", project).code == 0


@pytest.mark.parametrize(
    ("module", "name"),
    [("metier.arms.replier", "Replier.reply"), ("metier.tune.running", "optim_step"), ("metier.road.look", "_replies")],
)
def test_an_interrupt_exits_130_and_the_same_command_goes_on(
    fresh: Path, lean_project: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str
) -> None:
    owner = import_module(module)
    for part in name.split(".")[:-1]:
        owner = getattr(owner, part)
    real, calls = getattr(owner, name.split(".")[-1]), []

    def interrupted(*arguments: object, **named: object) -> object:
        calls.append(name)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return real(*arguments, **named)

    # A test run that was started in the background ignores the signal; a terminal does not.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name.split(".")[-1], interrupted)
            ran = metier("run", "-C", fresh)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (ran.code, ran.out) == (130, "")
    assert ran.err.endswith("interrupted: what was finished is kept; the same command resumes.\n")
    again = metier("run", "-C", fresh, "--json")
    assert again.code == 0, again.err
    assert comparable(again.json) == comparable(metier("report", "-C", lean_project, "--json").json)
    assert scores(fresh) == scores(lean_project)
