"""The small task model: logistic regression for labels, the nearest reply with its slots filled for text.

Both read TF-IDF, or the frozen embeddings of a small sentence model.

Trains in seconds; a label takes it about two milliseconds, a reply about ten. Where it is as good, no
language model is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from metier.arms.choosing import choices_as_json, choices_from_json, choose_on_dev
from metier.arms.classifier import linear_head
from metier.arms.nearest import MEANING, Near, NearestRows, reader_of
from metier.arms.replier import text_fingerprint, without_model
from metier.arms.slots import fewest_open, masked, number_gap
from metier.core.hashing import merkle_root
from metier.core.rows import Row, TargetKind
from metier.core.trials import Choice, FittedArm, Reply, SkipReason

if TYPE_CHECKING:
    from metier.evaluate import Grader

__all__ = ["SmallArm"]

ANALYZERS = ("word", "char_wb")
STRENGTHS = (1.0, 10.0, 100.0)
"""Inverse regularisation of the logistic regression, tried on dev."""
NUM_NEAR = 20
"""Nearest rows looked at for a reply to fill."""
NUM_FILLED = 5
"""Most alike of them that are filled, when values stay open."""
NUMBER_WEIGHT = 0.1
"""Similarity lost by a row whose numbers are far from the prompt's: 0.1 did best of 0, 0.1 and 0.3 on dev rows."""


@dataclass(frozen=True, slots=True)
class SmallArm:
    """Recipe: a classifier when every target is a label, else nearest reply; its settings chosen on dev."""

    name: str
    grader: Grader
    kind: str = "small"
    near: tuple[str, ...] = ("words",)
    """words, meaning or both."""

    def needs(self, train: Sequence[Row], dev: Sequence[Row]) -> SkipReason | None:  # noqa: ARG002  # the contract's form
        """Train rows; for labels at least two classes."""
        if not train:
            return SkipReason.NO_TRAIN_ROWS
        if _is_labelling(train) and len({row.gold for row in train}) < 2:
            return SkipReason.ONE_CLASS
        return None

    def fit(self, train: Sequence[Row], dev: Sequence[Row], *, seed: int) -> FittedArm:  # noqa: ARG002  # the contract's form
        """Try every setting on all dev rows: this arm is cheap enough to need no screening."""
        settings = self._settings(train)
        indices: dict[tuple[str, bool], NearestRows] = {}
        fitted = {_name(s): FittedSmall(self.name, s, train, _answerer(train, s, indices)) for s in settings}
        replies = {name: arm.reply for name, arm in fitted.items()}
        chosen = choose_on_dev(replies, dev, self.grader, screen_rows=len(dev))
        best = fitted[chosen.name]
        return FittedSmall(self.name, best.setting, train, best.answer, chosen.tried)

    def restore(self, train: Sequence[Row], description: Mapping[str, Any]) -> FittedArm:
        """The arm that `describe()` told of, fitted again on the same rows."""
        setting = description["setting"]
        tried = choices_from_json(description["tried"])
        return FittedSmall(self.name, setting, train, _answerer(train, setting, {}), tried)

    def _settings(self, train: Sequence[Row]) -> list[dict[str, Any]]:
        analyzers = (ANALYZERS if "words" in self.near else ()) + ((MEANING,) if "meaning" in self.near else ())
        if _is_labelling(train):
            return [{"model": "classifier", "analyzer": a, "strength": c} for a in analyzers for c in STRENGTHS]
        return [
            {"model": "nearest", "analyzer": a, "slots": s, "masked": m}
            for a in analyzers
            for s, m in ((True, False), (True, True), (False, False))
        ]


@dataclass(frozen=True, slots=True)
class FittedSmall:
    """The small model, ready to answer."""

    name: str
    setting: Mapping[str, Any]
    train: Sequence[Row]
    answer: Callable[[Sequence[Row]], list[str]]
    chosen_from: Sequence[Choice] = ()
    kind: str = "small"

    @property
    def fingerprint(self) -> str:
        """Hash of the setting, the rows it was fitted on and, where it compares meanings, the sentence model."""
        root, read_by = merkle_root(row.row_id for row in self.train), reader_of(self.setting["analyzer"])
        return text_fingerprint(self.kind, _name(self.setting), root, *read_by)

    def reply(self, rows: Sequence[Row]) -> list[Reply]:
        """One reply per row; no language-model tokens are used."""
        return without_model(self.answer, rows)

    def reply_each(self, rows: Sequence[Row]) -> Iterator[Reply]:
        """One reply per row, one request at a time."""
        for row in rows:
            yield from self.reply([row])

    def describe(self) -> dict[str, Any]:
        """The chosen setting."""
        tried = choices_as_json(self.chosen_from)
        return {"setting": dict(self.setting), "carries": "none", "tried": tried}


def _is_labelling(rows: Sequence[Row]) -> bool:
    return all(row.target.kind is TargetKind.LABEL for row in rows)


def _name(setting: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in setting.items())


def _answerer(
    train: Sequence[Row], setting: Mapping[str, Any], indices: dict[tuple[str, bool], NearestRows]
) -> Callable[[Sequence[Row]], list[str]]:
    """What answers rows under one setting; an index that another setting has built is used again."""
    key = (setting["analyzer"], bool(setting.get("masked")))
    index = indices.get(key) or NearestRows.build(train, analyzer=key[0], read=masked if key[1] else str)
    indices[key] = index
    if setting["model"] == "classifier":
        return _classifier(index, setting["strength"])

    def nearest_reply(rows: Sequence[Row]) -> list[str]:
        if not setting["slots"]:
            return [near[0].gold for near in index.nearest(rows, 1)]
        return [_filled(near, row) for near, row in zip(index.ranked(rows, NUM_NEAR), rows, strict=True)]

    return nearest_reply


def _filled(near: Sequence[Near], row: Row) -> str:
    """The reply to the case alike in words and numbers, this row's values in it.

    Of the few most alike the first whose every value finds its counterpart in this prompt; else the one
    with the fewest left open.
    """
    prompt = row.prompt_text
    alike = sorted(near, key=lambda one: NUMBER_WEIGHT * number_gap(one.row.prompt_text, prompt) - one.similarity)
    return fewest_open(((one.row.gold, one.row.prompt_text) for one in alike[:NUM_FILLED]), prompt).text


def _classifier(index: NearestRows, strength: float) -> Callable[[Sequence[Row]], list[str]]:
    model = linear_head(index.matrix, np.array([row.gold for row in index.rows]), strength=strength)

    def classify(rows: Sequence[Row]) -> list[str]:
        if not rows:
            return []
        return [str(label) for label in model.predict(index.terms(rows))]

    return classify
