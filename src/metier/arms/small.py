"""The small task model: TF-IDF with logistic regression for labels, the nearest reply with its slots filled for text.

Trains in seconds and answers in a millisecond. Where it is as good, no language model is needed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from metier.arms.choosing import choices_as_json, choices_from_json, choose_on_dev
from metier.arms.nearest import NearestRows
from metier.arms.replier import text_fingerprint
from metier.arms.slots import fill
from metier.core.hashing import merkle_root
from metier.core.rows import Row, TargetKind
from metier.core.trials import Choice, FittedArm, Reply, SkipReason

if TYPE_CHECKING:
    from metier.evaluate import Grader

__all__ = ["SmallArm"]

ANALYZERS = ("word", "char_wb")
STRENGTHS = (1.0, 10.0, 100.0)
"""Inverse regularisation of the logistic regression, tried on dev."""


@dataclass(frozen=True, slots=True)
class SmallArm:
    """Recipe: a classifier when every target is a label, else nearest reply; its settings chosen on dev."""

    name: str
    grader: Grader
    kind: str = "small"

    def needs(self, train: Sequence[Row], dev: Sequence[Row]) -> SkipReason | None:  # noqa: ARG002  # the contract's form
        """Train rows; for labels at least two classes."""
        if not train:
            return SkipReason.NO_TRAIN_ROWS
        if _is_labelling(train) and len({row.gold for row in train}) < 2:
            return SkipReason.ONE_CLASS
        return None

    def fit(self, train: Sequence[Row], dev: Sequence[Row], *, minutes: float, seed: int) -> FittedArm:  # noqa: ARG002  # the contract's form
        """Try every setting on all dev rows: this arm is cheap enough to need no screening."""
        settings = self._settings(train)
        fitted = {_name(s): FittedSmall(self.name, s, train, _answerer(train, s, seed)) for s in settings}
        replies = {name: arm.reply for name, arm in fitted.items()}
        chosen = choose_on_dev(replies, dev, self.grader, screen_rows=len(dev))
        best = fitted[chosen.name]
        return FittedSmall(self.name, best.setting, train, best.answer, chosen.tried, seed)

    def restore(self, train: Sequence[Row], description: Mapping[str, Any]) -> FittedArm:
        """The arm that `describe()` told of, fitted again on the same rows."""
        setting = description["setting"]
        tried = choices_from_json(description["tried"])
        return FittedSmall(
            self.name, setting, train, _answerer(train, setting, description["seed"]), tried, description["seed"]
        )

    def _settings(self, train: Sequence[Row]) -> list[dict[str, Any]]:
        if _is_labelling(train):
            return [{"model": "classifier", "analyzer": a, "strength": c} for a in ANALYZERS for c in STRENGTHS]
        return [{"model": "nearest", "analyzer": a, "slots": s} for a in ANALYZERS for s in (True, False)]


@dataclass(frozen=True, slots=True)
class FittedSmall:
    """The small model, ready to answer."""

    name: str
    setting: Mapping[str, Any]
    train: Sequence[Row]
    answer: Callable[[Sequence[Row]], list[str]]
    chosen_from: Sequence[Choice] = ()
    seed: int = 0
    kind: str = "small"

    @property
    def fingerprint(self) -> str:
        """Hash of the setting and the rows it was fitted on."""
        return text_fingerprint(self.kind, _name(self.setting), merkle_root(row.row_id for row in self.train))

    def reply(self, rows: Sequence[Row]) -> list[Reply]:
        """One reply per row; no language-model tokens are used."""
        start = time.perf_counter()
        texts = self.answer(rows)
        seconds = time.perf_counter() - start
        return [Reply(text=text, tokens_in=0, tokens_out=0, seconds=seconds) for text in texts]

    def describe(self) -> dict[str, Any]:
        """The chosen setting."""
        tried = choices_as_json(self.chosen_from)
        return {"setting": dict(self.setting), "seed": self.seed, "carries": "none", "tried": tried}


def _is_labelling(rows: Sequence[Row]) -> bool:
    return all(row.target.kind is TargetKind.LABEL for row in rows)


def _name(setting: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in setting.items())


def _answerer(train: Sequence[Row], setting: Mapping[str, Any], seed: int) -> Callable[[Sequence[Row]], list[str]]:
    """What answers rows under one setting."""
    index = NearestRows.build(train, analyzer=setting["analyzer"])
    if setting["model"] == "classifier":
        return _classifier(index, setting["strength"], seed)

    def nearest_reply(rows: Sequence[Row]) -> list[str]:
        found = [lines[0] for lines in index.nearest(rows, 1)]
        if not setting["slots"]:
            return [near.gold for near in found]
        return [fill(near.gold, near.prompt_text, row.prompt_text) for near, row in zip(found, rows, strict=True)]

    return nearest_reply


def _classifier(index: NearestRows, strength: float, seed: int) -> Callable[[Sequence[Row]], list[str]]:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=2000, random_state=seed % 2**32)
    model.fit(index.matrix, np.array([row.gold for row in index.rows]))

    def classify(rows: Sequence[Row]) -> list[str]:
        if not rows:
            return []
        return [str(label) for label in model.predict(index.vectorizer.transform([r.prompt_text for r in rows]))]

    return classify
