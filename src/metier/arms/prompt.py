"""A model prompted with the guidelines, the base or one behind an endpoint: several wordings, the best on dev."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metier.arms.choosing import choices_as_json, choices_from_json, choose_on_dev
from metier.arms.endpoint import EndpointReplier
from metier.arms.replier import Replier, text_fingerprint, with_instruction
from metier.core.rows import Row
from metier.core.trials import Choice, FittedArm, Reply, SkipReason

if TYPE_CHECKING:
    from metier.evaluate import Grader

__all__ = ["PromptArm"]


@dataclass(frozen=True, slots=True)
class PromptArm:
    """Recipe: try every wording of the instruction on dev, keep the best."""

    name: str
    replier: Replier | EndpointReplier
    grader: Grader
    wordings: Mapping[str, str]
    """Instruction by the name of its wording, for example {"guidelines.md": "You answer ..."}."""
    kind: str = "prompt"

    def needs(self, train: Sequence[Row], dev: Sequence[Row]) -> SkipReason | None:
        """Guidelines, in at least one wording; for an endpoint also rows that it can be sent."""
        if not self.wordings:
            return SkipReason.NO_GUIDELINES
        return self.replier.needs([*train, *dev]) if isinstance(self.replier, EndpointReplier) else None

    def fit(self, train: Sequence[Row], dev: Sequence[Row], *, seed: int) -> FittedArm:  # noqa: ARG002  # the contract's form
        """Score every wording on dev."""
        fitted = {name: self._fitted(name, text) for name, text in self.wordings.items()}
        chosen = choose_on_dev({name: arm.reply for name, arm in fitted.items()}, dev, self.grader)
        return self._fitted(chosen.name, self.wordings[chosen.name], chosen.tried)

    def restore(self, train: Sequence[Row], description: Mapping[str, Any]) -> FittedArm:  # noqa: ARG002  # the contract's form
        """The arm that `describe()` told of."""
        tried = choices_from_json(description["tried"])
        return self._fitted(description["wording"], description["instruction"], tried)

    def _fitted(self, wording: str, instruction: str, tried: Sequence[Choice] = ()) -> FittedPrompt:
        return FittedPrompt(self.name, self.replier, wording, instruction, tried, self.kind)


@dataclass(frozen=True, slots=True)
class FittedPrompt:
    """A model with one instruction."""

    name: str
    replier: Replier | EndpointReplier
    wording: str
    instruction: str
    chosen_from: Sequence[Choice] = ()
    kind: str = "prompt"

    @property
    def fingerprint(self) -> str:
        """Hash of model and instruction."""
        return text_fingerprint(self.kind, self.replier.fingerprint, self.instruction)

    def reply(self, rows: Sequence[Row]) -> list[Reply]:
        """One reply per row."""
        return self.replier.reply(rows, [with_instruction(row, self.instruction) for row in rows])

    def reply_each(self, rows: Sequence[Row]) -> Iterator[Reply]:
        """One reply per row, one request at a time."""
        return self.replier.reply_each(rows, [with_instruction(row, self.instruction) for row in rows])

    def describe(self) -> dict[str, Any]:
        """The chosen wording and its text."""
        tried = choices_as_json(self.chosen_from)
        return {"wording": self.wording, "instruction": self.instruction, "carries": "full", "tried": tried}
