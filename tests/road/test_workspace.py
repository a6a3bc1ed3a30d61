"""The time of a stage over all its attempts: interrupted, killed, damaged, started anew."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from metier.road import workspace
from metier.road.workspace import SPENT_NAME, Stage, Workspace


class Killed(BaseException):
    """Ends the work as SIGKILL does: nothing of the attempt is noted."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds by hand; the last one is now."""
    now = [100.0]
    monkeypatch.setattr(workspace.time, "monotonic", lambda: now[-1])
    return now


def stage(project_dir: Path, work: Callable[[Path], None], *, resumable: bool = True) -> Stage:
    return Workspace(project_dir).stage("tune", version=1, inputs=1, config=None, work=work, resumable=resumable)


def takes(clock: list[float], seconds: float, *, ends: BaseException | None = None) -> Callable[[Path], None]:
    def work(stage_dir: Path) -> None:
        clock.append(clock[-1] + seconds)
        (stage_dir / "state.json").write_text("{}", encoding="utf-8")
        if ends is not None:
            raise ends

    return work


@pytest.mark.parametrize("resumable", [True, False])
def test_an_interrupted_attempt_is_counted(tmp_path: Path, clock: list[float], resumable: bool) -> None:
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            stage(tmp_path, takes(clock, 30.0, ends=KeyboardInterrupt()), resumable=resumable)
    found = stage(tmp_path, takes(clock, 5.0), resumable=resumable)
    assert found.seconds == pytest.approx(65.0, abs=0.1)
    assert stage(tmp_path, takes(clock, 99.0)).seconds == found.seconds, "a finished stage is not done again"


def test_a_killed_attempt_is_counted_up_to_its_last_write(
    tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(workspace, "write_json", _only_first(workspace.write_json))
        with pytest.raises(Killed):
            stage(tmp_path, takes(clock, 30.0, ends=Killed()))
    (spent_path,) = tmp_path.rglob(SPENT_NAME)
    began_s = spent_path.stat().st_mtime
    os.utime(spent_path.with_name("state.json"), (began_s, began_s + 20.0))
    assert stage(tmp_path, takes(clock, 5.0)).seconds == pytest.approx(25.0)


def test_peak_memory_is_the_highest_of_all_attempts(
    tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks = iter([3.0, 2.0, 1.0])
    monkeypatch.setattr(workspace, "peak_memory_gib", lambda **_: next(peaks))
    with pytest.raises(KeyboardInterrupt):
        stage(tmp_path, takes(clock, 30.0, ends=KeyboardInterrupt()))
    assert stage(tmp_path, takes(clock, 5.0)).peak_memory_gib == 3.0


def test_a_killed_attempt_keeps_the_peak_it_noted_and_the_time_it_began(
    tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks = iter([4.0, 2.0, 1.0])
    monkeypatch.setattr(workspace, "peak_memory_gib", lambda **_: next(peaks))

    def work(stage_dir: Path) -> None:
        began_s = (stage_dir / SPENT_NAME).stat().st_mtime - 50
        os.utime(stage_dir / SPENT_NAME, (began_s, began_s))
        workspace.note_peak(stage_dir)
        (stage_dir / "state.json").write_text("{}", encoding="utf-8")
        raise Killed

    with monkeypatch.context() as patch:
        real = workspace._note
        notes: list[int] = []
        patch.setattr(workspace, "_note", lambda *given: notes.append(1) or len(notes) > 1 or real(*given))
        with pytest.raises(Killed):
            stage(tmp_path, work)
    found = stage(tmp_path, takes(clock, 5.0))
    assert found.peak_memory_gib == 4.0
    assert found.seconds == pytest.approx(55.0, abs=1.0)


def _only_first(real: Callable[..., None]) -> Callable[..., None]:
    """The note at the start is written, the one at the end is not."""
    calls: list[object] = []

    def write(path: Path, value: object) -> None:
        calls.append(value)
        if len(calls) == 1:
            real(path, value)

    return write


def test_a_damaged_stage_is_done_again_and_both_times_count(tmp_path: Path, clock: list[float]) -> None:
    first = stage(tmp_path, takes(clock, 30.0))
    (first.dir / "state.json").write_text("damaged", encoding="utf-8")
    os.utime(first.dir / "state.json", (time.time(), time.time() + 86_400))  # found a day later: that day is no work
    assert stage(tmp_path, takes(clock, 5.0)).seconds == pytest.approx(35.0)


def test_memory_of_the_processes_that_did_the_work_counts_for_their_stage_alone(tmp_path: Path) -> None:
    held = "held = bytearray(200 << 20); held[:] = bytes(len(held))"

    def work(stage_dir: Path) -> None:
        subprocess.run([sys.executable, "-c", held], check=True)

    alone, shared = (
        Workspace(tmp_path).stage(f"of-{num}", version=1, inputs=1, config=None, work=work, processes=num)
        for num in (1, 2)
    )
    assert shared.peak_memory_gib - alone.peak_memory_gib > 2 * 0.19
