"""Reply templates: the forms that gold replies come in, one chosen by a linear classifier, its slots filled.

No language model. Where people answer with a handful of standard replies, choosing the right one is the whole task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metier.arms.choosing import choices_as_json, choices_from_json, choose_on_dev
from metier.arms.classifier import linear_head
from metier.arms.nearest import NearestRows
from metier.arms.replier import text_fingerprint, without_model
from metier.arms.slots import fewest_open, masked
from metier.core.hashing import merkle_root
from metier.core.rows import Row, TargetKind
from metier.core.trials import Choice, FittedArm, Reply, SkipReason

if TYPE_CHECKING:
    from metier.evaluate import Grader

__all__ = ["TemplateArm"]

# Shapes: N train rows of a frequent form.
Ints = NDArray[np.int_]

MIN_ROWS = 3
"""Train rows a form needs to count as a template."""
NUM_TEMPLATES = (10, 30, 100)
"""The most frequent forms that are kept, tried on dev."""
STRENGTHS = (1.0, 10.0, 100.0)
"""Inverse regularisation of the classifier, tried on dev."""
NUM_FILLED = 5
"""Nearest rows of the template whose reply is filled, while values stay open."""


class Setting(NamedTuple):
    """What is tried on dev."""

    templates: int
    """Templates kept."""
    strength: float

    @property
    def name(self) -> str:
        """The setting in the log of choices."""
        return f"templates={self.templates}, strength={self.strength:g}"


@dataclass(frozen=True, slots=True)
class TemplateArm:
    """Recipe: mine the frequent forms of gold replies, learn which prompt gets which; settings chosen on dev."""

    name: str
    grader: Grader
    kind: str = "template"

    def needs(self, train: Sequence[Row], dev: Sequence[Row]) -> SkipReason | None:  # noqa: ARG002  # the contract's form
        """Train rows with replies of which two forms or more come often enough."""
        if not train:
            return SkipReason.NO_TRAIN_ROWS
        if all(row.target.kind is TargetKind.LABEL for row in train):
            return SkipReason.LABELS_ONLY
        return None if mine(train).num_templates > 1 else SkipReason.NO_TEMPLATES

    def fit(self, train: Sequence[Row], dev: Sequence[Row], *, seed: int) -> FittedArm:  # noqa: ARG002  # the contract's form
        """Try every setting on all dev rows: this arm is cheap enough to need no screening."""
        mined = mine(train)
        settings = [Setting(count, strength) for count in _counts(mined) for strength in STRENGTHS]
        fitted = {setting.name: self._fitted(train, mined, setting) for setting in settings}
        replies = {name: arm.reply for name, arm in fitted.items()}
        chosen = choose_on_dev(replies, dev, self.grader, screen_rows=len(dev))
        return replace(fitted[chosen.name], chosen_from=chosen.tried)

    def restore(self, train: Sequence[Row], description: Mapping[str, Any]) -> FittedArm:
        """The arm that `describe()` told of, fitted again on the same rows."""
        found = self._fitted(train, mine(train), Setting(**description["setting"]))
        return replace(found, chosen_from=choices_from_json(description["tried"]))

    def _fitted(self, train: Sequence[Row], mined: Mined, setting: Setting) -> FittedTemplates:
        answer = _answerer(mined.most_frequent(setting.templates), setting.strength)
        return FittedTemplates(self.name, setting, train, answer)


@dataclass(frozen=True, slots=True)
class FittedTemplates:
    """The templates and their classifier, ready to answer."""

    name: str
    setting: Setting
    train: Sequence[Row]
    answer: Callable[[Sequence[Row]], list[str]]
    chosen_from: Sequence[Choice] = ()
    kind: str = "template"

    @property
    def fingerprint(self) -> str:
        """Hash of the setting and the rows it was fitted on."""
        return text_fingerprint(self.kind, self.setting.name, merkle_root(row.row_id for row in self.train))

    def reply(self, rows: Sequence[Row]) -> list[Reply]:
        """One reply per row; no language-model tokens are used."""
        return without_model(self.answer, rows)

    def reply_each(self, rows: Sequence[Row]) -> Iterator[Reply]:
        """One reply per row, one request at a time."""
        for row in rows:
            yield from self.reply([row])

    def describe(self) -> dict[str, Any]:
        """The chosen setting; templates are mined from the train rows again, so no reply stands here."""
        return {"setting": self.setting._asdict(), "carries": "none", "tried": choices_as_json(self.chosen_from)}


def form(reply: str) -> str:
    """The reply with the kind of every value in its place, spaces and line breaks alike."""
    return " ".join(masked(reply).split())


class Mined(NamedTuple):
    """The train rows whose reply comes in a frequent form."""

    rows: list[Row]
    number_N: Ints
    """Template of each row: 0 the most frequent form, equals in the order of their first row."""

    @property
    def num_templates(self) -> int:
        """Templates that were found."""
        return int(self.number_N.max(initial=-1)) + 1

    def most_frequent(self, count: int) -> Mined:
        """The rows of the most frequent templates alone."""
        is_kept = self.number_N < count
        return Mined([row for row, kept in zip(self.rows, is_kept, strict=True) if kept], self.number_N[is_kept])


def mine(train: Sequence[Row]) -> Mined:
    """The forms of at least three gold replies, and their rows."""
    forms = [form(row.gold) for row in train]
    frequent = [found for found, count in Counter(forms).most_common() if count >= MIN_ROWS]
    number_by_form = {found: number for number, found in enumerate(frequent)}
    places = [place for place, found in enumerate(forms) if found in number_by_form]
    return Mined([train[place] for place in places], np.array([number_by_form[forms[p]] for p in places], dtype=int))


def num_products(train: Sequence[Row]) -> int:
    """Rows times templates over every setting: what the fits of the classifier take grows with it."""
    mined = mine(train)
    return sum(len(STRENGTHS) * count * len(mined.most_frequent(count).rows) for count in _counts(mined))


def _counts(mined: Mined) -> list[int]:
    """Numbers of templates to try: a number beyond those found keeps them all."""
    return list(dict.fromkeys(min(count, mined.num_templates) for count in NUM_TEMPLATES))


def _answerer(mined: Mined, strength: float) -> Callable[[Sequence[Row]], list[str]]:
    """What answers rows with these templates; rows of rarer forms teach nothing."""
    index = NearestRows.build(mined.rows)
    model = linear_head(index.matrix, mined.number_N, strength=strength)
    of_template = [index.only(np.flatnonzero(mined.number_N == number)) for number in range(mined.num_templates)]

    def answer(asked: Sequence[Row]) -> list[str]:
        if not asked:
            return []
        chosen = model.predict(index.terms(asked))
        return [_filled(of_template[int(number)], row) for number, row in zip(chosen, asked, strict=True)]

    return answer


def _filled(template: NearestRows, row: Row) -> str:
    """The reply of the template's nearest row with this row's values; of the next ones where values stay open."""
    near = template.nearest([row], NUM_FILLED)[0]
    return fewest_open([(one.gold, one.prompt_text) for one in near], row.prompt_text).text
