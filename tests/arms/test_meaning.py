"""Arms that compare rows by meaning, with the real sentence model: they find what shares no word."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from metier.arms import Replier, RetrievalArm, SmallArm
from metier.arms.nearest import MEANING, NearestRows
from metier.core.arm_config import ArmConfig
from metier.core.errors import ConfigError
from tests.arms.builders import EXACT, rows

TRAIN = [
    ("My screen is cracked", "fault"), ("The machine stopped working", "fault"), ("It will not switch on", "fault"),
    ("The handle snapped off", "fault"), ("I want my payment returned", "money"), ("Please refund me", "money"),
    ("Give me back what I paid", "money"), ("You charged my card twice", "money"),
]  # fmt: skip
DEV = [
    ("This display has shattered", "fault"), ("Our dishwasher broke down", "fault"), ("No power at all when started", "fault"),
    ("Reimburse us immediately", "money"), ("A double billing happened", "money"), ("Cash should be sent to her", "money"),
]  # fmt: skip


@pytest.fixture
def replier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replier]:
    from metier.engine import close, load
    from metier.models import make_tiny_model
    from metier.render import Renderer

    texts = [prompt for prompt, _ in TRAIN]
    folder = make_tiny_model(tmp_path_factory.mktemp("tiny"), texts=texts, width=32, num_layers=1)
    handle = load(folder, dtype="fp32", threads=1)
    yield Replier(handle, Renderer(folder), max_reply_tokens=6, max_batch=1)
    close(handle)


@pytest.mark.real_base
def test_labels_of_prompts_that_share_no_word_are_found_by_meaning_and_chosen_on_dev() -> None:
    train, dev = rows(TRAIN, label=True), rows(DEV, label=True)
    words, both = (SmallArm("small", EXACT, near=near) for near in (("words",), ("words", "meaning")))
    by_words, by_both = (arm.fit(train, dev, seed=0) for arm in (words, both))
    best_words, best_both = (max(choice.score for choice in arm.chosen_from) for arm in (by_words, by_both))
    assert best_both == 1.0 > best_words
    assert by_both.describe()["setting"]["analyzer"] == MEANING
    assert len(by_both.chosen_from) == len(by_words.chosen_from) + 3, "three strengths more"
    again = both.restore(train, by_both.describe())
    assert again.fingerprint == by_both.fingerprint
    assert [reply.text for reply in again.reply(dev)] == [row.gold for row in dev]


@pytest.mark.real_base
def test_the_nearest_rows_by_meaning_are_those_a_person_would_name_and_are_restored(replier: Replier) -> None:
    train = rows([(prompt, f"About {gold}.") for prompt, gold in TRAIN])
    asked = rows([("This display has shattered", "?")])
    assert NearestRows.build(train, analyzer=MEANING).nearest(asked, 1)[0][0].prompt_text == "My screen is cracked"
    assert NearestRows.build(train, analyzer=MEANING).ranked([], 2) == []
    arm = RetrievalArm("r", replier, EXACT, "Help.", (1,), near=("words", "meaning"))
    fitted = arm.fit(train, asked, seed=0)
    assert [choice.name for choice in fitted.chosen_from] == ["k=1", "k=1, by meaning"]
    described = {**fitted.describe(), "near": "meaning"}
    one, two = (arm.restore(train, described) for _ in range(2))
    assert one.fingerprint == two.fingerprint != arm.restore(train, {**described, "near": "words"}).fingerprint
    talk = one.conversation(asked[0], one.index.nearest(asked, 1)[0])
    assert any("My screen is cracked" in message.content for message in talk)


@pytest.mark.parametrize(
    ("kind", "near", "told"),
    [
        ("prompt", ("meaning",), r"near is \['meaning'\], but an arm of kind 'prompt' compares no rows"),
        ("small", (), "expected 'words', 'meaning' or both, each once"),
        ("small", ("words", "words"), "each once"),
    ],
)
def test_near_is_refused_where_it_has_no_effect_or_says_nothing(kind: str, near: tuple[str, ...], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        ArmConfig(kind=kind, near=near)  # type: ignore[arg-type]  # refused at run time


def test_an_arm_that_compares_by_words_is_the_question_it_was_before_there_was_a_choice() -> None:
    assert "near" not in ArmConfig(kind="small").as_question()
    assert ArmConfig(kind="small", near=("meaning",)).as_question()["near"] == ["meaning"]


@pytest.mark.real_base
def test_another_sentence_model_is_another_fingerprint_where_meanings_are_compared(
    replier: Replier, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = rows(TRAIN, label=True)
    small, retrieval = SmallArm("small", EXACT), RetrievalArm("r", replier, EXACT, "Help.")

    def fingerprints() -> list[str]:
        setting = {"model": "classifier", "strength": 1.0}
        fitted = [small.restore(train, {"setting": {**setting, "analyzer": a}, "tried": []}) for a in ("word", MEANING)]
        told = {"k": 1, "carries": "full", "tried": []}
        fitted += [retrieval.restore(train, {**told, "near": near}) for near in ("words", "meaning")]
        return [arm.fingerprint for arm in fitted]

    before = fingerprints()
    assert fingerprints() == before
    monkeypatch.setattr("metier.models.sentence_model_sha256", lambda: "another")
    is_same = [one == other for one, other in zip(fingerprints(), before, strict=True)]
    assert is_same == [True, False, True, False], "words, meaning, words, meaning"
