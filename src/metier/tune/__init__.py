"""Supervised tuning: from rendered rows to the adapter with the lowest dev loss."""

from metier.tune.estimate import Speed, TuneEstimate, estimate, measure_speed
from metier.tune.recipe import Progress, TuneResult, tune
from metier.tune.schedule import default_lr, lr_at

__all__ = [
    "Progress",
    "Speed",
    "TuneEstimate",
    "TuneResult",
    "default_lr",
    "estimate",
    "lr_at",
    "measure_speed",
    "tune",
]
