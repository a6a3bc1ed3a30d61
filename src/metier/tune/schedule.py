"""How far each step goes, and which rows it sees: all derived before the first step."""

from __future__ import annotations

import math
from collections.abc import Sequence

from metier.core.seeds import generator
from metier.core.tune_config import TuneConfig
from metier.engine import plan_steps

__all__ = [
    "DEFAULT_PASSES", "MIN_READS", "default_lr", "eval_steps", "is_spent", "lr_at", "mean_reads", "run_steps",
    "step_tokens_of",
]  # fmt: skip

DEFAULT_PASSES = 2.0
"""Passes over the rows where neither the settings nor the plan say."""
WANTED_STEPS = 400
"""Steps a run is cut into: adapters learn by steps, and 2,048 tokens a step left small runs with a dozen of them."""
STEP_TOKENS_RANGE = (512, 2048)
"""Below, products get too narrow to be fast on two cores (docs/tune.md); above, adapters gain nothing from more."""
MIN_READS = 1.4
"""How often a run must read its train rows for stored states to be kept: computing them takes what reading a row once
takes (docs/log.md), all of it before the first step. Between the passes that a plan chooses from, 1 and 1.5."""
MIN_LR_RATIO = 0.1
"""Share of the peak at which the cosine ends; a few hundred steps still learn from the last rows."""


def default_lr(width: int, *, method: str, num_steps: int, rank: int = 1) -> float:
    """Peak learning rate per step for a Llama of this width.

    lr = 5e-5 x 10 x (2000 / width)^0.781 for LoRA with alpha 32: ten times full tuning's at width 2000, higher
    for narrower models; 15 instead of 10 under 100 steps; without the factor for full tuning.

    rsLoRA: that over sqrt(rank). Adam moves every entry of B by the learning rate whatever the scale, so the first
    updates of a matrix are as large as scale x lr, and alpha / sqrt(rank) is sqrt(rank) times LoRA's scale.
    DoRA: two thirds of it. Its authors advise a slightly lower rate than LoRA's.

    Source: Schulman et al. 2025, "LoRA without regret", the fit over Llama models (dev losses around the value it
    gives for SmolLM2-135M are in docs/tune.md); Kalajdzievski 2023, arXiv:2312.03732, for the scale; the README of
    NVlabs/DoRA at 0b51490 for DoRA, the size of the step down being ours.
    """
    full: float = 5e-5 * (2000 / width) ** 0.781
    adapters = full * (15 if num_steps < 100 else 10)
    return {"full": full, "rslora": adapters / math.sqrt(rank), "dora": adapters * 2 / 3}.get(method, adapters)


def step_tokens_of(config: TuneConfig, num_tokens: int) -> int:
    """Tokens of one step of a run that sees `num_tokens` over all passes: the setting, else what gives 400 steps."""
    low, high = STEP_TOKENS_RANGE
    return config.step_tokens or min(high, max(low, round(num_tokens / WANTED_STEPS)))


def lr_at(step: int, *, num_steps: int, peak: float, warmup_ratio: float) -> float:
    """Learning rate of step 1 to `num_steps`: linear rise, then a cosine down to a tenth of the peak."""
    num_warmup = round(warmup_ratio * num_steps)
    if step <= num_warmup:
        return peak * step / (num_warmup + 1)
    done = (step - num_warmup) / max(1, num_steps - num_warmup)
    return peak * (MIN_LR_RATIO + (1 - MIN_LR_RATIO) * (1 + math.cos(math.pi * done)) / 2)


def run_steps(lengths: Sequence[int], *, passes: float, step_tokens: int, seed: int) -> list[list[int]]:
    """Row indices of every step of the run; a last, partial pass takes the first steps of a full one."""
    steps: list[list[int]] = []
    for index in range(math.ceil(passes)):
        one_pass = plan_steps(lengths, step_tokens=step_tokens, rng=generator(seed, "tune", "order", index))
        share = min(1.0, passes - index)
        steps += one_pass[: max(1, round(share * len(one_pass)))]
    return steps


def eval_steps(num_steps: int, evals: int) -> frozenset[int]:
    """The steps after which dev is scored: evenly spaced, the last one among them."""
    return frozenset(round(num_steps * k / evals) for k in range(1, evals + 1)) - {0}


def mean_reads(lengths: Sequence[int], steps: Sequence[Sequence[int]], *, has_reference: bool) -> float:
    """How often a run reads the train examples that it reads at all; a reference reads each once more.

    Dev scores are left out: how often a run is scored, and on how many rows, must not change how it is computed.
    """
    num_read = sum(lengths[i] for examples in steps for i in examples)
    num_tokens = sum(lengths[i] for i in {i for examples in steps for i in examples})
    return num_read / max(1, num_tokens) + has_reference


def is_spent(dev_curve: Sequence[tuple[int, float]], patience: int) -> bool:
    """Whether the last `patience` dev scores were all no lower than the lowest before them; 0 is endless patience.

    The base's score at step 0 does not count: a warm-up may stand above it before the run falls below.
    """
    losses = [loss for step, loss in dev_curve if step]
    if not patience or len(losses) <= patience:
        return False
    return min(losses[-patience:]) >= min(losses[:-patience])
