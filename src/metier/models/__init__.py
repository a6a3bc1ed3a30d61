"""Where a base model comes from, and which bytes it is; sentence embeddings."""

from metier.models.identity import config_sha256
from metier.models.resolve import BaseModel, check_base, resolve, resolve_sentences
from metier.models.sentences import SentenceModel, embed_sentences, load_sentence_model, sentence_model_sha256
from metier.models.sources import cache_dir, known_models
from metier.models.tiny import make_tiny_model

__all__ = [
    "BaseModel",
    "SentenceModel",
    "cache_dir",
    "check_base",
    "config_sha256",
    "embed_sentences",
    "known_models",
    "load_sentence_model",
    "make_tiny_model",
    "resolve",
    "resolve_sentences",
    "sentence_model_sha256",
]
