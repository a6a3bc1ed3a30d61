"""In what form a step is computed, and what was chosen for a run with the reason of each choice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from metier.engine.trunk import Trunk

__all__ = ["Choice", "Execution", "Form"]

Layout = Literal["packed", "padded"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """What changes time and memory of a step; loss and gradient are the same up to rounding."""

    layout: Layout = "packed"
    """Rows end to end, or those of a group padded to one length."""
    checkpointing: bool = False
    """Blocks keep only their input and are computed again on the way back: the same bits, less memory."""
    prefix: tuple[int, ...] = ()
    """Tokens that all rows start with, computed once a step."""
    trunk: Trunk | None = None
    """Stored states of the frozen layers; they are rounded to bf16, which does change a run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One thing that was chosen."""

    name: str
    reason: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    """What each candidate took, where that was measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution:
    """Everything a run chose for itself, before it starts; stored with it, and chosen again on resume."""

    block: Choice
    """compact or transformers: whose forward and backward."""
    device: Choice
    base: Choice
    """Bits of its frozen weights."""
    optimizer: Choice
    head: Choice
    """What computes the loss from the last hidden states."""
    product_dtype: Choice
    threads: int
    """Cores of each process; sums depend on their number."""
    workers: Choice
    micro_tokens: Choice
    layout: Choice
    checkpointing: Choice
    prefix: Choice
    trunk: Choice
    prefix_tokens: int = 0
    """Tokens all rows share, computed once a step."""
    trunk_layers: int = 0
    """Layers whose states are read from disk."""
    trunk_bytes: int = 0
    """Disk space they take."""

    @property
    def choices(self) -> dict[str, Choice]:
        """The choices by name, in the order they are told."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}  # getattr: the fields of this very class
        return {name: value for name, value in found.items() if isinstance(value, Choice)}

    def lines(self) -> list[str]:
        """A line for each choice: what, and why."""
        return [f"{name}: {choice.name} ({choice.reason})" for name, choice in self.choices.items()]

    def as_json(self) -> dict[str, Any]:  # Any: JSON values
        """Written as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Execution:  # Any: JSON values
        """Read again."""
        read: dict[str, Any] = {}  # Any: a choice or a number
        for name, value in values.items():
            read[name] = Choice(**value) if isinstance(value, dict) else value
        return cls(**read)
