"""What trains in a run: which weights, in which form, and from where they start."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from metier.core.tune_config import TuneConfig
from metier.engine import AdapterSpec, Handle, continue_tuned, load, read_shape
from metier.engine.load import Place
from metier.tune.result import Options

if TYPE_CHECKING:
    from metier.models import BaseModel

__all__ = ["load_trainee", "place_of", "trained_form"]


def load_trainee(base: BaseModel | Path, config: TuneConfig, *, seed: int, options: Options) -> Handle:
    """The base with what is to train on its top `depth` layers (0: all), or the model to go on from.

    Raises:
        ConfigError: the adapter to start from has another form than the settings say.
        ModelError: it was tuned on another base.
    """
    base_dir = base if isinstance(base, Path) else base.dir
    spec = trained_form(config, num_layers=read_shape(base_dir).num_layers)
    place = place_of(config)
    if options.start is not None:
        return continue_tuned(
            base_dir, options.start, spec, dtype=config.product_dtype, threads=options.threads, place=place
        )
    return load(
        base_dir, adapter=spec, seed=seed, dtype=config.product_dtype, threads=options.threads, **place._asdict()
    )


def place_of(config: TuneConfig) -> Place:
    """Where the settings say that a model is computed, and in how many bits."""
    return Place(device=config.device, base_bits=config.base_bits, optimizer=config.optimizer)


def trained_form(config: TuneConfig, *, num_layers: int) -> AdapterSpec:
    """What trains in a base of `num_layers` layers."""
    first_layer = num_layers - min(config.depth or num_layers, num_layers)
    if config.method == "full":
        return AdapterSpec(method="full", first_layer=first_layer)
    return AdapterSpec(
        method=config.method, rank=config.rank, alpha=config.alpha, targets=config.targets, first_layer=first_layer
    )
