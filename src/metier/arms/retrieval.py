"""The base or the tuned model shown the train rows nearest to each prompt, by words or meaning; k is chosen on dev."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from metier.arms.choosing import choices_as_json, choices_from_json, choose_on_dev
from metier.arms.nearest import MEANING, NearestRows, reader_of
from metier.arms.replier import Conversation, Replier, needs_of_examples, text_fingerprint, with_instruction
from metier.core.hashing import merkle_root
from metier.core.rows import Row
from metier.core.trials import Choice, FittedArm, Reply, SkipReason

if TYPE_CHECKING:
    from metier.evaluate import Grader

__all__ = ["RetrievalArm"]

DEFAULT_K = (1, 3)
ANALYZER = {"words": "word", "meaning": MEANING}


@dataclass(frozen=True, slots=True)
class RetrievalArm:
    """Recipe: the k nearest train rows as examples, nearest last; k and what is near chosen on dev."""

    name: str
    replier: Replier
    grader: Grader
    instruction: str
    k_choices: tuple[int, ...] = DEFAULT_K
    carries: str = "full"
    """full, short or none: which instruction that is."""
    kind: str = "retrieval"
    """retrieval, or tuned_retrieval where the replier is that of the tuned arm."""
    near: tuple[str, ...] = ("words",)
    """words, meaning or both."""

    def needs(self, train: Sequence[Row], dev: Sequence[Row]) -> SkipReason | None:
        """Train rows to retrieve from, and room for one of them in the context."""
        return needs_of_examples(self.replier, self.instruction, train, dev)

    def fit(self, train: Sequence[Row], dev: Sequence[Row], *, seed: int) -> FittedArm:  # noqa: ARG002  # the contract's form
        """Score every k on dev; a k beyond the train rows shows them all."""
        fitted = {}
        for near in self.near:
            index = NearestRows.build(train, analyzer=ANALYZER[near])
            for k in dict.fromkeys(min(k, len(train)) for k in self.k_choices):
                arm = self._fitted(index, k, near=near, carries=self.carries)
                fitted[f"k={k}" if near == "words" else f"k={k}, by {near}"] = arm
        chosen = choose_on_dev({name: arm.reply for name, arm in fitted.items()}, dev, self.grader)
        return replace(fitted[chosen.name], chosen_from=chosen.tried)

    def restore(self, train: Sequence[Row], description: Mapping[str, Any]) -> FittedArm:
        """The arm that `describe()` told of."""
        tried = choices_from_json(description["tried"])
        near = description["near"]
        index = NearestRows.build(train, analyzer=ANALYZER[near])
        found = self._fitted(index, description["k"], near=near, carries=description["carries"])
        return replace(found, chosen_from=tried)

    def _fitted(self, index: NearestRows, k: int, *, near: str, carries: str) -> FittedRetrieval:
        return FittedRetrieval(self.name, self.replier, self.instruction, carries, index, k, kind=self.kind, near=near)


@dataclass(frozen=True, slots=True)
class FittedRetrieval:
    """The model with the instruction and the k nearest train rows."""

    name: str
    replier: Replier
    instruction: str
    carries: str
    index: NearestRows
    k: int
    chosen_from: Sequence[Choice] = ()
    kind: str = "retrieval"
    near: str = "words"

    @property
    def fingerprint(self) -> str:
        """Hash of model, instruction, k, what is near and by which sentence model, and the rows retrieved from."""
        root = merkle_root(row.row_id for row in self.index.rows)
        how = str(self.k) if self.near == "words" else f"{self.k} by {self.near}"
        read_by = reader_of(ANALYZER[self.near])
        return text_fingerprint(self.kind, self.replier.fingerprint, self.instruction, how, root, *read_by)

    def conversation(self, row: Row, found: Sequence[Row]) -> Conversation:
        """The nearest rows, the nearest one last, and the prompt; the farthest are left out where they do not fit."""
        for count in range(len(found), 0, -1):
            talk = with_instruction(row, self.instruction, list(reversed(found[:count])))
            if self.replier.fits(talk, row):
                return talk
        return with_instruction(row, self.instruction)

    def reply(self, rows: Sequence[Row]) -> list[Reply]:
        """One reply per row."""
        nearest = self.index.nearest(rows, self.k)
        talks = [self.conversation(row, found) for row, found in zip(rows, nearest, strict=True)]
        return self.replier.reply(rows, talks)

    def reply_each(self, rows: Sequence[Row]) -> Iterator[Reply]:
        """One reply per row, one request at a time; its seconds hold the retrieval."""
        talks, seconds = [], []
        for row in rows:
            started = time.perf_counter()
            talks.append(self.conversation(row, self.index.nearest([row], self.k)[0]))
            seconds.append(time.perf_counter() - started)
        for reply, spent in zip(self.replier.reply_each(rows, talks), seconds, strict=True):
            yield replace(reply, seconds=reply.seconds + spent)

    def describe(self) -> dict[str, Any]:
        """The chosen k, and which instruction every request carries."""
        tried = choices_as_json(self.chosen_from)
        return {"k": self.k, "near": self.near, "carries": self.carries, "tried": tried}
