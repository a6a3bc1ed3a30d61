"""Progress: one line rewritten on a terminal, few plain lines elsewhere."""

from __future__ import annotations

import io

import pytest

from metier import terminal
from metier.road import progress
from metier.road.progress import Progress, Tick


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_one_line_that_is_rewritten() -> None:
    stream = Terminal()
    watch = terminal.watcher_for(stream)
    watch(Tick("tune", 0.5, "", 200.0))
    watch(Tick("tune", 1.0, "", 5.0))
    watch(Tick("tune", 0.0, "best step 4", None))
    first, second, third = stream.getvalue().split("\r")[1:]
    assert first == "tune      [##########..........]  50%  about 3 min 20 s left"
    assert second.rstrip() == "tune      [####################] 100%  about 5 s left"
    assert len(second) == len(first), "the rest of the longer line is wiped"
    assert third.rstrip() == "tune      best step 4"
    assert stream.getvalue().endswith("\n")


def test_a_pipe_gets_milestones_and_a_line_at_most_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    watch = terminal.watcher_for(stream)
    for second in range(25):
        now[0] = 1000.0 + second
        watch(Tick("arms", (second + 1) / 25, "", None))
    watch(Tick("arms", 0.0, "prompt: 0.5", None))
    assert stream.getvalue().splitlines() == ["arms      4%", "arms      44%", "arms      84%", "arms      prompt: 0.5"]


@pytest.mark.parametrize(("seconds", "said"), [(0, "0 s"), (59.4, "59 s"), (60, "1 min 0 s"), (7500, "2 h 5 min")])
def test_a_time_as_a_person_says_it(seconds: float, said: str) -> None:
    assert terminal.duration(seconds) == said


def test_the_time_left_is_that_of_this_part_and_all_later_ones() -> None:
    ticks: list[Tick] = []
    progress = Progress(ticks.append, predicted_s={"arms": 100.0, "tune": 60.0, "hold-out": 40.0})
    progress.enter("tune")
    progress.advance(0.5)
    assert ticks[-1].eta_s == pytest.approx(30 + 40)
    progress.enter("report")
    assert ticks[-1].eta_s == 0.0
    assert set(progress.seconds) == {"read", "tune"}


def test_the_time_left_does_not_start_over_with_every_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    ticks: list[Tick] = []
    told = Progress(ticks.append, predicted_s={"arms": 40.0, "tune": 60.0, "latency": 20.0, "hold-out": 30.0})
    for part, seconds, left in (
        ("arms", 20, 150), ("latency", 10, 130), ("arms", 20, 120), ("latency", 5, 100), ("tune", 60, 95),
        ("latency", 5, 35), ("hold-out", 30, 30), ("report", 1, 0),
    ):  # fmt: skip
        told.enter(part)
        assert ticks[-1].eta_s == left, part
        now[0] += seconds
