"""What every arm takes in a run: seconds to choose on dev, to measure its latency, and to answer the hold-out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from metier.arms.choosing import FINALISTS, SCREEN_ROWS
from metier.arms.encoder import SETTINGS
from metier.core.arm_config import NO_MODEL_KINDS, TUNED_KINDS, ArmConfig, EndpointConfig
from metier.road.calibrate import Speeds, Workload
from metier.road.sentence_speeds import SentenceSpeeds, reads_sentences

__all__ = ["fixed_seconds"]

LATENCY_ROWS = 40
CANDIDATES = {"prompt": 3, "few_shot": 9, "retrieval": 3, "tuned": 0, "tuned_retrieval": 3}
"""What an arm tries on dev with three values of k."""
ENDPOINT_S = 2.0
"""Seconds an endpoint is taken to need for one answer."""
SMALL_S = 2.0
"""Seconds the small arm is taken to need for all it does with words."""
SMALL_SETTINGS = 3
"""Settings of the small arm that read the dev prompts by meaning."""
TEMPLATE_S = 6e-5
"""Seconds a row and a template of one fit of the template arm: 9.6 s for 177,000 on the support example, one core."""
KEEP_S = 1.0
"""Seconds to write, hash and read back the encoder's weights, 91 MB."""


class Taken(NamedTuple):
    """Seconds of one arm."""

    fit: float
    latency: float
    look: float


def fixed_seconds(
    arms: Sequence[ArmConfig],
    work: Workload,
    speeds: Speeds,
    sentences: SentenceSpeeds | None,
    times_as_large: Mapping[str, float],
) -> dict[str, float]:
    """Seconds of every part that the budget does not shrink.

    `sentences` where an arm reads with the sentence model; `times_as_large` every other model that an arm asks is, next
    to the base.
    """
    taken: list[Taken] = []
    for arm in arms:
        if arm.kind == "small":
            taken.append(Taken(SMALL_S, 0.0, 0.0))
        elif arm.kind == "template":
            taken.append(Taken(TEMPLATE_S * work.template_products, 0.0, 0.0))
        elif arm.endpoint is not None:
            taken.append(_of_endpoint(arm.endpoint, work))
        elif arm.kind not in NO_MODEL_KINDS:
            seconds = _of_model(arm, work, speeds)
            taken.append(Taken(*(times_as_large[arm.base] * part for part in seconds)) if arm.base else seconds)
        if sentences is not None and reads_sentences(arm):
            taken.append(_of_sentences(arm, work, sentences))
    fit_s, latency_s, look_s = (sum(column) for column in zip(*taken, strict=True))
    measured_s = speeds.measured_s + (sentences.measured_s if sentences is not None else 0.0)
    return {"arms": fit_s, "latency": latency_s, "hold-out": look_s, "report": 3.0, "plan": measured_s}


def _screened(work: Workload) -> tuple[int, int]:
    """Dev rows that every candidate answers, and the rest, which the finalists answer."""
    return min(SCREEN_ROWS, work.num_dev), max(0, work.num_dev - SCREEN_ROWS)


def _alone(work: Workload) -> int:
    """Dev prompts answered one at a time."""
    return min(LATENCY_ROWS, work.num_dev)


def _of_endpoint(endpoint: EndpointConfig, work: Workload) -> Taken:
    """How fast an endpoint answers is not known before it was asked."""
    screened, rest = _screened(work)
    at_once = endpoint.concurrency
    fit_s = (3 * screened + FINALISTS * rest) * ENDPOINT_S / at_once
    return Taken(fit_s, _alone(work) * ENDPOINT_S, work.num_holdout * ENDPOINT_S / at_once)


def _of_model(arm: ArmConfig, work: Workload, speeds: Speeds) -> Taken:
    """The base, or the base tuned, with what the arm puts before each prompt."""
    screened, rest = _screened(work)
    size = {
        "prefix_tokens": work.prefix_tokens[arm.kind],
        "prompt_tokens": work.prompt_tokens[arm.kind],
        "reply_tokens": work.gold_tokens if arm.kind in TUNED_KINDS else speeds.base_reply_tokens,
    }
    candidates = CANDIDATES[arm.kind] * (len(arm.k) / 3 if arm.k else 1) * len(arm.near)
    fit_s = candidates * speeds.batch_s(num_rows=screened, **size)
    fit_s += min(candidates, FINALISTS) * speeds.batch_s(num_rows=rest, **size)
    alone_s = speeds.single_s(size["prompt_tokens"], size["reply_tokens"])
    latency_s = speeds.single_s(size["prefix_tokens"], 0) + (1 + _alone(work)) * alone_s
    return Taken(fit_s, latency_s, speeds.batch_s(num_rows=work.num_holdout, **size))


def _of_sentences(arm: ArmConfig, work: Workload, sentences: SentenceSpeeds) -> Taken:
    """What an arm does with the sentence model, on top of all else; the encoder does nothing else."""
    if arm.kind == "encoder" and not sentences.tune_tok_s:  # skipped: there are no labels to learn
        return Taken(0.0, 0.0, 0.0)
    dev_s, train_s = sentences.embed_s(sentences.dev_tokens), sentences.embed_s(sentences.train_tokens)
    if arm.kind == "encoder":
        tuned_s = [passes * sentences.train_tokens / sentences.tune_tok_s for _, passes in SETTINGS]
        fit_s = KEEP_S + sum(sentences.load_s + seconds + dev_s for seconds in tuned_s)
    elif arm.kind == "small":  # text prompts are read twice, as they are and with values replaced by their kind
        reads = 1 if sentences.head_s else 2
        fit_s = sentences.load_s + reads * train_s + SMALL_SETTINGS * dev_s + sentences.head_s
    else:
        screened, rest = _screened(work)
        num_k = len(arm.k) or CANDIDATES[arm.kind]
        answered = num_k * screened + min(FINALISTS, num_k) * rest
        fit_s = sentences.load_s + train_s + answered / work.num_dev * dev_s
    return Taken(fit_s, _alone(work) * sentences.single_s, sentences.embed_s(sentences.holdout_tokens))
