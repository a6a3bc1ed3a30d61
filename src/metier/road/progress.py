"""How far a run is, told to whoever draws it; the road itself prints nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Progress", "Tick", "Watcher", "minutes_text"]

PARTS = ("read", "split", "plan", "arms", "tune", "latency", "curve", "hold-out", "report")
"""The parts of a run, in order, as a person is shown them."""
ROUNDS = ("arms", "latency")
"""Parts that come again with every arm."""


class Tick(NamedTuple):
    """One report of progress."""

    part: str
    """One of PARTS."""
    done: float
    """Share of the part that is done, 0-1."""
    text: str
    """What was decided or reached, empty for a mere advance."""
    eta_s: float | None
    """Seconds until the whole run ends, by the plan; None before there is one."""


Watcher = Callable[[Tick], None]


@dataclass(slots=True)
class Progress:
    """Collects advances and milestones and tells the watcher, with the remaining time by the plan."""

    watcher: Watcher | None = None
    predicted_s: dict[str, float] = field(default_factory=dict)
    """Predicted seconds by part, known once the plan is made."""
    part: str = "read"
    part_started_s: float = field(default_factory=time.monotonic)
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds spent by part in this process."""

    def enter(self, part: str) -> None:
        """Begin a part; the seconds of the one before are booked."""
        now = time.monotonic()
        self.seconds[self.part] = self.seconds.get(self.part, 0.0) + now - self.part_started_s
        self.part, self.part_started_s = part, now
        self._tell(0.0, "")

    def advance(self, done: float) -> None:
        """Tell which share of the part is done."""
        self._tell(done, "")

    def say(self, text: str) -> None:
        """Tell a decision or a milestone with its numbers."""
        self._tell(0.0, text)

    def _tell(self, done: float, text: str) -> None:
        if self.watcher is not None:
            self.watcher(Tick(self.part, done, text, self._eta_s(done)))

    def _eta_s(self, done: float) -> float | None:
        """Seconds left by the plan; arms and latency take turns, arm by arm, until tuning begins."""
        if not self.predicted_s:
            return None
        here_s = time.monotonic() - self.part_started_s
        predicted_s = self.predicted_s.get(self.part, 0.0)
        if self.part in ROUNDS or not done:
            left_s = self._left_s(self.part) - here_s
        else:
            left_s = predicted_s * (1 - done)
        taking_turns = self.part in ROUNDS and "tune" not in self.seconds
        first = PARTS.index(ROUNDS[0]) if taking_turns else PARTS.index(self.part) + 1
        later = (part for part in PARTS[first:] if part != self.part)
        return max(left_s, 0.0) + sum(self._left_s(part) for part in later)

    def _left_s(self, part: str) -> float:
        """Predicted seconds of a part without those of its rounds that are over."""
        return max(self.predicted_s.get(part, 0.0) - self.seconds.get(part, 0.0), 0.0)


def minutes_text(minutes: float) -> str:
    """Minutes in words, seconds where they are few."""
    return f"{60 * minutes:.1f} s" if minutes < 1 else f"{minutes:.1f} minutes"
