"""What every room may use: rows, settings, errors, folders, hashes, seeds, contracts."""

from metier.core.errors import ConfigError, DataError, GateClosed, MetierError, MissingExtra, ModelError, StoreError
from metier.core.extras import require
from metier.core.seeds import derived_seed, generator

__all__ = [
    "ConfigError",
    "DataError",
    "GateClosed",
    "MetierError",
    "MissingExtra",
    "ModelError",
    "StoreError",
    "derived_seed",
    "generator",
    "require",
]
