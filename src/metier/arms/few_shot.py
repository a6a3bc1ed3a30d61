"""The base model shown a fixed set of worked examples: several sets and sizes, the best on dev."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from metier.arms.choosing import choices_as_json, choices_from_json, choose_on_dev
from metier.arms.replier import (
    Conversation,
    Replier,
    needs_of_examples,
    shortest_example,
    text_fingerprint,
    with_instruction,
)
from metier.core.rows import Row
from metier.core.seeds import generator
from metier.core.trials import Choice, FittedArm, Reply, SkipReason

if TYPE_CHECKING:
    from metier.evaluate import Grader

__all__ = ["FewShotArm"]

NUM_SETS = 3
DEFAULT_K = (1, 3, 5)
SHORTEST = "shortest row, k=1"


@dataclass(frozen=True, slots=True)
class FewShotArm:
    """Recipe: three seeded sets of train rows, the first k of each shown; set and k chosen on dev."""

    name: str
    replier: Replier
    grader: Grader
    instruction: str
    k_choices: tuple[int, ...] = DEFAULT_K
    carries: str = "full"
    """full, short or none: which instruction that is."""
    kind: str = "few_shot"

    def needs(self, train: Sequence[Row], dev: Sequence[Row]) -> SkipReason | None:
        """Train rows to show, and room for one of them in the context."""
        return needs_of_examples(self.replier, self.instruction, train, dev)

    def fit(self, train: Sequence[Row], dev: Sequence[Row], *, seed: int) -> FittedArm:  # the contract's form
        """Score every set and k on dev.

        A set that does not fit whole before the longest dev prompt is no candidate. Where none does, the
        shortest train row is the one example.
        """
        fitted = {}
        longest = sorted(dev, key=lambda row: len(row.prompt_text))[-1:]
        for number in range(NUM_SETS):
            order = generator(seed, "few_shot", number).permutation(len(train))
            for k in dict.fromkeys(min(k, len(train)) for k in self.k_choices):
                shots = [train[int(i)] for i in order[:k]]
                if all(self.replier.fits(with_instruction(row, self.instruction, shots), row) for row in longest):
                    name = f"set {number + 1}, k={k}"
                    fitted[name] = self._fitted(shots, name)
        if not fitted:
            shots = [shortest_example(train)]
            fitted = {SHORTEST: self._fitted(shots, SHORTEST)}
        chosen = choose_on_dev({name: arm.reply for name, arm in fitted.items()}, dev, self.grader)
        return replace(fitted[chosen.name], chosen_from=chosen.tried)

    def restore(self, train: Sequence[Row], description: Mapping[str, Any]) -> FittedArm:
        """The arm that `describe()` told of."""
        row_by_id = {row.row_id: row for row in train}
        tried = choices_from_json(description["tried"])
        shots = [row_by_id[row_id] for row_id in description["shots"]]
        found = self._fitted(shots, description["choice"])
        return replace(found, carries=description["carries"], chosen_from=tried)

    def _fitted(self, shots: Sequence[Row], choice: str) -> FittedFewShot:
        return FittedFewShot(self.name, self.replier, self.instruction, self.carries, shots, choice)


@dataclass(frozen=True, slots=True)
class FittedFewShot:
    """The base with the instruction and fixed examples."""

    name: str
    replier: Replier
    instruction: str
    carries: str
    shots: Sequence[Row]
    choice: str
    chosen_from: Sequence[Choice] = ()
    kind: str = "few_shot"

    @property
    def fingerprint(self) -> str:
        """Hash of model, instruction and examples."""
        ids = [row.row_id for row in self.shots]
        return text_fingerprint(self.kind, self.replier.fingerprint, self.instruction, *ids)

    def conversation(self, row: Row) -> Conversation:
        """The examples and the row's prompt; examples are left out from the end where they do not fit."""
        for count in range(len(self.shots), 0, -1):
            talk = with_instruction(row, self.instruction, self.shots[:count])
            if self.replier.fits(talk, row):
                return talk
        return with_instruction(row, self.instruction)

    def reply(self, rows: Sequence[Row]) -> list[Reply]:
        """One reply per row."""
        return self.replier.reply(rows, [self.conversation(row) for row in rows])

    def reply_each(self, rows: Sequence[Row]) -> Iterator[Reply]:
        """One reply per row, one request at a time."""
        return self.replier.reply_each(rows, [self.conversation(row) for row in rows])

    def describe(self) -> dict[str, Any]:
        """The chosen examples, by row id, and which instruction every request carries."""
        tried = choices_as_json(self.chosen_from)
        shots = [row.row_id for row in self.shots]
        return {"choice": self.choice, "shots": shots, "carries": self.carries, "tried": tried}
