"""Where a base model comes from, and which bytes it is; sentence embeddings."""

from metier.models.identity import config_sha256
from metier.models.resolve import BaseModel, check_base, resolve, resolve_sentences
from metier.models.sentences import embed_sentences
from metier.models.sources import cache_dir, known_models
from metier.models.tiny import make_tiny_model

__all__ = [
    "BaseModel",
    "cache_dir",
    "check_base",
    "config_sha256",
    "embed_sentences",
    "known_models",
    "make_tiny_model",
    "resolve",
    "resolve_sentences",
]
