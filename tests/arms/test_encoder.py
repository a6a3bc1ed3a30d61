"""The tuned encoder with the real sentence model: what it learns, keeps and gives back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from metier.arms import EncoderArm, encoder, label_network
from metier.arms.label_network import LabelNetwork, tune_labels
from metier.core.arm_config import ArmConfig
from metier.core.errors import ConfigError, DataError, ModelError, StoreError
from metier.core.trials import FittedArm, SkipReason
from tests.arms.builders import EXACT, rows, with_golds
from tests.arms.test_meaning import DEV, TRAIN

pytestmark = pytest.mark.real_base
LABELLED, ASKED = rows(TRAIN, label=True), rows(DEV, label=True)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FittedArm]:
    """The arm fitted once under every setting, and the folder of its weights. Never changed."""
    folder = tmp_path_factory.mktemp("encoder")
    return folder, EncoderArm("encoder", EXACT, folder).fit(LABELLED, ASKED, seed=3)


def texts(arm: FittedArm, asked: list) -> list[str]:
    return [reply.text for reply in arm.reply(asked)]


def test_it_gives_the_label_of_prompts_that_share_no_word_with_the_train_rows(kept: tuple[Path, FittedArm]) -> None:
    _, arm = kept
    assert texts(arm, ASKED) == [row.gold for row in ASKED]
    assert texts(arm, with_golds(ASKED, "another")) == texts(arm, ASKED), "the gold of a row asked is never read"
    tried = [(choice.name, choice.num_rows) for choice in arm.chosen_from]
    assert tried == [(f"lr={lr:g}, passes={passes}", len(ASKED)) for lr, passes in encoder.SETTINGS]
    best = max(choice.score for choice in arm.chosen_from)
    assert arm.describe()["setting"] == next(choice.name for choice in arm.chosen_from if choice.score == best)


def test_restored_it_is_the_same_arm_and_nothing_is_trained(
    kept: tuple[Path, FittedArm], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, arm = kept
    monkeypatch.setattr(label_network, "tune_labels", None)
    again = EncoderArm("encoder", EXACT, folder).restore(LABELLED, arm.describe())
    assert (again.fingerprint, again.describe()) == (arm.fingerprint, arm.describe())
    assert (texts(again, ASKED), again.chosen_from) == (texts(arm, ASKED), arm.chosen_from)
    assert again.fingerprint != EncoderArm("e", EXACT, folder).restore(LABELLED[:-1], arm.describe()).fingerprint


def test_one_request_at_a_time_gives_the_same_labels_and_no_tokens(kept: tuple[Path, FittedArm]) -> None:
    _, arm = kept
    replies = list(arm.reply_each(ASKED))
    assert [reply.text for reply in replies] == texts(arm, ASKED)
    assert all(reply.seconds > 0 and (reply.tokens_in, reply.tokens_out) == (0, 0) for reply in replies)
    assert arm.reply([]) == [] == list(arm.reply_each([]))


def test_the_weights_that_did_best_on_dev_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def some(texts: list[str], golds: list[str], *, lr: float, passes: int, seed: int) -> LabelNetwork:
        # Untuned, a head of zeros says the first label to everything.
        untuned = LabelNetwork._fresh(sorted(set(golds)))
        return tune_labels(texts, golds, lr=lr, passes=passes, seed=seed) if passes > 1 else untuned

    monkeypatch.setattr(label_network, "tune_labels", some)
    monkeypatch.setattr(encoder, "SETTINGS", ((0.1, 1), (0.2, 1)))
    untuned = EncoderArm("encoder", EXACT, tmp_path).fit(LABELLED, ASKED, seed=0)
    assert texts(untuned, ASKED) == ["fault"] * 6
    assert untuned.describe()["setting"] == "lr=0.1, passes=1", "of equals the one listed first"
    monkeypatch.setattr(encoder, "SETTINGS", ((0.1, 1), (1e-4, 8), (0.2, 1)))
    best = EncoderArm("encoder", EXACT, tmp_path).fit(LABELLED, ASKED, seed=0)
    assert best.describe()["setting"] == "lr=0.0001, passes=8"
    again = EncoderArm("encoder", EXACT, tmp_path).restore(LABELLED, best.describe())
    assert texts(again, ASKED) == [row.gold for row in ASKED]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    shown = [*LABELLED, *ASKED, *LABELLED]  # two batches, so that the order counts

    def tuned(seed: int) -> bytes:
        texts, golds = [row.prompt_text for row in shown], [row.gold for row in shown]
        return tune_labels(texts, golds, lr=1e-4, passes=1, seed=seed).to_bytes()

    before = torch.random.get_rng_state()
    one = tuned(1)
    assert tuned(1) == one != tuned(2)
    assert torch.equal(torch.random.get_rng_state(), before), "no global randomness is drawn"


def test_every_layer_is_tuned() -> None:
    frozen = LabelNetwork._fresh(["a", "b"])
    tuned = tune_labels(["lamp", "tent"] * 9, ["a", "b"] * 9, lr=1e-3, passes=2, seed=0)
    before, after = (dict(each.sentences.model.named_parameters()) for each in (frozen, tuned))
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {"pooler.dense.weight", "pooler.dense.bias"}, "all but what the mean of the tokens does not use"


def test_the_rate_rises_and_then_falls_in_a_line() -> None:
    assert [label_network._rate(step, 20) for step in range(20)] == pytest.approx(
        [0.5, 1.0, *[(20 - step) / 19 for step in range(2, 20)]]
    )
    assert label_network._rate(0, 1) == 1.0


def test_what_it_needs() -> None:
    arm = EncoderArm("encoder", EXACT)
    assert arm.needs([], []) is SkipReason.NO_TRAIN_ROWS
    assert arm.needs(rows(TRAIN), []) is SkipReason.NOT_LABELS
    assert arm.needs([*LABELLED, *rows([("a", "b")])], []) is SkipReason.NOT_LABELS, "one reply among labels"
    assert arm.needs(LABELLED[:1], []) is SkipReason.ONE_CLASS
    assert arm.needs(LABELLED, []) is None


def test_no_dev_rows_a_loss_that_is_no_number_and_weights_that_are_gone_are_told(
    kept: tuple[Path, FittedArm], tmp_path: Path
) -> None:
    described = kept[1].describe()
    arm = EncoderArm("encoder", EXACT, tmp_path)
    with pytest.raises(DataError, match="encoder: 0 dev rows; expected at least one"):
        arm.fit(LABELLED, [], seed=0)
    with pytest.raises(ModelError, match=r"loss is nan at step 2 of 3 \(peak rate inf\); expected a number"):
        tune_labels(["a", "b"], ["x", "y"], lr=float("inf"), passes=3, seed=0)
    with pytest.raises(StoreError, match=r"encoder.safetensors: the weights of arm encoder cannot be read \(No such"):
        arm.restore(LABELLED, described)
    (tmp_path / "encoder.safetensors").write_bytes(b"cut off")
    with pytest.raises(ModelError, match=r"do not fit 2 labels .* Delete the arm's stage folder to fit it again"):
        arm.restore(LABELLED, described)
    whole = replace(arm, folder=kept[0])
    with pytest.raises(ModelError, match="do not fit 3 labels over this sentence model"):
        whole.restore([*LABELLED, *rows([("a", "third")], label=True)], described)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"k": (1,)}, r"k is \[1\], but an arm of kind 'encoder' shows no examples; drop the setting"),
        ({"near": ("meaning",)}, r"near is \['meaning'\], but an arm of kind 'encoder' compares no rows; drop"),
        ({"instruction": "short"}, "instruction is 'short', but an arm of kind 'encoder' carries no instruction; drop"),
    ],
)
def test_settings_without_effect_are_refused(settings: dict, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        ArmConfig(kind="encoder", **settings)
