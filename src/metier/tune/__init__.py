"""Tuning by objective: from rendered rows, or pairs of them, to the adapter with the lowest dev loss."""

from metier.tune.dpo import pair_tokens, tune_pairs
from metier.tune.estimate import Speed, TuneEstimate, estimate, measure_speed
from metier.tune.result import Options, Progress, TuneResult
from metier.tune.schedule import default_lr, lr_at
from metier.tune.sft import tune

__all__ = [
    "Options",
    "Progress",
    "Speed",
    "TuneEstimate",
    "TuneResult",
    "default_lr",
    "estimate",
    "lr_at",
    "measure_speed",
    "pair_tokens",
    "tune",
    "tune_pairs",
]
