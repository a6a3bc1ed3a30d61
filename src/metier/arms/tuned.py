"""The tuned model as an arm: the adapter that `metier.tune` kept, with or without an instruction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metier.arms.replier import Replier, text_fingerprint, with_instruction
from metier.core.rows import Row
from metier.core.trials import Choice, FittedArm, Reply, SkipReason

__all__ = ["TunedArm"]


@dataclass(frozen=True, slots=True)
class TunedArm:
    """Recipe: tune (or resume) and load the best checkpoint by dev loss.

    `load_adapter` returns the replier over base and adapter, and tunes first where there is no adapter yet.
    """

    name: str
    load_adapter: Callable[[], Replier]
    instruction: str | None
    carries: str = "none"
    kind: str = "tuned"

    def needs(self, train: Sequence[Row], dev: Sequence[Row]) -> SkipReason | None:  # noqa: ARG002  # the contract's form
        """Train rows."""
        return None if train else SkipReason.NO_TRAIN_ROWS

    def fit(self, train: Sequence[Row], dev: Sequence[Row], *, seed: int) -> FittedArm:  # noqa: ARG002  # the contract's form; rows and seed are the tuning's own
        """Tune on train; the checkpoint is chosen by dev loss."""
        return FittedTuned(self.name, self.load_adapter(), self.instruction, self.carries)

    def restore(self, train: Sequence[Row], description: Mapping[str, Any]) -> FittedArm:  # noqa: ARG002  # the contract's form
        """The arm over the adapter on disk."""
        return FittedTuned(self.name, self.load_adapter(), self.instruction, description["carries"])


@dataclass(frozen=True, slots=True)
class FittedTuned:
    """Base and adapter."""

    name: str
    replier: Replier
    instruction: str | None
    carries: str
    chosen_from: Sequence[Choice] = ()
    kind: str = "tuned"

    @property
    def fingerprint(self) -> str:
        """Hash of base, adapter and instruction."""
        return text_fingerprint(self.kind, self.replier.fingerprint, self.instruction or "")

    def reply(self, rows: Sequence[Row]) -> list[Reply]:
        """One reply per row."""
        return self.replier.reply(rows, [with_instruction(row, self.instruction) for row in rows])

    def reply_each(self, rows: Sequence[Row]) -> Iterator[Reply]:
        """One reply per row, one request at a time."""
        return self.replier.reply_each(rows, [with_instruction(row, self.instruction) for row in rows])

    def describe(self) -> dict[str, Any]:
        """Which instruction every request carries."""
        return {"carries": self.carries, "tried": []}
