"""Progress drawn on a terminal: one line rewritten in place, or plain lines where nobody watches."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from metier.road.progress import Tick, Watcher

__all__ = ["watcher_for"]

BAR_CELLS = 20
PLAIN_INTERVAL_S = 10.0


def watcher_for(stream: TextIO) -> Watcher:
    """What draws the ticks of a run on the stream."""
    return _Bar(stream) if stream.isatty() else _Lines(stream)


def duration(seconds: float) -> str:
    """A time as a person says it: 45 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


@dataclass(slots=True)
class _Bar:
    """For a terminal: milestones scroll by, the bar stays below them."""

    stream: TextIO
    shown: int = 0

    def __call__(self, tick: Tick) -> None:
        """Draw one tick."""
        if tick.text:
            self._write(f"{tick.part:<9} {tick.text}")
            self.stream.write("\n")
            self.shown = 0
            return
        cells = round(BAR_CELLS * min(max(tick.done, 0.0), 1.0))
        left = f"  about {duration(tick.eta_s)} left" if tick.eta_s is not None else ""
        self._write(f"{tick.part:<9} [{'#' * cells}{'.' * (BAR_CELLS - cells)}] {tick.done:4.0%}{left}")

    def _write(self, line: str) -> None:
        self.stream.write("\r" + line + " " * max(0, self.shown - len(line)))
        self.stream.flush()
        self.shown = len(line)


@dataclass(slots=True)
class _Lines:
    """For a file or a pipe: every milestone, and how far it is at most every ten seconds."""

    stream: TextIO
    last_s: float = 0.0

    def __call__(self, tick: Tick) -> None:
        """Write one tick, or nothing when the last line is too young."""
        now = time.monotonic()
        if tick.text:
            self.stream.write(f"{tick.part:<9} {tick.text}\n")
        elif tick.done and now - self.last_s >= PLAIN_INTERVAL_S:
            left = f", about {duration(tick.eta_s)} left" if tick.eta_s is not None else ""
            self.stream.write(f"{tick.part:<9} {tick.done:.0%}{left}\n")
        else:
            return
        self.last_s = now
        self.stream.flush()
