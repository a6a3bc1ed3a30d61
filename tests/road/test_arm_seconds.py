"""Seconds booked for the arms that need the sentence model, worked by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from metier.arms.encoder import SETTINGS
from metier.core.arm_config import ArmConfig
from metier.road.arm_seconds import KEEP_S, SMALL_S, fixed_seconds
from metier.road.sentence_speeds import SentenceSpeeds

SENTENCES = SentenceSpeeds(
    load_s=0.5, embed_tok_s=1000.0, single_s=0.01, tune_tok_s=200.0, measured_s=4.0, train_tokens=6000, dev_tokens=1000,
    holdout_tokens=3000.0, head_s=1.5,
)  # fmt: skip
WORK: Any = SimpleNamespace(num_dev=50, num_holdout=150)
WORDS: Any = SimpleNamespace(measured_s=3.0)


def booked(arm: ArmConfig, sentences: SentenceSpeeds | None) -> dict[str, float]:
    return fixed_seconds([arm], WORK, WORDS, sentences, {})


def test_the_encoder_is_booked_at_the_passes_of_all_its_settings() -> None:
    passes = sum(each for _, each in SETTINGS)
    # Every setting loads the model and reads dev once: 0.5 + 1 s.
    fit_s = KEEP_S + passes * 6000 / 200 + len(SETTINGS) * 1.5
    assert booked(ArmConfig(kind="encoder"), SENTENCES) == pytest.approx(
        {"arms": fit_s, "latency": 40 * 0.01, "hold-out": 3.0, "report": 3.0, "plan": 7.0}
    )
    skipped = booked(ArmConfig(kind="encoder"), replace(SENTENCES, tune_tok_s=0.0))
    assert (skipped["arms"], skipped["latency"], skipped["hold-out"]) == (0.0, 0.0, 0.0)


def test_templates_are_booked_by_rows_and_templates() -> None:
    work: Any = SimpleNamespace(num_dev=50, num_holdout=150, template_products=100_000)
    found = fixed_seconds([ArmConfig(kind="template")], work, WORDS, None, {})
    assert (found["arms"], found["latency"], found["plan"]) == (pytest.approx(6.0), 0.0, 3.0)


def test_the_small_arm_by_meaning_is_booked_beside_what_words_take() -> None:
    by_words, by_both = ArmConfig(kind="small"), ArmConfig(kind="small", near=("words", "meaning"))
    assert booked(by_words, None)["arms"] == SMALL_S
    assert booked(by_both, SENTENCES)["arms"] == pytest.approx(SMALL_S + 0.5 + 6 + 3 * 1 + 1.5)
    replies = replace(SENTENCES, head_s=0.0)
    assert booked(by_both, replies)["arms"] == pytest.approx(SMALL_S + 0.5 + 2 * 6 + 3 * 1)
    assert booked(by_both, SENTENCES)["hold-out"] == 3.0


def test_retrieval_by_meaning_is_booked_beside_the_requests_of_the_base() -> None:
    size = {"retrieval": 100.0}
    work = SimpleNamespace(num_dev=50, num_holdout=150, prompt_tokens=size, prefix_tokens=size, gold_tokens=5.0)
    speeds = SimpleNamespace(measured_s=3.0, base_reply_tokens=5.0, single_s=lambda *_: 0.0, batch_s=lambda **_: 0.0)
    arm = ArmConfig(kind="retrieval", k=(1, 2), near=("meaning",))
    found = fixed_seconds([arm], work, speeds, SENTENCES, {})  # type: ignore[arg-type]  # what is read of them stands there
    # Both k on 12 dev rows and both on the other 38: 100 readings of a dev prompt, 20 tokens each.
    assert found["arms"] == pytest.approx(0.5 + 6 + 100 * 20 / 1000)
    assert found["latency"] == pytest.approx(40 * 0.01)


def test_another_model_is_booked_at_the_times_it_is_as_large() -> None:
    size = {"prompt": 100.0}
    work = SimpleNamespace(num_dev=50, num_holdout=150, prompt_tokens=size, prefix_tokens=size, gold_tokens=5.0)
    speeds = SimpleNamespace(measured_s=3.0, base_reply_tokens=5.0, single_s=lambda *_: 1.0, batch_s=lambda **_: 2.0)
    own, other = ArmConfig(kind="prompt"), ArmConfig(kind="prompt", name="larger", base="larger")
    found = [fixed_seconds([arm], work, speeds, None, {"larger": 3.0}) for arm in (own, other)]  # type: ignore[arg-type]  # what is read of them stands there
    for part in ("arms", "latency", "hold-out"):
        assert found[1][part] == pytest.approx(3 * found[0][part]) and found[0][part] > 0
