"""Tuning by objective: from rendered rows, or pairs of them, to the adapter with the lowest dev loss."""

from metier.tune.cost_table import cost_rows, table_text
from metier.tune.dpo import tune_pairs
from metier.tune.estimate import Speed, TuneEstimate, estimate, estimate_pairs, measure_speed
from metier.tune.form import place_of, trained_form
from metier.tune.memory import Machine, MemoryParts, available_gib, peak_memory, runtime_gib
from metier.tune.rehearsing import Prompts, Rehearsal, rehearse
from metier.tune.result import Options, Progress, TuneResult
from metier.tune.schedule import default_lr, lr_at
from metier.tune.servability import Servable, TunedForm, servability
from metier.tune.sft import rule_lr, tune

__all__ = [
    "Machine",
    "MemoryParts",
    "Options",
    "Progress",
    "Prompts",
    "Rehearsal",
    "Servable",
    "Speed",
    "TuneEstimate",
    "TuneResult",
    "TunedForm",
    "available_gib",
    "cost_rows",
    "default_lr",
    "estimate",
    "estimate_pairs",
    "lr_at",
    "measure_speed",
    "peak_memory",
    "place_of",
    "rehearse",
    "rule_lr",
    "runtime_gib",
    "servability",
    "table_text",
    "trained_form",
    "tune",
    "tune_pairs",
]
