"""What a check of the ledger found wrong."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Problem"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Something that is not as the ledger says."""

    where: str
    """Event, record or object."""
    found: str
    """What is there."""
    expected: str
    """What should be there."""

    def __str__(self) -> str:
        return f"{self.where}: {self.found}; expected {self.expected}."
