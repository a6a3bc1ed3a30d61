"""The tuned encoder: all layers of a small sentence model and a linear head over labels; its settings chosen on dev.

No language model: where it is as good, the label needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metier.arms.choosing import choices_as_json, choices_from_json, choose_on_dev
from metier.arms.replier import text_fingerprint, without_model
from metier.core.errors import DataError, StoreError
from metier.core.folders import write_bytes
from metier.core.hashing import merkle_root, sha256_hex
from metier.core.rows import Row, TargetKind
from metier.core.trials import Choice, FittedArm, Reply, SkipReason

if TYPE_CHECKING:
    from metier.arms.label_network import LabelNetwork
    from metier.evaluate import Grader

__all__ = ["EncoderArm"]

WEIGHTS_NAME = "encoder.safetensors"
SETTINGS: tuple[tuple[float, int], ...] = ((1e-4, 4), (1e-4, 8), (3e-4, 8))
"""Peak learning rate of the layers and passes over the train rows, each pair tuned and scored on dev."""


@dataclass(frozen=True, slots=True)
class EncoderArm:
    """Recipe: tune the sentence model once for every setting, keep the weights that did best on dev."""

    name: str
    grader: Grader
    folder: Path | None = None
    """Where the weights are kept: the folder of the stage, named when it begins. `needs` asks for none."""
    kind: str = "encoder"

    def needs(self, train: Sequence[Row], dev: Sequence[Row]) -> SkipReason | None:  # noqa: ARG002  # the contract's form
        """Train rows, all of them labelled, with at least two classes."""
        if not train:
            return SkipReason.NO_TRAIN_ROWS
        if any(row.target.kind is not TargetKind.LABEL for row in train):
            return SkipReason.NOT_LABELS
        return SkipReason.ONE_CLASS if len({row.gold for row in train}) < 2 else None

    def fit(self, train: Sequence[Row], dev: Sequence[Row], *, seed: int) -> FittedArm:
        """Tune under every setting, score each on all dev rows; the best weights are written last.

        Raises:
            DataError: no dev rows.
            ModelError: the sentence model cannot be fetched, or a loss is not finite.
            StoreError: the disk is full.
        """
        from metier.arms.label_network import tune_labels

        if not dev:
            raise DataError("encoder: 0 dev rows; expected at least one to choose its settings on.")
        texts, golds = [row.prompt_text for row in train], [row.gold for row in train]
        asked = [row.prompt_text for row in dev]
        answers: dict[str, list[Reply]] = {}
        best: FittedEncoder | None = None
        for lr, passes in SETTINGS:  # one network beside the best so far: all at once would fill the memory
            network = tune_labels(texts, golds, lr=lr, passes=passes, seed=seed)
            setting = f"lr={lr:g}, passes={passes}"
            answers[setting] = [_reply(label, 0.0) for label in network.labels_of(asked)]
            known = {name: _known(dev, replies) for name, replies in answers.items()}
            chosen = choose_on_dev(known, dev, self.grader, screen_rows=len(dev))
            if best is None or chosen.name == setting:
                best = FittedEncoder(self.name, setting, train, network, "", chosen.tried)
        assert best is not None  # there are settings
        data = best.network.to_bytes()
        write_bytes(self._weights_path, data)
        return FittedEncoder(self.name, best.setting, train, best.network, sha256_hex(data), chosen.tried)

    def restore(self, train: Sequence[Row], description: Mapping[str, Any]) -> FittedArm:
        """The arm that `describe()` told of, from the kept weights: nothing is trained.

        Raises:
            StoreError: the weights are gone.
            ModelError: they do not fit the labels of the train rows.
        """
        from metier.arms.label_network import LabelNetwork

        path = self._weights_path
        try:
            data = path.read_bytes()
        except OSError as err:
            raise StoreError(
                f"{path}: the weights of arm {self.name} cannot be read ({err.strerror or err}); expected the file "
                f"that its fit wrote. Delete {path.parent} to fit it again."
            ) from err
        network = LabelNetwork.from_bytes(data, sorted({row.gold for row in train}))
        tried = choices_from_json(description["tried"])
        return FittedEncoder(self.name, description["setting"], train, network, sha256_hex(data), tried)

    @property
    def _weights_path(self) -> Path:
        assert self.folder is not None, "whoever fits or restores names the folder"
        return self.folder / WEIGHTS_NAME


@dataclass(frozen=True, slots=True)
class FittedEncoder:
    """The tuned encoder, ready to answer."""

    name: str
    setting: str
    train: Sequence[Row]
    network: LabelNetwork
    weights_sha256: str
    chosen_from: Sequence[Choice] = ()
    kind: str = "encoder"

    @property
    def fingerprint(self) -> str:
        """Hash of the weights, the labels they choose among, and the rows they were tuned on."""
        root = merkle_root(row.row_id for row in self.train)
        return text_fingerprint(self.kind, self.weights_sha256, *self.network.labels, root)

    def reply(self, rows: Sequence[Row]) -> list[Reply]:
        """One label per row; no language-model tokens are used."""
        return without_model(self._labels, rows)

    def _labels(self, rows: Sequence[Row]) -> list[str]:
        """The label of every row."""
        return self.network.labels_of([row.prompt_text for row in rows])

    def reply_each(self, rows: Sequence[Row]) -> Iterator[Reply]:
        """One label per row, one request at a time."""
        for row in rows:
            yield from self.reply([row])

    def describe(self) -> dict[str, Any]:
        """The chosen setting; the weights lie beside it."""
        return {"setting": self.setting, "carries": "none", "tried": choices_as_json(self.chosen_from)}


def _reply(label: str, seconds: float) -> Reply:
    return Reply(text=label, tokens_in=0, tokens_out=0, seconds=seconds)


def _known(dev: Sequence[Row], replies: Sequence[Reply]) -> Callable[[Sequence[Row]], list[Reply]]:
    """Answers that are known already, in the form of a candidate."""
    by_id = {row.row_id: reply for row, reply in zip(dev, replies, strict=True)}
    return lambda rows: [by_id[row.row_id] for row in rows]
