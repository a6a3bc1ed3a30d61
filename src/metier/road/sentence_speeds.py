"""Speeds of the sentence model on this machine and these prompts: for arms that compare meanings, and the encoder."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from metier.arms import EncoderArm
from metier.core.arm_config import ArmConfig
from metier.core.rows import Row, TargetKind
from metier.road.cut import Parts
from metier.road.session import Session

__all__ = ["SentenceSpeeds", "measure_sentences", "reads_sentences"]

PROBE_ROWS = 64
PROBE_PASSES = 2
SINGLE_ROWS = 6
LOGISTIC_STEPS = 300
"""Steps the solver is taken to need for the weakest regularisation: an estimate, not timed."""
LOGISTIC_FLOP_S = 1e10
"""Floating-point operations a second it is taken to do, in small products of double precision: an estimate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SentenceSpeeds:
    """What the sentence model takes, and the prompts that await it."""

    load_s: float
    """Seconds to load it."""
    embed_tok_s: float
    """Tokens a second through a forward pass, in batches."""
    single_s: float
    """Seconds of one prompt alone."""
    tune_tok_s: float
    """Tokens a second through a training step of all layers; 0 where no encoder applies."""
    measured_s: float
    """Seconds this measurement took."""
    train_tokens: int
    dev_tokens: int
    holdout_tokens: float
    """Tokens of the hold-out, if its prompts are as long as those of dev."""
    head_s: float
    """Seconds of the logistic regressions over embeddings; 0 where targets are no labels."""

    def embed_s(self, num_tokens: float) -> float:
        """Seconds to embed prompts of so many tokens in all."""
        return num_tokens / self.embed_tok_s


def reads_sentences(arm: ArmConfig) -> bool:
    """Whether an arm needs the sentence model."""
    return arm.kind == "encoder" or "meaning" in arm.near


def measure_sentences(session: Session, parts: Parts) -> SentenceSpeeds | None:
    """Time loading, batches, single prompts and training steps, a few seconds; None where no arm needs the model."""
    arms = session.config.arm
    if not any(map(reads_sentences, arms)):
        return None
    from metier.models import embed_sentences, load_sentence_model

    started = time.perf_counter()
    embed_sentences([" "])  # fetched, loaded and warm from here on
    loading = time.perf_counter()
    sentences = load_sentence_model()
    load_s = time.perf_counter() - loading
    train, dev = (
        [len(ids) for ids in sentences.tokens([row.prompt_text for row in part])] for part in (parts.train, parts.dev)
    )
    shown = np.unique(np.linspace(0, len(train) - 1, min(PROBE_ROWS, len(train))).astype(int)).tolist()
    texts = [parts.train[place].prompt_text for place in shown]
    num_shown = sum(train[place] for place in shown)
    embed_s = _timed(lambda: embed_sentences(texts))
    single_s = _timed(lambda: [embed_sentences([text]) for text in texts[:SINGLE_ROWS]])
    tune_tok_s = 0.0
    if any(arm.kind == "encoder" for arm in arms) and encoder_applies(session, parts):
        tune_s = _timed(lambda: _some_steps([parts.train[place] for place in shown]))
        tune_tok_s = PROBE_PASSES * num_shown / max(tune_s - load_s, 1e-3)
    return SentenceSpeeds(
        load_s=load_s,
        embed_tok_s=num_shown / embed_s,
        single_s=single_s / len(texts[:SINGLE_ROWS]),
        tune_tok_s=tune_tok_s,
        measured_s=time.perf_counter() - started,
        train_tokens=sum(train),
        dev_tokens=sum(dev),
        holdout_tokens=float(np.mean(dev)) * parts.num_holdout,
        head_s=_head_seconds(parts.train, sentences.width),
    )


def encoder_applies(session: Session, parts: Parts) -> bool:
    """Whether the encoder has labels to learn."""
    return EncoderArm("encoder", session.grader).needs(parts.train, parts.dev) is None


def _some_steps(rows: Sequence[Row]) -> None:
    from metier.arms.label_network import tune_labels

    tune_labels([r.prompt_text for r in rows], [r.gold for r in rows], lr=1e-4, passes=PROBE_PASSES, seed=0)


def _head_seconds(train: Sequence[Row], width: int) -> float:
    """Seconds of three logistic regressions, the weakest taken for all; products of rows, classes and features."""
    if any(row.target.kind is not TargetKind.LABEL for row in train):
        return 0.0
    num_classes = len({row.gold for row in train})
    return 3 * LOGISTIC_STEPS * 4 * len(train) * num_classes * width / LOGISTIC_FLOP_S


def _timed(work: Callable[[], object]) -> float:
    """Seconds of a call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
